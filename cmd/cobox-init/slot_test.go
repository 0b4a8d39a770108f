//go:build linux

package main

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
)

// TestMountAlone: of many who look at slots at once, one has it mounted at a time.
func TestMountAlone(t *testing.T) {
	var lock sync.Mutex
	var mounted atomic.Int32
	dir := t.TempDir()
	mount := func() error {
		if mounted.Add(1) != 1 {
			t.Error("two are mounted")
		}
		return nil
	}
	unmount := func() error { mounted.Add(-1); return nil }
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			_, done, err := mountAlone(&lock, dir, mount, unmount)
			if err != nil {
				t.Error(err)
				return
			}
			done()
			done() // once is enough
		})
	}
	all.Wait()
	broken := errors.New("no medium")
	if _, _, err := mountAlone(&lock, dir, func() error { return broken }, unmount); !errors.Is(err, broken) {
		t.Error(err)
	}
	if !lock.TryLock() {
		t.Error("a mount that failed holds the lock")
	}
}
