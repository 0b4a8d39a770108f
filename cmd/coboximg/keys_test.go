package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"aead.dev/minisign"

	"cobox/image/bundle"
)

func TestKeys(t *testing.T) {
	b := newBench(t)
	set, err := bundle.ParsePublicKeys(b.read("keys/release.pub"))
	if err != nil || len(set) != 3 {
		t.Fatalf("%d keys, %v", len(set), err)
	}
	if _, err := bundle.NewKeys(bundle.ReleaseThreshold, set...); err != nil {
		t.Error(err)
	}
	for i, n := range []string{"1", "2", "3"} {
		info, err := os.Stat(b.key(n))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("private key %s: %v, %v", n, info.Mode(), err)
		}
		if string(set[i].Append(nil)) != string(b.read("keys/release-"+n+".pub")) {
			t.Errorf("public key %s is not in the set", n)
		}
		private, err := loadKey(b.key(n), nil)
		if err != nil || private.ID() == 0 {
			t.Errorf("private key %s: %v", n, err)
		}
	}

	before := b.read("keys/release-2.key")
	b.fails(exitFailed, "exists already", "keys", "--out", b.path("keys"))
	if string(before) != string(b.read("keys/release-2.key")) {
		t.Error("a key was overwritten")
	}
	b.fails(exitUsage, "--out", "keys")
	b.write("empty.txt", []byte("\nsecret\n"))
	b.fails(exitFailed, "first line", "keys", "--out", b.path("more"), "--password-file", b.path("empty.txt"))
}

func TestEncryptedKeys(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a gigabyte and some seconds for each key, on purpose")
	}
	b := newBench(t)
	private, public, err := newKey("secret", "one")
	if err != nil {
		t.Fatal(err)
	}
	b.write("one.key", private)
	key, err := loadKey(b.path("one.key"), func() (string, error) { return "secret", nil })
	if err != nil {
		t.Fatal(err)
	}
	if !strings.EqualFold(public.ID.String(), keyID(key)) {
		t.Errorf("private key %s of the public key %s", keyID(key), public.ID)
	}
	b.write("wrong.txt", []byte("wrong\n"))
	b.fails(exitFailed, "--password-file", b.bundle("--key", b.path("one.key"))...)
	b.fails(exitFailed, "cannot be decrypted", b.bundle("--key", b.path("one.key"), "--password-file", b.path("wrong.txt"))...)
}

func keyID(k minisign.PrivateKey) string { return fmt.Sprintf("%016X", k.ID()) }
