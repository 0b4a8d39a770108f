package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"cobox/cmd/cobox/device"
	"cobox/cmd/cobox/ui"
	"cobox/netlink/noiseconn"
	"cobox/netlink/replicate"
	"cobox/storage/archive/spool"
	"cobox/storage/merklelog"
)

// delivery offers this device's own logs to every box, while a backup appends
// to one of them and afterwards, until what is wanted has been receipted.
type delivery struct {
	s    *space
	logs []*spool.Spool
	wg   sync.WaitGroup
	ctx  context.Context // until stop
	stop context.CancelFunc

	mu      sync.Mutex
	boxes   map[*link]*boxDelivery
	changed chan struct{} // closed and replaced at every change
}

// boxDelivery is what is known of one box.
type boxDelivery struct {
	taking bool  // connected, and refuses nothing
	err    error // why it does not take; a refusal stays until the link ends
	offers map[merklelog.LogID]*replicate.Offering
}

// deliver begins to offer.
func (s *space) deliver(ctx context.Context) *delivery {
	ctx, stop := context.WithCancel(ctx)
	d := &delivery{s: s, ctx: ctx, stop: stop, boxes: map[*link]*boxDelivery{}, changed: make(chan struct{})}
	for _, own := range s.spools {
		d.logs = append(d.logs, own)
	}
	for _, l := range s.fleet.links {
		d.boxes[l] = &boxDelivery{}
	}
	for _, l := range s.fleet.links {
		d.wg.Go(func() { d.serve(ctx, l) })
	}
	return d
}

// end stops offering.
func (d *delivery) end() {
	d.stop()
	d.wg.Wait()
}

// update changes what is known of a box and tells the spools who takes blocks.
func (d *delivery) update(l *link, change func(*boxDelivery)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d.boxes[l])
	var reach []spool.BoxKey
	for l, b := range d.boxes {
		if b.taking {
			reach = append(reach, spool.BoxKey(l.box.Static))
		}
	}
	for _, own := range d.logs {
		own.SetReach(reach...)
	}
	close(d.changed)
	d.changed = make(chan struct{})
}

