package replicate

import (
	"context"
	"errors"
	"time"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

const (
	pullInbox   = 8
	wantBatch   = 16 // blocks of free credit that are worth a want
	missingRuns = maxWantRuns
	sameReceipt = time.Second // within which an unchanged log gets the same receipt again
)

// pull takes in one log that the peer offers. Its goroutine owns every field
// below in; the reader posts to it and waits when it is busy with the store.
//
// It ends after the offerer's close, which nothing follows. When it refuses the
// offer it sends an error, which is its last message, and drains until then.
type pull struct {
	s    *Session
	id   uint32
	in   chan pullEvent
	done chan struct{} // closed when the goroutine has ended

	offer   *offer
	log     merklelog.LogID
	refused bool // the error was sent
	closed  bool // the close was received

	held    merklelog.Checkpoint // the store's newest
	leaves  uint64               // the store's
	pending *advance             // waits until no leaves are under way

	leafNext uint64 // the leaf that is to come next,
	leafEnd  uint64 // before this one; equal when none are under way
	leafSize uint64 // the checkpoint that they are proven against
	stale    bool   // another session moved the log; look again once none are under way

	wants    [][]merklelog.Range // under way, in order; the first is cut as blocks come
	todo     []merklelog.Range   // missing and not asked for yet
	scanned  uint64              // below this index todo and wants say what is missing
	skip     []merklelog.Range   // what the peer said it does not have
	starving bool                // wants credit and has none under way; under s.mu
	draining bool                // refused, and not closed by the peer yet; under s.mu
	poke     chan struct{}
	lastIn   time.Time // when a block last came or was asked for
	stalled  bool      // credit was lent out since

	asked      uint64    // a receipt is wanted at this size; 0: none
	dirty      int       // blocks since the last commit began
	receipted  time.Time // when the last commit began
	unclean    bool      // checkpoint or leaves changed since
	committing bool
	commits    chan commitResult
	last       message // the last receipt sent
	lastAt     time.Time
	lastSettle uint64
}

type pullEvent struct {
	kind    kind
	index   uint64
	buf     *buffer
	batch   merklelog.Batch
	advance *advance
	hole    merklelog.Range
	size    uint64
}

type commitResult struct {
	settled uint64
	durable merklelog.Durable
	receipt *Receipt
	err     error
}

// offered begins a pull for an offer of the peer.
func (r *reader) offered(id uint32, body []byte) error {
	s := r.s
	o, err := parseOffer(body)
	if err != nil {
		return violation("reading an offer", err)
	}
	p := &pull{
		s: s, id: id, offer: o, log: o.checkpoint.Log,
		in: make(chan pullEvent, pullInbox), done: make(chan struct{}),
		poke: make(chan struct{}, 1), commits: make(chan commitResult, 1),
	}
	s.mu.Lock()
	_, twice := s.pulls[id]
	open, draining := 0, 0
	for _, other := range s.pulls {
		if other.draining {
			draining++
		} else {
			open++
		}
	}
	tooMany := open >= maxOffers || draining >= maxDraining
	if !twice && !tooMany {
		s.pulls[id] = p
	}
	s.mu.Unlock()
	switch {
	case twice:
		return violationf("reading an offer", "offer %d is open already", id)
	case tooMany:
		return violationf("reading an offer", "%d offers are open and %d refused ones not closed", open, draining)
	}
	tooFast := !r.allowOffer()
	s.start(func() { p.run(tooFast) })
	return nil
}

// post hands an event to the goroutine. It fails only when the session ends;
// then a buffer is still the caller's.
func (p *pull) post(e pullEvent) error {
	select {
	case p.in <- e:
		return nil
	case <-p.done:
		return violationf("receiving for an offer", "%v after its close", e.kind)
	case <-p.s.ctx.Done():
		return context.Cause(p.s.ctx)
	}
}

// receive parses a message of the offerer.
func (p *pull) receive(k kind, body []byte) error {
	e := pullEvent{kind: k}
	var err error
	switch k {
	case kindAdvance:
		e.advance, err = parseAdvance(body)
		if err == nil && e.advance.checkpoint.Log != p.log {
			err = errors.New("checkpoint of another log")
		}
	case kindLeaves:
		e.batch, err = merklelog.ParseBatch(body)
	case kindHole:
		e.hole, err = parseHole(body)
	case kindAsk:
		e.size, err = parseAsk(body)
	case kindClose:
		_, err = parseError(body)
	}
	if err != nil {
		return violation("receiving for an offer", err)
	}
	return p.post(e)
}

func (p *pull) run(tooFast bool) {
	s := p.s
	defer func() {
		p.leave()
		close(p.done)
		for len(p.in) > 0 {
			if e := <-p.in; e.buf != nil {
				s.takenIn(e.buf)
			}
		}
		p.pokeOthers()
	}()
	if tooFast {
		p.refuse(&Error{Code: CodeBusy, Message: "too many offers in a short time"})
	} else if err := p.begin(); err != nil {
		p.fault("taking up an offer", err)
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for !p.closed {
		if !p.refused {
			if err := p.step(); err != nil {
				p.fault("taking in a log", err)
			}
			timer.Reset(p.nextDeadline())
		}
		select {
		case e := <-p.in:
			p.handle(e)
		case r := <-p.commits:
			p.committed(r)
		case <-p.poke:
		case <-timer.C:
			p.checkStall()
		case <-s.ctx.Done():
			p.waitCommit()
			return
		}
	}
	p.waitCommit()
	s.credit.give(p.outstanding())
	if !p.refused {
		p.leave() // before the peer hears that it is over, and offers again
		p.sendError(&Error{Code: CodeNone})
	}
}

// leave takes the pull out of the session's list.
func (p *pull) leave() {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if p.s.pulls[p.id] == p {
		delete(p.s.pulls, p.id)
	}
}

// begin decides whether the offer is taken up and says what is known.
func (p *pull) begin() error {
	s := p.s
	box := s.cfg.Box
	if box == nil {
		return &Error{Code: CodeNotAllowed, Message: "this side holds no logs"}
	}
	m := p.offer.manifest
	if m.ID() != p.log {
		return violationf("checking an offer", "checkpoint and manifest are of different logs")
	}
	cert, err := account.VerifyManifest(m)
	if err != nil {
		return violation("checking an offer", err)
	}
	if err := p.offer.checkpoint.Verify(m.Writer); err != nil {
		return violation("checking an offer", err)
	}
	state, err := box.Store.Log(p.log)
	fresh := err != nil && s.code(err) == CodeUnknownLog
	if err != nil && !fresh {
		return err
	}
	if err := box.Authorizer.MayDeliver(s.ctx, s.cfg.Peer, p.log, m, cert, fresh); err != nil {
		return err
	}
	// A checkpoint that is no newer goes to the store as well: it may be the
	// other half of a fork.
	if fresh || p.offer.checkpoint.Size <= state.Checkpoint.Size {
		if p.offer.checkpoint != state.Checkpoint {
			if err := p.offerCheckpoint(p.offer.checkpoint, nil, state.Checkpoint.Size); err != nil {
				return err
			}
		}
	}
	if state, err = p.refresh(); err != nil {
		return err
	}
	p.unclean = true
	p.receipted = time.Now()
	p.lastIn = time.Now()
	p.sendKnown(state)
	return nil
}

// refresh reads where the store stands; another session may have moved it.
func (p *pull) refresh() (LogState, error) {
	state, err := p.s.cfg.Box.Store.Log(p.log)
	if err != nil {
		return state, err
	}
	p.held, p.leaves = state.Checkpoint, state.Leaves
	p.leafNext, p.leafEnd = p.leaves, p.leaves
	return state, nil
}

// sendKnown tells the peer what refresh has seen, and nothing newer: the peer
// sends an advance only for what it has not heard of, and the pull goes on only
// to what it knows itself.
func (p *pull) sendKnown(state LogState) {
	k := known{checkpoint: state.Checkpoint, leaves: state.Leaves, held: min(state.Held, state.Leaves)}
	p.s.send(message(appendKnown(newMessage(kindKnown, p.id), &k)).finish())
}

// step asks for what can be asked for and begins a commit if one is due.
func (p *pull) step() error {
	if p.pending != nil && p.leafNext == p.leafEnd {
		a := p.pending
		p.pending = nil
		if err := p.takeAdvance(a); err != nil {
			return err
		}
	}
	p.wantLeaves()
	if err := p.wantBlocks(); err != nil {
		return err
	}
	if !p.committing && p.commitDue(time.Now()) {
		p.commit()
	}
	return nil
}

func (p *pull) takeAdvance(a *advance) error {
	state, err := p.refresh()
	if err != nil {
		return err
	}
	// If another session moved the checkpoint, the peer hears where it is now.
	if a.from == p.held.Size && a.checkpoint.Size > p.held.Size {
		if err := p.offerCheckpoint(a.checkpoint, a.proof, a.from); err != nil {
			return err
		}
		p.unclean = true
		if state, err = p.refresh(); err != nil {
			return err
		}
	}
	p.sendKnown(state)
	return nil
}

// offerCheckpoint gives the store a checkpoint whose proof begins at a size, 0 if
// the store did not know the log. If another session has moved the log since that
// was looked at, the proof leads nowhere and the peer is not to blame: it hears
// where the store stands now.
func (p *pull) offerCheckpoint(cp merklelog.Checkpoint, proof merklelog.Proof, from uint64) error {
	store := p.s.cfg.Box.Store
	err := store.OfferCheckpoint(p.offer.manifest, cp, proof)
	if !errors.Is(err, merklelog.ErrProof) {
		return err
	}
	state, stateErr := store.Log(p.log)
	if stateErr != nil {
		return stateErr
	}
	if state.Checkpoint.Size == from {
		return err
	}
	return nil
}

// wantLeaves keeps up to maxWantLeaves leaves under way. While an advance waits
// it asks for none, since their proofs would lead to the old checkpoint.
func (p *pull) wantLeaves() {
	under := p.leafEnd - p.leafNext
	if p.stale || p.pending != nil || p.leafEnd >= p.held.Size || under > maxWantLeaves/2 || (under > 0 && p.leafSize != p.held.Size) {
		return
	}
	w := wantLeaves{first: p.leafEnd, size: p.held.Size}
	w.count = uint32(min(maxWantLeaves-under, w.size-w.first))
	p.leafEnd = w.end()
	p.leafSize = w.size
	p.s.send(message(appendWantLeaves(newMessage(kindWantLeaves, p.id), &w)).finish())
}

func (p *pull) handle(e pullEvent) {
	var err error
	if e.kind == kindClose {
		p.closed = true
		return
	}
	if p.refused { // drain; what is under way was given back
		if e.buf != nil {
			p.s.takenIn(e.buf)
		}
		return
	}
	switch e.kind {
	case kindBlock:
		err = p.takeBlock(e.index, e.buf)
		p.s.takenIn(e.buf)
	case kindLeaves:
		err = p.takeLeaves(e.batch)
	case kindAdvance:
		if p.pending != nil {
			err = violationf("receiving a checkpoint", "the one before was not answered yet")
		}
		p.pending = e.advance
	case kindHole:
		err = p.takeHole(e.hole)
	case kindAsk:
		p.asked = max(p.asked, e.size)
		if time.Since(p.lastAt) < sameReceipt && !p.unclean && p.dirty == 0 && !p.committing &&
			p.lastSettle >= p.asked {
			p.s.send(p.last)
			p.asked = 0
		}
	}
	if err != nil {
		p.fault("taking in a log", err)
	}
}

func (p *pull) takeLeaves(b merklelog.Batch) error {
	n := uint64(len(b.Leaves))
	if p.leafNext == p.leafEnd || b.First != p.leafNext || b.First+n > p.leafEnd {
		return violationf("receiving leaves", "%d leaves at %d were not asked for or are out of turn", n, b.First)
	}
	p.leafNext += n
	if !p.stale && b.First == p.leaves {
		if err := p.appendLeaves(b); err != nil {
			return err
		}
	} else {
		p.stale = true
	}
	if p.stale && p.leafNext == p.leafEnd {
		p.stale = false
		_, err := p.refresh()
		return err
	}
	return nil
}

func (p *pull) appendLeaves(b merklelog.Batch) error {
	store := p.s.cfg.Box.Store
	err := store.AppendLeaves(p.log, b)
	if err == nil {
		p.leaves += uint64(len(b.Leaves))
		p.unclean = true
		return nil
	}
	state, stateErr := store.Log(p.log)
	if stateErr != nil {
		return stateErr
	}
	if state.Checkpoint.Size == p.leafSize && state.Leaves == b.First {
		return err
	}
	p.stale = true // the peer is not to blame
	return nil
}
