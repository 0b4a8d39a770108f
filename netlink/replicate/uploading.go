package replicate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Upload is Request with all that r has to give, which the peer takes as fast as
// it likes. ErrNoUploads says that the peer is too old for it. Upload ends with
// the peer's answer, even if r has not been read to its end: a refusal in the
// middle is seen at once. If r fails, so does the request. r is not used any more
// once Upload has returned; so a Read of it that is slow holds Upload up.
func (s *Session) Upload(ctx context.Context, method string, body []byte, r io.Reader, progress func([]byte)) ([]byte, error) {
	q := request{method: method, body: body}
	if err := q.check(); err != nil {
		return nil, err
	}
	hello, err := s.PeerHello(ctx)
	if err != nil {
		return nil, err
	}
	if hello.Features&FeatureUploads == 0 {
		return nil, ErrNoUploads
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := s.newRequest()
	c.parts = &sender{c: c, wake: make(chan struct{}, 1)}
	if err := c.ask(kindUpload, &q); err != nil {
		return nil, err
	}
	var sending sync.WaitGroup
	sending.Go(func() {
		if err := c.parts.send(ctx, r); err != nil {
			cancel(err)
		}
	})
	reply, err := c.reply(ctx, progress)
	close(c.gone) // before waiting: the session's reader must not
	cancel(nil)
	sending.Wait()
	if err != nil || !c.parts.ended {
		// Behind the parts, and without waiting for a peer that takes nothing.
		s.start(func() {
			s.sendBulk(s.ctx, classFresh, outgoing{msg: newMessage(kindCancel, c.id).finish()})
		})
	}
	return reply, err
}

// sender sends the parts of an upload, as far as the peer takes them.
type sender struct {
	c     *simpleCall
	wake  chan struct{} // holds a token when there is new credit
	ended bool          // the last part was sent; for the sender, then for Upload

	mu     sync.Mutex
	credit int
}

// taken takes in how many parts more the peer takes.
func (u *sender) taken(body []byte) error {
	n, err := parseTake(body)
	if err != nil {
		return violation("uploading", err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.credit += int(n); u.credit > maxTake {
		return violationf("uploading", "%d parts are taken at once, at most %d may be", u.credit, maxTake)
	}
	select {
	case u.wake <- struct{}{}:
	default:
	}
	return nil
}

// spend waits until a part may be sent.
func (u *sender) spend(ctx context.Context) error {
	for {
		u.mu.Lock()
		ok := u.credit > 0
		if ok {
			u.credit--
		}
		u.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-u.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-u.c.s.ctx.Done():
			return u.c.s.closedError()
		}
	}
}

// send sends all of r. It returns the error of r or of the context.
func (u *sender) send(ctx context.Context, r io.Reader) error {
	buf := make([]byte, maxPart)
	for {
		if err := u.spend(ctx); err != nil {
			return err
		}
		n, end, err := fill(buf, r)
		if err != nil {
			return fmt.Errorf("replicate: reading what is to be uploaded: %w", err)
		}
		part := reply{more: !end, part: buf[:n]}
		msg := message(appendReply(newMessage(kindPart, u.c.id), &part)).finish()
		if err := u.c.s.sendBulk(ctx, classFresh, outgoing{msg: msg}); err != nil {
			return err
		}
		if u.ended = end; end {
			return nil
		}
	}
}

// fill reads until buf is full or r is at its end. io.ReadFull would not tell
// that end from an io.ErrUnexpectedEOF of r.
func fill(buf []byte, r io.Reader) (n int, end bool, err error) {
	for n < len(buf) && err == nil {
		var k int
		k, err = r.Read(buf[n:])
		n += k
	}
	if errors.Is(err, io.EOF) {
		return n, true, nil
	}
	return n, false, err
}
