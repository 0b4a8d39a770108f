package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cobox/storage/merklelog"
)

// intake is a run that is being filled. Its first blocks are kept in memory; if
// more come it becomes a table. All sessions share one, so its memory does not
// grow with their number.
type intake struct {
	// Owned by Store.mu until the intake is sealed, then by the flusher.
	entries []intakeEntry
	small   [][]byte     // the blocks, as long as there is no table
	table   *tableWriter // nil until there are more than fit in small
	bad     error        // writing the table failed; the flusher reports it
	users   map[*logState]int
	begun   time.Time // when the first block came in
	latest  time.Time // when the last block came in
	waiting time.Time // since when a Commit waits; zero if none does
	now     bool      // somebody knows that no more blocks come soon

	err  error         // set before done is closed
	done chan struct{} // closed once the blocks are durable, or are lost
}

// intakeEntry is a block's place in its log. Its place in the run is its place
// in the list.
type intakeEntry struct {
	log   *logState
	index uint64
}

// PutBlock takes in a block whose leaf has been verified. It is copied before
// PutBlock returns, and durable only after a Commit. A block that is here
// already is accepted and not counted again. PutBlock waits while more is
// coming in than the disk can take; ctx ends that wait.
func (s *Store) PutBlock(ctx context.Context, log merklelog.LogID, index uint64, block []byte) error {
	err := s.enterWrite()
	if err == nil {
		err = s.putBlock(ctx, log, index, block)
		s.users.leave()
	}
	if err != nil {
		s.counts.refused.Add(1)
		return fmt.Errorf("replica: put block %d of log %v: %w", index, log, err)
	}
	return nil
}

func (s *Store) putBlock(ctx context.Context, log merklelog.LogID, index uint64, block []byte) error {
	ls, err := s.acquire(log)
	if err != nil {
		return err
	}
	defer s.release(ls)
	ls.mu.Lock()
	leaf, err := s.leafLocked(ls, index)
	ls.mu.Unlock()
	if err != nil {
		return err
	}
	if err := leaf.Check(block); err != nil {
		return err
	}
	if err := s.space.check(s); err != nil {
		return err
	}
	limit, admitted := s.opts.Quota(ls.account)
	if !admitted {
		return ErrNotAdmitted
	}

	ls.mu.Lock()
	err = ls.takesLocked(index)
	for err == errTaking {
		// Another session is at it. What PutBlock accepted is covered by the next
		// Commit, so wait until it is in.
		ls.taken.Wait()
		err = ls.takesLocked(index)
	}
	if err == nil {
		ls.pending[index] = false
	}
	ls.mu.Unlock()
	if err == errHeld {
		return nil
	}
	if err != nil {
		return err
	}

	err = s.take(ctx, ls, index, block, limit)
	ls.mu.Lock()
	if err != nil {
		delete(ls.pending, index)
	} else if _, ok := ls.pending[index]; ok { // else it is indexed, or lost, already
		ls.pending[index] = true
	}
	ls.taken.Broadcast()
	ls.mu.Unlock()
	if err == nil {
		s.counts.blocksIn.Add(1)
	}
	return err
}

// What takesLocked says besides errors.
var (
	errHeld   = errors.New("the block is here already")
	errTaking = errors.New("the block is being taken in")
)

// takesLocked returns nil if the log lacks and wants the block.
func (ls *logState) takesLocked(index uint64) error {
	if err := ls.usableLocked(); err != nil {
		return err
	}
	if in, ok := ls.pending[index]; ok && !in {
		return errTaking
	} else if ok || merklelog.RangesContain(ls.held, index) {
		return errHeld
	}
	if merklelog.RangesContain(ls.dropped, index) {
		return ErrDropped
	}
	if len(ls.held)+len(ls.pending) >= MaxGaps && // cheap first
		len(ls.held) >= MaxGaps && !touches(ls.held, index) {
		return ErrScattered
	}
	return nil
}

// touches reports whether an index is next to one of the ranges.
func touches(ranges []merklelog.Range, index uint64) bool {
	return index > 0 && merklelog.RangesContain(ranges, index-1) || merklelog.RangesContain(ranges, index+1)
}

// take puts a block into the open intake.
func (s *Store) take(ctx context.Context, ls *logState, index uint64, block []byte, limit uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.accountLocked(ls.account)
	full := func() bool { return u.bytes()+merklelog.BlockSize > limit }
	if full() {
		return ErrQuota
	}
	in, err := s.roomLocked(ctx)
	if err != nil {
		return err
	}
	if full() { // others waited for room as well
		return ErrQuota
	}
	if err := s.addLocked(in, ls, index, block); err != nil {
		in.bad = err
		s.wakeFlusher()
		return err
	}
	u.pending++
	in.latest = time.Now()
	if in.users[ls] == 0 {
		s.hold(ls) // the flusher releases it
	}
	in.users[ls]++
	if len(in.entries) == 1 {
		in.begun = in.latest
		s.wakeFlusher() // it minds the time
	}
	if s.fullLocked(in) && s.sealed == nil {
		s.sealLocked()
	}
	return nil
}

