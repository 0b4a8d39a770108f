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

func TestClaim(t *testing.T) {
	d, c := &disk{}, &clock{}
	r := openRoster(t, d, c)
	if _, _, unclaimed := r.Claim(); unclaimed || r.Claimed() {
		t.Error("a box without a code can be claimed")
	}
	if err := r.SetClaim(claimID, pairing.Secret{1}); err != nil {
		t.Fatal(err)
	}
	if err := r.SetClaim(claimID, pairing.Secret{1}); err != nil {
		t.Errorf("the same code again: %v", err)
	}
	if err := r.SetClaim(claimID, pairing.Secret{2}); err == nil {
		t.Error("the code was replaced")
	}
	if id, secret, unclaimed := r.Claim(); !unclaimed || id != claimID || secret != (pairing.Secret{1}) {
		t.Error("the code is not there")
	}

	p := newPerson(t)
	cert := p.device(t, 0)
	got, err := r.Enroll(p.enrollment(claimID, cert))
	if err != nil || got.Role != RoleClaim || got.Quota != Unlimited || !got.New || got.LinkPSK.IsZero() {
		t.Fatal(got, err)
	}
	if !r.Claimed() {
		t.Error("not claimed")
	}
	again, err := r.Enroll(p.enrollment(claimID, cert))
	if err != nil || again.New || !again.LinkPSK.Equal(got.LinkPSK) {
		t.Errorf("the same device again: %+v %v", again, err)
	}
	_, err = r.Enroll(p.enrollment(claimID, p.device(t, 0)))
	wantReason(t, "another device of the same account", err, ReasonClaimed)
	thief := newPerson(t)
	_, err = r.Enroll(thief.enrollment(claimID, thief.device(t, 0)))
	wantReason(t, "another account", err, ReasonClaimed)

	psk, peer, ok := r.Link(cert.Noise)
	if !ok || peer != got.Peer || !psk.Equal(got.LinkPSK) || !r.Administers(peer) {
		t.Errorf("link: %+v %v", peer, ok)
	}
	psk, peer, ok = r.Link(p.card.Recovery)
	if !ok || peer.Kind != KindRecovery || !psk.Equal(p.psk) || r.Administers(peer) {
		t.Errorf("recovery: %+v %v", peer, ok)
	}
	if _, _, ok := r.Link(noiseKey(t)); ok {
		t.Error("a stranger was let in")
	}
}

