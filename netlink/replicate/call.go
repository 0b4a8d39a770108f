package replicate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// maxLogs is the longest list of logs: what an account may have, and some.
const maxLogs = 8192

// call is something that this side asked the peer for. Its methods are called
// by the reader.
type call interface {
	answer(k kind, body []byte) error
	refuse(e *Error) error
}

// simpleCall collects the answers of a list or of a request by method.
type simpleCall struct {
	s     *Session
	id    uint32
	first kind // of answers that are not the last
	last  kind
	total int
	got   chan callAnswer
	gone  chan struct{} // closed when nobody waits any more
	parts *sender       // of an upload; else nil
}

type callAnswer struct {
	kind kind
	body []byte
	err  *Error
}

// begin registers a call and sends what it asks.
func (s *Session) begin(c call, setID func(uint32) message) error {
	s.mu.Lock()
	if s.closed || s.ctx.Err() != nil {
		s.mu.Unlock()
		return s.closedError()
	}
	id := s.newIDLocked()
	s.calls[id] = c
	msg := setID(id)
	s.mu.Unlock()
	s.send(msg)
	return nil
}

// readSlot waits until another read or list may be asked for. Whoever got it
// frees it with the last answer.
func (s *Session) readSlot(ctx context.Context) error {
	select {
	case s.ownReads <- struct{}{}:
		return nil
	case <-s.ctx.Done():
		return s.closedError()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// end forgets a call after its last answer.
func (s *Session) end(id uint32) {
	s.mu.Lock()
	delete(s.calls, id)
	s.mu.Unlock()
}

func (c *simpleCall) answer(k kind, body []byte) error {
	if k == kindTake && c.parts != nil {
		return c.parts.taken(body)
	}
	if k != c.last && k != c.first {
		return violationf("receiving an answer", "%v to a request of another kind", k)
	}
	a := callAnswer{kind: k, body: slices.Clone(body)}
	if c.last == kindReply && k == kindReply {
		r, err := parseReply(body)
		if err != nil {
			return violation("receiving an answer", err)
		}
		if c.total += len(r.part); c.total > MaxReply {
			return violationf("receiving an answer", "a reply of more than %d bytes", MaxReply)
		}
		if !r.more {
			c.s.end(c.id)
		}
	} else if k == c.last {
		c.finish()
	} else if k == kindLog {
		if c.total++; c.total > maxLogs {
			return violationf("receiving an answer", "more than %d logs", maxLogs)
		}
	}
	return c.deliver(a)
}

func (c *simpleCall) finish() {
	c.s.end(c.id)
	if c.last == kindLogsEnd {
		<-c.s.ownReads
	}
}

func (c *simpleCall) refuse(e *Error) error {
	c.finish()
	return c.deliver(callAnswer{kind: kindError, err: e})
}

func (c *simpleCall) deliver(a callAnswer) error {
	select {
	case c.got <- a:
		return nil
	case <-c.gone:
		return nil
	case <-c.s.ctx.Done():
		return context.Cause(c.s.ctx)
	}
}

// wait returns the next answer.
func (c *simpleCall) wait(ctx context.Context) (callAnswer, error) {
	select {
	case a := <-c.got:
		if a.err != nil {
			return a, a.err
		}
		return a, nil
	case <-c.s.ctx.Done():
		return callAnswer{}, c.s.closedError()
	case <-ctx.Done():
		if c.parts == nil { // else behind the last part that was sent
			c.s.send(newMessage(kindCancel, c.id).finish())
		}
		return callAnswer{}, context.Cause(ctx)
	}
}

// Request asks the peer to do something by method and returns its reply, at
// most MaxReply bytes. progress, which may be nil, is called with the JSON of
// every report on the way. A refusal is an *Error.
func (s *Session) Request(ctx context.Context, method string, body []byte, progress func([]byte)) ([]byte, error) {
	r := request{method: method, body: body}
	if err := r.check(); err != nil {
		return nil, err
	}
	c := s.newRequest()
	defer close(c.gone)
	if err := c.ask(kindRequest, &r); err != nil {
		return nil, err
	}
	return c.reply(ctx, progress)
}

func (s *Session) newRequest() *simpleCall {
	return &simpleCall{s: s, first: kindProgress, last: kindReply, got: make(chan callAnswer, 16), gone: make(chan struct{})}
}

// ask sends a request of either type.
func (c *simpleCall) ask(k kind, r *request) error {
	return c.s.begin(c, func(id uint32) message {
		c.id = id
		return message(appendRequest(newMessage(k, id), r)).finish()
	})
}

// reply waits for the whole reply to a request.
func (c *simpleCall) reply(ctx context.Context, progress func([]byte)) ([]byte, error) {
	var whole []byte
	for {
		a, err := c.wait(ctx)
		if err != nil {
			return nil, err
		}
		if a.kind == kindProgress {
			if progress != nil {
				progress(a.body)
			}
			continue
		}
		part, err := parseReply(a.body)
		if err != nil {
			return nil, err // never: the reader has parsed it
		}
		whole = append(whole, part.part...)
		if !part.more {
			return whole, nil
		}
	}
}

// Logs lists the logs of an account that the peer holds. Manifests, their
// certificates and all checkpoints were verified.
func (s *Session) Logs(ctx context.Context, who account.ID) ([]*LogEntry, error) {
	c := &simpleCall{s: s, first: kindLog, last: kindLogsEnd, got: make(chan callAnswer, 16), gone: make(chan struct{})}
	defer close(c.gone)
	if err := s.readSlot(ctx); err != nil {
		return nil, err
	}
	err := s.begin(c, func(id uint32) message {
		c.id = id
		return message(append(newMessage(kindLogs, id), who[:]...)).finish()
	})
	if err != nil {
		return nil, err
	}
	var list []*LogEntry
	for {
		a, err := c.wait(ctx)
		if err != nil {
			return nil, err
		}
		if a.kind == kindLogsEnd {
			n, err := parseLogsEnd(a.body)
			if err == nil && int(n) != len(list) {
				err = fmt.Errorf("%d logs were listed, not %d", len(list), n)
			}
			if err != nil {
				err = violation("listing logs", err)
				s.fail(err)
				return nil, err
			}
			return list, nil
		}
		e, err := parseLogEntry(a.body)
		if err == nil {
			err = e.verify(who)
		}
		if err != nil {
			err = violation("listing logs", err)
			s.fail(err)
			return nil, err
		}
		list = append(list, e)
	}
}

// verify checks what a peer tells of a log. The receipt's box key is for the
// caller to compare.
func (e *LogEntry) verify(who account.ID) error {
	cert, err := account.VerifyManifest(e.Manifest)
	if err != nil {
		return err
	}
	if cert.Account != who {
		return errors.New("log of another account")
	}
	id := e.Manifest.ID()
	for _, cp := range []*merklelog.Checkpoint{&e.Checkpoint, e.Readable} {
		if cp == nil {
			continue
		}
		if cp.Log != id {
			return errors.New("checkpoint of another log")
		}
		if err := cp.Verify(e.Manifest.Writer); err != nil {
			return err
		}
	}
	if e.Receipt != nil {
		if e.Receipt.Log != id {
			return errors.New("receipt for another log")
		}
		return e.Receipt.Verify()
	}
	return nil
}
