package boxtest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"

	"cobox/netlink/noiseconn"
	"cobox/netlink/replicate"
)

// Link is a session with a box that is running.
type Link struct {
	*replicate.Session
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// Link logs in as a device that has paired.
func (d *Device) Link(ctx context.Context, addr string, box noiseconn.StaticPublic) (*Link, error) {
	return open(ctx, addr, noiseconn.Config{Mode: noiseconn.ModeLink, Static: d.static, Remote: box, PSK: d.LinkPSK})
}

// Recover logs in with the recovery key.
func (m *Member) Recover(ctx context.Context, addr string, box noiseconn.StaticPublic) (*Link, error) {
	return open(ctx, addr, noiseconn.Config{Mode: noiseconn.ModeLink, Static: m.recovery, Remote: box, PSK: m.RecoveryPSK})
}

func open(ctx context.Context, addr string, cfg noiseconn.Config) (*Link, error) {
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("boxtest: %w", err)
	}
	conn, err := noiseconn.Dial(ctx, nc, cfg)
	if err != nil {
		return nil, fmt.Errorf("boxtest: %w", err)
	}
	s, err := replicate.NewSession(conn, replicate.Config{Peer: replicate.Peer{}})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("boxtest: %w", err)
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l := &Link{Session: s, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		l.err = s.Run(run)
	}()
	return l, nil
}

// Wait returns what ended the session.
func (l *Link) Wait() error {
	<-l.done
	return l.err
}

// Close ends the session and waits for it.
func (l *Link) Close() {
	l.Session.Close()
	<-l.done
	l.cancel()
}

// Ask sends a request and reads the reply into reply, which may be nil.
func (l *Link) Ask(ctx context.Context, method string, request, reply any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("boxtest: %w", err)
	}
	answer, err := l.Request(ctx, method, body, nil)
	if err != nil {
		return err
	}
	if reply == nil {
		return nil
	}
	return json.Unmarshal(answer, reply)
}

// Backup offers a log and waits until all of it is receipted.
func (l *Link) Backup(ctx context.Context, log *Log) (*replicate.Receipt, error) {
	o, err := l.Offer(log)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	return o.WaitReceipt(ctx, log.Checkpoint().Size)
}
