package appliance

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"

	"cobox/appliance/admin"
	"cobox/appliance/roster"
	"cobox/netlink/noiseconn"
	"cobox/netlink/replicate"
	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// Limits on links that are open at a time. A device needs one; a few more are
// for those that it has lost and the box not yet noticed.
const (
	maxLinks        = 256
	maxAccountLinks = 16
)

// links are the sessions that are open.
type links struct {
	allowed func(roster.Peer) bool // may be connected now

	mu       sync.Mutex
	sessions map[*replicate.Session]roster.Peer
}

func newLinks(allowed func(roster.Peer) bool) *links {
	return &links{allowed: allowed, sessions: make(map[*replicate.Session]roster.Peer)}
}

// add takes a session in, unless there are too many. One whose peer has been
// removed between its handshake and now is ended: drop may have come before.
func (l *links) add(s *replicate.Session, p roster.Peer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	same := 0
	for _, other := range l.sessions {
		if other.Account == p.Account {
			same++
		}
	}
	if len(l.sessions) >= maxLinks || same >= maxAccountLinks {
		s.Fail(&replicate.Error{Code: replicate.CodeBusy, Message: "too many links are open"})
	}
	l.sessions[s] = p
	if !l.allowed(p) {
		s.Fail(removedError())
	}
}

func (l *links) remove(s *replicate.Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sessions, s)
}

// drop ends the sessions of everybody who may not be connected any more.
func (l *links) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s, p := range l.sessions {
		if !l.allowed(p) {
			s.Fail(removedError())
		}
	}
}

func removedError() *replicate.Error {
	return &replicate.Error{Code: replicate.CodeNotAllowed, Message: "you have been removed from this box"}
}

func (l *links) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.sessions)
}

// devices returns those that are connected.
func (l *links) devices() map[account.DeviceKey]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	online := make(map[account.DeviceKey]bool, len(l.sessions))
	for _, p := range l.sessions {
		if p.Kind == roster.KindDevice {
			online[p.Device] = true
		}
	}
	return online
}

// serverConfig is how handshakes find the secrets. Nothing changes here: a
// first message may be a replay.
func (b *box) serverConfig() noiseconn.ServerConfig {
	return noiseconn.ServerConfig{
		Static:     b.identity.StaticPrivate(),
		PairingPSK: b.pairingPSK,
		LinkPSK: func(remote noiseconn.StaticPublic) (noiseconn.PSK, any, bool) {
			if me := b.self.Load(); me != nil && remote.Equal(me.public) {
				return me.psk, me, true
			}
			psk, peer, ok := b.roster.Link(account.NoiseKey(remote))
			return psk, peer, ok
		},
	}
}

// hello is what the box states of itself.
func (b *box) hello() replicate.Hello {
	return replicate.Hello{Boot: b.boot, Name: b.roster.Name(), Addresses: b.addresses.now()}
}

// handle serves one authenticated connection.
func (b *box) handle(ctx context.Context, c *noiseconn.Conn) {
	if c.Mode() == noiseconn.ModePair {
		b.pair(ctx, c)
		return
	}
	if me, ok := c.Peer().(*self); ok {
		b.answerSelf(ctx, c, me)
		return
	}
	peer := c.Peer().(roster.Peer)
	log := b.log.With("peer", peer.Kind.String(), "account", peer.Account.Fingerprint(), "remote", c.RemoteAddr().String())
	session, err := replicate.NewSession(c, replicate.Config{
		Hello:  b.hello(),
		Peer:   b.sessionPeer(peer),
		Limits: b.limits,
		Logger: log,
		Box: &replicate.Box{
			Store: sessionStore{b}, Authorizer: authorizer{b}, Admin: administration{b},
			Receipt: b.receipts.make, Logs: b.logs, Code: code,
		},
	})
	if err != nil {
		log.Error("a session cannot be started", "error", err)
		return
	}
	b.links.add(session, peer)
	defer b.links.remove(session)
	b.metrics.sessions.WithLabelValues(peer.Kind.String()).Inc()
	if peer.Kind == roster.KindRecovery {
		b.events.repeat(admin.Event{Kind: admin.EventRecovered, Account: &peer.Account,
			Detail: "somebody logged in with the recovery phrase"}, merklelog.LogID{})
	}
	b.seen(peer)
	log.Debug("link opened")
	err = session.Run(ctx)
	b.seen(peer)
	b.ended(ctx, log, peer, err)
}

// What ended a link, as labels of a metric.
const (
	endedGoodbye   = "goodbye"   // as it should be
	endedPeer      = "peer"      // the peer gave a reason
	endedRefused   = "refused"   // the box gave one: too many links, or removed
	endedViolation = "violation" // the peer sent what no honest peer sends
	endedTimeout   = "timeout"   // nothing was heard for too long
	endedNetwork   = "network"   // the connection broke
	endedStopped   = "stopped"   // the box stops
)

func endings() []string {
	return []string{endedGoodbye, endedPeer, endedRefused, endedViolation, endedTimeout, endedNetwork, endedStopped}
}

// endingOf says what ended a link, and whether the peer broke the protocol.
func endingOf(ctx context.Context, err error) (reason string, violated bool) {
	var violation *replicate.ViolationError
	var said *replicate.Error
	switch {
	case err == nil:
		return endedGoodbye, false
	case errors.As(err, &violation):
		return endedViolation, true
	case errors.As(err, &said):
		if said.Code == replicate.CodeBusy {
			return endedRefused, false
		}
		return endedPeer, false
	case ctx.Err() != nil:
		return endedStopped, false
	case errors.Is(err, os.ErrDeadlineExceeded):
		return endedTimeout, false
	}
	return endedNetwork, false
}

// ended counts a link that has ended. A member that broke the protocol is worth
// an event: either its program or somebody who has its key is at fault.
func (b *box) ended(ctx context.Context, log *slog.Logger, peer roster.Peer, err error) {
	reason, violation := endingOf(ctx, err)
	if violation {
		log.Warn("a peer broke the protocol", "error", err)
		b.events.repeat(admin.Event{Kind: admin.EventViolation, Account: &peer.Account, Device: &peer.Device,
			Detail: "the device sent what no honest device sends"}, merklelog.LogID{})
	}
	if reason == endedPeer && !b.roster.Allowed(peer) {
		reason = endedRefused
	}
	b.metrics.ended.WithLabelValues(reason).Inc()
	log.Debug("link closed", "reason", reason, "error", err)
}

func (b *box) seen(p roster.Peer) {
	if b.store.ReadOnly() {
		return
	}
	if err := b.roster.Seen(p); err != nil {
		b.log.Error("the time of a connection was not stored", "error", err)
	}
}
