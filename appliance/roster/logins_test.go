package roster

import (
	"bytes"
	"testing"
	"time"

	"cobox/storage/account"
)

// Logins are those whom Link lets in, and nobody else, after every change.
func TestLogins(t *testing.T) {
	d, c := &disk{}, &clock{elapsed: time.Hour, wall: time.Unix(1e9, 0)}
	r, admin, cert := claimed(t, d, c)
	p, pc, _ := join(t, r, 1000)
	key := noiseKey(t)
	if _, err := r.AddKey(key, "phone"); err != nil {
		t.Fatal(err)
	}
	check := func(what string, want map[account.NoiseKey]Kind) {
		t.Helper()
		list := r.Logins()
		if len(list) != len(want) {
			t.Errorf("%s: %d logins, want %d", what, len(list), len(want))
		}
		for i, l := range list {
			psk, peer, ok := r.Link(l.Noise)
			if !ok || peer != l.Peer || !psk.Equal(l.PSK) || want[l.Noise] != l.Kind || l.Administrator != r.Administers(peer) {
				t.Errorf("%s: %+v is not what Link says: %+v %v", what, l.Peer, peer, ok)
			}
			if i > 0 && bytes.Compare(list[i-1].Noise[:], l.Noise[:]) >= 0 {
				t.Errorf("%s: login %d is not in order", what, i)
			}
		}
	}
	all := map[account.NoiseKey]Kind{
		cert.Noise: KindDevice, admin.card.Recovery: KindRecovery,
		pc.Noise: KindDevice, p.card.Recovery: KindRecovery, key: KindKey,
	}
	check("all", all)
	if err := r.Revoke(admin.revoke(t, 1, cert.Device)); err != nil {
		t.Fatal(err)
	}
	delete(all, cert.Noise)
	check("a device revoked", all)
	if _, err := r.RemoveMember(p.card.ID); err != nil {
		t.Fatal(err)
	}
	delete(all, pc.Noise)
	delete(all, p.card.Recovery)
	check("a member removed", all)
}

// Changed is called when a change can be seen, and only then.
func TestChanged(t *testing.T) {
	d, c := &disk{}, &clock{elapsed: time.Hour, wall: time.Unix(1e9, 0)}
	o := c.options()
	var names []string
	var r *Roster
	o.Changed = func() { names = append(names, r.Name()) }
	r, err := Open(d, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "one", "two"} {
		if err := r.SetName(name); err != nil {
			t.Fatal(err)
		}
	}
	if len(names) != 2 || names[0] != "one" || names[1] != "two" {
		t.Errorf("told of %q", names)
	}
	d.fail = d.commits + 1
	if err := r.SetName("three"); err == nil || len(names) != 2 {
		t.Errorf("a change that was not stored: %v, told of %q", err, names)
	}
}
