package replicate

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"cobox/storage/merklelog"
)

// Progress is how far an offering has come.
type Progress struct {
	Known    uint64            // size of the peer's newest checkpoint
	Sent     uint64            // blocks sent in this session, counted before the peer can have them
	Receipt  *Receipt          // the newest receipt, verified; nil before the first
	Holes    []merklelog.Range // blocks below its size that the peer lacks
	MoreHole bool              // there are more holes than those listed
	Settled  uint64            // below this size the peer waits for nothing more from us
}

// Durable reports whether the peer receipted the block with this index.
func (p *Progress) Durable(index uint64) bool {
	if p.Receipt == nil || index >= p.Receipt.Size || merklelog.RangesContain(p.Holes, index) {
		return false
	}
	return !p.MoreHole || (len(p.Holes) > 0 && index < p.Holes[len(p.Holes)-1].End())
}

// DurableRun returns how many blocks from the first on the peer receipted
// without a gap.
func (p *Progress) DurableRun() uint64 {
	switch {
	case p.Receipt == nil:
		return 0
	case len(p.Holes) > 0:
		return p.Holes[0].First
	case p.MoreHole:
		return 0
	}
	return p.Receipt.Size
}

// Offering is one log that this side offers to the peer. It goes on until it is
// closed, the peer refuses it or the session ends; checkpoints that the source
// gets meanwhile are announced while blocks still flow.
type Offering struct {
	s      *Session
	id     uint32
	source Source
	log    merklelog.LogID
	writer merklelog.WriterKey
	in     chan offerEvent
	ask    chan struct{} // holds a token while askSize is to be sent
	leave  chan struct{} // closed by Close
	done   chan struct{} // closed when it has ended

	// owned by the goroutine
	offered   bool
	closing   bool
	known     merklelog.Checkpoint // the peer's newest, size 0 until it was heard
	advancing bool                 // an offer or advance is not answered yet
	announced merklelog.Checkpoint

	sent   atomic.Uint64
	silent bool // nothing more is served for it; under the lock of the queue

	mu        sync.Mutex
	progress  Progress
	changed   chan struct{} // closed and replaced at every change
	askSize   uint64
	sourceErr error // why the source could not be read
	err       error
	leaveOnce sync.Once
}

type offerEvent struct {
	kind    kind
	known   *known
	receipt *receipted
	fork    merklelog.Fork
	err     *Error
}

// Offer offers a log to the peer. Before its first checkpoint it is only
// watched.
func (s *Session) Offer(source Source) (*Offering, error) {
	m := source.Manifest()
	o := &Offering{
		s: s, source: source, log: m.ID(), writer: m.Writer,
		in: make(chan offerEvent, 8), ask: make(chan struct{}, 1),
		leave: make(chan struct{}), done: make(chan struct{}), changed: make(chan struct{}),
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, s.closedError()
	}
	if len(s.offerings) >= maxOffers {
		s.mu.Unlock()
		return nil, &Error{Code: CodeBusy, Message: "too many offers are open in this session"}
	}
	o.id = s.newIDLocked()
	s.offerings[o.id] = o
	s.wg.Go(o.run)
	s.mu.Unlock()
	return o, nil
}

// Log returns the log that is offered.
func (o *Offering) Log() merklelog.LogID { return o.log }

// Progress returns how far it has come, and a channel that is closed when that
// changes otherwise than by a block sent.
func (o *Offering) Progress() (Progress, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.progress
	p.Holes = slices.Clone(p.Holes)
	p.Sent = o.sent.Load()
	return p, o.changed
}

// Done is closed when the offering has ended; Err says why.
func (o *Offering) Done() <-chan struct{} { return o.done }