// serve offers all logs over each session that the link gets.
func (d *delivery) serve(ctx context.Context, l *link) {
	for {
		session, changed := l.now()
		if session != nil {
			d.session(ctx, l, session)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// session offers all logs over one session until it ends.
func (d *delivery) session(ctx context.Context, l *link, session *replicate.Session) {
	offers := map[merklelog.LogID]*replicate.Offering{}
	for _, own := range d.logs {
		o, err := session.Offer(&relay{Spool: own, d: d, to: l})
		if err != nil {
			return
		}
		offers[own.ID()] = o
	}
	d.update(l, func(b *boxDelivery) { b.taking, b.err, b.offers = true, nil, offers })
	defer d.update(l, func(b *boxDelivery) { b.taking, b.offers = false, nil })
	var wg sync.WaitGroup
	for _, own := range d.logs {
		wg.Go(func() { d.watch(ctx, l, own, offers[own.ID()]) })
	}
	select {
	case <-session.Done():
	case <-ctx.Done():
		for _, o := range offers {
			o.Close()
		}
	}
	wg.Wait()
}

// watch hands the receipts for one log to its spool until the offer ends. A box
// that takes nothing for long, though it lacks something all the time, is left
// out, so that it cannot hold up the backup to the others.
func (d *delivery) watch(ctx context.Context, l *link, own *spool.Spool, o *replicate.Offering) {
	var last uint64               // sequence of the receipt that was handed over
	want := own.Checkpoint().Size // what it lacks if it has not receipted so much when the timer fires
	idle := time.NewTimer(stall)
	defer idle.Stop()
	var retry <-chan time.Time // the receipt could not be stored; nothing else may come
	again := func() {
		want = own.Checkpoint().Size
		idle.Reset(stall)
	}
	for {
		p, changed := o.Progress()
		if p.Receipt != nil && p.Receipt.Sequence != last {
			last, retry = p.Receipt.Sequence, nil
			if err := own.Receipted(spoolReceipt(l.box, &p)); err != nil {
				d.s.a.log.Warn("a receipt was not stored", "box", l.box.Name, "error", err)
				last, retry = 0, time.After(receiptRetry)
			}
			d.s.holds(l, own, p.Receipt)
			d.update(l, func(*boxDelivery) {})
		}
		select {
		case <-changed:
			again()
		case <-retry:
		case <-idle.C:
			if p, _ := o.Progress(); want == 0 || p.Receipt != nil && p.Receipt.Size >= want {
				again() // it had everything: there was nothing to say
				continue
			}
			d.update(l, func(b *boxDelivery) { b.err, b.taking = errStalled, false })
			o.Close()
			return
		case <-o.Done():
			// With the session the link ends; anything else is the box's no.
			if err := o.Err(); err != nil && !errors.Is(err, replicate.ErrClosed) && ctx.Err() == nil {
				if own.ID() != d.s.writingID() {
					d.s.a.log.Warn("a box does not take an older log", "log", own.ID(), "box", l.box.Name, "error", err)
					return
				}
				d.update(l, func(b *boxDelivery) { b.err, b.taking = err, false })
			}
			return
		}
	}
}

// receiptRetry is the pause before a receipt that could not be stored, because
// the disk is full for example, is handed over again.
const receiptRetry = 5 * time.Second

// forked reports whether a box has refused the log because two versions of it
// exist, or because it knows more of it: nothing may be appended to it any more.
func (d *delivery) forked() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range d.boxes {
		var back *replicate.RegressionError
		var fork *merklelog.ForkError
		if errors.As(b.err, &back) || errors.As(b.err, &fork) || errors.Is(b.err, &replicate.Error{Code: replicate.CodeFrozen}) {
			return true
		}
	}
	return false
}

// writingID names the log that the backup appends to.
func (s *space) writingID() merklelog.LogID {
	if log := s.sp.Writing(); log != nil {
		return log.ID()
	}
	return merklelog.LogID{}
}

func spoolReceipt(box *device.Box, p *replicate.Progress) spool.Receipt {
	r := spool.Receipt{
		Box: spool.BoxKey(box.Static), Size: p.Receipt.Size, Root: p.Receipt.Root,
		Holes: slices.Clone(p.Holes), Signed: replicate.AppendReceipt(nil, p.Receipt),
	}
	if p.MoreHole { // what the list does not reach counts as missing
		from := uint64(0)
		if n := len(r.Holes); n > 0 {
			from = r.Holes[n-1].First
			r.Holes = r.Holes[:n-1]
		}
		r.Holes = append(r.Holes, merklelog.Range{First: from, Count: r.Size - from})
	}
	return r
}

// boxReceipt is what one box holds of the log after a backup.
type boxReceipt struct {
	Box  *device.Box
	Size uint64
	Root merklelog.Hash
}

// outage is how long a backup that is otherwise done waits for a box that went
// away in the middle to come back.
const outage = 10 * time.Second

// wait waits until every box that takes blocks has receipted the first size
// blocks of the log, apart from those that are lost for good. It returns the
// boxes that have, and why the others have not. It does not wait for boxes that
// were not there in the first place.
func (d *delivery) wait(ctx context.Context, own *spool.Spool, size uint64, lost []merklelog.Range, tick func()) ([]boxReceipt, map[*link]error) {
	var mu sync.Mutex
	var done []boxReceipt
	failed := map[*link]error{}
	var wg sync.WaitGroup
	for _, l := range d.s.fleet.links {
		wg.Go(func() {
			r, err := d.waitBox(ctx, l, own, size, lost)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[l] = err
				return
			}
			done = append(done, boxReceipt{l.box, r.Size, r.Root})
		})
	}
	finished := make(chan struct{})
	go func() { wg.Wait(); close(finished) }()
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-finished:
			slices.SortFunc(done, func(a, b boxReceipt) int { return slices.Compare(a.Box.Static[:], b.Box.Static[:]) })
			return done, failed
		case <-t.C:
			tick()
		}
	}
}

