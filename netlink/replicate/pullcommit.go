package replicate

import (
	"time"
)

// commitDue says whether a receipt should be given now: the peer asked for one
// and everything up to there is settled; enough has come since the last; or the
// log is complete and nothing came for a moment.
func (p *pull) commitDue(now time.Time) bool {
	settled := p.settled()
	if p.asked > 0 && settled >= p.asked {
		return true
	}
	if p.dirty == 0 && !p.unclean {
		return false
	}
	if p.dirty >= p.s.cfg.ReceiptBlocks || now.Sub(p.receipted) >= p.s.cfg.ReceiptInterval {
		return true
	}
	return p.pending == nil && settled == p.held.Size && now.Sub(p.lastIn) >= p.s.cfg.ReceiptQuiet
}

// nextDeadline returns how long nothing needs to be done unless something comes.
func (p *pull) nextDeadline() time.Duration {
	const never = time.Hour
	now := time.Now()
	next := never
	if !p.committing && (p.dirty > 0 || p.unclean) {
		next = p.s.cfg.ReceiptInterval - now.Sub(p.receipted)
		if p.pending == nil && p.settled() == p.held.Size {
			next = min(next, p.s.cfg.ReceiptQuiet-now.Sub(p.lastIn))
		}
	}
	if len(p.wants) > 0 && !p.stalled {
		next = min(next, p.s.cfg.Stall-now.Sub(p.lastIn))
	}
	return max(next, time.Millisecond)
}

// checkStall lends this session's credit to others if the peer sends nothing.
// A want in another log of the session takes it back with its next block.
func (p *pull) checkStall() {
	if len(p.wants) > 0 && !p.stalled && time.Since(p.lastIn) >= p.s.cfg.Stall {
		p.stalled = true
		p.s.credit.park()
	}
}

// commit makes durable what was put, in a goroutine of its own so that blocks
// go on coming. Only what Commit has returned is receipted.
func (p *pull) commit() {
	s := p.s
	p.committing = true
	p.dirty, p.unclean = 0, false
	p.receipted = time.Now()
	settled := p.settled()
	ok := s.start(func() {
		r := commitResult{settled: settled}
		r.durable, r.err = s.cfg.Box.Store.Commit(s.ctx, p.log)
		if r.err == nil {
			r.receipt, r.err = s.cfg.Box.Receipt(s.ctx, &r.durable)
		}
		p.commits <- r
	})
	if !ok {
		p.committing = false
	}
}

// committed sends the receipt.
func (p *pull) committed(r commitResult) {
	p.committing = false
	if r.err != nil {
		p.dirty = 0 // do not try again
		p.fault("making a log durable", r.err)
		return
	}
	if p.refused {
		return
	}
	msg := receipted{
		receipt: r.receipt, settled: min(r.settled, r.receipt.Size),
		truncated: r.durable.HolesTruncated, holes: r.durable.Holes,
	}
	if len(msg.holes) > maxHoles {
		msg.holes, msg.truncated = msg.holes[:maxHoles], true
	}
	if what := msg.consistent(); what != "" {
		p.s.cfg.Logger.Error("a receipt contradicts itself and is not sent", "log", p.log, "reason", what)
		p.refuse(&Error{Code: CodeInternal})
		return
	}
	p.last = message(appendReceipted(newMessage(kindReceipt, p.id), &msg)).finish()
	p.lastAt, p.lastSettle = time.Now(), msg.settled
	if p.asked > 0 && msg.settled >= p.asked {
		p.asked = 0
	}
	p.s.send(p.last)
}

// waitCommit waits until no commit is under way, and sends its receipt.
func (p *pull) waitCommit() {
	if p.committing {
		p.committed(<-p.commits)
	}
}
