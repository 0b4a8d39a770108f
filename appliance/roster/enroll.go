package roster

import (
	"crypto/rand"
	"errors"
	"fmt"

	"cobox/netlink/noiseconn"
	"cobox/storage/account"
)

// Enrollment is what a device presents with an invite's secret.
type Enrollment struct {
	Invite      noiseconn.InviteID     // the secret of which the connection has proven
	Remote      noiseconn.StaticPublic // the key that the connection has authenticated
	Card        *account.Card
	Certificate *account.Certificate
	RecoveryPSK noiseconn.PSK // with which the account logs in by its phrase alone
	DeviceName  string        // may be empty
}

// Enrolled is the answer.
type Enrolled struct {
	Peer    Peer
	LinkPSK noiseconn.PSK
	Role    Role   // of the account from now on
	Quota   uint64 // bytes; Unlimited for none
	New     bool   // not a repetition
	Claim   bool   // New, and by the box's own code
}

// Enroll admits a device and its account. The commit makes the invite used,
// the account a member and the device known, all or nothing. The same device
// may repeat it with the same secret, which changes nothing and succeeds, so a
// crash before the reply has arrived locks nobody out. A refusal is a
// *[RefusedError].
func (r *Roster) Enroll(e Enrollment) (Enrolled, error) {
	// Signatures are checked before the lock: they take a millisecond on a
	// small machine.
	if err := e.check(); err != nil {
		return Enrolled{}, &RefusedError{ReasonInvalid, err}
	}
	var out Enrolled
	err := r.change(func(c *change) error {
		inv := r.invites[e.Invite]
		if inv == nil {
			return &RefusedError{ReasonUnknownInvite, errors.New("the box does not know this invite")}
		}
		device := e.Certificate.Device
		now := r.now()
		switch inv.state(now) {
		case InviteUsed:
			switch {
			case *inv.UsedBy == device:
			case inv.Role == RoleClaim:
				return &RefusedError{ReasonClaimed, errors.New("another device has claimed the box")}
			default:
				return &RefusedError{ReasonUsed, errors.New("another device has used this invite")}
			}
			p := Peer{Kind: KindDevice, Account: e.Card.ID, Device: device, Noise: e.Certificate.Noise}
			rec := r.devices[device]
			if !r.allowed(p) || rec.Noise != e.Certificate.Noise {
				return &RefusedError{ReasonUsed, errors.New("this invite is used, and its member or device has been removed since")}
			}
			out = r.enrolled(p, rec, r.members[p.Account])
			return nil
		case InviteCancelled:
			return &RefusedError{ReasonUnknownInvite, errors.New("this invite has been cancelled")}
		case InviteExpired:
			return &RefusedError{ReasonExpired, errors.New("this invite has expired")}
		}

		member, err := r.admitMember(c, e, inv, now)
		if err != nil {
			return err
		}
		rec, err := r.admitDevice(c, e.Certificate, e.DeviceName, now)
		if err != nil {
			return err
		}
		used := *inv
		used.UsedBy, used.Used = &device, &now
		c.put(inviteKey(e.Invite), appendRecord(&used), func() { r.invites[e.Invite] = &used })
		out = r.enrolled(Peer{Kind: KindDevice, Account: e.Card.ID, Device: device, Noise: rec.Noise}, rec, member)
		out.New, out.Claim = true, inv.Role == RoleClaim
		return nil
	})
	if err != nil {
		return Enrolled{}, err
	}
	return out, nil
}

func (e *Enrollment) check() error {
	switch {
	case e.Card == nil || e.Certificate == nil:
		return errors.New("card or certificate is missing")
	case e.Certificate.Account != e.Card.ID:
		return errors.New("card and certificate are of different accounts")
	case noiseconn.StaticPublic(e.Certificate.Noise) != e.Remote:
		return errors.New("the certificate is for another key than the one that connected")
	case e.RecoveryPSK.IsZero():
		return errors.New("the recovery secret is all zero")
	}
	if err := checkOptionalName(e.DeviceName); err != nil {
		return fmt.Errorf("name of the device: %w", err)
	}
	if err := e.Card.Verify(); err != nil {
		return err
	}
	return e.Certificate.Verify()
}

