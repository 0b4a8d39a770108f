package datadir

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func open(t *testing.T, path string) *Dir {
	t.Helper()
	d, err := Open(path, Options{Create: true, Holder: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func fixed() *Identity {
	id := new(Identity)
	for i := range 32 {
		id.static[i], id.seed[i] = byte(i+1), byte(0x80+i)
	}
	return id
}

// The forms on disk never change: boxes and stickers outlive programs.
func TestKnownAnswers(t *testing.T) {
	p := &Provision{Identity: fixed(), InviteID: [8]byte{1, 2, 3, 4, 5, 6, 7, 8}, Secret: [16]byte{15: 9}}
	got := fmt.Sprintf("identity %x\nprovision %x\npublic %x\npeers %x\nmoved %s",
		AppendIdentity(nil, fixed()), AppendProvision(nil, p), fixed().StaticPublic(),
		AppendPeers(nil, fixedPeers()), AppendMoved(nil, [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}))
	want, err := os.ReadFile(filepath.Join("testdata", "known.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	id, err := ParseIdentity(AppendIdentity(nil, fixed()))
	if err != nil || *id != *fixed() {
		t.Errorf("identity: %v", err)
	}
	q, err := ParseProvision(AppendProvision(nil, p))
	if err != nil || *q.Identity != *fixed() || q.InviteID != p.InviteID || q.Secret != p.Secret {
		t.Errorf("provision: %v", err)
	}
}

func TestParseRefusesEveryFlippedBit(t *testing.T) {
	good := AppendProvision(nil, &Provision{Identity: fixed(), Secret: [16]byte{1}})
	for i := range len(good) * 8 {
		b := bytes.Clone(good)
		b[i/8] ^= 1 << (i % 8)
		if _, err := ParseProvision(b); err == nil {
			t.Fatalf("bit %d flipped, and nobody noticed", i)
		}
	}
	for n := range good {
		if _, err := ParseProvision(good[:n]); err == nil {
			t.Fatalf("cut to %d bytes, and nobody noticed", n)
		}
	}
	if _, err := ParseProvision(AppendProvision(nil, &Provision{Identity: fixed()})); err == nil {
		t.Error("an all-zero pairing secret was accepted")
	}
	if _, err := ParseIdentity(AppendIdentity(nil, new(Identity))); err == nil {
		t.Error("all-zero keys were accepted")
	}
}

func TestFirstStartAndRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "box")
	d := open(t, path)
	id, p, err := d.Identity()
	if err != nil || p != nil {
		t.Fatal(p, err)
	}
	if _, err := d.WritePairing([]byte("png"), "CODE"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{identityName, pictureName, textName, lockName} {
		info, err := os.Stat(filepath.Join(path, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	if text, _, err := ReadPairing(path); text != "CODE" || err != nil {
		t.Errorf("pairing code: %q %v", text, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}

	if err := os.Chmod(filepath.Join(path, identityName), 0o644); err != nil {
		t.Fatal(err)
	}
	d = open(t, path)
	again, _, err := d.Identity()
	if err != nil || *again != *id {
		t.Errorf("another identity after a restart: %v", err)
	}
	if info, _ := os.Stat(filepath.Join(path, identityName)); info.Mode().Perm() != 0o600 {
		t.Errorf("identity is %v", info.Mode())
	}
	if err := d.RemovePairing(); err != nil {
		t.Fatal(err)
	}
	if err := d.RemovePairing(); err != nil {
		t.Errorf("removing twice: %v", err)
	}
	if _, _, err := ReadPairing(path); !errors.Is(err, ErrNoCode) {
		t.Errorf("code of a claimed box: %v", err)
	}
}

func TestInUse(t *testing.T) {
	path := t.TempDir()
	open(t, path)
	_, err := Open(path, Options{Create: true})
	var inUse *InUseError
	if !errors.As(err, &inUse) || inUse.Holder != fmt.Sprintf("test (pid %d)", os.Getpid()) {
		t.Fatalf("got %v", err)
	}
}

func TestFormats(t *testing.T) {
	for _, tc := range []struct {
		text  string
		newer bool
	}{
		{"cobox-box 2\nanything\n", true},
		{"cobox-box 900\n", true},
		{"cobox-box 01\n", false},
		{"cobox-box 0\n", false},
		{"cobox-box 1", false},
		{"", false},
	} {
		path := t.TempDir()
		if err := os.WriteFile(filepath.Join(path, formatName), []byte(tc.text), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Open(path, Options{Create: true})
		var newer *NewerError
		if err == nil || errors.As(err, &newer) != tc.newer {
			t.Errorf("%q: %v", tc.text, err)
		}
		if _, err := os.Stat(filepath.Join(path, lockName)); err == nil {
			t.Errorf("%q: the directory was touched", tc.text)
		}
	}
}

func TestDirectoryOfSomethingElse(t *testing.T) {
	path := t.TempDir()
	if err := os.WriteFile(filepath.Join(path, "thesis.odt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{Create: true}); err == nil || !strings.Contains(err.Error(), "thesis.odt") {
		t.Errorf("got %v", err)
	}
	for _, path := range []string{path, filepath.Join(path, "none")} {
		if _, err := Open(path, Options{}); !errors.Is(err, ErrNoBox) {
			t.Errorf("without Create: %v", err)
		}
	}
}

func TestLostIdentity(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	if err := os.Mkdir(d.Store(), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Identity(); err == nil {
		t.Error("a store without identity was given a new one")
	}
}

// A crash between any two steps of taking a provisioning file ends, after the
// next start, where a start without a crash ends.
func TestProvisionTakenAcrossCrashes(t *testing.T) {
	p := &Provision{Identity: fixed(), InviteID: [8]byte{1}, Secret: [16]byte{2}}
	for _, crashAfter := range []string{"nothing", "identity", "secret"} {
		path := t.TempDir()
		if err := os.WriteFile(filepath.Join(path, provisionName), AppendProvision(nil, p), 0o644); err != nil {
			t.Fatal(err)
		}
		if crashAfter != "nothing" {
			d := open(t, path)
			if _, _, err := d.Identity(); err != nil {
				t.Fatal(err)
			}
			d.Close()
			// An unfinished write of an earlier crash is no obstacle.
			if err := os.WriteFile(filepath.Join(path, identityName+tmpSuffix), []byte("half"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		d := open(t, path)
		id, got, err := d.Identity()
		if err != nil || *id != *fixed() || got == nil || got.Secret != p.Secret {
			t.Fatalf("crash after %s: %v %v", crashAfter, got, err)
		}
		if err := d.RemoveProvision(); err != nil {
			t.Fatal(err)
		}
		if _, got, err = d.Identity(); err != nil || got != nil {
			t.Errorf("crash after %s: the secret is still there: %v", crashAfter, err)
		}
		if _, err := os.Stat(filepath.Join(path, identityName+tmpSuffix)); err == nil {
			t.Error("the unfinished file is still there")
		}
	}
}

func TestProvisionOfAnotherBox(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	if _, _, err := d.Identity(); err != nil {
		t.Fatal(err)
	}
	file := AppendProvision(nil, &Provision{Identity: fixed(), Secret: [16]byte{2}})
	if err := os.WriteFile(filepath.Join(path, provisionName), file, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Identity(); err == nil {
		t.Error("an identity was replaced")
	}
}

func TestSecretsPrintNothing(t *testing.T) {
	p := &Provision{Identity: fixed(), Secret: [16]byte{0xab, 0xcd}}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "id", p.Identity, "p", p)
	for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%s", "%q", "%d"} {
		fmt.Fprintf(&log, verb+verb, p.Identity, p)
	}
	for _, secret := range []string{hex.EncodeToString(p.Identity.static[:4]), "abcd", "171 205", "1 2 3"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("%q shows in %s", secret, log.String())
		}
	}
}

func FuzzParseIdentity(f *testing.F) {
	f.Add(AppendIdentity(nil, fixed()))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, err := ParseIdentity(b); err == nil && !bytes.Equal(AppendIdentity(nil, id), b) {
			t.Error("not canonical")
		}
	})
}

func FuzzParseProvision(f *testing.F) {
	f.Add(AppendProvision(nil, &Provision{Identity: fixed(), Secret: [16]byte{1}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := ParseProvision(b); err == nil && !bytes.Equal(AppendProvision(nil, p), b) {
			t.Error("not canonical")
		}
	})
}

func FuzzParseFormat(f *testing.F) {
	f.Add([]byte("cobox-box 1\n"))
	f.Add([]byte("cobox-box 99\nmore"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := parseFormat(b); err == nil && !bytes.HasPrefix(b, fmt.Appendf(nil, "%s%d\n", formatPrefix, n)) {
			t.Error("not canonical")
		}
	})
}
