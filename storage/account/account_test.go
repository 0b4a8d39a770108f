package account_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/mlkem"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

var update = flag.Bool("update", false, "write the vectors in testdata anew")

// seed makes 64 fixed bytes for a name: the tests are the same every time.
func seed(name string) [64]byte { return sha512.Sum512([]byte(name)) }

func signer(name string) (ed25519.PrivateKey, [32]byte) {
	s := seed(name)
	key := ed25519.NewKeyFromSeed(s[:32])
	return key, [32]byte(key.Public().(ed25519.PublicKey))
}

func x25519(t testing.TB, name string) []byte {
	t.Helper()
	s := seed(name)
	key, err := ecdh.X25519().NewPrivateKey(s[:32])
	if err != nil {
		t.Fatal(err)
	}
	return key.PublicKey().Bytes()
}

func kemKey(t testing.TB, name string) account.KEMKey {
	t.Helper()
	s := seed(name)
	pq, err := mlkem.NewDecapsulationKey768(s[:])
	if err != nil {
		t.Fatal(err)
	}
	return account.KEMKey(append(pq.EncapsulationKey().Bytes(), x25519(t, name+" x")...))
}

func newCard(t testing.TB, name string) (*account.Card, ed25519.PrivateKey) {
	t.Helper()
	key, id := signer(name)
	c := &account.Card{ID: id, KEM: kemKey(t, name+" kem"), Recovery: account.NoiseKey(x25519(t, name+" recovery"))}
	if err := account.SignCard(c, key); err != nil {
		t.Fatal(err)
	}
	return c, key
}

func newCertificate(t testing.TB, name, device string) (c *account.Certificate, acct, dev ed25519.PrivateKey) {
	t.Helper()
	acct, id := signer(name)
	dev, dk := signer(device)
	c = &account.Certificate{
		Account: id, Device: dk,
		Noise: account.NoiseKey(x25519(t, device+" noise")), KEM: kemKey(t, device+" kem"),
		Revocations: 3, Issued: 1_700_000_000,
	}
	if err := account.SignCertificate(c, acct); err != nil {
		t.Fatal(err)
	}
	return c, acct, dev
}

