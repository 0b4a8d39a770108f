package replicate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// uploadWindow is how many parts of an upload are between the peer and the
	// handler: half a megabyte.
	uploadWindow = 32
	// uploadStep is how many the peer is given at once at least.
	uploadStep = uploadWindow / 2
)

var (
	errUploadEnded    = fmt.Errorf("replicate: the peer has canceled its upload: %w", context.Canceled)
	errUploadAnswered = errors.New("replicate: an upload is read after its request was answered")
)

// upload is what the peer sends with a request, as the handler reads it. Only
// reading it gives the peer credit, so what waits here is never more than
// uploadWindow parts, and nothing for a handler that does not read.
//
// It ends twice: the peer ends it by its last part or by canceling, this side by
// the answer to the request. What the peer sent before it knew of the answer is
// taken in and dropped, as far as it had credit.
type upload struct {
	s    *Session
	id   uint32
	wake chan struct{} // holds a token when something has come

	mu      sync.Mutex
	waiting [][]byte // parts that have come
	unread  []byte   // of the part that is being read
	credit  int      // parts that the peer may send
	end     error    // how the peer ended it: io.EOF or errUploadEnded; nil while it has not
	answer  bool     // the request is answered: nothing is kept any more
}

func newUpload(s *Session, id uint32) *upload {
	return &upload{s: s, id: id, wake: make(chan struct{}, 1)}
}

// Read implements io.Reader.
func (u *upload) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	begun := time.Now()
	for {
		n, more, err := u.take(p)
		if more > 0 {
			// The way of the answer, so that it is never behind it.
			msg := message(appendTake(newMessage(kindTake, u.id), more)).finish()
			if err := u.s.sendBulk(u.s.ctx, classRestore, outgoing{msg: msg}); err != nil {
				return n, err
			}
		}
		if n > 0 || err != nil {
			return n, err
		}
		if err := u.wait(begun); err != nil {
			return 0, err
		}
	}
}

// take gives the handler what is here, and says how many parts more the peer
// may send.
func (u *upload) take(p []byte) (n int, more uint32, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.answer {
		return 0, 0, errUploadAnswered
	}
	if len(u.unread) == 0 && len(u.waiting) > 0 {
		u.unread, u.waiting = u.waiting[0], u.waiting[1:]
	}
	if free := uploadWindow - u.credit - len(u.waiting); u.end == nil && free >= uploadStep {
		u.credit += free
		more = uint32(free)
	}
	n = copy(p, u.unread)
	u.unread = u.unread[n:]
	if n == 0 && u.end != nil { // then nothing waits either: no part is empty
		err = u.end
	}
	return n, more, err
}

// wait waits until something comes. A peer that may send and does not would hold
// the handler up for ever, as it keeps its session by pings.
func (u *upload) wait(begun time.Time) error {
	t := time.NewTimer(u.s.cfg.Drop - time.Since(begun))
	defer t.Stop()
	select {
	case <-u.wake:
		return nil
	case <-u.s.ctx.Done():
		return context.Cause(u.s.ctx)
	case <-t.C:
		return &Error{Code: CodeTimeout, Message: fmt.Sprintf("nothing of the upload came for %v", u.s.cfg.Drop)}
	}
}

// receive takes a part in. It reports whether the request is over with it.
func (u *upload) receive(body []byte) (over bool, err error) {
	r, err := parseUploaded(body)
	if err != nil {
		return false, violation("receiving an upload", err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.end != nil:
		return false, violationf("receiving an upload", "a part of request %d after its end", u.id)
	case u.credit == 0:
		return false, violationf("receiving an upload", "a part of request %d that was not asked for", u.id)
	}
	u.credit--
	if !u.answer && len(r.part) > 0 {
		u.waiting = append(u.waiting, bytes.Clone(r.part))
	}
	if !r.more {
		u.end = io.EOF
		over = u.answer
	}
	u.poke()
	return over, nil
}

// cancel ends it for the peer. It reports whether the request is over with it.
func (u *upload) cancel() (over bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.end != nil {
		return false
	}
	u.end = errUploadEnded
	u.waiting, u.unread = nil, nil
	u.poke()
	return u.answer
}

// answered ends it for this side. It reports whether the request is over with it.
func (u *upload) answered() (over bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answer, u.waiting, u.unread = true, nil, nil
	return u.end != nil
}

func (u *upload) poke() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// uploaded takes in a part of an upload of the peer.
func (s *Session) uploaded(id uint32, body []byte) error {
	u := s.openUpload(id)
	if u == nil {
		return violationf("receiving an upload", "there is no upload %d", id)
	}
	over, err := u.receive(body)
	if over {
		s.forget(id)
	}
	return err
}

// openUpload returns the upload of a request that is not over; nil if there is
// none.
func (s *Session) openUpload(id uint32) *upload {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j, ok := s.jobs[id].(*callJob); ok {
		return j.upload
	}
	return nil
}