// roomLocked returns an open intake that is not full. It gives mu away while it
// waits.
func (s *Store) roomLocked(ctx context.Context) (*intake, error) {
	for {
		if s.closing {
			return nil, ErrClosed
		}
		if s.open == nil {
			s.open = &intake{users: make(map[*logState]int), done: make(chan struct{})}
		}
		if !s.fullLocked(s.open) {
			return s.open, nil
		}
		if s.sealed == nil {
			s.sealLocked()
			continue
		}
		room := s.room
		s.mu.Unlock()
		var err error
		select {
		case <-room:
		case <-ctx.Done():
			err = ctx.Err()
		case <-s.failed:
			err = s.failErr
		}
		s.mu.Lock()
		if err != nil {
			return nil, err
		}
	}
}

func (s *Store) fullLocked(in *intake) bool {
	return in.bad != nil || len(in.entries)*merklelog.BlockSize >= s.opts.tune.tableSize
}

// addLocked copies the block into memory, or into the table if there are more
// than a few.
func (s *Store) addLocked(in *intake, ls *logState, index uint64, block []byte) error {
	if in.table == nil && len(in.entries) < s.opts.tune.smallRun {
		in.small = append(in.small, append([]byte(nil), block...))
		in.entries = append(in.entries, intakeEntry{ls, index})
		return nil
	}
	if in.table == nil {
		t, err := s.newTable(s.nextBulk.Load())
		if err != nil {
			return err
		}
		in.table = t
		for i, e := range in.entries {
			if err := t.add(e.log.num, e.index, in.small[i]); err != nil {
				return err
			}
		}
		in.small = nil
	}
	if err := in.table.add(ls.num, index, block); err != nil {
		return err
	}
	in.entries = append(in.entries, intakeEntry{ls, index})
	return nil
}

// sealLocked hands the open intake to the flusher. The numbers that its table
// used are used up, whatever becomes of it.
func (s *Store) sealLocked() {
	s.sealed, s.open = s.open, nil
	if t := s.sealed.table; t != nil {
		s.nextBulk.Store(t.first + uint64(t.count))
	}
	s.wakeFlusher()
}

func (s *Store) wakeFlusher() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// dueLocked returns how long the open intake may stay open. It is closed when
// somebody asked for it; when a Commit waits and either no block came for a
// moment or it has waited for CommitDelay; and when no block came for 2 s.
func (s *Store) dueLocked(in *intake, now time.Time) time.Duration {
	if in.now || in.bad != nil || s.closing {
		return 0
	}
	if in.waiting.IsZero() {
		return in.latest.Add(s.opts.tune.idle).Sub(now)
	}
	return min(in.latest.Add(s.opts.tune.quiet).Sub(now), in.waiting.Add(s.opts.CommitDelay).Sub(now))
}

// flusher makes sealed intakes durable, one after the other, and seals them
// when their time has come. It ends when the store is closed and all is done.
func (s *Store) flusher() {
	defer close(s.flushed)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		s.mu.Lock()
		wait := time.Hour
		if s.sealed == nil && s.open != nil {
			if in := s.open; len(in.entries) > 0 || in.bad != nil {
				if wait = s.dueLocked(in, time.Now()); wait <= 0 {
					s.sealLocked()
				}
			}
		}
		in := s.sealed
		finished := in == nil && s.closing
		s.mu.Unlock()
		if in != nil {
			s.flush(in)
			continue
		}
		if finished {
			return
		}
		timer.Reset(wait)
		select {
		case <-s.kick:
		case <-timer.C:
		case <-s.failed:
			return
		}
	}
}

// flush makes an intake's blocks durable and tells those who wait for it.
func (s *Store) flush(in *intake) {
	in.err = in.bad
	if in.err == nil {
		in.err = s.makeDurable(in)
	}
	if in.err != nil {
		s.opts.Logger.Error("blocks that came in are lost and will be asked for again",
			"blocks", len(in.entries), "error", in.err)
		s.counts.lostRuns.Add(1)
		if in.table != nil {
			in.table.abandon()
		}
		// They stop to count before they can come again.
		s.mu.Lock()
		for _, e := range in.entries {
			s.accountLocked(e.log.account).pending--
		}
		s.mu.Unlock()
		for _, e := range in.entries {
			e.log.mu.Lock()
			delete(e.log.pending, e.index)
			e.log.mu.Unlock()
		}
	}
	s.mu.Lock()
	s.sealed = nil
	close(s.room)
	s.room = make(chan struct{})
	s.mu.Unlock()
	for ls := range in.users {
		s.release(ls)
	}
	close(in.done)
}
