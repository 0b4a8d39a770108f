package roster

import (
	"errors"
	"testing"
	"time"

	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
	"cobox/storage/account"
)

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
