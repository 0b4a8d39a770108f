package replicate

import (
	"time"

	"cobox/storage/merklelog"
)

// Here are the blocks of a log that is taken in: which are asked for, for what
// credit, and what comes.

// wantBlocks asks for missing blocks as far as there is credit.
func (p *pull) wantBlocks() error {
	for {
		// All that a scan finds may be what the peer does not have.
		for len(p.todo) == 0 && p.scanned < p.leaves {
			if err := p.scan(); err != nil {
				return err
			}
		}
		n := int(min(merklelog.CountRanges(p.todo), maxWantBlocks))
		if n == 0 || p.stalled {
			p.setStarving(false)
			return nil
		}
		// A want for a few blocks is made only if nothing is under way.
		least := 1
		if len(p.wants) > 0 {
			least = min(n, wantBatch)
		} else {
			p.setStarving(true) // first, so that whoever gives credit back after the try sees it
		}
		got := p.s.credit.take(n)
		if got < least {
			p.s.credit.give(got)
			p.setStarving(len(p.wants) == 0)
			return nil
		}
		p.setStarving(false)
		runs, rest := runBlocks(p.todo, got)
		p.todo = rest
		if n := int(merklelog.CountRanges(runs)); n < got {
			p.s.credit.give(got - n)
		}
		if len(p.wants) == 0 {
			p.lastIn = time.Now()
		}
		p.wants = append(p.wants, runs)
		p.s.send(message(appendWant(newMessage(kindWant, p.id), runs)).finish())
	}
}

// scan looks for missing blocks beyond those that are known to be.
func (p *pull) scan() error {
	missing, err := p.s.cfg.Box.Store.Missing(p.log, p.scanned, missingRuns)
	if err != nil {
		return err
	}
	next := p.leaves
	if len(missing) == missingRuns {
		next = min(next, missing[len(missing)-1].End())
	}
	var todo []merklelog.Range
	for _, r := range missing {
		first, end := max(r.First, p.scanned), min(r.End(), next)
		if first < end {
			todo = merklelog.AddRange(todo, merklelog.Range{First: first, Count: end - first})
		}
	}
	for _, r := range p.skip {
		todo = merklelog.SubtractRange(todo, r)
	}
	p.todo, p.scanned = todo, next
	return nil
}

func (p *pull) outstanding() (n int) {
	for _, w := range p.wants {
		n += int(merklelog.CountRanges(w))
	}
	return n
}

// settled returns the size below which nothing more can be had from the peer.
func (p *pull) settled() uint64 {
	n := min(p.held.Size, p.leaves)
	if p.scanned < n {
		n = p.scanned
	}
	if len(p.todo) > 0 {
		n = min(n, p.todo[0].First)
	}
	if len(p.wants) > 0 {
		n = min(n, p.wants[0][0].First)
	}
	return n
}

func (p *pull) takeBlock(index uint64, buf *buffer) error {
	if len(p.wants) == 0 || p.wants[0][0].First != index {
		return violationf("receiving a block", "block %d was not asked for or is out of turn", index)
	}
	p.popWanted(1)
	err := p.s.cfg.Box.Store.PutBlock(p.s.ctx, p.log, index, buf.block())
	p.gave(1)
	switch {
	case err == nil:
		p.dirty++
	case p.s.code(err) == CodeNotHeld: // dropped since it was asked for
	default:
		return err
	}
	return nil
}

// popWanted takes n blocks off the first run that is under way.
func (p *pull) popWanted(n uint64) {
	w := p.wants[0]
	w[0].First += n
	if w[0].Count -= n; w[0].Count == 0 {
		if w = w[1:]; len(w) == 0 {
			p.wants = p.wants[1:]
			return
		}
		p.wants[0] = w
	}
}

// gave returns credit and lets another log of this session have it.
func (p *pull) gave(n int) {
	p.lastIn = time.Now()
	p.stalled = false
	p.s.credit.give(n)
	p.pokeOthers()
}

func (p *pull) setStarving(yes bool) {
	p.s.mu.Lock()
	p.starving = yes
	p.s.mu.Unlock()
}

func (p *pull) pokeOthers() {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	for _, o := range p.s.pulls {
		if o != p && o.starving {
			select {
			case o.poke <- struct{}{}:
			default:
			}
		}
	}
}

// takeHole notes that blocks cannot be had. The hole answers those blocks of
// the first want that lie in it; for later ones it is a hint.
func (p *pull) takeHole(r merklelog.Range) error {
	if len(p.wants) == 0 || p.wants[0][0].First != r.First {
		return violationf("receiving a hole", "block %d was not asked for or is out of turn", r.First)
	}
	answered := 0
	want := len(p.wants)
	for len(p.wants) == want && p.wants[0][0].First < r.End() {
		n := min(p.wants[0][0].Count, r.End()-p.wants[0][0].First)
		p.popWanted(n)
		answered += int(n)
	}
	p.gave(answered)
	p.todo = merklelog.SubtractRange(p.todo, r)
	if r.End() > p.scanned {
		p.skip = merklelog.AddRange(p.skip, r)
		if len(p.skip) > maxWantRuns { // only a hint: forget the oldest
			p.skip = p.skip[1:]
		}
	}
	return nil
}
