//go:build linux

package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPlantedFiles lets a coboxd that somebody has taken over put links and
// FIFOs under the names that init uses in its directory: nothing is followed,
// and nobody waits.
func TestPlantedFiles(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, []byte("as it was"), 0o600); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "identity")
	if err := os.Symlink(victim, name); err != nil {
		t.Fatal(err)
	}
	if b, err := readSmall(name); err == nil {
		t.Errorf("a link was followed: %q", b)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := readSmall(fifo)
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			t.Error("a FIFO was read")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("init waits for a FIFO")
	}

	to := filepath.Join(dir, "provision")
	if err := os.Symlink(victim, to+".tmp"); err != nil {
		t.Fatal(err)
	}
	if err := writeDurably(to, []byte("new"), 0o600, os.Getuid()); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(victim); err != nil || string(b) != "as it was" {
		t.Errorf("what a link led to is now %q (%v)", b, err)
	}
	if b, err := os.ReadFile(to); err != nil || string(b) != "new" {
		t.Errorf("the file has %q (%v)", b, err)
	}
}
