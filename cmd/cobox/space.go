package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cobox/cmd/cobox/device"
	"cobox/cmd/cobox/ui"
	"cobox/netlink/replicate"
	"cobox/storage/archive"
	"cobox/storage/archive/spool"
	"cobox/storage/merklelog"
	"cobox/storage/seal"
)

// space is a space of the account, with the boxes that hold its logs.
type space struct {
	a       *app
	st      *device.State
	sp      *device.Space
	fleet   *fleet
	archive *archive.Archive

	writing bool                             // a backup is to be appended
	spools  map[merklelog.LogID]*spool.Spool // own logs, if this command has the lock
	unlock  func()

	unreadable int                                   // logs of the account that a box holds and that cannot be read
	stated     []replicate.LogEntry                  // what boxes state of own logs
	foreign    map[*link]bool                        // boxes that hold every log a backup may refer to
	gone       map[merklelog.LogID][]merklelog.Range // given to the archive as lost

	mu      sync.Mutex
	holders map[merklelog.LogID][]holder
	begun   map[merklelog.LogID][]holder // of which nothing is readable for others yet; no other goroutine has it
	turn    atomic.Uint64                // spreads reading over the boxes
}

// holder is a box that holds a log up to a checkpoint that it can prove from.
type holder struct {
	link  *link
	entry *replicate.LogEntry
}

func newSpace(a *app, st *device.State) *space {
	return &space{a: a, st: st, spools: map[merklelog.LogID]*spool.Spool{},
		holders: map[merklelog.LogID][]holder{}, begun: map[merklelog.LogID][]holder{}}
}

// openSpace connects to the boxes, learns what is new of the space's logs and
// opens the archive in them for reading. It works without a box as far as the
// blocks wait in this device's own spool.
func (a *app) openSpace(ctx context.Context, name string) (*space, error) {
	st, err := a.open()
	if err != nil {
		return nil, err
	}
	s := newSpace(a, st)
	ok := false
	defer func() {
		if !ok {
			s.close()
		}
	}()
	s.fleet = a.newFleet(st, st.Boxes)
	s.fleet.keep = true
	s.fleet.connect(ctx)
	if err := s.fleet.waitTried(ctx); err != nil {
		return nil, err
	}
	offline := s.fleet.unreachable()
	if offline == nil {
		if err := s.refresh(ctx); err != nil {
			return nil, err
		}
	}
	switch named := st.SpacesNamed(name); {
	case len(named) == 1:
		s.sp = named[0]
	case len(named) > 1:
		return nil, ambiguousSpace(named)
	case offline != nil:
		return nil, offline
	default:
		return nil, noSpace(st, name)
	}
	if offline == nil && s.anyWaiting() {
		// The boxes have the newest backup only in part. If another command has
		// the spool, what the boxes have must do.
		if err := s.readSpool(); err != nil {
			a.log.Warn("what waits here cannot be read", "error", err)
		}
	}
	if offline != nil {
		if err := s.readSpool(); err != nil || !s.waiting() {
			return nil, offline
		}
		a.ui.Warnf("%v: only what waits here can be read", offline)
	}
	if err := s.openArchive(ctx); err != nil {
		return nil, err
	}
	ok = true
	return s, nil
}

func noSpace(st *device.State, name string) error {
	if len(st.Spaces) == 0 {
		return &ui.Failure{Exit: ui.ExitFailed, Code: "unknown_space", What: "nothing has been backed up yet", Hint: "Make a first backup with 'cobox backup PATH'."}
	}
	var known []string
	for _, sp := range st.Spaces {
		known = append(known, ui.Printable(sp.Keys.Name))
	}
	return &ui.Failure{Exit: ui.ExitFailed, Code: "unknown_space", What: fmt.Sprintf("there is no space %q", name), Hint: fmt.Sprintf("There are: %q.", known)}
}

// ambiguousSpace tells how to name one of several spaces of one name.
func ambiguousSpace(list []*device.Space) error {
	var tags []string
	for _, sp := range list {
		tags = append(tags, sp.Keys.Tag.String())
	}
	return &ui.Failure{Exit: ui.ExitFailed, Code: "ambiguous_space", What: fmt.Sprintf("there are %d spaces of the name %q", len(list), list[0].Keys.Name),
		Hint: "Two devices made them without knowing of each other. Give one of these instead of the name: " + strings.Join(tags, " ")}
}

// readSpool opens this device's own logs, if no other command has them.
func (s *space) readSpool() error {
	unlock, err := s.a.home.Lock("restore")
	if err != nil {
		return err
	}
	s.unlock = unlock
	if err := s.openSpools(s.sp); err != nil {
		return err
	}
	s.extendAll()
	return nil
}

// anyWaiting reports whether something of the space waits here for a box,
// without opening the spools.
func (s *space) anyWaiting() bool {
	return slices.ContainsFunc(s.sp.Logs, func(l *device.Log) bool {
		if !l.Own || l.Left {
			return false
		}
		info, err := spool.Inspect(s.st.Home.LogDir(l.ID()))
		return err == nil && info.Waiting > 0
	})
}

