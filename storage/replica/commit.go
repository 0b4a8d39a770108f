package replica

import (
	"context"
	"fmt"
	"time"

	"cobox/storage/merklelog"
)

// Commit makes everything durable that was taken in for the log before it was
// called, and then says what of the log is durable. Only this may be receipted.
//
// Commits of all logs share the work: a Commit waits for the table that is
// being filled, until it is full, until no block has come in for a moment, for
// CommitDelay at most, or until Flush says that there is nothing to wait for.
// If ctx ends first, nothing is lost: another Commit says the same later.
func (s *Store) Commit(ctx context.Context, log merklelog.LogID) (merklelog.Durable, error) {
	if err := s.enterWrite(); err != nil {
		return merklelog.Durable{}, fmt.Errorf("replica: commit log %v: %w", log, err)
	}
	defer s.users.leave()
	d, err := s.commit(ctx, log)
	if err != nil {
		return d, fmt.Errorf("replica: commit log %v: %w", log, err)
	}
	s.counts.commits.Add(1)
	return d, nil
}

func (s *Store) commit(ctx context.Context, log merklelog.LogID) (d merklelog.Durable, err error) {
	ls, err := s.acquire(log)
	if err != nil {
		return d, err
	}
	defer s.release(ls)
	if in := s.joinFlush(ls); in != nil && !s.opts.tune.plantReceiptBeforeIngest {
		select {
		case <-in.done:
		case <-ctx.Done():
			return d, ctx.Err()
		case <-s.failed:
			return d, s.failErr
		}
		if in.err != nil {
			return d, in.err
		}
	}
	if err := s.syncLog(ls); err != nil {
		return d, err
	}
	return s.durable(ls)
}

// Durable says what of the log is durable now, without waiting for anything.
func (s *Store) Durable(log merklelog.LogID) (merklelog.Durable, error) {
	if err := s.enterRead(); err != nil {
		return merklelog.Durable{}, fmt.Errorf("replica: log %v: %w", log, err)
	}
	defer s.users.leave()
	ls, err := s.acquire(log)
	if err != nil {
		return merklelog.Durable{}, fmt.Errorf("replica: log %v: %w", log, err)
	}
	defer s.release(ls)
	d, err := s.durable(ls)
	if err != nil {
		return d, fmt.Errorf("replica: log %v: %w", log, err)
	}
	return d, nil
}

// Flush says that no more blocks of the log come soon, so that a Commit need
// not wait for any.
func (s *Store) Flush(log merklelog.LogID) {
	if s.enterWrite() != nil {
		return
	}
	defer s.users.leave()
	ls, err := s.acquire(log)
	if err != nil {
		return
	}
	defer s.release(ls)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open != nil && s.open.users[ls] > 0 {
		s.open.now = true
		s.wakeFlusher()
	}
}

// joinFlush returns the newest intake that holds a block of the log, and makes
// sure that it will be closed soon. It returns nil if there is none.
func (s *Store) joinFlush(ls *logState) *intake {
	s.mu.Lock()
	defer s.mu.Unlock()
	if in := s.open; in != nil && in.users[ls] > 0 {
		if in.waiting.IsZero() {
			in.waiting = time.Now()
			s.wakeFlusher()
		}
		return in
	}
	if in := s.sealed; in != nil && in.users[ls] > 0 {
		return in
	}
	return nil
}

// syncLog makes the log's checkpoint and leaves durable, as they are now, if
// they are not.
func (s *Store) syncLog(ls *logState) error {
	ls.mu.Lock()
	want := ls.progressLocked()
	done := ls.synced.covers(want)
	ls.mu.Unlock()
	if done {
		return nil
	}
	if !s.opts.tune.plantReceiptBeforeSync {
		if err := s.syncWAL(); err != nil {
			return err
		}
	}
	ls.mu.Lock()
	ls.setSyncedLocked(want)
	ls.mu.Unlock()
	return nil
}

// durable describes what is known to be on the disk. The held ranges are those
// of synced batches only.
func (s *Store) durable(ls *logState) (d merklelog.Durable, err error) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.removed {
		return d, ErrUnknownLog
	}
	if ls.bad != nil {
		return d, ls.bad
	}
	held := ls.held
	if s.opts.tune.plantReceiptBeforeIngest {
		for i := range ls.pending {
			held = merklelog.AddRange(append([]merklelog.Range(nil), held...), merklelog.Range{First: i, Count: 1})
		}
	}
	d.Checkpoint, d.Leaves = ls.synced.cp, ls.synced.leaves
	digest := merklelog.NewRangeDigest()
	hole := func(first, end uint64) {
		r := merklelog.Range{First: first, Count: end - first}
		digest.Add(r)
		if len(d.Holes) < merklelog.MaxRanges {
			d.Holes = append(d.Holes, r)
		} else {
			d.HolesTruncated = true
		}
	}
	next := uint64(0)
	for _, r := range held {
		if r.First >= d.Checkpoint.Size {
			break
		}
		if r.First > next {
			hole(next, r.First)
		}
		next = min(r.End(), d.Checkpoint.Size)
		d.Held += next - r.First
	}
	if next < d.Checkpoint.Size {
		hole(next, d.Checkpoint.Size)
	}
	d.HolesDigest = digest.Sum()
	return d, nil
}
