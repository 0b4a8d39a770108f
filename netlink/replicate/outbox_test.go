package replicate

import (
	"context"
	"io"
	"slices"
	"testing"
	"time"
)

// tellingConn tells of each message that is written to it, before it returns.
type tellingConn struct{ wrote func(kind) }

func (c tellingConn) Write(p []byte) (int, error)    { c.wrote(kind(p[0])); return len(p), nil }
func (tellingConn) Read([]byte) (int, error)         { return 0, io.EOF }
func (tellingConn) Flush() error                     { return nil }
func (tellingConn) Close() error                     { return nil }
func (tellingConn) SetReadDeadline(time.Time) error  { return nil }
func (tellingConn) SetWriteDeadline(time.Time) error { return nil }

// What is said of an offer is written before its close, which goes another way,
// even if both come while the writer is at something else.
func TestCloseDoesNotOvertake(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var s *Session
	var order []kind
	conn := tellingConn{func(k kind) {
		order = append(order, k)
		switch k {
		case kindHello:
			s.send(newMessage(kindAdvance, 1).finish())
			if err := s.sendBulk(ctx, classFresh, outgoing{msg: newMessage(kindClose, 1).finish()}); err != nil {
				t.Error(err)
			}
		case kindClose:
			cancel()
		}
	}}
	s = must(NewSession(conn, deviceConfig()))
	if err := s.writeAll(ctx); err != nil {
		t.Fatal(err)
	}
	if want := []kind{kindHello, kindAdvance, kindClose}; !slices.Equal(order, want) {
		t.Errorf("written: %v, want %v", order, want)
	}
}
