package datadir

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestReadPairingHostile reads a directory whose owner wants the reader to hang,
// to run out of memory, or to show another file.
func TestReadPairingHostile(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("SECRET"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, plant := range map[string]func(path string) error{
		"endless":   func(path string) error { return os.Symlink("/dev/zero", path) },
		"link":      func(path string) error { return os.Symlink(secret, path) },
		"fifo":      func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"long":      func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("A"), maxCode+1), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := plant(filepath.Join(dir, textName)); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() {
				text, _, err := ReadPairing(dir)
				if text != "" {
					t.Errorf("it returned %.20q", text)
				}
				ended <- err
			}()
			select {
			case err := <-ended:
				if err == nil || errors.Is(err, ErrNoCode) {
					t.Errorf("the error is %v", err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("it hangs")
			}
		})
	}
}
