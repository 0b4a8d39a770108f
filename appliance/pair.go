package appliance

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"cobox/appliance/admin"
	"cobox/appliance/roster"
	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
	"cobox/storage/merklelog"
)

// pictureScale is the number of pixels of a module of the pairing picture.
const pictureScale = 8

// pairingPSK is asked by a handshake that nobody has authenticated yet.
func (b *box) pairingPSK(id noiseconn.InviteID) (noiseconn.PSK, bool) {
	secret, ok := b.roster.PairingSecret(id)
	if !ok {
		return noiseconn.PSK{}, false
	}
	return secret.PSK(id), true
}

// codeText makes the text of a pairing code.
func (b *box) codeText(kind pairing.Kind, id noiseconn.InviteID, secret pairing.Secret) (string, error) {
	code := pairing.Code{Kind: kind, Box: b.identity.StaticPublic(), Secret: secret, Invite: id, Addresses: b.pairingAddresses()}
	return code.Text()
}

// pairingAddresses are the box's addresses as the pairing messages have them.
func (b *box) pairingAddresses() []pairing.Address {
	now := b.addresses.now()
	list := make([]pairing.Address, 0, len(now))
	for _, a := range now {
		if addr, err := pairing.ParseAddress(a); err == nil {
			list = append(list, addr)
		}
	}
	return list
}

// writeCode puts the pairing code into the data directory while the box is
// unclaimed, and makes sure that there is none when it is claimed: a crash may
// have come between the claim and the removal.
func (b *box) writeCode() (text, picture string, err error) {
	b.codeFile.Lock()
	defer b.codeFile.Unlock()
	if b.store.ReadOnly() {
		return "", "", nil // nobody can be taken in
	}
	id, secret, unclaimed := b.roster.Claim()
	if !unclaimed {
		return "", "", b.dir.RemovePairing()
	}
	if text, err = b.codeText(pairing.KindClaim, id, secret); err != nil {
		return "", "", err
	}
	drawing, err := pairing.Draw(text)
	if err != nil {
		return "", "", err
	}
	png, err := drawing.PNG(pictureScale)
	if err != nil {
		return "", "", err
	}
	picture, err = b.dir.WritePairing(png, text)
	return text, picture, err
}

// newAddresses lets the pairing code name them.
func (b *box) newAddresses() {
	if _, _, err := b.writeCode(); err != nil {
		b.log.Error("the pairing code was not written anew", "error", err)
	}
}

// pair serves a connection of somebody who has a pairing secret.
func (b *box) pair(ctx context.Context, c *noiseconn.Conn) {
	e := &enroller{b: b, result: pairingFailed}
	err := pairing.Serve(ctx, c, e)
	var refused *pairing.RefusedError
	if errors.As(err, &refused) {
		e.result = refused.Refusal.String()
		b.events.repeat(admin.Event{Kind: admin.EventPairingRefused, Detail: e.result}, merklelog.LogID{})
	}
	b.metrics.pairings.WithLabelValues(e.result).Inc()
	if err != nil {
		b.log.Warn("pairing failed", "remote", c.RemoteAddr().String(), "error", err)
	}
}

// Results of pairings, as labels of a metric.
const (
	pairingJoined   = "joined"
	pairingRepeated = "repeated"
	pairingFailed   = "failed"
)

func pairingResults() []string {
	list := []string{pairingJoined, pairingRepeated, pairingFailed}
	for r := pairing.RefusedUsed; r <= pairing.RefusedBusy; r++ {
		list = append(list, r.String())
	}
	return list
}

// enroller takes one device in.
type enroller struct {
	b      *box
	result string
}

// Enroll implements pairing.Enroller.
func (e *enroller) Enroll(_ context.Context, invite noiseconn.InviteID, remote noiseconn.StaticPublic, en *pairing.Enrollment) (*pairing.Enrolled, error) {
	b := e.b
	got, err := b.roster.Enroll(roster.Enrollment{Invite: invite, Remote: remote, Card: en.Card, Certificate: en.Certificate,
		RecoveryPSK: en.RecoveryPSK, DeviceName: en.DeviceName})
	if err != nil {
		var refused *roster.RefusedError
		if errors.As(err, &refused) {
			return nil, fmt.Errorf("%w: %w", &pairing.RefusedError{Refusal: refusalOf(refused.Reason)}, err)
		}
		return nil, err
	}
	e.result = pairingRepeated
	if got.New {
		e.result = pairingJoined
		e.admitted(invite, got)
	}
	out := &pairing.Enrolled{Role: pairing.RoleMember, SigningKey: pairing.BoxKey(b.signer), LinkPSK: got.LinkPSK,
		BoxName: b.roster.Name(), Addresses: b.pairingAddresses()}
	if got.Role == roster.RoleClaim {
		out.Role = pairing.RoleAdministrator
	}
	if got.Quota != roster.Unlimited {
		out.Quota = max(1, got.Quota) // on the wire 0 means no limit
	}
	return out, nil
}

// admitted does what follows a commit that took somebody in. After a crash
// before it, the next start removes the code.
func (e *enroller) admitted(invite noiseconn.InviteID, got roster.Enrolled) {
	b := e.b
	ev := admin.Event{Kind: admin.EventJoined, Account: &got.Peer.Account, Device: &got.Peer.Device, Detail: hex.EncodeToString(invite[:])}
	if got.Claim {
		ev.Kind, ev.Detail = admin.EventClaimed, ""
		b.codeFile.Lock()
		err := b.dir.RemovePairing()
		b.codeFile.Unlock()
		if err != nil {
			b.log.Error("the pairing code was not removed; it is of no use any more", "error", err)
		}
		if b.claimed != nil {
			b.claimed()
		}
	}
	b.events.add(ev)
	b.log.Info("a device was taken in", "account", got.Peer.Account.Fingerprint(), "device", got.Peer.Device.String(), "role", got.Role)
}

func refusalOf(r roster.Reason) pairing.Refusal {
	switch r {
	case roster.ReasonUsed:
		return pairing.RefusedUsed
	case roster.ReasonClaimed:
		return pairing.RefusedClaimed
	case roster.ReasonExpired:
		return pairing.RefusedExpired
	case roster.ReasonUnknownInvite:
		return pairing.RefusedUnknown
	case roster.ReasonFull:
		return pairing.RefusedFull
	case roster.ReasonRevoked:
		return pairing.RefusedRevoked
	}
	return pairing.RefusedBadCertificate // invalid, or a key that is another's
}
