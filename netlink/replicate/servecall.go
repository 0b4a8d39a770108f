package replicate

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
)

// callJob is a request by method that the peer made.
type callJob struct {
	ctx    context.Context
	stop   context.CancelFunc
	upload *upload // nil if none belongs to it
}

// cancel implements job.
func (j *callJob) cancel() (over bool) {
	j.stop()
	return j.upload != nil && j.upload.cancel()
}

// requested serves a request by method, in a goroutine of its own.
func (s *Session) requested(k kind, id uint32, body []byte) error {
	r, err := parseRequest(body)
	if err != nil {
		return violation("reading a request", err)
	}
	refuse := func(e *Error) error {
		s.send(message(appendError(newMessage(kindError, id), e)).finish())
		return nil
	}
	if s.cfg.Box == nil || s.cfg.Box.Admin == nil {
		return refuse(&Error{Code: CodeUnsupported, Message: "this side answers no requests"})
	}
	r.body = slices.Clone(r.body)
	j := new(callJob)
	j.ctx, j.stop = context.WithCancel(s.ctx)
	if k == kindUpload {
		j.upload = newUpload(s, id)
	}
	s.mu.Lock()
	_, twice := s.jobs[id]
	full := s.calling >= maxCalls
	if !twice && !full {
		s.jobs[id] = j
		s.calling++
	}
	s.mu.Unlock()
	if twice {
		j.stop()
		return violationf("reading a request", "request %d is open already", id)
	}
	if full {
		j.stop()
		return refuse(&Error{Code: CodeBusy, Message: "too many requests at once"})
	}
	s.start(func() { s.serveRequest(id, j, r) })
	return nil
}

// forget ends a request that both sides have done with.
func (s *Session) forget(id uint32) {
	s.mu.Lock()
	delete(s.jobs, id)
	s.calling--
	s.mu.Unlock()
}

func (s *Session) serveRequest(id uint32, j *callJob, r *request) {
	var mu sync.Mutex
	over := false
	asked := &Request{Method: r.method, Body: r.body, Progress: func(v any) {
		body, err := json.Marshal(v)
		if err != nil || len(body) > maxBody {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if over {
			return
		}
		select {
		case s.out.bulk[classRestore] <- outgoing{msg: message(append(newMessage(kindProgress, id), body...)).finish()}:
		default: // the peer is too slow for it
		}
	}}
	if j.upload != nil {
		asked.Upload = j.upload // else it stays a nil interface
	}
	body, err := s.cfg.Box.Admin.Serve(j.ctx, s.cfg.Peer, asked)
	canceled := j.ctx.Err() != nil
	j.stop()
	mu.Lock()
	over = true
	mu.Unlock()
	// The peer may use the id again once it has the last answer and has ended
	// its own part.
	if j.upload == nil || j.upload.answered() {
		s.forget(id)
	}
	if err == nil && len(body) > MaxReply {
		err = &Error{Code: CodeTooLarge, Message: "the reply is too long"}
	}
	if err != nil {
		e := s.storeError("serving "+r.method, err)
		if canceled && e.Code == CodeInternal {
			e = &Error{Code: CodeCanceled}
		}
		s.sendBulk(s.ctx, classRestore, outgoing{msg: message(appendError(newMessage(kindError, id), e)).finish()})
		return
	}
	for {
		part := reply{part: body[:min(len(body), maxPart)]}
		body = body[len(part.part):]
		part.more = len(body) > 0
		msg := message(appendReply(newMessage(kindReply, id), &part)).finish()
		if s.sendBulk(s.ctx, classRestore, outgoing{msg: msg}) != nil || !part.more {
			return
		}
	}
}
