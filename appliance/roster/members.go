package roster

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"cobox/netlink/noiseconn"
	"cobox/storage/account"
)

// Member is one account as people see it.
type Member struct {
	Account       account.ID
	Name          string // may be empty
	Administrator bool
	Quota         uint64 // bytes; Unlimited for none
	Joined        Stamp
	Removed       bool
	Devices       []Device
}

// Device is one device of a member.
type Device struct {
	Key     account.DeviceKey
	Name    string // may be empty
	Joined  Stamp
	Seen    Stamp // last connection; zero if there was none
	Revoked bool
}

// Members lists all accounts that are or were members, in the order in which
// they joined.
func (r *Roster) Members() []Member {
	r.mu.RLock()
	defer r.mu.RUnlock()
	list := make([]Member, 0, len(r.members))
	devices := make(map[account.ID][]Device, len(r.members))
	for key, d := range r.devices {
		devices[d.Account] = append(devices[d.Account], Device{
			Key: key, Name: d.Name, Joined: d.Joined, Seen: r.seen[key].stamp, Revoked: r.isRevoked(d.Account, key)})
	}
	for id, m := range r.members {
		slices.SortFunc(devices[id], func(a, b Device) int {
			return compareJoined(a.Joined, b.Joined, a.Key[:], b.Key[:])
		})
		list = append(list, Member{Account: id, Name: m.Name, Administrator: m.Administrator, Quota: m.Quota,
			Joined: m.Joined, Removed: m.Removed != nil, Devices: devices[id]})
	}
	slices.SortFunc(list, func(a, b Member) int {
		return compareJoined(a.Joined, b.Joined, a.Account[:], b.Account[:])
	})
	return list
}

func compareJoined(a, b Stamp, x, y []byte) int {
	if a.Elapsed != b.Elapsed {
		return int(max(-1, min(1, a.Elapsed-b.Elapsed)))
	}
	return bytes.Compare(x, y)
}

// CountMembers returns the number of members, without removed ones.
func (r *Roster) CountMembers() (n int) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, m := range r.members {
		if m.Removed == nil {
			n++
		}
	}
	return n
}

// Quota returns how many bytes an account may have on the box; ok is false for
// one that is no member. What was stored before stays in any case.
func (r *Roster) Quota(id account.ID) (limit uint64, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	m := r.members[id]
	if m == nil || m.Removed != nil {
		return 0, false
	}
	return m.Quota, true
}

// SetQuota changes a member's quota, in bytes, or Unlimited.
func (r *Roster) SetQuota(id account.ID, quota uint64) error {
	return r.changeMember(id, func(_ *change, m *memberRecord) error {
		m.Quota = quota
		return nil
	})
}

// RemoveMember ends a membership. The account's data stays; its devices and
// its phrase cannot log in any more. The last administrator cannot be removed.
//
// With an administrator all open invites end, in the same change: who made one is
// not on record, and it could bring the administrator back. They are returned.
func (r *Roster) RemoveMember(id account.ID) (cancelled []noiseconn.InviteID, err error) {
	err = r.changeMember(id, func(c *change, m *memberRecord) error {
		if m.Administrator && len(r.keys) == 0 {
			others := 0
			for other, o := range r.members {
				if other != id && o.Administrator && o.Removed == nil {
					others++
				}
			}
			if others == 0 {
				return &RefusedError{ReasonLast, errors.New("this is the only administrator")}
			}
		}
		now := r.now()
		m.Removed = &now
		if m.Administrator {
			for invite, rec := range r.invites {
				if rec.Role == RoleMember && r.cancel(c, invite) {
					cancelled = append(cancelled, invite)
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return cancelled, nil
}

func (r *Roster) changeMember(id account.ID, fn func(*change, *memberRecord) error) error {
	return r.change(func(c *change) error {
		old := r.members[id]
		if old == nil || old.Removed != nil {
			return &RefusedError{ReasonNotFound, errors.New("there is no such member")}
		}
		rec := *old
		if err := fn(c, &rec); err != nil {
			return err
		}
		c.put(memberKey(id), appendRecord(&rec), func() { r.members[id] = &rec })
		return nil
	})
}

// AddKey makes a bare X25519 key an administrator, and returns the secret with
// which it logs in. Repeating it returns the same one.
func (r *Roster) AddKey(key account.NoiseKey, name string) (noiseconn.PSK, error) {
	if err := checkOptionalName(name); err != nil {
		return noiseconn.PSK{}, &RefusedError{ReasonInvalid, err}
	}
	var psk noiseconn.PSK
	err := r.change(func(c *change) error {
		if old := r.keys[key]; old != nil {
			psk = noiseconn.PSK(old.PSK)
			return nil
		}
		_, device := r.byNoise[key]
		_, recovery := r.byRecovery[key]
		switch {
		case device || recovery || key == account.NoiseKey{}:
			return &RefusedError{ReasonTaken, errors.New("the key is a member's")}
		case len(r.keys) >= MaxKeys:
			return &RefusedError{ReasonFull, fmt.Errorf("there are %d administrator keys", len(r.keys))}
		}
		rec := &keyRecord{V: recordVersion, Name: name, Added: r.now()}
		rand.Read(rec.PSK[:])
		psk = noiseconn.PSK(rec.PSK)
		c.put(administratorKey(key), appendRecord(rec), func() { r.keys[key] = rec })
		return nil
	})
	return psk, err
}
