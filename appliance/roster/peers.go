package roster

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"cobox/netlink/noiseconn"
	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// Kind says as what a peer has logged in.
type Kind uint8

// The kinds.
const (
	KindDevice   Kind = 1 // a device of a member
	KindRecovery Kind = 2 // an account with its recovery key: lists, reads, registers a device
	KindKey      Kind = 3 // a bare administrator key
)

func (k Kind) String() string {
	switch k {
	case KindDevice:
		return "device"
	case KindRecovery:
		return "recovery"
	case KindKey:
		return "key"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Peer is who is at the other end of a link. It can be compared.
type Peer struct {
	Kind    Kind
	Account account.ID        // zero for a bare key
	Device  account.DeviceKey // zero unless Kind is KindDevice
	Noise   account.NoiseKey
}

// Link looks up who logs in with a key and the secret that goes with it.
func (r *Roster) Link(key account.NoiseKey) (noiseconn.PSK, Peer, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var psk hex32
	var p Peer
	if device, ok := r.byNoise[key]; ok {
		rec := r.devices[device]
		psk, p = rec.PSK, Peer{Kind: KindDevice, Account: rec.Account, Device: device, Noise: key}
	} else if rec := r.keys[key]; rec != nil {
		psk, p = rec.PSK, Peer{Kind: KindKey, Noise: key}
	} else if id, ok := r.byRecovery[key]; ok {
		psk, p = r.members[id].RecoveryPSK, Peer{Kind: KindRecovery, Account: id, Noise: key}
	}
	if !r.allowed(p) {
		return noiseconn.PSK{}, Peer{}, false
	}
	return noiseconn.PSK(psk), p, true
}

// Login is somebody who may log in.
type Login struct {
	Peer
	PSK           noiseconn.PSK // the secret that goes with the key
	Administrator bool
}

// Logins lists all that may log in, in the order of their keys.
func (r *Roster) Logins() []Login {
	r.mu.RLock()
	keys := make([]account.NoiseKey, 0, len(r.byNoise)+len(r.keys)+len(r.byRecovery))
	keys = slices.AppendSeq(keys, maps.Keys(r.byNoise))
	keys = slices.AppendSeq(keys, maps.Keys(r.keys))
	keys = slices.AppendSeq(keys, maps.Keys(r.byRecovery))
	r.mu.RUnlock()
	slices.SortFunc(keys, func(a, b account.NoiseKey) int { return bytes.Compare(a[:], b[:]) })
	var list []Login
	for _, key := range slices.Compact(keys) {
		if psk, p, ok := r.Link(key); ok {
			list = append(list, Login{p, psk, r.Administers(p)})
		}
	}
	return list
}

// Allowed reports whether p may (still) be connected.
func (r *Roster) Allowed(p Peer) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.allowed(p)
}

// allowed is Allowed under r.mu or r.changing.
func (r *Roster) allowed(p Peer) bool {
	switch p.Kind {
	case KindKey:
		return r.keys[p.Noise] != nil
	case KindDevice, KindRecovery:
		m := r.members[p.Account]
		if m == nil || m.Removed != nil {
			return false
		}
		if p.Kind == KindRecovery {
			return m.Recovery == p.Noise
		}
		d := r.devices[p.Device]
		return d != nil && d.Account == p.Account && d.Noise == p.Noise && !r.isRevoked(p.Account, p.Device)
	}
	return false
}

func (r *Roster) isRevoked(id account.ID, device account.DeviceKey) bool {
	_, revoked := r.revoked[certified{id, device}]
	return revoked
}

// Administers reports whether p may administer the box. A login with the
// recovery key may not: it certifies a device first, so that what is done
// leaves a device's name.
func (r *Roster) Administers(p Peer) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if !r.allowed(p) {
		return false
	}
	return p.Kind == KindKey || p.Kind == KindDevice && r.members[p.Account].Administrator
}

// seenEvery is how old the stored time of a device's last connection may get.
// Storing each would wear a memory card out.
const seenEvery = 10 * time.Minute

// Seen notes that a device is connected now.
func (r *Roster) Seen(p Peer) error {
	if p.Kind != KindDevice {
		return nil
	}
	now := r.now()
	r.mu.Lock()
	s := r.seen[p.Device]
	s.stamp = now
	r.seen[p.Device] = s
	r.mu.Unlock()
	if s.stored != (Stamp{}) && now.Elapsed-s.stored.Elapsed < seenEvery.Milliseconds() {
		return nil
	}
	return r.change(func(c *change) error {
		if r.devices[p.Device] != nil {
			c.put(seenKey(p.Device), appendRecord(&seenRecord{recordVersion, now}), func() {
				r.seen[p.Device] = seen{now, now}
			})
		}
		return nil
	})
}

// Revoke takes an account's revocation of one of its devices. From then on the
// device cannot connect, and its logs stand up to the positions stated.
func (r *Roster) Revoke(rev *account.Revocation) error {
	if err := rev.Verify(); err != nil {
		return &RefusedError{ReasonInvalid, err}
	}
	return r.change(func(c *change) error {
		if r.members[rev.Account] == nil {
			return &RefusedError{ReasonNotMember, errors.New("the account is no member here")}
		}
		key := revocationKey(rev.Account, rev.Number)
		value := account.AppendRevocation(nil, rev)
		old, err := r.store.Get(key)
		switch {
		case err != nil:
			return fmt.Errorf("roster: reading a revocation: %w", err)
		case string(old) == string(value):
			return nil
		case old != nil:
			return &RefusedError{ReasonInvalid, fmt.Errorf("the account has another revocation number %d", rev.Number)}
		}
		count := 0
		for key := range r.revoked {
			if key.account == rev.Account {
				count++
			}
		}
		if count >= MaxRevocations {
			return &RefusedError{ReasonFull, fmt.Errorf("the account has %d revocations here", count)}
		}
		c.put(key, value, func() { r.noteRevocation(rev) })
		return nil
	})
}

// Stands returns up to which size, and with which root, a device's account
// stands by one of the device's logs; revoked is false where there is no limit.
func (r *Roster) Stands(id account.ID, device account.DeviceKey, log merklelog.LogID) (size uint64, root merklelog.Hash, revoked bool, err error) {
	r.mu.RLock()
	number, found := r.revoked[certified{id, device}]
	r.mu.RUnlock()
	if !found {
		return 0, merklelog.Hash{}, false, nil
	}
	b, err := r.store.Get(revocationKey(id, number))
	if err == nil {
		var rev *account.Revocation
		if rev, err = account.ParseRevocation(b); err == nil {
			size, root = rev.Stands(log)
			return size, root, true, nil
		}
	}
	return 0, merklelog.Hash{}, true, fmt.Errorf("roster: reading a revocation: %w", err)
}
