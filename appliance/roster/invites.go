package roster

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
	"cobox/storage/account"
)

// Role is what an invite admits to.
type Role string

// The roles.
const (
	// RoleClaim is the role of the box's own secret, the one in its pairing
	// code: administrator, and member without limit.
	RoleClaim Role = "administrator"
	// RoleMember is a member with a quota.
	RoleMember Role = "member"
)

// Limits of an invite's lifetime.
const (
	MinLifetime = time.Minute
	MaxLifetime = 90 * 24 * time.Hour
)

// Invite is one invite as people see it.
type Invite struct {
	ID        noiseconn.InviteID
	Role      Role
	Name      string // what the new member will be called
	Quota     uint64
	Created   Stamp
	Remaining time.Duration // until it expires; 0 if it does not
	State     InviteState
	UsedBy    account.DeviceKey
}

// InviteState is what has become of an invite.
type InviteState string

// The states.
const (
	InviteOpen      InviteState = "open"
	InviteUsed      InviteState = "used"
	InviteExpired   InviteState = "expired"
	InviteCancelled InviteState = "cancelled"
)

func (i *inviteRecord) state(now Stamp) InviteState {
	switch {
	case i.UsedBy != nil:
		return InviteUsed
	case i.Cancelled != nil:
		return InviteCancelled
	case i.Lifetime != 0 && now.Elapsed-i.Created.Elapsed >= i.Lifetime:
		return InviteExpired
	}
	return InviteOpen
}

// SetClaim gives an unclaimed box the secret of its pairing code. It does
// nothing if the roster has that claim already, and fails if it has another.
func (r *Roster) SetClaim(id noiseconn.InviteID, secret pairing.Secret) error {
	if err := checkSecret(secret[:]); err != nil {
		return fmt.Errorf("roster: pairing code: %w", err)
	}
	return r.change(func(c *change) error {
		if old, rec := r.claim(); rec != nil {
			if old == id && pairing.Secret(rec.Secret).Equal(secret) {
				return nil
			}
			return errors.New("roster: this box has another pairing code already")
		}
		rec := &inviteRecord{V: recordVersion, Role: RoleClaim, Secret: hex16(secret), Quota: Unlimited, Created: r.now()}
		c.put(inviteKey(id), appendRecord(rec), func() { r.invites[id] = rec })
		return nil
	})
}

// claim returns the record of the pairing code, or nil. Lock r.mu or
// r.changing.
func (r *Roster) claim() (noiseconn.InviteID, *inviteRecord) {
	for id, rec := range r.invites {
		if rec.Role == RoleClaim {
			return id, rec
		}
	}
	return noiseconn.InviteID{}, nil
}

// Claim returns the id and the secret of the pairing code, as long as the box
// is unclaimed.
func (r *Roster) Claim() (id noiseconn.InviteID, secret pairing.Secret, unclaimed bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	id, rec := r.claim()
	if rec == nil || rec.UsedBy != nil {
		return noiseconn.InviteID{}, pairing.Secret{}, false
	}
	return id, pairing.Secret(rec.Secret), true
}

// HasClaim reports whether the box has a pairing code, used or not.
func (r *Roster) HasClaim() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, rec := r.claim()
	return rec != nil
}

// Claimed reports whether somebody has claimed the box.
func (r *Roster) Claimed() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, rec := r.claim()
	return rec != nil && rec.UsedBy != nil
}

// PairingSecret returns the secret with which a peer that names this invite
// has to come. It also knows invites that are used, expired or cancelled: who
// holds the secret is told so by Enroll, and who does not is told nothing.
func (r *Roster) PairingSecret(id noiseconn.InviteID) (pairing.Secret, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	rec := r.invites[id]
	if rec == nil {
		return pairing.Secret{}, false
	}
	return pairing.Secret(rec.Secret), true
}

