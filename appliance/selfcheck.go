package appliance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"cobox/appliance/machine"
	"cobox/netlink/noiseconn"
	"cobox/netlink/replicate"
)

const (
	// selfTimeout is how long the box may take to greet itself.
	selfTimeout = 20 * time.Second
	// The box looks again at a trial so often, and after a failure so soon at
	// first and so late at last.
	trialEvery   = 5 * time.Second
	trialSoonest = time.Second
	trialLatest  = 30 * time.Second
)

// self is who the box is when it calls itself: a key and a secret that only this
// process knows and that last for one call. They open no more than a session in
// which nothing is served.
type self struct {
	static  noiseconn.StaticPrivate
	public  noiseconn.StaticPublic
	psk     noiseconn.PSK
	boot    replicate.BootID
	greeted chan struct{} // closed when the box has heard the caller's hello
}

// watchTrial records what came of the last update. While a new system is on
// trial it has the box check itself, tells the first process when all is well,
// and waits for the end of the trial.
func (b *box) watchTrial(ctx context.Context, listen net.Addr) error {
	proved := false
	pause := trialSoonest
	for {
		wait := trialEvery
		on, err := b.lookAtTrial(ctx, listen, &proved)
		switch {
		case ctx.Err() != nil, err == nil && !on:
			return nil
		case errors.Is(err, machine.ErrClosed):
			b.log.Error("the first process does not answer any more", "error", err)
			return nil
		case err != nil:
			b.log.Error("the new system has not proved itself yet", "error", err, "again in", pause)
			wait, pause = pause, min(2*pause, trialLatest)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// lookAtTrial reports whether a trial goes on.
func (b *box) lookAtTrial(ctx context.Context, listen net.Addr, proved *bool) (on bool, err error) {
	asked, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	state, err := b.machine.State(asked)
	if err != nil {
		return false, err
	}
	b.noteUpdate(lastUpdate(state), nil)
	if !state.Trying || *proved {
		return state.Trying, nil
	}
	if err := b.checkSelf(ctx, listen); err != nil {
		return true, err
	}
	asked, cancel = context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	if err := b.machine.Proved(asked); err != nil {
		return true, err
	}
	*proved = true
	b.log.Info("the box has checked itself", "version", state.Release.Version)
	return true, nil
}

// checkSelf makes a link with the box itself, as a member's device would: over
// its own listener, with a handshake and the hellos of a session.
func (b *box) checkSelf(ctx context.Context, listen net.Addr) error {
	if b.store.ReadOnly() {
		return errors.New("appliance: self-check: the store cannot be written")
	}
	ctx, cancel := context.WithTimeout(ctx, selfTimeout)
	defer cancel()
	me := &self{greeted: make(chan struct{})}
	var err error
	if me.static, err = noiseconn.NewStaticPrivate(nil); err != nil {
		return fmt.Errorf("appliance: self-check: %w", err)
	}
	me.public = me.static.Public()
	rand.Read(me.psk[:])
	rand.Read(me.boot[:])
	b.self.Store(me)
	defer b.self.Store(nil)
	// A flood of openings must not decide whether an update stays.
	defer b.gate.TrustLocal()()

	nc, err := dialSelf(ctx, listen)
	if err != nil {
		return fmt.Errorf("appliance: self-check: %w", err)
	}
	conn, err := noiseconn.Dial(ctx, nc, noiseconn.Config{Mode: noiseconn.ModeLink, Static: me.static,
		Remote: b.identity.StaticPublic(), PSK: me.psk})
	if err != nil {
		return fmt.Errorf("appliance: self-check: %w", err)
	}
	err = withSession(ctx, conn, replicate.Config{Hello: replicate.Hello{Boot: me.boot}, Limits: b.limits}, func(s *replicate.Session) error {
		hello, err := s.PeerHello(ctx)
		if err != nil {
			return err
		}
		if hello.Boot != b.boot {
			return errors.New("another program answers at the box's port")
		}
		select {
		case <-me.greeted:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	if err != nil {
		return fmt.Errorf("appliance: self-check: %w", err)
	}
	return nil
}

// answerSelf is the other end of checkSelf. It is no link of anybody: it counts
// nowhere, is no event, and serves nothing.
func (b *box) answerSelf(ctx context.Context, c *noiseconn.Conn, me *self) {
	cfg := replicate.Config{Hello: b.hello(), Limits: b.limits}
	err := withSession(ctx, c, cfg, func(s *replicate.Session) error {
		hello, err := s.PeerHello(ctx)
		if err != nil {
			return err
		}
		if hello.Boot != me.boot {
			return errors.New("it is not the box itself")
		}
		close(me.greeted)
		<-s.Done() // the caller ends it
		return nil
	})
	if err != nil && ctx.Err() == nil {
		b.log.Warn("the box's call of itself has failed", "error", err)
	}
}

// withSession runs a session while fn does.
func withSession(ctx context.Context, conn *noiseconn.Conn, cfg replicate.Config, fn func(*replicate.Session) error) error {
	s, err := replicate.NewSession(conn, cfg)
	if err != nil {
		conn.Close()
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	err = fn(s)
	s.Close()
	<-ended
	return err
}

// dialSelf connects to the listener from this machine.
func dialSelf(ctx context.Context, listen net.Addr) (net.Conn, error) {
	at, err := netip.ParseAddrPort(listen.String())
	if err != nil {
		return nil, err
	}
	addresses := []netip.Addr{at.Addr()}
	if at.Addr().IsUnspecified() {
		addresses = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	var errs []error
	for _, a := range addresses {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(a, at.Port()).String())
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}