// admitMember makes the account a member, or leaves it what it is: an invite
// that a member uses for one more device does not change quota or role, but
// that a claim makes an administrator of anybody.
func (r *Roster) admitMember(c *change, e Enrollment, inv *inviteRecord, now Stamp) (*memberRecord, error) {
	id := e.Card.ID
	old := r.members[id]
	var rec memberRecord
	switch {
	case old == nil:
		if len(r.members) >= MaxMembers {
			return nil, &RefusedError{ReasonFull, fmt.Errorf("the box has %d members, and no room for more", len(r.members))}
		}
		if owner, taken := r.byRecovery[e.Card.Recovery]; taken && owner != id {
			return nil, &RefusedError{ReasonTaken, errors.New("the recovery key is another account's")}
		}
		if _, taken := r.byNoise[e.Card.Recovery]; taken {
			return nil, &RefusedError{ReasonTaken, errors.New("the recovery key is a device's")}
		}
		rec = memberRecord{V: recordVersion, Recovery: e.Card.Recovery, RecoveryPSK: hex32(e.RecoveryPSK)}
		c.put(cardKey(id), account.AppendCard(nil, e.Card), nil)
	default:
		rec = *old
		// It is derived from the phrase and the box's key, so it cannot change.
		// A device that could replace it could lock the phrase out.
		if !noiseconn.PSK(rec.RecoveryPSK).Equal(e.RecoveryPSK) || rec.Recovery != e.Card.Recovery {
			return nil, &RefusedError{ReasonInvalid, errors.New("the box knows another recovery secret of this account")}
		}
	}
	if old == nil || old.Removed != nil {
		rec.Name, rec.Quota, rec.Joined, rec.Removed = inv.Name, inv.Quota, now, nil
		rec.Administrator = false
	}
	if inv.Role == RoleClaim {
		rec.Administrator, rec.Quota = true, Unlimited
	}
	c.put(memberKey(id), appendRecord(&rec), func() {
		r.members[id] = &rec
		r.byRecovery[rec.Recovery] = id
	})
	return &rec, nil
}

// admitDevice makes a certified device of a member known. A device that is
// known already keeps its link secret.
func (r *Roster) admitDevice(c *change, cert *account.Certificate, name string, now Stamp) (*deviceRecord, error) {
	if r.isRevoked(cert.Account, cert.Device) {
		return nil, &RefusedError{ReasonRevoked, errors.New("the account has revoked this device")}
	}
	if old := r.devices[cert.Device]; old != nil {
		if old.Account != cert.Account || old.Noise != cert.Noise {
			return nil, &RefusedError{ReasonTaken, errors.New("the device is known with other keys")}
		}
		return old, nil
	}
	if _, taken := r.byNoise[cert.Noise]; taken {
		return nil, &RefusedError{ReasonTaken, errors.New("the key is another device's")}
	}
	if _, taken := r.keys[cert.Noise]; taken {
		return nil, &RefusedError{ReasonTaken, errors.New("the key is an administrator's")}
	}
	count := 0
	for key, d := range r.devices {
		if d.Account == cert.Account && !r.isRevoked(cert.Account, key) {
			count++
		}
	}
	if count >= MaxDevices {
		return nil, &RefusedError{ReasonFull, fmt.Errorf("the account has %d devices here; revoke those that are gone", count)}
	}
	rec := &deviceRecord{V: recordVersion, Account: cert.Account, Noise: cert.Noise, Name: name, Joined: now}
	rand.Read(rec.PSK[:])
	c.put(certificateKey(cert.Device), account.AppendCertificate(nil, cert), nil)
	c.put(deviceKey(cert.Device), appendRecord(rec), func() {
		r.devices[cert.Device] = rec
		r.byNoise[rec.Noise] = cert.Device
	})
	return rec, nil
}

// RegisterDevice makes a device known that p, an account that has logged in
// with its recovery key, has certified. Repeating it succeeds.
func (r *Roster) RegisterDevice(p Peer, card *account.Card, cert *account.Certificate, name string) (Enrolled, error) {
	if p.Kind != KindRecovery {
		return Enrolled{}, &RefusedError{ReasonForbidden, errors.New("only a login with the recovery phrase registers devices")}
	}
	err := checkOptionalName(name)
	switch {
	case err != nil:
	case card == nil || cert == nil:
		err = errors.New("card or certificate is missing")
	case card.ID != p.Account || cert.Account != p.Account:
		err = errors.New("card or certificate is another account's")
	case card.Recovery != p.Noise:
		err = errors.New("the card names another recovery key")
	default:
		if err = card.Verify(); err == nil {
			err = cert.Verify()
		}
	}
	if err != nil {
		return Enrolled{}, &RefusedError{ReasonInvalid, err}
	}
	var out Enrolled
	err = r.change(func(c *change) error {
		if !r.allowed(p) {
			return &RefusedError{ReasonNotMember, errors.New("the account is no member here any more")}
		}
		known := r.devices[cert.Device] != nil
		rec, err := r.admitDevice(c, cert, name, r.now())
		if err != nil {
			return err
		}
		out = r.enrolled(Peer{Kind: KindDevice, Account: p.Account, Device: cert.Device, Noise: cert.Noise}, rec, r.members[p.Account])
		out.New = !known
		return nil
	})
	if err != nil {
		return Enrolled{}, err
	}
	return out, nil
}

func (r *Roster) enrolled(p Peer, d *deviceRecord, m *memberRecord) Enrolled {
	role := RoleMember
	if m.Administrator {
		role = RoleClaim
	}
	return Enrolled{Peer: p, LinkPSK: noiseconn.PSK(d.PSK), Role: role, Quota: m.Quota}
}