// CreateInvite makes an invite for a member with a quota in bytes, which
// expires after lifetime of the box's own time. name may be empty.
func (r *Roster) CreateInvite(name string, quota uint64, lifetime time.Duration) (Invite, pairing.Secret, error) {
	if err := checkOptionalName(name); err != nil {
		return Invite{}, pairing.Secret{}, &RefusedError{ReasonInvalid, err}
	}
	if lifetime < MinLifetime || lifetime > MaxLifetime {
		return Invite{}, pairing.Secret{}, &RefusedError{ReasonInvalid,
			fmt.Errorf("an invite lives from %v to %d days", MinLifetime, MaxLifetime/(24*time.Hour))}
	}
	if quota == 0 {
		return Invite{}, pairing.Secret{}, &RefusedError{ReasonInvalid, errors.New("an invite needs a quota above zero")}
	}
	var id noiseconn.InviteID
	rec := &inviteRecord{V: recordVersion, Role: RoleMember, Name: name, Quota: quota,
		Created: r.now(), Lifetime: lifetime.Milliseconds()}
	rand.Read(rec.Secret[:])
	err := r.change(func(c *change) error {
		for rand.Read(id[:]); r.invites[id] != nil || id == (noiseconn.InviteID{}); {
			rand.Read(id[:])
		}
		open, closed := 0, []noiseconn.InviteID{}
		for id, rec := range r.invites {
			switch {
			case rec.Role == RoleClaim: // stays, so that the claim stays used
			case rec.state(r.now()) == InviteOpen:
				open++
			default:
				closed = append(closed, id)
			}
		}
		if open >= MaxOpenInvites {
			return &RefusedError{ReasonFull, fmt.Errorf("%d invites are open; cancel some first", open)}
		}
		slices.SortFunc(closed, func(a, b noiseconn.InviteID) int {
			return cmp.Compare(r.invites[a].Created.Elapsed, r.invites[b].Created.Elapsed)
		})
		for len(closed) > 0 && len(closed)+open >= MaxInvites {
			old := closed[0]
			closed = closed[1:]
			c.remove(inviteKey(old), func() { delete(r.invites, old) })
		}
		c.put(inviteKey(id), appendRecord(rec), func() { r.invites[id] = rec })
		return nil
	})
	if err != nil {
		return Invite{}, pairing.Secret{}, err
	}
	return r.invite(id, rec), pairing.Secret(rec.Secret), nil
}

// CancelInvite closes an open invite; for one that is closed it does nothing.
func (r *Roster) CancelInvite(id noiseconn.InviteID) error {
	return r.change(func(c *change) error {
		old := r.invites[id]
		if old == nil || old.Role != RoleMember {
			return &RefusedError{ReasonNotFound, errors.New("there is no such invite")}
		}
		r.cancel(c, id)
		return nil
	})
}

// cancel closes an invite, if it is open.
func (r *Roster) cancel(c *change, id noiseconn.InviteID) bool {
	now := r.now()
	if r.invites[id].state(now) != InviteOpen {
		return false
	}
	rec := *r.invites[id]
	rec.Cancelled = &now
	c.put(inviteKey(id), appendRecord(&rec), func() { r.invites[id] = &rec })
	return true
}

// Invites lists the invites for members, newest first, without their secrets.
func (r *Roster) Invites() []Invite {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var list []Invite
	for id, rec := range r.invites {
		if rec.Role == RoleMember {
			list = append(list, r.invite(id, rec))
		}
	}
	slices.SortFunc(list, func(a, b Invite) int {
		return cmp.Or(-cmp.Compare(a.Created.Elapsed, b.Created.Elapsed), slices.Compare(a.ID[:], b.ID[:]))
	})
	return list
}

func (r *Roster) invite(id noiseconn.InviteID, rec *inviteRecord) Invite {
	now := r.now()
	i := Invite{ID: id, Role: rec.Role, Name: rec.Name, Quota: rec.Quota, Created: rec.Created, State: rec.state(now)}
	if rec.Lifetime != 0 {
		i.Remaining = max(0, time.Duration(rec.Lifetime-(now.Elapsed-rec.Created.Elapsed))*time.Millisecond)
	}
	if rec.UsedBy != nil {
		i.UsedBy = *rec.UsedBy
	}
	return i
}
