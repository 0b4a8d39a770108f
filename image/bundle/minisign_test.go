package bundle_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cobox/image/bundle"
	"cobox/image/bundle/bundletest"
)

func TestReleaseKeys(t *testing.T) {
	keys := bundle.ReleaseKeys()
	if keys.Threshold() != 2 || len(keys.Public()) != 3 {
		t.Errorf("%d of %d keys", keys.Threshold(), len(keys.Public()))
	}
	// The keys that everybody knows must not release anything.
	for _, k := range keys.Public() {
		for _, p := range public.Public() {
			if k.ID == p.ID || k.Key == p.Key {
				t.Errorf("%s is a test key", k.ID)
			}
		}
	}
}

func TestNewKeys(t *testing.T) {
	a, b := private[0].Public(), private[1].Public()
	sameKey, sameID := b, b
	sameKey.Key, sameID.ID = a.Key, a.ID
	for name, tc := range map[string]struct {
		threshold int
		keys      []bundle.PublicKey
		ok        bool
	}{
		"two of two":    {2, []bundle.PublicKey{a, b}, true},
		"none":          {0, []bundle.PublicKey{a, b}, false},
		"three of two":  {3, []bundle.PublicKey{a, b}, false},
		"no key":        {0, nil, false},
		"one key twice": {1, []bundle.PublicKey{a, sameKey}, false},
		"one id twice":  {1, []bundle.PublicKey{a, sameID}, false},
	} {
		if _, err := bundle.NewKeys(tc.threshold, tc.keys...); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestThreshold: what counts is how many different keys of the set have signed
// this text, comment included.
func TestThreshold(t *testing.T) {
	msg := []byte(text(t, manifest(files())))
	sign := func(n int) bundle.Signature { return bundletest.NewKey(n).Sign(msg, "comment") }
	change := func(s bundle.Signature, f func(*bundle.Signature)) bundle.Signature { f(&s); return s }
	renamed := change(sign(4), func(s *bundle.Signature) { s.KeyID = private[1].ID })
	again := private[0].Sign(msg, "another comment")
	for name, tc := range map[string]struct {
		sigs []bundle.Signature
		ok   bool
	}{
		"1 and 2":                 {[]bundle.Signature{sign(1), sign(2)}, true},
		"3 and 1":                 {[]bundle.Signature{sign(3), sign(1)}, true},
		"all":                     {[]bundle.Signature{sign(1), sign(2), sign(3)}, true},
		"none":                    {nil, false},
		"one":                     {[]bundle.Signature{sign(2)}, false},
		"one twice":               {[]bundle.Signature{sign(1), sign(1)}, false},
		"one in two ways":         {[]bundle.Signature{sign(1), again}, false},
		"two, one of them twice":  {[]bundle.Signature{sign(1), sign(2), sign(2)}, false},
		"a stranger":              {[]bundle.Signature{sign(1), sign(4)}, false},
		"a stranger as well":      {[]bundle.Signature{sign(1), sign(4), sign(3)}, true},
		"a stranger with that id": {[]bundle.Signature{sign(1), renamed}, false},
		"two and a bad one":       {[]bundle.Signature{sign(1), sign(3), renamed}, false},
		"comment changed":         {[]bundle.Signature{sign(1), change(sign(2), func(s *bundle.Signature) { s.Trusted += "!" })}, false},
		"other text":              {[]bundle.Signature{sign(1), private[1].Sign([]byte("x"), "comment")}, false},
		"note changed":            {[]bundle.Signature{sign(1), change(sign(2), func(s *bundle.Signature) { s.Untrusted = "by me" })}, true},
	} {
		signers, err := public.Verify(msg, tc.sigs)
		if (err == nil) != tc.ok || err != nil && !errors.Is(err, bundle.ErrSignature) {
			t.Errorf("%s: %v %v", name, signers, err)
		}
	}
}

func TestParsersAreStrict(t *testing.T) {
	sig := private[0].Sign([]byte("x"), "timestamp:1\tfile:x\thashed")
	good := string(sig.Append(nil))
	lines := strings.SplitAfter(good, "\n")
	// The last character before the padding has bits that encode nothing.
	at := strings.IndexByte(lines[1], '=') - 1
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	loose := lines[1][:at] + string(alphabet[strings.IndexByte(alphabet, lines[1][at])|1]) + lines[1][at+1:]
	for name, bad := range map[string]string{
		"no newline":      strings.TrimSuffix(good, "\n"),
		"carriage return": strings.ReplaceAll(good, "\n", "\r\n"),
		"three lines":     strings.Join(lines[:3], ""),
		"empty line":      good + "\n",
		"not hashed":      lines[0] + "RW" + lines[1][2:] + lines[2] + lines[3],
		"no padding":      lines[0] + strings.TrimRight(lines[1], "=\n") + "\n" + lines[2] + lines[3],
		"unused bits":     lines[0] + loose + lines[2] + lines[3],
		"return within":   lines[0] + lines[1][:9] + "\r" + lines[1][9:] + lines[2] + lines[3],
		"short signature": lines[0] + lines[1][:60] + "\n" + lines[2] + lines[3],
		"long comment":    "untrusted comment: " + strings.Repeat("x", 513) + "\n" + strings.Join(lines[1:], ""),
		"wrong comment":   "trusted comment: x\n" + strings.Join(lines[1:], ""),
		"no UTF-8":        "untrusted comment: \xff\n" + strings.Join(lines[1:], ""),
		"nine":            strings.Repeat(good, bundle.MaxSignatures+1),
		"too long":        good + strings.Repeat("x", 1<<20),
	} {
		if _, err := bundle.ParseSignatures([]byte(bad)); err == nil {
			t.Errorf("signature with %s was read", name)
		}
	}
	sigs, err := bundle.ParseSignatures([]byte(strings.Repeat(good, bundle.MaxSignatures)))
	if err != nil || len(sigs) != bundle.MaxSignatures || sigs[3] != sig {
		t.Errorf("%d signatures, %v", len(sigs), err)
	}
	key := private[0].Public()
	for name, bad := range map[string]string{
		"nothing":     "",
		"only a line": key.Base64() + "\n",
		"no newline":  strings.TrimSuffix(string(key.Append(nil)), "\n"),
		"a signature": good,
		"too long":    strings.Repeat(string(key.Append(nil)), 200),
	} {
		if _, err := bundle.ParsePublicKeys([]byte(bad)); err == nil {
			t.Errorf("public key: %s was read", name)
		}
	}
	keys, err := bundle.ParsePublicKeys(key.Append(key.Append(nil)))
	if err != nil || len(keys) != 2 || keys[1] != key {
		t.Errorf("%d keys, %v", len(keys), err)
	}
}

// TestMinisign: the program that people know takes our signatures, and we take
// its.
func TestMinisign(t *testing.T) {
	program, err := exec.LookPath("minisign")
	if err != nil {
		t.Skip("minisign is not installed")
	}
	dir := t.TempDir()
	run := func(args ...string) (string, error) {
		cmd := exec.Command(program, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	put := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	msg := []byte(text(t, manifest(files())))
	sig := private[0].Sign(msg, "CoBox 1.4.0")
	key := private[0].Public()
	put("manifest.txt", msg)
	put("manifest.txt.minisig", sig.Append(nil))
	if out, err := run("-Vm", "manifest.txt", "-P", key.Base64()); err != nil || !strings.Contains(out, "Trusted comment: CoBox 1.4.0") {
		t.Errorf("minisign does not take our signature: %v\n%s", err, out)
	}
	put("manifest.txt", append(msg, 'x'))
	if out, err := run("-Vm", "manifest.txt", "-P", key.Base64()); err == nil {
		t.Errorf("minisign takes a changed text: %s", out)
	}

	put("manifest.txt", msg)
	if out, err := run("-GW", "-p", "k.pub", "-s", "k.key"); err != nil {
		t.Skipf("this minisign makes no keys without a password: %s", out)
	}
	if out, err := run("-S", "-W", "-s", "k.key", "-m", "manifest.txt", "-x", "theirs"); err != nil {
		t.Fatal(out)
	}
	pub, err := os.ReadFile(filepath.Join(dir, "k.pub"))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := bundle.ParsePublicKeys(pub)
	if err != nil {
		t.Fatal(err)
	}
	set, err := bundle.NewKeys(1, keys...)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := os.ReadFile(filepath.Join(dir, "theirs"))
	if err != nil {
		t.Fatal(err)
	}
	sigs, err := bundle.ParseSignatures(theirs)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := set.Verify(msg, sigs); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(bundle.AppendSignatures(nil, sigs), theirs) {
		t.Error("their signature is written another way")
	}
}

func FuzzParseSignatures(f *testing.F) {
	one := private[0].Sign([]byte("x"), "one")
	two := private[1].Sign([]byte("x"), "two")
	f.Add(bundle.AppendSignatures(nil, []bundle.Signature{one, two}))
	f.Fuzz(func(t *testing.T, b []byte) {
		sigs, err := bundle.ParseSignatures(b)
		if err == nil && !bytes.Equal(bundle.AppendSignatures(nil, sigs), b) {
			t.Error("not canonical")
		}
	})
}

func FuzzParsePublicKeys(f *testing.F) {
	key := private[0].Public()
	f.Add(key.Append(key.Append(nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, err := bundle.ParsePublicKeys(b)
		if err != nil {
			return
		}
		var again []byte
		for i := range keys {
			again = keys[i].Append(again)
		}
		if !bytes.Equal(again, b) {
			t.Error("not canonical")
		}
	})
}