// A used invite stays used: whatever the commit does, after a restart an
// invite either admitted its device or is still open.
func TestUsedStaysUsedAcrossCrashes(t *testing.T) {
	for _, kept := range []bool{false, true} {
		d, c := &disk{}, &clock{}
		r, _, _ := claimed(t, d, c)
		inv, _, err := r.CreateInvite("", 5, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		a, b := newPerson(t), newPerson(t)
		certA, certB := a.device(t, 0), b.device(t, 0)
		d.fail, d.kept = d.commits+1, kept
		if _, err := r.Enroll(a.enrollment(inv.ID, certA)); err == nil {
			t.Fatal("the fault did not show")
		}
		// Nobody knows now, so nobody else may be told that it is still open.
		if _, err := r.Enroll(b.enrollment(inv.ID, certB)); !errors.Is(err, ErrBroken) {
			t.Errorf("kept=%v: after a fault: %v", kept, err)
		}

		r = openRoster(t, d, c)
		_, errB := r.Enroll(b.enrollment(inv.ID, certB))
		_, errA := r.Enroll(a.enrollment(inv.ID, certA))
		if kept {
			wantReason(t, "second device", errB, ReasonUsed)
			if errA != nil {
				t.Errorf("the device that used it: %v", errA)
			}
		} else {
			wantReason(t, "the device that came late", errA, ReasonUsed)
			if errB != nil {
				t.Errorf("an open invite: %v", errB)
			}
		}
		r = openRoster(t, d, c)
		_, err = r.Enroll(newPerson(t).enrollment(inv.ID, newPerson(t).device(t, 0)))
		wantReason(t, "mixed up records", err, ReasonInvalid)
		other := newPerson(t)
		_, err = r.Enroll(other.enrollment(inv.ID, other.device(t, 0)))
		wantReason(t, "after another restart", err, ReasonUsed)
	}
}

// What a roster says is the same after every restart.
func TestRestart(t *testing.T) {
	d, c := &disk{}, &clock{elapsed: time.Hour, wall: time.Unix(1e9, 0)}
	r, admin, cert := claimed(t, d, c)
	if err := r.SetName("Backhaus"); err != nil {
		t.Fatal(err)
	}
	p, pc, got := join(t, r, 1000)
	if err := r.Seen(got.Peer); err != nil {
		t.Fatal(err)
	}
	if err := r.SetQuota(p.card.ID, 2000); err != nil {
		t.Fatal(err)
	}
	key := noiseKey(t)
	psk, err := r.AddKey(key, "phone")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Revoke(admin.revoke(t, 1, admin.device(t, 0).Device)); err != nil {
		t.Fatal(err)
	}
	before := r.Members()

	r = openRoster(t, d, c)
	after := r.Members()
	if len(after) != 2 || !slices.EqualFunc(before, after, func(a, b Member) bool {
		return a.Account == b.Account && a.Name == b.Name && a.Quota == b.Quota && a.Administrator == b.Administrator &&
			a.Joined == b.Joined && slices.Equal(a.Devices, b.Devices)
	}) {
		t.Errorf("before %+v\nafter %+v", before, after)
	}
	if r.Name() != "Backhaus" || !r.Claimed() {
		t.Error("name or claim is lost")
	}
	if q, ok := r.Quota(p.card.ID); q != 2000 || !ok {
		t.Errorf("quota %d %v", q, ok)
	}
	if got2, peer, ok := r.Link(pc.Noise); !ok || !got2.Equal(got.LinkPSK) || peer != got.Peer {
		t.Error("the link secret is lost")
	}
	if got2, peer, ok := r.Link(key); !ok || !got2.Equal(psk) || !r.Administers(peer) {
		t.Error("the administrator key is lost")
	}
	if _, peer, _ := r.Link(cert.Noise); !r.Administers(peer) {
		t.Error("the administrator is lost")
	}
	if r.newest[admin.card.ID] != 1 {
		t.Error("the revocation is lost")
	}
}

// Ages count in the box's own time: no setting of its clock lets an invite
// live longer or end earlier.
func TestWrongClockOpensNothing(t *testing.T) {
	d, c := &disk{}, &clock{wall: time.Unix(1_700_000_000, 0)}
	r, _, _ := claimed(t, d, c)
	inv, _, err := r.CreateInvite("", 1, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, wall := range []int64{0, -1 << 40, 1 << 40} {
		c.wall = time.Unix(wall, 0)
		if got := r.Invites()[0]; got.State != InviteOpen || got.Remaining != time.Hour {
			t.Errorf("clock at %v: %+v", c.wall, got)
		}
	}
	c.elapsed += time.Hour
	for _, wall := range []int64{0, -1 << 40, 1 << 40} {
		c.wall = time.Unix(wall, 0)
		p := newPerson(t)
		_, err := openRoster(t, d, c).Enroll(p.enrollment(inv.ID, p.device(t, 0)))
		wantReason(t, "expired invite", err, ReasonExpired)
	}
}

func TestInvites(t *testing.T) {
	d, c := &disk{}, &clock{}
	r, _, _ := claimed(t, d, c)
	for _, lifetime := range []time.Duration{0, -1, time.Second, MaxLifetime + 1} {
		_, _, err := r.CreateInvite("", 1, lifetime)
		wantReason(t, lifetime.String(), err, ReasonInvalid)
	}
	_, _, err := r.CreateInvite("a\nb", 1, time.Hour)
	wantReason(t, "name", err, ReasonInvalid)

	inv, secret, err := r.CreateInvite("", 1, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := r.PairingSecret(inv.ID); !ok || got != secret {
		t.Error("the secret is not there")
	}
	if err := r.CancelInvite(inv.ID); err != nil {
		t.Fatal(err)
	}
	if err := r.CancelInvite(inv.ID); err != nil {
		t.Errorf("twice: %v", err)
	}
	p := newPerson(t)
	_, err = r.Enroll(p.enrollment(inv.ID, p.device(t, 0)))
	wantReason(t, "cancelled", err, ReasonUnknownInvite)
	wantReason(t, "unknown", r.CancelInvite(noiseconn.InviteID{9}), ReasonNotFound)
	wantReason(t, "the claim", r.CancelInvite(claimID), ReasonNotFound)

	for range MaxOpenInvites {
		if _, _, err := r.CreateInvite("", 1, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err = r.CreateInvite("", 1, time.Hour)
	wantReason(t, "one too many", err, ReasonFull)
	for range 6 {
		c.elapsed += time.Hour
		for range MaxOpenInvites {
			if _, _, err := r.CreateInvite("", 1, time.Hour); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := len(r.Invites()); n > MaxInvites {
		t.Errorf("%d invites are kept", n)
	}
	if !r.Claimed() {
		t.Error("the claim went with the old invites")
	}
}

func TestEnrollRefuses(t *testing.T) {
	d, c := &disk{}, &clock{}
	r, admin, adminCert := claimed(t, d, c)
	member, memberCert, _ := join(t, r, 5)
	inv, _, err := r.CreateInvite("", 1, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	commits := d.commits
	for _, tc := range []struct {
		name string
		make func() Enrollment
		want Reason
	}{
		{"unknown invite", func() Enrollment {
			p := newPerson(t)
			return p.enrollment(noiseconn.InviteID{7}, p.device(t, 0))
		}, ReasonUnknownInvite},
		{"no card", func() Enrollment {
			p := newPerson(t)
			e := p.enrollment(inv.ID, p.device(t, 0))
			e.Card = nil
			return e
		}, ReasonInvalid},
		{"certificate of another account", func() Enrollment {
			return newPerson(t).enrollment(inv.ID, newPerson(t).device(t, 0))
		}, ReasonInvalid},
		{"certificate of another key", func() Enrollment {
			p := newPerson(t)
			e := p.enrollment(inv.ID, p.device(t, 0))
			e.Remote[0] ^= 1
			return e
		}, ReasonInvalid},
		{"forged card", func() Enrollment {
			p := newPerson(t)
			e := p.enrollment(inv.ID, p.device(t, 0))
			p.card.Sig[3] ^= 1
			return e
		}, ReasonInvalid},
		{"forged certificate", func() Enrollment {
			p := newPerson(t)
			cert := p.device(t, 0)
			cert.Sig[3] ^= 1
			return p.enrollment(inv.ID, cert)
		}, ReasonInvalid},
		{"no recovery secret", func() Enrollment {
			p := newPerson(t)
			e := p.enrollment(inv.ID, p.device(t, 0))
			e.RecoveryPSK = noiseconn.PSK{}
			return e
		}, ReasonInvalid},
		{"bad name", func() Enrollment {
			p := newPerson(t)
			e := p.enrollment(inv.ID, p.device(t, 0))
			e.DeviceName = "\x1b]0;x"
			return e
		}, ReasonInvalid},
		{"member with another recovery secret", func() Enrollment {
			e := member.enrollment(inv.ID, member.device(t, 0))
			e.RecoveryPSK[0] ^= 1
			return e
		}, ReasonInvalid},
		{"recovery key of another account", func() Enrollment {
			p := newPerson(t)
			p.card.Recovery = admin.card.Recovery
			if err := account.SignCard(p.card, p.key); err != nil {
				t.Fatal(err)
			}
			return p.enrollment(inv.ID, p.device(t, 0))
		}, ReasonTaken},
		{"recovery key that is a device's", func() Enrollment {
			p := newPerson(t)
			p.card.Recovery = adminCert.Noise
			if err := account.SignCard(p.card, p.key); err != nil {
				t.Fatal(err)
			}
			return p.enrollment(inv.ID, p.device(t, 0))
		}, ReasonTaken},
		{"device of another account", func() Enrollment {
			p := newPerson(t)
			cert := p.device(t, 0)
			cert.Device = memberCert.Device
			if err := account.SignCertificate(cert, p.key); err != nil {
				t.Fatal(err)
			}
			return p.enrollment(inv.ID, cert)
		}, ReasonTaken},
	} {
		_, err := r.Enroll(tc.make())
		wantReason(t, tc.name, err, tc.want)
	}
	if d.commits != commits {
		t.Error("a refusal has changed something")
	}
	p := newPerson(t)
	if _, err := r.Enroll(p.enrollment(inv.ID, p.device(t, 0))); err != nil {
		t.Errorf("the invite is spoilt: %v", err)
	}
}

// A member who uses an invite for one more device keeps quota and role.
func TestMemberWithSecondInvite(t *testing.T) {
	d, c := &disk{}, &clock{}
	r, admin, _ := claimed(t, d, c)
	inv, _, err := r.CreateInvite("small", 10, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.Enroll(admin.enrollment(inv.ID, admin.device(t, 0)))
	if err != nil || got.Role != RoleClaim || got.Quota != Unlimited {
		t.Errorf("%+v %v", got, err)
	}
	if m := r.Members()[0]; len(m.Devices) != 2 || m.Name != "" {
		t.Errorf("%+v", m)
	}
}

func TestRemovedMember(t *testing.T) {
	d, c := &disk{}, &clock{}
	r, admin, _ := claimed(t, d, c)
	p, cert, got := join(t, r, 5)
	wantReason(t, "last administrator", r.RemoveMember(admin.card.ID), ReasonLast)
	if err := r.RemoveMember(p.card.ID); err != nil {
		t.Fatal(err)
	}
	for range 2 { // now, and after a restart
		for _, key := range []account.NoiseKey{cert.Noise, p.card.Recovery} {
			if _, _, ok := r.Link(key); ok {
				t.Error("a removed member was let in")
			}
		}
		if r.Allowed(got.Peer) || r.Administers(got.Peer) {
			t.Error("a removed member's link goes on")
		}
		if _, ok := r.Quota(p.card.ID); ok {
			t.Error("a removed member has a quota")
		}
		_, err := r.Enroll(p.enrollment(r.Invites()[0].ID, cert))
		wantReason(t, "the old invite", err, ReasonUsed)
		wantReason(t, "new log", r.AdmitLog(cert, LogCount{}), ReasonNotMember)
		wantReason(t, "remove twice", r.RemoveMember(p.card.ID), ReasonNotFound)
		wantReason(t, "quota", r.SetQuota(p.card.ID, 1), ReasonNotFound)
		_, err = r.RegisterDevice(Peer{Kind: KindRecovery, Account: p.card.ID, Noise: p.card.Recovery}, p.card, p.device(t, 0), "")
		wantReason(t, "register", err, ReasonNotMember)
		r = openRoster(t, d, c)
	}
	inv, _, err := r.CreateInvite("back", 7, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Enroll(p.enrollment(inv.ID, cert)); err != nil {
		t.Fatal(err)
	}
	if q, ok := r.Quota(p.card.ID); q != 7 || !ok {
		t.Errorf("after joining again: %d %v", q, ok)
	}
}

// An administrator who was removed is none when invited again as a member.
func TestRemovedAdministrator(t *testing.T) {
	d, c := &disk{}, &clock{}
	r, admin, cert := claimed(t, d, c)
	if _, err := r.AddKey(noiseKey(t), ""); err != nil {
		t.Fatal(err)
	}
	if err := r.RemoveMember(admin.card.ID); err != nil {
		t.Fatal(err)
	}
	inv, _, err := r.CreateInvite("", 3, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.Enroll(admin.enrollment(inv.ID, cert))
	if err != nil || got.Role != RoleMember || got.Quota != 3 || r.Administers(got.Peer) {
		t.Errorf("%+v %v", got, err)
	}
}

func TestRecovery(t *testing.T) {
	d, c := &disk{}, &clock{}
	r, _, adminCert := claimed(t, d, c)
	p, _, got := join(t, r, 5)
	_, recovery, _ := r.Link(p.card.Recovery)
	cert := p.device(t, 0)
	first, err := r.RegisterDevice(recovery, p.card, cert, "new")
	if err != nil || !first.New || first.Quota != 5 {
		t.Fatal(first, err)
	}
	again, err := r.RegisterDevice(recovery, p.card, cert, "new")
	if err != nil || again.New || !again.LinkPSK.Equal(first.LinkPSK) {
		t.Errorf("again: %+v %v", again, err)
	}
	if _, peer, ok := r.Link(cert.Noise); !ok || peer != first.Peer {
		t.Error("the new device is not let in")
	}
	_, err = r.RegisterDevice(got.Peer, p.card, p.device(t, 0), "")
	wantReason(t, "by a device", err, ReasonForbidden)
	other := newPerson(t)
	_, err = r.RegisterDevice(recovery, other.card, other.device(t, 0), "")
	wantReason(t, "another account's card", err, ReasonInvalid)
	_, err = r.RegisterDevice(recovery, p.card, other.device(t, 0), "")
	wantReason(t, "another account's device", err, ReasonInvalid)
	stolen := p.device(t, 0)
	stolen.Noise = adminCert.Noise
	if err := account.SignCertificate(stolen, p.key); err != nil {
		t.Fatal(err)
	}
	_, err = r.RegisterDevice(recovery, p.card, stolen, "")
	wantReason(t, "a key of another device", err, ReasonTaken)
	for i := range MaxDevices - 2 {
		if _, err := r.RegisterDevice(recovery, p.card, p.device(t, 0), ""); err != nil {
			t.Fatal(i, err)
		}
	}
	_, err = r.RegisterDevice(recovery, p.card, p.device(t, 0), "")
	wantReason(t, "one too many", err, ReasonFull)
}

func TestRevocation(t *testing.T) {
	d, c := &disk{}, &clock{}
	r, _, _ := claimed(t, d, c)
	p, cert, got := join(t, r, 5)
	pos := merklelog.Position{Log: merklelog.LogID{1}, Size: 10, Root: merklelog.Hash{2}}
	rev := p.revoke(t, 1, cert.Device, pos)

	// Another member's word about the device counts for nothing.
	q, _, _ := join(t, r, 5)
	if err := r.Revoke(q.revoke(t, 1, cert.Device)); err != nil {
		t.Fatal(err)
	}
	if !r.Allowed(got.Peer) {
		t.Error("a stranger has revoked the device")
	}
	forged := *rev
	forged.Sig[0] ^= 1
	wantReason(t, "forged", r.Revoke(&forged), ReasonInvalid)
	wantReason(t, "no member", r.Revoke(newPerson(t).revoke(t, 1, cert.Device)), ReasonNotMember)
	if err := r.Revoke(rev); err != nil {
		t.Fatal(err)
	}
	if err := r.Revoke(rev); err != nil {
		t.Errorf("twice: %v", err)
	}
	wantReason(t, "another of the same number", r.Revoke(p.revoke(t, 1, p.device(t, 0).Device)), ReasonInvalid)
	// A later revocation of the same device does not let it stand for more.
	longer := pos
	longer.Size = 99
	if err := r.Revoke(p.revoke(t, 2, cert.Device, longer)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, _, ok := r.Link(cert.Noise); ok || r.Allowed(got.Peer) {
			t.Error("a revoked device was let in")
		}
		size, root, revoked, err := r.Stands(p.card.ID, cert.Device, pos.Log)
		if err != nil || !revoked || size != 10 || root != pos.Root {
			t.Errorf("stands up to %d %v %v %v", size, root, revoked, err)
		}
		if size, _, revoked, err := r.Stands(p.card.ID, cert.Device, merklelog.LogID{9}); size != 0 || !revoked || err != nil {
			t.Errorf("another log stands up to %d %v %v", size, revoked, err)
		}
		if _, _, revoked, _ := r.Stands(q.card.ID, cert.Device, pos.Log); !revoked {
			t.Error("q's word does not bind q")
		}
		wantReason(t, "new log", r.AdmitLog(cert, LogCount{}), ReasonRevoked)
		_, recovery, _ := r.Link(p.card.Recovery)
		_, err = r.RegisterDevice(recovery, p.card, cert, "")
		wantReason(t, "register again", err, ReasonRevoked)
		r = openRoster(t, d, c)
	}
}

func TestNewLogLimits(t *testing.T) {
	d, c := &disk{}, &clock{}
	r, _, _ := claimed(t, d, c)
	p, cert, _ := join(t, r, 5)
	for i := range MaxNewLogs {
		if err := r.AdmitLog(cert, LogCount{Account: i, Device: i, Space: i}); err != nil {
			t.Fatal(i, err)
		}
	}
	wantReason(t, "eleventh", r.AdmitLog(cert, LogCount{10, 10, 10}), ReasonFull)
	r = openRoster(t, d, c)
	c.wall = c.wall.Add(48 * time.Hour)
	wantReason(t, "after a restart, by a clock that jumped", r.AdmitLog(cert, LogCount{10, 10, 10}), ReasonFull)
	c.elapsed += 24 * time.Hour
	if err := r.AdmitLog(cert, LogCount{10, 10, 10}); err != nil {
		t.Errorf("next day: %v", err)
	}
	wantReason(t, "space", r.AdmitLog(cert, LogCount{64, 64, MaxSpaceLogs}), ReasonFull)
	wantReason(t, "account", r.AdmitLog(cert, LogCount{MaxAccountLogs, 1, 0}), ReasonFull)

	// A new device of a full account, certified by one who knows of every
	// revocation, gets its log; a thief's from before does not.
	if err := r.Revoke(p.revoke(t, 1, cert.Device)); err != nil {
		t.Fatal(err)
	}
	full := LogCount{Account: MaxAccountLogs}
	wantReason(t, "old certificate", r.AdmitLog(p.device(t, 0), full), ReasonFull)
	if err := r.AdmitLog(p.device(t, 1), full); err != nil {
		t.Errorf("new certificate: %v", err)
	}
	wantReason(t, "without end", r.AdmitLog(p.device(t, 1), LogCount{Account: MaxFirstLogs}), ReasonFull)
}

// An account can certify any number of devices; what the box remembers of
// them stays bounded, and goes the next day.
func TestNewLogCountersAreBounded(t *testing.T) {
	d, c := &disk{}, &clock{}
	r, _, _ := claimed(t, d, c)
	p, _, _ := join(t, r, 5)
	cert := *p.device(t, 0)
	for range MaxNewDevices {
		rand.Read(cert.Device[:])
		if err := r.AdmitLog(&cert, LogCount{}); err != nil {
			t.Fatal(err)
		}
	}
	rand.Read(cert.Device[:])
	wantReason(t, "one too many", r.AdmitLog(&cert, LogCount{}), ReasonFull)
	c.elapsed += 24 * time.Hour
	if err := r.AdmitLog(&cert, LogCount{}); err != nil {
		t.Fatal(err)
	}
	if n := len(openRoster(t, d, c).counters); n != 1 {
		t.Errorf("%d counters are kept", n)
	}
}

func TestSeenIsStoredNowAndThen(t *testing.T) {
	d, c := &disk{}, &clock{elapsed: time.Minute}
	r, _, _ := claimed(t, d, c)
	_, _, got := join(t, r, 5)
	commits := d.commits
	for range 100 {
		c.elapsed += time.Minute
		if err := r.Seen(got.Peer); err != nil {
			t.Fatal(err)
		}
	}
	if n := d.commits - commits; n < 9 || n > 11 {
		t.Errorf("%d commits in 100 minutes", n)
	}
	list := r.Members()
	i := slices.IndexFunc(list, func(m Member) bool { return m.Account == got.Peer.Account })
	if at := list[i].Devices[0].Seen.Elapsed; at != c.elapsed.Milliseconds() {
		t.Errorf("last seen at %d", at)
	}
}

func TestConcurrentUse(t *testing.T) {
	d, c := &disk{}, &clock{}
	r, _, _ := claimed(t, d, c)
	inv, _, err := r.CreateInvite("", 5, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for range 4 {
		p := newPerson(t)
		cert := p.device(t, 0)
		wg.Go(func() {
			_, err := r.Enroll(p.enrollment(inv.ID, cert))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if reason(err) != ReasonUsed {
				t.Error(err)
			}
		})
		wg.Go(func() {
			for range 50 {
				r.Members()
				r.Link(cert.Noise)
				r.Quota(p.card.ID)
			}
		})
	}
	wg.Wait()
	if won != 1 {
		t.Errorf("%d devices have used one invite", won)
	}
}