// waiting reports whether anything of the own logs is still here: then their
// newest commit is, from which everything else is found.
func (s *space) waiting() bool {
	for _, own := range s.spools {
		if own.Waiting() > 0 {
			return true
		}
	}
	return false
}

// openSpools opens the logs of a space that this device writes. One whose files
// are damaged is left: what boxes have of it stays readable, and the next backup
// begins a new one.
func (s *space) openSpools(sp *device.Space) error {
	for _, l := range sp.Logs {
		if !l.Own || l.Left || s.spools[l.ID()] != nil {
			continue
		}
		opened, err := spool.Open(s.st.Home.LogDir(l.ID()), s.spoolOptions())
		if errors.Is(err, spool.ErrDamaged) {
			s.a.log.Warn("this device's own log is damaged", "log", l.ID(), "error", err)
			if err := s.leave(l, "the record of what this device wrote is damaged (a failing disk?)"); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("opening this device's log %.8v: %w", l.ID(), err)
		}
		s.spools[l.ID()] = opened
	}
	return nil
}

// leave ends the use of an own log. From now on it is read as the logs of other
// devices are: as far as boxes hold it. That may be another version than the one
// that was written here, and the cache tells versions apart only by their size:
// it is dropped before the state says that the log is left.
func (s *space) leave(log *device.Log, why string) error {
	s.a.ui.Warnf("%s: a new log is begun, and what no box holds of the old one is stored again", why)
	if err := os.RemoveAll(s.st.Home.CacheDir(log.Manifest.Space)); err != nil {
		return fmt.Errorf("dropping what is remembered of the log that is left: %w", err)
	}
	log.Left, log.Lost = true, nil
	if own := s.spools[log.ID()]; own != nil {
		delete(s.spools, log.ID())
		if err := own.Close(); err != nil {
			s.a.log.Warn("closing the spool", "error", err)
		}
	}
	if !s.a.locked {
		return nil // what is known again at the next backup
	}
	return s.st.Save()
}

func (s *space) spoolOptions() spool.Options {
	return spool.Options{Signer: s.st.Keys.Signer(), Logger: s.a.log}
}

func (s *space) close() {
	s.fleet.close()
	for _, sp := range s.spools {
		if err := sp.Close(); err != nil {
			s.a.log.Warn("closing the spool", "error", err)
		}
	}
	if s.unlock != nil {
		s.unlock()
	}
}

// openArchive opens the archive in all logs of the space that can be read.
func (s *space) openArchive(ctx context.Context) error {
	c := archive.Config{
		ChunkID: s.sp.Keys.ChunkID, Chunker: s.sp.Keys.Chunker, Blocks: s,
		Cache: s.st.Home.CacheDir(s.sp.Keys.Tag), Logger: s.a.log,
	}
	for _, l := range s.sp.Logs {
		state := archive.LogState{ID: l.ID(), Opener: seal.NewOpener(l.ID(), l.Keys)}
		if own := s.spools[l.ID()]; own != nil {
			state.Size = own.Size()
			lost, known := s.gone[l.ID()]
			if !known {
				var err error
				if lost, err = s.lost(ctx, l, own); err != nil {
					return err
				}
			}
			state.Lost = lost
		} else {
			for _, h := range s.holdersOf(l.ID()) {
				state.Size = max(state.Size, h.entry.Readable.Size)
			}
			if l.Avoid && s.writing {
				state.Lost = []merklelog.Range{{First: 0, Count: state.Size}}
			}
		}
		for _, e := range l.Envelopes {
			if e.Index < state.Size {
				state.Envelopes = append(state.Envelopes, e)
			}
		}
		if state.Size > 0 && len(state.Envelopes) > 0 {
			c.Logs = append(c.Logs, state)
		}
	}
	var err error
	s.archive, err = archive.Open(ctx, c)
	return err
}

// lost finds the blocks of an own log that nobody has: neither the spool, nor
// any connected box, nor by its last receipt one that is not connected. A power
// cut can leave such, and a box whose disk fails.
func (s *space) lost(ctx context.Context, log *device.Log, own *spool.Spool) ([]merklelog.Range, error) {
	holes := own.Holes()
	var indexes []uint64
	for _, r := range holes {
		for i := r.First; i < r.End(); i++ {
			indexes = append(indexes, i)
		}
	}
	lost := slices.Clone(holes)
	if len(indexes) > 0 {
		err := s.fetch(ctx, own.ID(), indexes, nil, func(i uint64, _ []byte) error {
			lost = merklelog.SubtractRange(lost, merklelog.Range{First: i, Count: 1})
			return nil
		})
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if len(lost) > 0 {
			s.a.log.Warn("blocks are lost; what lay in them is stored again", "log", own.ID(), "blocks", merklelog.CountRanges(lost), "error", err)
		}
	}
	for _, r := range log.Lost {
		lost = merklelog.AddRange(lost, r)
	}
	return lost, nil
}

func (s *space) holdersOf(log merklelog.LogID) []holder {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.holders[log])
}

