package replicate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

var errPeerLeft = errors.New("replicate: the peer ended the session")

// read is the reader goroutine. It hands every message to whoever waits for it.
// It may wait for a store to take a block, never for anything to be written.
func (s *Session) read() {
	defer close(s.readerDone)
	r := reader{s: s}
	err := r.readAll()
	s.fail(err)
	if errors.Is(err, errPeerLeft) || errors.Is(err, errGoodbye) {
		return
	}
	// Closing with unread bytes would make TCP discard the goodbye on its way.
	// The deadline set when the session ended bounds this.
	for {
		if _, err := s.conn.Read(r.scratch(4096)); err != nil {
			return
		}
	}
}

// reader is the state of the reader goroutine.
type reader struct {
	s           *Session
	body        []byte // reused
	deadlineSet time.Time

	offerTokens int // see offerRate
	offerTime   time.Time
}

func (r *reader) scratch(n int) []byte {
	if cap(r.body) < n {
		r.body = make([]byte, n, max(n, 512))
	}
	return r.body[:n]
}

func (r *reader) readAll() error {
	r.offerTokens, r.offerTime = offerBurst, time.Now()
	if err := r.hello(); err != nil {
		return err
	}
	var head [headerSize]byte
	for {
		h, err := r.header(head[:])
		if err != nil {
			return err
		}
		if h.kind.carriesBlock() {
			err = r.block(h)
		} else {
			body := r.scratch(int(h.length))
			if err := r.full(body); err != nil {
				return err
			}
			err = r.dispatch(h, body)
		}
		if err != nil {
			return err
		}
	}
}

func (r *reader) header(b []byte) (header, error) {
	if r.s.ctx.Err() != nil {
		return header{}, context.Cause(r.s.ctx)
	}
	now := time.Now()
	if now.Sub(r.deadlineSet) > r.s.cfg.Drop/64 {
		r.deadlineSet = now
		// Only a closed connection takes none. What it has buffered, a goodbye
		// perhaps, can still be read; then reading fails.
		r.s.conn.SetReadDeadline(now.Add(r.s.cfg.Drop))
	}
	if err := r.full(b); err != nil {
		return header{}, err
	}
	h, err := parseHeader(b)
	if err != nil {
		return h, violation("reading a message", err)
	}
	return h, nil
}

func (r *reader) full(b []byte) error {
	_, err := io.ReadFull(r.s.conn, b)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("replicate: nothing was heard for %v: %w", r.s.cfg.Drop, err)
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF // no goodbye
	}
	return err
}

func (r *reader) hello() error {
	var head [headerSize]byte
	h, err := r.header(head[:])
	if err != nil {
		return err
	}
	if h.kind == kindGoodbye {
		return r.plain(h)
	}
	if h.kind != kindHello {
		return violationf("greeting", "%v instead of a hello", h.kind)
	}
	body := r.scratch(int(h.length))
	if err := r.full(body); err != nil {
		return err
	}
	hello, err := parseHello(body)
	if err != nil {
		return violation("greeting", err)
	}
	if hello.Version != Version {
		return &Error{Code: CodeUnsupported, Message: fmt.Sprintf("version %d is spoken here, not %d", Version, hello.Version)}
	}
	r.s.mu.Lock()
	r.s.peerHello = hello
	r.s.mu.Unlock()
	close(r.s.ready)
	return nil
}

// plain reads the body of a message and dispatches it.
func (r *reader) plain(h header) error {
	body := r.scratch(int(h.length))
	if err := r.full(body); err != nil {
		return err
	}
	return r.dispatch(h, body)
}

// block reads a message with a block into the buffer of whoever asked for it.
func (r *reader) block(h header) error {
	s := r.s
	var index [8]byte
	if err := r.full(index[:]); err != nil {
		return err
	}
	i := binary.BigEndian.Uint64(index[:])
	if h.kind == kindData {
		return r.data(h.id, i)
	}
	p := s.pull(h.id)
	if p == nil {
		return violationf("receiving a block", "there is no offer %d", h.id)
	}
	buf, err := s.takeIn()
	if err != nil {
		return err
	}
	if err := r.full(buf.block()); err != nil {
		s.takenIn(buf)
		return err
	}
	if err := p.post(pullEvent{kind: kindBlock, index: i, buf: buf}); err != nil {
		s.takenIn(buf)
		return err
	}
	return nil
}

