package roster

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/mlkem"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// disk is a store that survives the roster on it.
type disk struct {
	mu      sync.Mutex
	keys    map[string][]byte
	commits int
	fail    int  // this commit, counted from 1, fails
	kept    bool // although it fails, it has happened
}

func (d *disk) Get(key []byte) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.Clone(d.keys[string(key)]), nil
}

func (d *disk) Scan(prefix []byte, fn func(key, value []byte) error) error {
	for _, k := range slices.Sorted(maps.Keys(d.keys)) {
		if strings.HasPrefix(k, string(prefix)) {
			if err := fn([]byte(k), d.keys[k]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *disk) Commit(changes []Change) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.commits++
	if d.commits == d.fail && !d.kept {
		return errors.New("injected")
	}
	if d.keys == nil {
		d.keys = make(map[string][]byte)
	}
	for _, c := range changes {
		if c.Value == nil {
			delete(d.keys, string(c.Key))
		} else {
			d.keys[string(c.Key)] = bytes.Clone(c.Value)
		}
	}
	if d.commits == d.fail {
		return errors.New("injected")
	}
	return nil
}

// clock is a box's two clocks.
type clock struct {
	elapsed time.Duration
	wall    time.Time
}

func (c *clock) options() Options {
	return Options{Elapsed: func() time.Duration { return c.elapsed }, Wall: func() time.Time { return c.wall }}
}

func openRoster(t *testing.T, d *disk, c *clock) *Roster {
	t.Helper()
	r, err := Open(d, c.options())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// person is an account with a phrase.
type person struct {
	key  ed25519.PrivateKey
	card *account.Card
	psk  noiseconn.PSK
}

func kemKey(t testing.TB) (k account.KEMKey) {
	t.Helper()
	d, err := mlkem.GenerateKey768()
	if err != nil {
		t.Fatal(err)
	}
	x := noiseKey(t)
	copy(k[:], append(d.EncapsulationKey().Bytes(), x[:]...))
	return k
}

func noiseKey(t testing.TB) account.NoiseKey {
	t.Helper()
	x, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return account.NoiseKey(x.PublicKey().Bytes())
}

func newPerson(t testing.TB) *person {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &person{key: key, card: &account.Card{ID: account.ID(key.Public().(ed25519.PublicKey)), KEM: kemKey(t), Recovery: noiseKey(t)}}
	rand.Read(p.psk[:])
	if err := account.SignCard(p.card, key); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *person) device(t testing.TB, revocations uint32) *account.Certificate {
	t.Helper()
	cert := &account.Certificate{Account: p.card.ID, KEM: kemKey(t), Noise: noiseKey(t), Revocations: revocations, Issued: 1}
	rand.Read(cert.Device[:])
	if err := account.SignCertificate(cert, p.key); err != nil {
		t.Fatal(err)
	}
	return cert
}

func (p *person) enrollment(invite noiseconn.InviteID, cert *account.Certificate) Enrollment {
	return Enrollment{Invite: invite, Remote: noiseconn.StaticPublic(cert.Noise), Card: p.card, Certificate: cert,
		RecoveryPSK: p.psk, DeviceName: "laptop"}
}

func (p *person) revoke(t testing.TB, number uint32, device account.DeviceKey, logs ...merklelog.Position) *account.Revocation {
	t.Helper()
	rev := &account.Revocation{Account: p.card.ID, Number: number, Device: device, Logs: logs}
	if err := account.SignRevocation(rev, p.key); err != nil {
		t.Fatal(err)
	}
	return rev
}

var claimID = noiseconn.InviteID{1}

// claimed is a box with an administrator.
func claimed(t testing.TB, d *disk, c *clock) (*Roster, *person, *account.Certificate) {
	t.Helper()
	r, err := Open(d, c.options())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.SetClaim(claimID, pairing.Secret{1}); err != nil {
		t.Fatal(err)
	}
	admin := newPerson(t)
	cert := admin.device(t, 0)
	if _, err := r.Enroll(admin.enrollment(claimID, cert)); err != nil {
		t.Fatal(err)
	}
	return r, admin, cert
}

func join(t testing.TB, r *Roster, quota uint64) (*person, *account.Certificate, Enrolled) {
	t.Helper()
	inv, _, err := r.CreateInvite("bakery", quota, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	p := newPerson(t)
	cert := p.device(t, 0)
	got, err := r.Enroll(p.enrollment(inv.ID, cert))
	if err != nil {
		t.Fatal(err)
	}
	return p, cert, got
}

func reason(err error) Reason {
	var refused *RefusedError
	if errors.As(err, &refused) {
		return refused.Reason
	}
	return ""
}

func wantReason(t *testing.T, what string, err error, want Reason) {
	t.Helper()
	if err == nil || reason(err) != want {
		t.Errorf("%s: got %v, want %s", what, err, want)
	}
}