// holds notes that a box has receipted an own log, so that blocks can be read
// from there. The checkpoint is signed once more for the receipt's size: the
// same size and root, which the offer has compared with our own tree, give the
// same checkpoint.
func (s *space) holds(l *link, own *spool.Spool, r *replicate.Receipt) {
	cp, err := merklelog.SignCheckpoint(s.st.Keys.Signer(), r.Log, r.Size, r.Root)
	if err != nil {
		s.a.log.Warn("a receipt cannot be used for reading", "error", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.holders[r.Log]
	at := slices.IndexFunc(list, func(h holder) bool { return h.link == l })
	if at < 0 {
		s.holders[r.Log] = append(list, holder{l, &replicate.LogEntry{Manifest: own.Manifest(), Readable: &cp}})
	} else if list[at].entry.Readable.Size < cp.Size {
		e := *list[at].entry
		e.Readable = &cp
		list = slices.Clone(list)
		list[at].entry = &e
		s.holders[r.Log] = list
	}
}

// Fetch reads blocks for the archive: from the spool, and what is not there
// from the boxes, in turn.
func (s *space) Fetch(ctx context.Context, log merklelog.LogID, indexes []uint64, fn func(uint64, []byte) error) error {
	return s.fetch(ctx, log, indexes, nil, fn)
}

// fetch is Fetch without one of the boxes.
func (s *space) fetch(ctx context.Context, log merklelog.LogID, indexes []uint64, without *link, fn func(uint64, []byte) error) error {
	rest := slices.Clone(indexes)
	var failed error // of fn
	deliver := func(i uint64, block []byte) error {
		if failed = fn(i, block); failed != nil {
			return failed
		}
		if at := slices.Index(rest, i); at >= 0 {
			rest = slices.Delete(rest, at, at+1)
		}
		return nil
	}
	if own := s.spools[log]; own != nil {
		if err := own.Fetch(ctx, log, indexes, deliver); failed != nil {
			return failed
		} else if err != nil {
			s.a.log.Warn("reading the spool", "log", log, "error", err)
		}
	}
	holders := s.holdersOf(log)
	var cause error
	asked := false // a box has answered that it does not have them
	start := int(s.turn.Add(1))
	for i := range holders {
		if len(rest) == 0 {
			return nil
		}
		h := holders[(start+i)%len(holders)]
		if h.link == without {
			continue
		}
		err := s.read(ctx, h, rest, deliver)
		if failed != nil {
			return failed
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var absent *replicate.NotHeldError
		if err == nil || errors.As(err, &absent) {
			asked = true
		}
		if err != nil {
			cause = fmt.Errorf("box %s: %w", ui.Printable(h.link.box.Name), err)
		}
	}
	if len(rest) == 0 {
		return nil
	}
	if cause == nil {
		cause = errors.New("no connected box holds them")
	}
	what := fmt.Sprintf("%s of log %.8v cannot be read", ui.Count(uint64(len(rest)), "block", "blocks"), log)
	if !asked && len(s.fleet.connected()) < len(s.fleet.links) {
		return fmt.Errorf("%s: %w: %w", what, archive.ErrUnavailable, cause)
	}
	return fmt.Errorf("%s: %w", what, cause)
}

const (
	// patience is how long reading waits for a box that went away to come back.
	patience = 20 * time.Second
	// stall is how long a box may answer nothing to a request before others are
	// asked, or it is left out.
	stall = time.Minute
)

var errStalled = errors.New("the box does not answer")

// read reads from one box, and goes on when it comes back after a break.
func (s *space) read(ctx context.Context, h holder, indexes []uint64, deliver func(uint64, []byte) error) error {
	todo := make([]uint64, 0, len(indexes))
	for _, i := range indexes {
		if i < h.entry.Readable.Size {
			todo = append(todo, i)
		}
	}
	deadline := time.Now().Add(patience)
	for len(todo) > 0 {
		session, changed := h.link.now()
		if session == nil {
			select {
			case <-changed:
				continue
			case <-time.After(time.Until(deadline)):
				return replicate.ErrClosed
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		done := 0 // of todo: delivered, or passed over as absent
		var stop error
		patient, cancel := context.WithCancelCause(ctx)
		watch := time.AfterFunc(stall, func() { cancel(errStalled) })
		err := session.Read(patient, h.entry.Manifest, *h.entry.Readable, todo, func(i uint64, block []byte, _ merklelog.Leaf) error {
			watch.Stop()
			defer watch.Reset(stall)
			if stop = deliver(i, block); stop != nil {
				return stop
			}
			// Blocks come in the order asked for.
			for todo[done] != i {
				done++
			}
			done++
			return nil
		})
		watch.Stop()
		cancel(nil)
		var absent *replicate.NotHeldError
		switch {
		case err == nil || stop != nil || ctx.Err() != nil || errors.As(err, &absent):
			return err
		}
		select {
		case <-session.Done():
		default:
			return err // the session lives: the box refused
		}
		todo = todo[done:]
		if done > 0 {
			deadline = time.Now().Add(patience)
		}
		select {
		case <-changed:
		case <-time.After(time.Until(deadline)):
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
