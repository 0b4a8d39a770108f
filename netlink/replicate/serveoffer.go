package replicate

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"cobox/storage/merklelog"
)

const (
	maxWants     = 512           // wants that a peer may have waiting
	maxLeafWants = 2 * maxOffers // leaf wants likewise, over all offers: an offer has two at most
)

// serveQueue holds what the peer wants of our offers, in the order in which it
// asked. Leaves go first: they are small and the blocks wait for them.
type serveQueue struct {
	wake chan struct{}

	mu     sync.Mutex
	leaves []serveLeaves
	blocks []serveBlocks
	closes []serveClose
}

type serveLeaves struct {
	o    *Offering
	want wantLeaves
}

type serveBlocks struct {
	o    *Offering
	runs []merklelog.Range
}

type serveClose struct {
	o   *Offering
	msg message
}

func newServeQueue() *serveQueue { return &serveQueue{wake: make(chan struct{}, 1)} }

func (q *serveQueue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *serveQueue) addLeaves(o *Offering, w *wantLeaves) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if o.silent {
		return nil // our last message is on its way; the peer's wants crossed it
	}
	if len(q.leaves) >= maxLeafWants {
		return fmt.Errorf("%d wants for leaves are waiting", len(q.leaves))
	}
	q.leaves = append(q.leaves, serveLeaves{o, *w})
	q.poke()
	return nil
}

func (q *serveQueue) addBlocks(o *Offering, runs []merklelog.Range) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if o.silent {
		return nil
	}
	if len(q.blocks) >= maxWants {
		return fmt.Errorf("%d wants are waiting", len(q.blocks))
	}
	q.blocks = append(q.blocks, serveBlocks{o, runs})
	q.poke()
	return nil
}

// close drops what is wanted of the offering and sends its last message.
func (q *serveQueue) close(o *Offering, msg message) {
	q.mu.Lock()
	defer q.mu.Unlock()
	o.silent = true
	q.closes = append(q.closes, serveClose{o, msg})
	q.poke()
}

// closing reports whether the offering's last message waits to be sent.
func (q *serveQueue) closing(o *Offering) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, c := range q.closes {
		if c.o == o {
			return true
		}
	}
	return false
}

// next takes the next job off the queue.
func (q *serveQueue) next() (l serveLeaves, b serveBlocks, c serveClose, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case len(q.closes) > 0:
		c, q.closes = q.closes[0], q.closes[1:]
		q.leaves = without(q.leaves, func(j serveLeaves) bool { return j.o == c.o })
		q.blocks = without(q.blocks, func(j serveBlocks) bool { return j.o == c.o })
	case len(q.leaves) > 0:
		l, q.leaves = q.leaves[0], q.leaves[1:]
	case len(q.blocks) > 0:
		b, q.blocks = q.blocks[0], q.blocks[1:]
	default:
		return l, b, c, false
	}
	return l, b, c, true
}

func without[T any](jobs []T, drop func(T) bool) []T {
	kept := jobs[:0]
	for _, j := range jobs {
		if !drop(j) {
			kept = append(kept, j)
		}
	}
	clear(jobs[len(kept):])
	return kept
}

// serveOffers is the goroutine that sends what the peer wants of our offers.
func (s *Session) serveOffers() {
	q := s.offers
	for {
		l, b, c, ok := q.next()
		var err error
		switch {
		case !ok:
			select {
			case <-q.wake:
			case <-s.ctx.Done():
				return
			}
		case c.o != nil:
			err = s.sendBulk(s.ctx, classFresh, outgoing{msg: c.msg})
		case l.o != nil:
			err = s.serveLeaves(l)
		default:
			err = s.serveBlocks(b)
		}
		if s.ctx.Err() != nil {
			return
		}
		if err != nil {
			o := l.o
			if o == nil {
				o = b.o
			}
			o.sourceFailed(err)
		}
	}
}

// sourceFailed ends an offering whose source cannot be read; the wants that are
// left go with it.
func (o *Offering) sourceFailed(err error) {
	var v *ViolationError
	if errors.As(err, &v) {
		o.s.fail(err)
		return
	}
	o.mu.Lock()
	if o.sourceErr == nil {
		o.sourceErr = err
	}
	o.mu.Unlock()
	o.Close()
}

func (s *Session) serveLeaves(j serveLeaves) error {
	w, src := &j.want, j.o.source
	if size := src.Checkpoint().Size; w.size > size {
		return violationf("serving leaves", "proven against size %d of a log of %d", w.size, size)
	}
	for first := w.first; first < w.end(); {
		if s.offers.closing(j.o) {
			return nil
		}
		end := min(w.end(), (first/merklelog.MaxBatch+1)*merklelog.MaxBatch)
		leaves, err := src.Leaves(first, int(end-first))
		if err != nil {
			return fmt.Errorf("replicate: reading leaves from %d: %w", first, err)
		}
		if uint64(len(leaves)) != end-first {
			return fmt.Errorf("replicate: source gave %d leaves of %d", len(leaves), end-first)
		}
		proof, err := src.Consistency(end, w.size)
		if err != nil {
			return fmt.Errorf("replicate: proving leaves up to %d: %w", end, err)
		}
		msg := message(merklelog.AppendBatch(newMessage(kindLeaves, j.o.id), merklelog.Batch{First: first, Leaves: leaves, Proof: proof})).finish()
		if err := s.sendBulk(s.ctx, classFresh, outgoing{msg: msg}); err != nil {
			return err
		}
		first = end
	}
	return nil
}

func (s *Session) serveBlocks(j serveBlocks) error {
	src := j.o.source
	size := src.Checkpoint().Size
	if end := j.runs[len(j.runs)-1].End(); end > size {
		return violationf("serving blocks", "block %d of a log of %d", end-1, size)
	}
	gone := uint64(0) // blocks below it were answered with a hole
	for _, run := range j.runs {
		for i := max(run.First, gone); i < run.End(); i++ {
			if s.offers.closing(j.o) {
				return nil
			}
			buf := s.cfg.Limits.get()
			err := src.Block(i, buf.block())
			if err == nil {
				putBlockHeader(buf, kindBlock, j.o.id, i)
				j.o.sent.Add(1) // before the peer can have it and answer
				if err := s.sendBulk(s.ctx, classFresh, outgoing{buf: buf}); err != nil {
					s.free(buf)
					return err
				}
				continue
			}
			s.free(buf)
			if !errors.Is(err, ErrNotHere) {
				return fmt.Errorf("replicate: reading block %d: %w", i, err)
			}
			if gone, err = s.sendHole(s.ctx, j.o, i, size); err != nil {
				return err
			}
			if gone >= run.End() {
				break
			}
			i = gone - 1
		}
	}
	return nil
}

// sendHole tells that block i is not here, nor those up to the index that it
// returns.
func (s *Session) sendHole(ctx context.Context, o *Offering, i, size uint64) (uint64, error) {
	next := min(max(o.source.Next(i+1), i+1), size)
	hole := merklelog.Range{First: i, Count: next - i}
	msg := message(appendHole(newMessage(kindHole, o.id), hole)).finish()
	return next, s.sendBulk(ctx, classFresh, outgoing{msg: msg})
}
