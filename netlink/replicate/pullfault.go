package replicate

import (
	"errors"

	"cobox/storage/merklelog"
)

// fault ends the offer, or the session if the peer is to blame.
func (p *pull) fault(doing string, err error) {
	s := p.s
	if s.ctx.Err() != nil {
		return
	}
	var v *ViolationError
	var fork *merklelog.ForkError
	switch {
	case errors.As(err, &v):
		s.fail(err)
		return
	case errors.As(err, &fork):
		s.cfg.Logger.Warn("a log was forked by its writer and is frozen", "log", p.log, "sizes", []uint64{fork.Fork.A.Size, fork.Fork.B.Size})
		s.send(message(merklelog.AppendFork(newMessage(kindFork, p.id), fork.Fork)).finish())
		p.refuse(&Error{Code: CodeFrozen, Message: "the log was forked by its writer"})
		return
	case s.code(err) == CodeDamaged:
		// The store's own fault, whatever it wraps.
	case errors.Is(err, merklelog.ErrBlock), errors.Is(err, merklelog.ErrProof),
		errors.Is(err, merklelog.ErrSignature), errors.Is(err, merklelog.ErrDiverged):
		s.fail(violation(doing, err))
		return
	}
	e := s.storeError(doing, err)
	// What came before the refusal counts: it is committed and receipted.
	p.waitCommit()
	if p.dirty > 0 && !p.refused {
		p.commit()
		p.waitCommit()
	}
	p.refuse(e)
}

// code returns what an error of the store means.
func (s *Session) code(err error) Code {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, ErrUnknownLog):
		return CodeUnknownLog
	case errors.Is(err, ErrNotHere):
		return CodeNotHeld
	case s.cfg.Box == nil:
		return CodeInternal
	}
	return s.cfg.Box.Code(err)
}

// storeError says what the peer may know of an error, and logs what it may not.
func (s *Session) storeError(doing string, err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return refusal(e)
	}
	code := s.code(err)
	if code == CodeInternal || code == CodeNone {
		s.cfg.Logger.Error("replicating failed", "doing", doing, "error", err)
		return &Error{Code: CodeInternal}
	}
	return &Error{Code: code, Message: cleanText(err.Error(), maxMessage)}
}

// refuse sends the last message of this side about the offer. Whoever hears it
// finds the credit free again.
func (p *pull) refuse(e *Error) {
	if p.refused {
		return
	}
	p.refused = true
	p.s.credit.give(p.outstanding())
	p.wants, p.todo = nil, nil
	p.s.mu.Lock()
	p.starving, p.draining = false, true
	p.s.mu.Unlock()
	p.sendError(e)
	p.pokeOthers()
}

func (p *pull) sendError(e *Error) {
	p.s.send(message(appendError(newMessage(kindError, p.id), e)).finish())
}