// dispatch handles a message without a block. The body is reused after it
// returns.
func (r *reader) dispatch(h header, body []byte) error {
	s := r.s
	empty := func() error {
		if len(body) != 0 {
			return violationf("reading a message", "%v with %d bytes", h.kind, len(body))
		}
		return nil
	}
	var err error
	switch h.kind {
	case kindHello:
		return violationf("reading a message", "a second hello")
	case kindPing:
		s.out.sendPong()
		return empty()
	case kindPong:
		return empty()
	case kindGoodbye:
		e, err := parseError(body)
		if err != nil {
			return violation("reading a goodbye", err)
		}
		if e.Code == CodeNone {
			return fmt.Errorf("%w: %w", errGoodbye, errPeerLeft)
		}
		return fmt.Errorf("%w: %w", errPeerLeft, e)
	case kindCancel:
		if err := empty(); err != nil {
			return err
		}
		s.mu.Lock()
		j := s.jobs[h.id]
		s.mu.Unlock()
		if j != nil && j.cancel() { // nil if its answer and the cancellation crossed
			s.forget(h.id)
		}
		return nil

	case kindOffer:
		err = r.offered(h.id, body)
	case kindAdvance, kindLeaves, kindHole, kindAsk, kindClose:
		p := s.pull(h.id)
		if p == nil {
			return violationf("reading a message", "%v for offer %d, which is not open", h.kind, h.id)
		}
		err = p.receive(h.kind, body)

	case kindKnown, kindWantLeaves, kindWant, kindReceipt, kindFork:
		s.mu.Lock()
		o := s.offerings[h.id]
		s.mu.Unlock()
		if o == nil {
			return violationf("reading a message", "%v for offer %d, which was not made", h.kind, h.id)
		}
		err = o.receive(h.kind, body)

	case kindRead:
		err = s.readAsked(h.id, body)
	case kindLogs:
		err = s.logsAsked(h.id, body)
	case kindRequest, kindUpload:
		err = s.requested(h.kind, h.id, body)
	case kindPart:
		err = s.uploaded(h.id, body)

	case kindPath, kindAbsent, kindLog, kindLogsEnd, kindProgress, kindReply, kindTake:
		s.mu.Lock()
		c := s.calls[h.id]
		s.mu.Unlock()
		if c == nil {
			return violationf("reading a message", "%v for request %d, which is not open", h.kind, h.id)
		}
		err = c.answer(h.kind, body)
	case kindError:
		err = s.refused(h.id, body)
	default:
		panic("replicate: header was let through: " + h.kind.String())
	}
	return err
}

// refused hands an error to the offer or request that it is about.
func (s *Session) refused(id uint32, body []byte) error {
	e, err := parseError(body)
	if err != nil {
		return violation("reading an error", err)
	}
	s.mu.Lock()
	o, c := s.offerings[id], s.calls[id]
	s.mu.Unlock()
	switch {
	case o != nil:
		return o.post(offerEvent{kind: kindError, err: e})
	case c != nil:
		return c.refuse(e)
	}
	return violationf("reading an error", "there is no request %d", id)
}

func (s *Session) pull(id uint32) *pull {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pulls[id]
}

// allowOffer counts a new offer against offerRate.
func (r *reader) allowOffer() bool {
	now := time.Now()
	if fresh := int(now.Sub(r.offerTime) * offerRate / time.Second); fresh > 0 {
		r.offerTokens = min(offerBurst, r.offerTokens+fresh)
		r.offerTime = now
	}
	if r.offerTokens == 0 {
		return false
	}
	r.offerTokens--
	return true
}