func (d *delivery) waitBox(ctx context.Context, l *link, own *spool.Spool, size uint64, lost []merklelog.Range) (*replicate.Receipt, error) {
	var deadline <-chan time.Time
	// A box whose disk has gone says first that it has a fault, or that something is
	// damaged. In a moment it ends the connection, and when it is back it says what it
	// waits for, or goes on.
	var fault error
	var faulty *replicate.Offering
	for faults := 0; ; {
		d.mu.Lock()
		b, changed := d.boxes[l], d.changed
		offer, refused := b.offers[own.ID()], b.err
		d.mu.Unlock()
		if refused != nil && !mayPass(refused) {
			return nil, refused
		}
		if refused == nil && offer != nil && offer != faulty {
			deadline, fault = nil, nil
			r, err := offer.WaitReceipt(ctx, size)
			// What is told to the user is on record here: watch may come later.
			if p, _ := offer.Progress(); p.Receipt != nil {
				if err := own.Receipted(spoolReceipt(l.box, &p)); err != nil {
					return nil, fmt.Errorf("storing the receipt: %w", err)
				}
			}
			var holes *replicate.HolesError
			switch {
			case (err == nil || errors.As(err, &holes)) && !d.s.holdsForeign(l):
				return nil, errLateBox
			case err == nil:
				return r, nil
			case errors.As(err, &holes) && !holes.Truncated && within(holes.Holes, lost):
				return &holes.Receipt, nil
			case ctx.Err() != nil:
				return nil, ctx.Err()
			case mayPass(err):
				refused = err
			case !errors.Is(err, replicate.ErrClosed):
				return nil, err
			}
		}
		if refused != nil && offer != faulty {
			fault, faulty = refused, offer
			if faults++; faults > maxFaults {
				return nil, fault
			}
		}
		if _, _, err := l.state(); deadline == nil && (fault != nil || offer == nil && err != nil) {
			if !l.everConnected() {
				return nil, err
			}
			deadline = time.After(outage)
		}
		select {
		case <-changed:
		case <-deadline:
			_, _, err := l.state()
			if err == nil && fault != nil {
				return nil, fault
			}
			return nil, errors.Join(errors.New("the connection was lost"), err)
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond): // the link's own state changes without d.changed
		}
	}
}

// maxFaults is how often a box may have a fault before it is given up.
const maxFaults = 3

// isRefusal reports whether a box has said no. One that is stopping, that has too
// much to do or that has a fault has not: it is as good as out of reach.
func isRefusal(err error) bool {
	var refused *replicate.Error
	if !errors.As(err, &refused) {
		return false
	}
	switch refused.Code {
	case replicate.CodeShutdown, replicate.CodeBusy, replicate.CodeTimeout, replicate.CodeInternal:
		return false
	}
	return true
}

// mayPass reports whether what a box has said may be otherwise in a moment. What
// it calls damaged may lie on a disk that has just gone.
func mayPass(err error) bool {
	var refused *replicate.Error
	return errors.As(err, &refused) && (!isRefusal(err) || refused.Code == replicate.CodeDamaged)
}

// isFault reports whether a box has refused because of a fault of its own.
func isFault(err error) bool {
	return errors.Is(err, &replicate.Error{Code: replicate.CodeInternal})
}

var errLateBox = errors.New("it was reached too late to ask whether it holds everything that this backup refers to; the next backup does")

// holdsForeign reports whether a box was asked, before the backup began, for the
// logs of other devices that the backup may refer to, or there are none.
func (s *space) holdsForeign(l *link) bool {
	return s.foreign[l] || !slices.ContainsFunc(s.sp.Logs, func(log *device.Log) bool { return (!log.Own || log.Left) && !log.Avoid })
}

// within reports whether every block of a lies in b.
func within(a, b []merklelog.Range) bool {
	left := slices.Clone(a)
	for _, r := range b {
		left = merklelog.SubtractRange(left, r)
	}
	return len(left) == 0
}

