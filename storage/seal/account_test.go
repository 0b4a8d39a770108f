package seal_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"crypto/sha512"
	"reflect"
	"testing"
	"time"

	"golang.org/x/crypto/curve25519"

	"cobox/storage/account"
	"cobox/storage/merklelog"
	"cobox/storage/seal"
)

// mustDevice makes a device whose three keys are the same bytes, through its
// encoding.
func mustDevice(t testing.TB, key [32]byte) *seal.Device {
	t.Helper()
	b := append([]byte{1}, bytes.Repeat(key[:], 3)...)
	sum := sha256.Sum256(append([]byte("cobox/v1/device\x00"), b...))
	d, err := seal.ParseDevice(append(b, sum[:]...))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestAccountFormula derives an account by the specification's formulas.
func TestAccountFormula(t *testing.T) {
	e := seal.Entropy(bytes.Repeat([]byte{0x7f}, 16))
	a := must(seal.DeriveAccount(e))
	prk := must(hkdf.Extract(sha512.New, e[:], []byte("cobox/v1/root")))
	derive := func(label string) []byte { return must(hkdf.Expand(sha512.New, prk, label, 32)) }

	id := account.ID(ed25519.NewKeyFromSeed(derive("cobox/v1/acct-sign")).Public().(ed25519.PublicKey))
	kem := must(hpke.MLKEM768X25519().NewPrivateKey(derive("cobox/v1/acct-kem")))
	noise := derive("cobox/v1/acct-noise")
	card := a.Card()
	if a.ID() != id || card.ID != id {
		t.Error("account key")
	}
	if !bytes.Equal(card.KEM[:], kem.PublicKey().Bytes()) || card.KEM != a.KEM().Public() {
		t.Error("KEM key")
	}
	if k := a.RecoveryKey(); !bytes.Equal(k[:], noise) ||
		!bytes.Equal(card.Recovery[:], must(curve25519.X25519(noise, curve25519.Basepoint))) {
		t.Error("recovery key")
	}
	root := derive("cobox/v1/rec-root")
	if r := a.RecoveryRoot(); !bytes.Equal(r[:], root) {
		t.Error("recovery root")
	}
	box := bytes32("box")
	psk := a.RecoveryRoot().PSK(box)
	if !bytes.Equal(psk[:], must(hkdf.Expand(sha512.New, root, "cobox/v1/rec-psk\x00"+string(box[:]), 32))) {
		t.Error("recovery PSK")
	}
	if err := card.Verify(); err != nil {
		t.Error(err)
	}
	if again := must(seal.DeriveAccount(e)); *again.Card() != *card {
		t.Error("another card at the second derivation")
	}
}

func TestCertifyAndRevoke(t *testing.T) {
	a := must(seal.DeriveAccount(seal.NewEntropy()))
	d := seal.NewDevice()
	c, err := a.Certify(d.Public(), 3, time.Unix(1_700_000_000, 5))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Verify(); err != nil {
		t.Error(err)
	}
	if c.Account != a.ID() || c.Device != d.Key() || c.Noise != d.Noise().Public() || c.KEM != d.KEM().Public() ||
		c.Revocations != 3 || c.Issued != 1_700_000_000 {
		t.Error("certificate says something else")
	}

	// The device's signer fits the log, and the log's manifest proves it.
	m := &merklelog.Manifest{Writer: merklelog.WriterKey(d.Key()), Certificate: account.AppendCertificate(nil, c)}
	if err := merklelog.SignManifest(m, d.Signer()); err != nil {
		t.Fatal(err)
	}
	if got, err := account.VerifyManifest(m); err != nil || *got != *c {
		t.Error(err)
	}

	logs := []merklelog.Position{{Log: merklelog.LogID{2}, Size: 1}, {Log: merklelog.LogID{1}, Size: 2}}
	r, err := a.Revoke(4, d.Key(), logs)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Verify(); err != nil || r.Number != 4 || r.Device != d.Key() || len(r.Logs) != 2 {
		t.Error(err)
	}
	if logs[0].Log != (merklelog.LogID{2}) {
		t.Error("the caller's positions were sorted")
	}
	if _, err := a.Revoke(0, d.Key(), nil); err == nil {
		t.Error("revocation 0 was signed")
	}
}

func TestDevice(t *testing.T) {
	d := seal.NewDevice()
	b := seal.AppendDevice([]byte("x"), d)[1:]
	if len(b) != seal.DeviceSize || seal.DeviceSize != 129 {
		t.Fatal(len(b))
	}
	got, err := seal.ParseDevice(b)
	if err != nil || got.Public() != d.Public() || got.KEM() != d.KEM() || got.Noise() != d.Noise() {
		t.Fatal("another device:", err)
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if _, err := seal.ParseDevice(bad); err == nil {
			t.Errorf("byte %d changed: accepted", i)
		}
	}
	for _, n := range []int{0, 1, 97, 128} {
		if _, err := seal.ParseDevice(b[:n]); err == nil {
			t.Errorf("%d bytes accepted", n)
		}
	}
}

// TestInvariant5 (one writer key, one device): a device's keys are new each
// time and nothing of an account's is among them, so two machines restored
// from one phrase never write one log.
func TestInvariant5(t *testing.T) {
	d, other := seal.NewDevice(), seal.NewDevice()
	if other.Key() == d.Key() || other.Noise() == d.Noise() || other.KEM() == d.KEM() {
		t.Error("two devices share a key")
	}
	a := must(seal.DeriveAccount(seal.NewEntropy()))
	if account.ID(d.Key()) == a.ID() || d.Noise() == a.RecoveryKey() || d.KEM() == a.KEM() {
		t.Error("a device has a key of the account")
	}
	if seal.RecoveryRoot(d.Noise()) == a.RecoveryRoot() || d.KEM() == seal.KEMPrivate(d.Noise()) {
		t.Error("one key in two roles")
	}
}

// TestInvariant19 (decode(encode(x)) = x) over many shapes of envelope; the
// fuzz targets hold the other direction.
func TestInvariant19(t *testing.T) {
	for _, keys := range []int{1, 2, 17, seal.MaxEpochs} {
		for accounts := 1; accounts <= seal.MaxRecipients; accounts += 13 {
			for devices := 0; accounts+devices <= seal.MaxRecipients; devices += 9 {
				e := newEnvelope(keys, accounts, devices)
				e.Index, e.Roster.Number = uint64(keys*accounts), uint32(devices)<<20
				got, err := seal.ParseEnvelope(must(seal.AppendEnvelope(nil, e)))
				if err != nil || !reflect.DeepEqual(got, e) {
					t.Fatalf("%d keys, %d accounts, %d devices: %v", keys, accounts, devices, err)
				}
			}
		}
	}
}

func TestNewSpace(t *testing.T) {
	a, b := must(seal.NewSpace("default")), must(seal.NewSpace("default"))
	if a.Name != "default" || a.Tag == b.Tag || a.ChunkID == b.ChunkID || a.Chunker == b.Chunker {
		t.Error("two spaces share a key")
	}
	if a.ChunkID == seal.ChunkIDKey(a.Chunker) {
		t.Error("one key for two roles")
	}
	for _, bad := range []string{"", "a\tb", string(make([]byte, 300))} {
		if _, err := seal.NewSpace(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}
