package noiseconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Server accepts connections on the box's side.
type Server struct {
	Config ServerConfig // as for Accept

	// Handle serves one authenticated connection. It runs in its own goroutine,
	// should return soon after ctx ends, and the connection is closed after it.
	Handle func(ctx context.Context, c *Conn)

	// Refused is told of every connection that did not come to Handle; it may be
	// nil. It is called from several goroutines.
	Refused func(reason Reason, remote net.Addr)

	// Gate admits connections; nil means a Gate of the Server's own. Several
	// listeners of one box should share one.
	Gate *Gate
}

// acceptPause is the wait after an error of the listener that may pass, such as
// too many open files.
const acceptPause = 50 * time.Millisecond

// maxAcceptErrors in a row end Serve.
const maxAcceptErrors = 200

// Serve accepts connections from ln until ctx ends or the listener fails. It
// never makes the listener wait for a peer. Before it returns it closes ln and
// waits for every handshake and Handle. It returns nil if ctx ended.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	gate := s.Gate
	if gate == nil {
		gate = NewGate()
	}
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	defer ln.Close()
	for failed := 0; ; {
		nc, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if failed++; failed >= maxAcceptErrors || errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("noiseconn: accepting: %w", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		failed = 0
		ticket, err := gate.Admit(nc)
		if err != nil {
			s.refused(err, nc)
			continue
		}
		work.Go(func() { s.serve(ctx, nc, ticket) })
	}
}

func (s *Server) serve(ctx context.Context, nc net.Conn, ticket *Ticket) {
	c, err := ticket.Accept(ctx, s.Config)
	if err != nil {
		s.refused(err, nc)
		return
	}
	defer c.Close()
	s.Handle(ctx, c)
}

func (s *Server) refused(err error, nc net.Conn) {
	if reason, ok := ReasonOf(err); ok && s.Refused != nil {
		s.Refused(reason, nc.RemoteAddr())
	}
}