// relay is an own log as it is offered to one box. Blocks that the spool has
// let go of, because another box receipted them, are read from there: that is
// how a box that was away or is new gets what it missed.
type relay struct {
	*spool.Spool
	d  *delivery
	to *link

	mu    sync.Mutex
	ahead map[uint64][]byte // blocks read from another box and not yet asked for
}

const relayAhead = 32 // blocks

// Block implements replicate.Source.
func (r *relay) Block(index uint64, dst []byte) error {
	err := r.Spool.Block(index, dst)
	if err == nil || !errors.Is(err, spool.ErrNotHere) {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if b, ok := r.ahead[index]; ok {
		copy(dst, b)
		delete(r.ahead, index)
		return nil
	}
	if !r.elsewhere() {
		return replicate.ErrNotHere
	}
	var want []uint64
	for i := index; i < r.Checkpoint().Size && len(want) < relayAhead && r.Spool.Next(i) != i; i++ {
		want = append(want, i)
	}
	r.ahead = make(map[uint64][]byte, len(want))
	ctx, cancel := context.WithTimeout(r.d.ctx, time.Minute)
	defer cancel()
	err = r.d.s.fetch(ctx, r.ID(), want, r.to, func(i uint64, block []byte) error {
		r.ahead[i] = slices.Clone(block)
		return nil
	})
	b, ok := r.ahead[index]
	if !ok {
		r.d.s.a.log.Debug("a block cannot be relayed", "log", r.ID(), "block", index, "error", err)
		return replicate.ErrNotHere
	}
	copy(dst, b)
	delete(r.ahead, index)
	return nil
}

// Next implements replicate.Source.
func (r *relay) Next(from uint64) uint64 {
	if r.elsewhere() {
		return min(from, r.Checkpoint().Size)
	}
	return r.Spool.Next(from)
}

// elsewhere reports whether another box holds some of the log and is connected.
// One that has gone would be waited for with each block.
func (r *relay) elsewhere() bool {
	return slices.ContainsFunc(r.d.s.holdersOf(r.ID()), func(h holder) bool {
		session, _ := h.link.now()
		return h.link != r.to && session != nil
	})
}

// notDelivered explains why no box has everything. What waits here was synced.
func notDelivered(failed map[*link]error, waiting uint64) error {
	f := &ui.Failure{Exit: ui.ExitNoBox, Code: "no_box", What: "no box is reachable",
		Hint: "The backup is complete and kept on this computer (" + ui.Bytes(waiting) + "); it is sent with the next backup that reaches a box."}
	if len(failed) == 0 {
		f.Code, f.What = errNoBoxes.Code, errNoBoxes.What
		f.Hint = "The backup is complete and kept on this computer; pair a box with 'cobox pair' and run it again."
		return f
	}
	var errs []error
	for l, err := range failed {
		var refused *replicate.Error
		var holes *replicate.HolesError
		var waits *waitingError
		if errors.As(err, &waits) {
			f.Hint = waitingHint + "\n" + f.Hint
		} else if errors.As(err, &refused) && isRefusal(refused) {
			return refusal(l.box.Name, refused)
		} else if isFault(err) {
			err = errors.New("it has a fault, which its own log tells more of")
		}
		if errors.As(err, &holes) {
			missing := ui.Bytes(merklelog.CountRanges(holes.Holes) * merklelog.BlockSize)
			return &ui.Failure{Exit: ui.ExitFailed, Code: "box_lacks_blocks", What: fmt.Sprintf("box %q lacks %s of earlier backups, which only another box has by its last receipt", ui.Printable(l.box.Name), missing),
				Hint: "Bring the other box back into reach and run the backup again. If it is gone for good, run 'cobox forget BOX' for it:\nthe next backup then stores again what it held."}
		}
		if errors.Is(err, noiseconn.ErrNoAnswer) {
			f.Hint = hangUpHint + "\n" + f.Hint
		}
		errs = append(errs, &ui.Failure{What: ui.Printable(l.box.Name), Err: err})
	}
	f.Err = errors.Join(errs...)
	return f
}
