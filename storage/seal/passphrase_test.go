package seal_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cobox/storage/seal"
)

func TestWrapDevice(t *testing.T) {
	plain := seal.AppendDevice(nil, mustDevice(t, bytes32("device")))
	file := filepath.Join("testdata", "device.age")
	if *update {
		if err := os.WriteFile(file, must(seal.WrapDevice(plain, "correct horse")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	frozen := must(os.ReadFile(file))
	if seal.IsWrapped(plain) || !seal.IsWrapped(frozen) {
		t.Error("plain and wrapped are not told apart")
	}
	if _, err := seal.WrapDevice(plain, ""); err == nil {
		t.Error("wrapped with an empty passphrase")
	}
	if _, err := seal.WrapDevice(make([]byte, 1<<20+1), "x"); err == nil {
		t.Error("wrapped more than the limit")
	}
	for name, bad := range map[string][]byte{"empty": nil, "plain": plain, "first line only": frozen[:22], "no body": frozen[:100]} {
		if _, err := seal.UnwrapDevice(bad, "correct horse"); err == nil || errors.Is(err, seal.ErrPassphrase) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A file that asks for more work than any of ours is refused before any is
	// done.
	if _, err := seal.UnwrapDevice(bytes.Replace(frozen, []byte(" 16\n"), []byte(" 30\n"), 1), "correct horse"); err == nil || errors.Is(err, seal.ErrPassphrase) {
		t.Error("work factor 30:", err)
	}
	if testing.Short() {
		t.Skip("scrypt is slow in emulation")
	}
	if got, err := seal.UnwrapDevice(frozen, "correct horse"); err != nil || !bytes.Equal(got, plain) {
		t.Error("frozen file:", err)
	}
	if _, err := seal.UnwrapDevice(frozen, "correct house"); !errors.Is(err, seal.ErrPassphrase) {
		t.Error("wrong passphrase:", err)
	}
	damaged := bytes.Clone(frozen)
	damaged[len(damaged)-1] ^= 1
	if _, err := seal.UnwrapDevice(damaged, "correct horse"); err == nil || errors.Is(err, seal.ErrPassphrase) {
		t.Error("damaged:", err)
	}
	wrapped := must(seal.WrapDevice(plain, "naïve ☕"))
	if got, err := seal.UnwrapDevice(wrapped, "naïve ☕"); err != nil || !bytes.Equal(got, plain) {
		t.Error(err)
	}
}
