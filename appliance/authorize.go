package appliance

import (
	"context"
	"errors"

	"cobox/appliance/admin"
	"cobox/appliance/roster"
	"cobox/netlink/replicate"
	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// authorizer answers a session's questions from the roster, anew each time: a
// member who has just been removed is refused although the session is still
// there.
type authorizer struct{ b *box }

// sessionPeer is a peer as its session knows it.
func (b *box) sessionPeer(p roster.Peer) replicate.Peer {
	return replicate.Peer{Noise: p.Noise, Account: p.Account, Device: p.Device,
		Recovery: p.Kind == roster.KindRecovery, Admin: b.roster.Administers(p)}
}

// rosterPeer is the reverse.
func rosterPeer(p replicate.Peer) roster.Peer {
	r := roster.Peer{Kind: roster.KindDevice, Noise: p.Noise, Account: p.Account, Device: p.Device}
	switch {
	case p.Recovery:
		r.Kind = roster.KindRecovery
	case p.Account == account.ID{}:
		r.Kind = roster.KindKey
	}
	return r
}

// What a peer wanted and may not have, as labels of a metric.
const (
	deniedDeliver = "deliver"
	deniedRead    = "read"
	deniedList    = "list"
)

func (a authorizer) deny(what, message string) error {
	a.b.metrics.denied.WithLabelValues(what).Inc()
	return notAllowed(message)
}

func notAllowed(message string) error {
	return &replicate.Error{Code: replicate.CodeNotAllowed, Message: message}
}

// MayDeliver: a device brings logs of its own account.
func (a authorizer) MayDeliver(_ context.Context, p replicate.Peer, log merklelog.LogID, m *merklelog.Manifest, cert *account.Certificate, fresh bool) error {
	peer := rosterPeer(p)
	switch {
	case !a.b.roster.Allowed(peer):
		return a.deny(deniedDeliver, "you are no member here any more")
	case peer.Kind != roster.KindDevice:
		return a.deny(deniedDeliver, "only a member's device brings logs")
	case cert.Account != peer.Account:
		return a.deny(deniedDeliver, "this log is another account's")
	case !fresh:
		return nil
	}
	have, err := a.b.countLogs(cert, m.Space)
	if err != nil {
		return err
	}
	if err := a.b.roster.AdmitLog(cert, have); err != nil {
		a.b.metrics.denied.WithLabelValues(deniedDeliver).Inc()
		return a.b.refusal(err)
	}
	a.b.events.repeat(admin.Event{Kind: admin.EventNewLog, Account: &cert.Account, Device: &cert.Device}, log)
	return nil
}

// MayRead: an account reads its own logs.
func (a authorizer) MayRead(_ context.Context, p replicate.Peer, _ merklelog.LogID, m *merklelog.Manifest) error {
	cert, err := account.ParseCertificate(m.Certificate)
	if err != nil {
		return err
	}
	return a.own(deniedRead, p, cert.Account)
}

// MayList: an account lists its own logs.
func (a authorizer) MayList(_ context.Context, p replicate.Peer, who account.ID) error {
	return a.own(deniedList, p, who)
}

func (a authorizer) own(what string, p replicate.Peer, who account.ID) error {
	peer := rosterPeer(p)
	if !a.b.roster.Allowed(peer) || peer.Kind == roster.KindKey || peer.Account != who {
		return a.deny(what, "this is another account's")
	}
	return nil
}

// countLogs counts what there is already, for the limits on new logs.
func (b *box) countLogs(cert *account.Certificate, space merklelog.Tag) (n roster.LogCount, err error) {
	for info, err := range b.store.Logs(cert.Account) {
		n.Account++
		if err != nil {
			continue // a damaged log is a log
		}
		if info.Device == cert.Device {
			n.Device++
			if info.Manifest.Space == space {
				n.Space++
			}
		}
	}
	return n, nil
}

// refusal makes what a peer gets of an answer of the roster.
func (b *box) refusal(err error) error {
	var refused *roster.RefusedError
	if !errors.As(err, &refused) {
		return err
	}
	c := replicate.CodeInvalid
	switch refused.Reason {
	case roster.ReasonForbidden, roster.ReasonNotMember, roster.ReasonRevoked:
		c = replicate.CodeNotAllowed
	case roster.ReasonFull:
		c = replicate.CodeTooLarge
	case roster.ReasonNotFound:
		c = replicate.CodeInvalid
	}
	return &replicate.Error{Code: c, Message: refused.Err.Error()}
}