// Err returns why the offering ended: nil after Close, an *Error if the peer
// refused it, a *RegressionError, a *merklelog.ForkError, a *ReceiptError, or
// ErrClosed with the session.
func (o *Offering) Err() error {
	select {
	case <-o.done:
	default:
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// Close ends the offering. Receipts already earned stay in Progress.
func (o *Offering) Close() {
	o.leaveOnce.Do(func() { close(o.leave) })
}

// WaitReceipt asks the peer for a receipt and waits until all blocks below size
// are receipted without a hole. A *HolesError says that the peer has all that
// it can get from the source and still lacks some.
func (o *Offering) WaitReceipt(ctx context.Context, size uint64) (*Receipt, error) {
	asked := false
	for {
		p, changed := o.Progress()
		if p.Receipt != nil && p.Receipt.Size >= size {
			holes := holesBelow(p.Holes, size)
			if len(holes) == 0 && (!p.MoreHole || (len(p.Holes) > 0 && p.Holes[len(p.Holes)-1].End() >= size)) {
				return p.Receipt, nil
			}
			if p.Settled >= size {
				return nil, &HolesError{Receipt: *p.Receipt, Holes: holes, Truncated: p.MoreHole}
			}
		}
		if !asked {
			asked = true
			o.mu.Lock()
			o.askSize = max(o.askSize, size)
			o.mu.Unlock()
			select {
			case o.ask <- struct{}{}:
			default:
			}
		}
		select {
		case <-changed:
		case <-o.done:
			if err := o.Err(); err != nil {
				return nil, err
			}
			return nil, ErrClosed
		case <-o.leave: // the peer may hang, and never answer the close
			o.mu.Lock()
			defer o.mu.Unlock()
			return nil, cmp.Or(o.err, o.sourceErr, ErrClosed)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func holesBelow(holes []merklelog.Range, size uint64) []merklelog.Range {
	if size >= merklelog.MaxSize {
		return holes
	}
	return merklelog.SubtractRange(slices.Clone(holes), merklelog.Range{First: size, Count: merklelog.MaxSize - size})
}

// update changes the progress and tells who waits.
func (o *Offering) update(change func(p *Progress)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change(&o.progress)
	close(o.changed)
	o.changed = make(chan struct{})
}

// run is the offering's goroutine. After it has ended with the session still
// running, nothing more is sent or received under its id.
func (o *Offering) run() {
	s := o.s
	err := o.converse()
	if s.ctx.Err() != nil && err == nil {
		err = s.closedError()
	}
	s.mu.Lock()
	delete(s.offerings, o.id)
	s.mu.Unlock()
	o.mu.Lock()
	o.err = err
	close(o.changed)
	o.changed = make(chan struct{})
	o.mu.Unlock()
	close(o.done)
}

// converse talks about the log until both sides have sent their last message:
// ours is the close, the peer's the error.
func (o *Offering) converse() error {
	s := o.s
	var result error // what the offering ends with
	for {
		changed, leave, ask := o.source.Changed(), o.leave, o.ask
		if !o.closing {
			if err := o.announce(); err != nil {
				result = err
				o.sendClose(&Error{Code: CodeInternal})
			}
		}
		if o.closing {
			if !o.offered {
				return result
			}
			leave, changed, ask = nil, nil, nil
		}
		if !o.offered {
			ask = nil // the token stays until the offer is made
		}
		select {
		case e := <-o.in:
			if e.kind == kindError {
				if result == nil && e.err.Code != CodeNone {
					result = e.err
				}
				o.sendClose(&Error{Code: CodeNone})
				return result
			}
			if o.closing {
				continue
			}
			if err := o.handle(e); err != nil {
				result = err
				o.sendClose(refusal(err))
			}
		case <-changed:
		case <-ask:
			o.mu.Lock()
			size := o.askSize
			o.mu.Unlock()
			s.send(message(appendAsk(newMessage(kindAsk, o.id), size)).finish())
		case <-leave:
			o.mu.Lock()
			result = o.sourceErr
			o.mu.Unlock()
			o.sendClose(&Error{Code: CodeNone})
		case <-s.ctx.Done():
			return result
		}
	}
}

// sendClose ends our side. It goes the way of the blocks, so that none follows.
func (o *Offering) sendClose(e *Error) {
	if o.closing {
		return
	}
	o.closing = true
	if o.offered {
		o.s.offers.close(o, message(appendError(newMessage(kindClose, o.id), e)).finish())
	}
}

// announce sends the newest checkpoint if the peer does not know it and has
// answered the one before.
func (o *Offering) announce() error {
	cp := o.source.Checkpoint()
	if o.advancing || cp.Size == 0 {
		return nil
	}
	if !o.offered {
		o.offered, o.advancing, o.announced = true, true, cp
		body := offer{checkpoint: cp, manifest: o.source.Manifest()}
		o.s.send(message(appendOffer(newMessage(kindOffer, o.id), &body)).finish())
		return nil
	}
	if cp.Size <= o.known.Size {
		return nil
	}
	proof, err := o.source.Consistency(o.known.Size, cp.Size)
	if err != nil {
		return err
	}
	o.advancing, o.announced = true, cp
	a := advance{checkpoint: cp, from: o.known.Size, proof: proof}
	o.s.send(message(appendAdvance(newMessage(kindAdvance, o.id), &a)).finish())
	return nil
}

// receive parses a message of the peer. It is called by the reader.
func (o *Offering) receive(k kind, body []byte) error {
	e := offerEvent{kind: k}
	var err error
	switch k {
	case kindWantLeaves:
		var w *wantLeaves
		if w, err = parseWantLeaves(body); err == nil {
			err = o.s.offers.addLeaves(o, w)
		}
	case kindWant:
		var runs []merklelog.Range
		if runs, err = parseWant(body); err == nil {
			err = o.s.offers.addBlocks(o, runs)
		}
	case kindKnown:
		e.known, err = parseKnown(body)
	case kindReceipt:
		e.receipt, err = parseReceipted(body)
	case kindFork:
		e.fork, err = merklelog.ParseFork(body)
	}
	if err != nil {
		return violation("receiving about an offer", err)
	}
	if k == kindWant || k == kindWantLeaves {
		return nil
	}
	return o.post(e)
}

func (o *Offering) post(e offerEvent) error {
	select {
	case o.in <- e:
		return nil
	case <-o.done:
		return violationf("receiving about an offer", "%v after its end", e.kind)
	case <-o.s.ctx.Done():
		return context.Cause(o.s.ctx)
	}
}

func (o *Offering) handle(e offerEvent) error {
	switch e.kind {
	case kindKnown:
		return o.hearKnown(e.known)
	case kindReceipt:
		return o.hearReceipt(e.receipt)
	case kindFork:
		if e.fork.A.Log != o.log {
			return o.blame(violationf("checking fork evidence", "it is about another log"))
		}
		if err := e.fork.Verify(o.writer); err != nil {
			return o.blame(violation("checking fork evidence", err))
		}
		return &merklelog.ForkError{Fork: e.fork}
	}
	return nil
}

// blame ends the session: the peer sent what cannot be.
func (o *Offering) blame(err error) error {
	o.s.fail(err)
	return err
}

// hearKnown compares what the peer holds with the source.
func (o *Offering) hearKnown(k *known) error {
	if !o.advancing {
		return o.blame(violationf("receiving about an offer", "a known that answers nothing"))
	}
	o.advancing = false
	cp := k.checkpoint
	if cp != o.announced && cp != o.known {
		if cp.Log != o.log || cp.Size < o.known.Size {
			return o.blame(violationf("receiving about an offer", "a known of another log, or of less than before"))
		}
		if err := cp.Verify(o.writer); err != nil {
			return o.blame(violation("receiving about an offer", err))
		}
		own := o.source.Checkpoint()
		switch err := o.ours(cp.Size, cp.Root, own); {
		case errors.Is(err, errNotOurs):
			return &RegressionError{Own: own, Peer: cp}
		case err != nil:
			return err
		}
	}
	o.known = cp
	o.update(func(p *Progress) { p.Known = cp.Size })
	return nil
}

var errNotOurs = errors.New("replicate: not a state that the source was in")

// ours returns nil if the source's log had this root at this size, errNotOurs
// if not.
func (o *Offering) ours(size uint64, root merklelog.Hash, own merklelog.Checkpoint) error {
	if size > own.Size {
		return errNotOurs
	}
	var proof merklelog.Proof
	if size < own.Size {
		var err error
		if proof, err = o.source.Consistency(size, own.Size); err != nil {
			return err
		}
	}
	err := merklelog.VerifyConsistency(size, root, own.Size, own.Root, proof)
	if errors.Is(err, merklelog.ErrDiverged) {
		return errNotOurs
	}
	return err
}

// hearReceipt takes a receipt only if it is the box's and for our own log.
func (o *Offering) hearReceipt(r *receipted) error {
	rc := r.receipt
	fail := func(reason string) error {
		return o.blame(violation("receiving a receipt", &ReceiptError{Receipt: *rc, Reason: reason}))
	}
	if err := rc.Verify(); err != nil {
		return fail("the signature does not verify")
	}
	if want := o.s.cfg.BoxKey; want != (BoxKey{}) && rc.Box != want {
		return fail("another box signed it")
	}
	if rc.Log != o.log {
		return fail("it is for another log")
	}
	switch err := o.ours(rc.Size, rc.Root, o.source.Checkpoint()); {
	case errors.Is(err, errNotOurs):
		return fail("its root is not that of the log")
	case err != nil:
		return err
	}
	o.update(func(p *Progress) {
		p.Receipt, p.Holes, p.MoreHole, p.Settled = rc, r.holes, r.truncated, r.settled
	})
	return nil
}
