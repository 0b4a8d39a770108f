package replica

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// Drop deletes blocks on purpose: they are gone for readers when it returns,
// are not taken in again, and leave the disk, and the account's usage, as soon
// as it is worth rewriting the table that they are in. The tree of the log and
// all proofs stay as they are. ranges must be canonical. Dropping what is not
// here is allowed.
func (s *Store) Drop(log merklelog.LogID, ranges []merklelog.Range) error {
	err := s.remove(log, func(ls *logState) error {
		if err := merklelog.CheckRanges(ranges, merklelog.MaxSize); err != nil {
			return err
		}
		dropped := append([]merklelog.Range(nil), ls.dropped...)
		for _, r := range ranges {
			dropped = merklelog.AddRange(dropped, r)
		}
		err := s.removeBlocks(ls, ranges, func(b *pebble.Batch) {
			b.DeleteRange(logKey(prefixDropped, ls.num), logEnd(prefixDropped, ls.num), nil)
			for _, r := range dropped {
				b.Set(indexKey(prefixDropped, ls.num, r.First), appendNumber(nil, r.Count), nil)
			}
		})
		if err == nil {
			ls.mu.Lock()
			ls.dropped = dropped
			ls.mu.Unlock()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("replica: drop blocks of log %v: %w", log, err)
	}
	return nil
}

// RemoveLog deletes a log and all of its blocks. Its leaves are gone at once,
// the bytes of its blocks as with Drop.
func (s *Store) RemoveLog(log merklelog.LogID) error {
	s.logs.create.Lock() // nobody must begin the log anew before it is gone
	defer s.logs.create.Unlock()
	err := s.remove(log, func(ls *logState) error {
		err := s.removeBlocks(ls, []merklelog.Range{{Count: merklelog.MaxSize}}, func(b *pebble.Batch) {
			b.Delete(identityKey(ls.id), nil)
			b.Delete(accountLogKey(ls.account, ls.num), nil)
			for _, p := range []byte{prefixCheckpoint, prefixFrontier, prefixHeld, prefixFork, prefixManifest} {
				b.Delete(logKey(p, ls.num), nil)
			}
			for _, p := range []byte{prefixDropped, prefixLeaves, prefixTree, prefixEnvelope} {
				b.DeleteRange(logKey(p, ls.num), logEnd(p, ls.num), nil)
			}
		})
		if err != nil {
			return err
		}
		ls.mu.Lock()
		ls.removed = true
		leaves := ls.frontier.Size()
		ls.mu.Unlock()
		s.mu.Lock()
		u := s.accountLocked(ls.account)
		u.leaves -= leaves
		u.logs--
		s.mu.Unlock()
		s.forget(ls)
		return nil
	})
	if err != nil {
		return fmt.Errorf("replica: remove log %v: %w", log, err)
	}
	return nil
}

// RemoveAccount deletes all logs of an account.
func (s *Store) RemoveAccount(id account.ID) error {
	var ids []merklelog.LogID
	for info, err := range s.Logs(id) {
		if err != nil {
			return fmt.Errorf("replica: remove account %v: %w", id, err)
		}
		ids = append(ids, info.ID)
	}
	for _, log := range ids {
		if err := s.RemoveLog(log); err != nil && !errors.Is(err, ErrUnknownLog) {
			return err
		}
	}
	return nil
}

// remove calls fn with a log under indexMu.
func (s *Store) remove(log merklelog.LogID, fn func(*logState) error) error {
	if err := s.enterWrite(); err != nil {
		return err
	}
	defer s.users.leave()
	ls, err := s.acquire(log)
	if err != nil {
		return err
	}
	defer s.release(ls)
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	ls.mu.Lock()
	removed := ls.removed
	ls.mu.Unlock()
	if removed {
		return ErrUnknownLog
	}
	return fn(ls)
}

// removeBlocks takes ranges out of a log's index, in one synced batch with what
// more adds to it. indexMu is held.
func (s *Store) removeBlocks(ls *logState, ranges []merklelog.Range, more func(*pebble.Batch)) error {
	b := s.db.NewBatch()
	defer b.Close()
	c := newChange(s)
	n, err := c.unlink(b, ls, ranges)
	if err != nil {
		return err
	}
	ls.mu.Lock()
	held := merklelog.CountRanges(ls.held)
	ls.mu.Unlock()
	b.Set(logKey(prefixHeld, ls.num), appendNumber(nil, held-n), nil)
	if more != nil {
		more(b)
	}
	if err := s.commitChange(b, c); err != nil {
		return err
	}
	ls.mu.Lock()
	for _, r := range ranges {
		ls.held = merklelog.SubtractRange(ls.held, r)
	}
	ls.ext = extent{}
	ls.mu.Unlock()
	if n > 0 {
		s.wakeReclaimer()
	}
	return nil
}

func (s *Store) wakeReclaimer() {
	select {
	case s.reclaim <- struct{}{}:
	default:
	}
}

// reclaimer frees the disk of garbage, at the start and whenever there is more.
func (s *Store) reclaimer() {
	for {
		if err := s.reclaimAll(s.ctx); err != nil && s.ctx.Err() == nil {
			s.opts.Logger.Warn("dropped blocks could not be freed yet", "error", err)
		}
		select {
		case <-s.reclaim:
		case <-s.ctx.Done():
			return
		case <-s.failed:
			return
		}
	}
}

// reclaimAll frees the garbage of every run that is less than half alive. (A
// range tombstone alone frees only tables that are wholly dead; the rest waits
// for a compaction that nothing would ever cause.)
func (s *Store) reclaimAll(ctx context.Context) error {
	s.reclaimMu.Lock()
	defer s.reclaimMu.Unlock()
	from := uint64(0)
	for {
		r, dead, err := s.nextReclaim(from)
		if err != nil || r.count == 0 {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.reclaimRun(ctx, r, dead); err != nil {
			return fmt.Errorf("replica: freeing %d blocks of the run at arrival %d: %w", len(dead), r.first, err)
		}
		if from = r.end(); from == 0 {
			return nil
		}
	}
}

// nextReclaim returns the first run from an arrival on that is less than half
// alive, and its garbage.
func (s *Store) nextReclaim(from uint64) (r run, dead []garbage, err error) {
	sum := uint64(0)
	for g, err := range s.garbageIn(from, 0) {
		if err != nil {
			return run{}, nil, err
		}
		if g.first >= r.end() || r.count == 0 {
			if sum > uint64(r.live) {
				return r, dead, nil
			}
			if r, err = s.runAt(g.first); err != nil {
				return run{}, nil, err
			}
			dead, sum = dead[:0], 0
		}
		dead = append(dead, g)
		sum += uint64(g.count)
	}
	if sum > uint64(r.live) {
		return r, dead, nil
	}
	return run{}, nil, nil
}

// reclaimRun frees one run's garbage, and lowers the usage once it is gone. A
// crash on the way repeats it.
func (s *Store) reclaimRun(ctx context.Context, r run, dead []garbage) error {
	// A batch can be read before it is synced, and an ingested tombstone is
	// durable at once: a crash must not take back that these blocks are garbage
	// and leave them deleted.
	if err := s.syncWAL(); err != nil {
		return err
	}
	if err := s.deleteArrivals(dead); err != nil {
		return err
	}
	if err := s.compact(ctx, r); err != nil {
		return err
	}
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	r, err := s.runAt(r.first) // more may have died meanwhile
	if err != nil {
		return err
	}
	b := s.db.NewBatch()
	defer b.Close()
	c := newChange(s)
	freed := uint64(0)
	for _, g := range dead {
		b.Delete(arrivalKey(prefixGarbage, g.first), nil)
		c.usage(g.account).garbage -= uint64(g.count)
		freed += uint64(g.count)
	}
	left := uint64(0)
	for g, err := range s.garbageIn(r.first, r.end()) {
		if err != nil {
			return err
		}
		left += uint64(g.count)
	}
	if r.live == 0 && left == freed {
		b.Delete(arrivalKey(prefixRun, r.first), nil)
	}
	if err := s.commitChange(b, c); err != nil {
		return err
	}
	s.counts.blocksFreed.Add(freed)
	return nil
}

func (s *Store) compact(ctx context.Context, r run) (err error) {
	defer func() {
		if r := recover(); r != nil {
			s.fatal(fmt.Errorf("compacting: %v", r))
		}
	}()
	return s.db.Compact(ctx, arrivalKey(prefixBlock, r.first), arrivalKey(prefixBlock, r.end()), false)
}