func newRevocation(t testing.TB, name, device string, logs int) (*account.Revocation, ed25519.PrivateKey) {
	t.Helper()
	key, id := signer(name)
	_, dk := signer(device)
	r := &account.Revocation{Account: id, Number: 4, Device: dk}
	for i := range logs {
		s := seed(fmt.Sprint(name, " log ", i))
		r.Logs = append(r.Logs, merklelog.Position{Log: [32]byte(s[:]), Size: uint64(i) + 1, Root: [32]byte(s[32:])})
	}
	if err := account.SignRevocation(r, key); err != nil {
		t.Fatal(err)
	}
	return r, key
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestVectors freezes the bytes of every record: a difference is a change of
// format, not of taste.
func TestVectors(t *testing.T) {
	card, _ := newCard(t, "account")
	cert, _, _ := newCertificate(t, "account", "device")
	rev, _ := newRevocation(t, "account", "device", 3)
	bare, _ := newRevocation(t, "account", "device", 0)
	hash := card.Hash()
	got := map[string]string{
		"card":             hex.EncodeToString(account.AppendCard(nil, card)),
		"card hash":        hex.EncodeToString(hash[:]),
		"certificate":      hex.EncodeToString(account.AppendCertificate(nil, cert)),
		"revocation":       hex.EncodeToString(account.AppendRevocation(nil, rev)),
		"revocation empty": hex.EncodeToString(account.AppendRevocation(nil, bare)),
		"id":               card.ID.String(),
		"fingerprint":      card.ID.Fingerprint(),
		"device key":       cert.Device.String(),
		"noise key":        cert.Noise.String(),
		"kem key":          cert.KEM.String(),
	}
	file := filepath.Join("testdata", "vectors.json")
	if *update {
		if err := os.WriteFile(file, append(must(json.MarshalIndent(got, "", "  ")), '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var want map[string]string
	if err := json.Unmarshal(must(os.ReadFile(file)), &want); err != nil {
		t.Fatal(err)
	}
	if len(want) != len(got) {
		t.Errorf("file has %d vectors, test makes %d", len(want), len(got))
	}
	for name := range got {
		if got[name] != want[name] {
			t.Errorf("%s changed:\n got %s\nwant %s", name, got[name], want[name])
		}
	}

	// The frozen bytes are also read and verified, not only reproduced.
	read := func(name string) []byte { return must(hex.DecodeString(want[name])) }
	if c := must(account.ParseCard(read("card"))); c.Verify() != nil || *c != *card {
		t.Error("frozen card is not read back")
	}
	if c := must(account.ParseCertificate(read("certificate"))); c.Verify() != nil || *c != *cert {
		t.Error("frozen certificate is not read back")
	}
	if r := must(account.ParseRevocation(read("revocation"))); r.Verify() != nil || len(r.Logs) != 3 || r.Number != 4 {
		t.Error("frozen revocation is not read back")
	}
}

func TestSizes(t *testing.T) {
	if account.CardSize != 1345 || account.CertificateSize != 1389 || account.MaxRevocationSize != 295_047 {
		t.Error("a size in the specification is wrong:", account.CardSize, account.CertificateSize, account.MaxRevocationSize)
	}
	if account.CertificateSize > merklelog.MaxCertificate {
		t.Error("a certificate does not fit a manifest")
	}
}

// TestTampering flips one bit in every byte of each record: it must be refused
// by the parser or by Verify.
func TestTampering(t *testing.T) {
	card, _ := newCard(t, "account")
	cert, _, _ := newCertificate(t, "account", "device")
	rev, _ := newRevocation(t, "account", "device", 3)
	for _, c := range []struct {
		name  string
		good  []byte
		check func([]byte) error
	}{
		{"card", account.AppendCard(nil, card), checkCard},
		{"certificate", account.AppendCertificate(nil, cert), checkCertificate},
		{"revocation", account.AppendRevocation(nil, rev), checkRevocation},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.check(c.good); err != nil {
				t.Fatal(err)
			}
			step := 1
			if testing.Short() {
				step = 41
			}
			for i := 0; i < len(c.good); i += step {
				bad := bytes.Clone(c.good)
				bad[i] ^= 1 << (i % 8)
				if c.check(bad) == nil {
					t.Errorf("bit flipped in byte %d was accepted", i)
				}
			}
			for _, n := range []int{0, 1, len(c.good) - 72, len(c.good) - 1} {
				if c.check(c.good[:n]) == nil {
					t.Errorf("first %d bytes were accepted", n)
				}
			}
			if c.check(append(bytes.Clone(c.good), 0)) == nil {
				t.Error("a byte too many was accepted")
			}
		})
	}
}

func checkCard(b []byte) error {
	c, err := account.ParseCard(b)
	if err != nil {
		return err
	}
	return c.Verify()
}

func checkCertificate(b []byte) error {
	c, err := account.ParseCertificate(b)
	if err != nil {
		return err
	}
	return c.Verify()
}

func checkRevocation(b []byte) error {
	r, err := account.ParseRevocation(b)
	if err != nil {
		return err
	}
	return r.Verify()
}

// TestContexts: a signature made for one kind of record is worth nothing on
// another whose bytes it would fit.
func TestContexts(t *testing.T) {
	key, id := signer("account")
	card, _ := newCard(t, "account")
	body := account.AppendCard(nil, card)[:account.CardSize-64]
	copy(card.Sig[:], ed25519.Sign(key, append([]byte("cobox/v1/certificate\x00"), body...)))
	if err := card.Verify(); !errors.Is(err, account.ErrSignature) {
		t.Errorf("card signed as a certificate: %v", err)
	}
	other, _ := signer("somebody else")
	if err := account.SignCard(&account.Card{ID: id}, other); err == nil {
		t.Error("a card was signed with another account's key")
	}
	if err := account.SignCertificate(&account.Certificate{Account: id}, other); err == nil {
		t.Error("a certificate was signed with another account's key")
	}
	if err := account.SignRevocation(&account.Revocation{Account: id, Number: 1}, other); err == nil {
		t.Error("a revocation was signed with another account's key")
	}
}

// TestUnusableKeys: keys that nobody could seal for are refused although the
// account signed them, so that one member cannot stop another's envelopes.
func TestUnusableKeys(t *testing.T) {
	low := make([]byte, 32) // the X25519 point 0
	for name, change := range map[string]func(*account.Card){
		"recovery of low order":   func(c *account.Card) { copy(c.Recovery[:], low) },
		"KEM X25519 of low order": func(c *account.Card) { copy(c.KEM[1184:], low) },
		"ML-KEM out of range":     func(c *account.Card) { c.KEM[0], c.KEM[1] = 0xff, 0xff },
	} {
		c, key := newCard(t, "account")
		change(c)
		if err := account.SignCard(c, key); err != nil {
			t.Fatal(err)
		}
		if err := c.Verify(); err == nil || errors.Is(err, account.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c, key, _ := newCertificate(t, "account", "device")
	copy(c.Noise[:], low)
	if err := account.SignCertificate(c, key); err != nil {
		t.Fatal(err)
	}
	if c.Verify() == nil {
		t.Error("noise key of low order was accepted")
	}
}

func TestRevocation(t *testing.T) {
	key, id := signer("account")
	pos := func(b byte, size uint64) merklelog.Position {
		return merklelog.Position{Log: merklelog.LogID{b}, Size: size, Root: merklelog.Hash{b, b}}
	}
	many := make([]merklelog.Position, account.MaxRevocationLogs+1)
	for i := range many {
		many[i] = merklelog.Position{Log: merklelog.LogID{byte(i >> 8), byte(i)}, Size: 1}
	}
	for _, c := range []struct {
		name   string
		number uint32
		logs   []merklelog.Position
		ok     bool
	}{
		{"none", 1, nil, true},
		{"unsorted is sorted", 1, []merklelog.Position{pos(2, 7), pos(1, 9)}, true},
		{"as many as there can be", 1, many[:account.MaxRevocationLogs], true},
		{"number 0", 0, nil, false},
		{"one log twice", 1, []merklelog.Position{pos(1, 7), pos(1, 9)}, false},
		{"size 0", 1, []merklelog.Position{pos(1, 0)}, false},
		{"size over the limit", 1, []merklelog.Position{pos(1, merklelog.MaxSize+1)}, false},
		{"one too many", 1, many, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &account.Revocation{Account: id, Number: c.number, Logs: c.logs}
			if err := account.SignRevocation(r, key); (err == nil) != c.ok {
				t.Fatal("sign:", err)
			}
			if !c.ok {
				return
			}
			b := account.AppendRevocation(nil, r)
			if err := checkRevocation(b); err != nil {
				t.Error(err)
			}
			got := must(account.ParseRevocation(b))
			for _, p := range c.logs {
				if size, root := got.Stands(p.Log); size != p.Size || root != p.Root {
					t.Errorf("stands at %d %v, want %d %v", size, root, p.Size, p.Root)
				}
			}
			if size, root := got.Stands(merklelog.LogID{0xee, 0xee, 1}); size != 0 || root != merklelog.EmptyRoot() {
				t.Error("a log that is not named stands at", size)
			}
		})
	}
}

func TestVerifyManifest(t *testing.T) {
	cert, acct, dev := newCertificate(t, "account", "device")
	manifest := func(change func(*merklelog.Manifest)) *merklelog.Manifest {
		m := &merklelog.Manifest{
			Writer: merklelog.WriterKey(cert.Device), Certificate: account.AppendCertificate(nil, cert),
		}
		change(m)
		if m.Sig == [64]byte{} {
			if err := merklelog.SignManifest(m, dev); err != nil {
				t.Fatal(err)
			}
		}
		return m
	}
	got, err := account.VerifyManifest(manifest(func(*merklelog.Manifest) {}))
	if err != nil || *got != *cert {
		t.Fatal(got, err)
	}
	other, _, _ := newCertificate(t, "account", "another device")
	forged := *cert
	forged.Revocations++
	for name, m := range map[string]*merklelog.Manifest{
		"no certificate":               manifest(func(m *merklelog.Manifest) { m.Certificate = nil }),
		"another device's certificate": manifest(func(m *merklelog.Manifest) { m.Certificate = account.AppendCertificate(nil, other) }),
		"certificate not signed":       manifest(func(m *merklelog.Manifest) { m.Certificate = account.AppendCertificate(nil, &forged) }),
		"manifest not signed":          manifest(func(m *merklelog.Manifest) { m.Sig[0] = 1 }),
		"manifest signed by the account": manifest(func(m *merklelog.Manifest) {
			b := merklelog.AppendManifest([]byte("cobox/v1/manifest\x00"), m)
			copy(m.Sig[:], ed25519.Sign(acct, b[:len(b)-64]))
		}),
	} {
		if _, err := account.VerifyManifest(m); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestText(t *testing.T) {
	_, raw := signer("account")
	id := account.ID(raw)
	if got := must(account.ParseID(id.String())); got != id {
		t.Error("account", got)
	}
	if got := must(account.ParseDeviceKey(account.DeviceKey(raw).String())); got != raw {
		t.Error("device", got)
	}
	if got := must(account.ParseNoiseKey(account.NoiseKey(raw).String())); got != raw {
		t.Error("noise", got)
	}
	for _, bad := range []string{
		"", "acct:", account.DeviceKey(raw).String(), strings.ToUpper(id.String()), id.String() + "0",
		"acct:" + strings.ToUpper(hex.EncodeToString(raw[:])), "acct:" + strings.Repeat("g", 64), " " + id.String(),
	} {
		if _, err := account.ParseID(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	type keys struct {
		A account.ID
		D account.DeviceKey
		N account.NoiseKey
	}
	in := keys{raw, raw, raw}
	var out keys
	if err := json.Unmarshal(must(json.Marshal(in)), &out); err != nil || out != in {
		t.Error(out, err)
	}
	if len(id.Fingerprint()) != 19 || account.ID([32]byte{1}).Fingerprint() == id.Fingerprint() {
		t.Error(id.Fingerprint())
	}
}
