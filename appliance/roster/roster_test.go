package roster

import (
	"slices"
	"sync"
	"testing"
	"time"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

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

func TestRemovedMember(t *testing.T) {
	d, c := &disk{}, &clock{}
	r, admin, _ := claimed(t, d, c)
	p, cert, got := join(t, r, 5)
	_, err := r.RemoveMember(admin.card.ID)
	wantReason(t, "last administrator", err, ReasonLast)
	if _, err := r.RemoveMember(p.card.ID); err != nil {
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
		_, err = r.RemoveMember(p.card.ID)
		wantReason(t, "remove twice", err, ReasonNotFound)
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
	old, _, err := r.CreateInvite("", 3, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if cancelled, err := r.RemoveMember(admin.card.ID); err != nil || len(cancelled) != 1 || cancelled[0] != old.ID {
		t.Fatalf("invites that ended with the administrator: %x (%v)", cancelled, err)
	}
	r = openRoster(t, d, c) // all of it is one change
	if i := r.Invites(); len(i) != 1 || i[0].State != InviteCancelled {
		t.Errorf("invites %+v", i)
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
