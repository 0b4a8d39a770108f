package pairing

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"cobox/netlink/noiseconn"
)

// ExchangeTimeout is how long either side gives the whole exchange.
const ExchangeTimeout = 30 * time.Second

// Enroller decides who is taken in. It is the box's roster.
type Enroller interface {
	// Enroll takes in a device whose records have been verified against remote,
	// the key that it has proven to hold. What it returns must be durable. It
	// refuses with a *RefusedError; any other error is an accident of the box.
	// The same device with the same secret gets the same answer again, so that a
	// crash between the two sides locks nobody out.
	Enroll(ctx context.Context, invite noiseconn.InviteID, remote noiseconn.StaticPublic, e *Enrollment) (*Enrolled, error)
}

var errMode = errors.New("pairing: the connection is not for pairing")

// Serve is the box's side of the exchange on a connection in ModePair. It
// returns nil if the device was taken in and the answer was sent, and a
// *RefusedError if it was refused. The caller closes c.
func Serve(ctx context.Context, c *noiseconn.Conn, roster Enroller) error {
	if c.Mode() != noiseconn.ModePair {
		return errMode
	}
	ctx, stop := bound(ctx, c)
	defer stop()
	body, err := readMessage(c, messageEnroll)
	if err != nil {
		return err
	}
	e, err := ParseEnrollment(body)
	if err == nil {
		err = e.Verify(c.Remote())
	}
	if err != nil {
		return errors.Join(err, answer(c, messageRefused, AppendRefused(nil, RefusedBadCertificate)))
	}
	enrolled, err := roster.Enroll(ctx, c.Invite(), c.Remote(), e)
	if err != nil {
		code := RefusedBusy
		if refused := new(RefusedError); errors.As(err, &refused) {
			code = refused.Refusal
		}
		return errors.Join(err, answer(c, messageRefused, AppendRefused(nil, code)))
	}
	if body, err = AppendEnrolled(nil, enrolled); err != nil {
		return errors.Join(err, answer(c, messageRefused, AppendRefused(nil, RefusedBusy)))
	}
	return answer(c, messageEnrolled, body)
}

// answer sends the box's only message.
func answer(c *noiseconn.Conn, t messageType, body []byte) error {
	if err := writeMessage(c, t, body); err != nil {
		return err
	}
	return c.CloseWrite()
}

// Join is the device's side of the exchange on a connection in ModePair. It
// returns a *RefusedError if the box refuses. After any other error the device
// may have been taken in all the same: it tries again with the same code. The
// caller closes c.
func Join(ctx context.Context, c *noiseconn.Conn, e *Enrollment) (*Enrolled, error) {
	if c.Mode() != noiseconn.ModePair {
		return nil, errMode
	}
	body, err := AppendEnrollment(nil, e)
	if err != nil {
		return nil, err
	}
	ctx, stop := bound(ctx, c)
	defer stop()
	enrolled, err := join(c, body)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", err, context.Cause(ctx))
	}
	return enrolled, err
}

func join(c *noiseconn.Conn, enroll []byte) (*Enrolled, error) {
	if err := writeMessage(c, messageEnroll, enroll); err != nil {
		return nil, err
	}
	if err := c.Flush(); err != nil {
		return nil, fmt.Errorf("pairing: sending: %w", err)
	}
	body, err := readMessage(c, messageEnrolled, messageRefused)
	if err != nil {
		if refused := new(RefusedError); errors.As(err, &refused) {
			return nil, refused
		}
		return nil, err
	}
	return ParseEnrolled(body)
}

// bound gives c a deadline, which comes at once when ctx ends.
func bound(ctx context.Context, c *noiseconn.Conn) (context.Context, func()) {
	ctx, cancel := context.WithTimeout(ctx, ExchangeTimeout)
	off := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	return ctx, func() { off(); cancel() }
}

func writeMessage(c *noiseconn.Conn, t messageType, body []byte) error {
	if len(body) > maxMessage {
		panic("pairing: message over its limit")
	}
	b := make([]byte, 0, messageHeader+len(body))
	b = append(b, byte(t))
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	if _, err := c.Write(append(b, body...)); err != nil {
		return fmt.Errorf("pairing: sending: %w", err)
	}
	return nil
}

// readMessage reads a message of the first type given. A refusal, if it is
// among the types, comes as a *RefusedError.
func readMessage(r io.Reader, types ...messageType) ([]byte, error) {
	var head [messageHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("pairing: receiving: %w", err)
	}
	t, n := messageType(head[0]), int(binary.BigEndian.Uint16(head[1:]))
	if n > maxMessage {
		return nil, fmt.Errorf("pairing: receiving: message of %d bytes", n)
	}
	refusable := len(types) > 1 && t == messageRefused
	if t != types[0] && !refusable {
		return nil, fmt.Errorf("pairing: receiving: message of type %d", t)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, fmt.Errorf("pairing: receiving: %w", err)
	}
	if refusable {
		code, err := ParseRefused(body)
		if err != nil {
			return nil, err
		}
		return nil, &RefusedError{code}
	}
	return body, nil
}
