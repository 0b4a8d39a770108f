//go:build unix

package boxtest

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestFreePort: a port is listened on again and again, nobody else gets it
// meanwhile, and nothing is left of it.
func TestFreePort(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	port, release, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := strconv.Atoi(port); err != nil || n < firstPort || n >= endPort {
		t.Errorf("port %q, %v", port, err)
	}
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
	if _, err := lockPort(port); err == nil {
		t.Error("the port was locked twice")
	}
	release()
	again, err := lockPort(port)
	if err != nil {
		t.Fatalf("after the release: %v", err)
	}
	again()
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestLockRemoved: whoever has opened the file of a lock that is then removed,
// or removed and made anew, does not take it for the lock.
func TestLockRemoved(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	path := filepath.Join(os.TempDir(), "cobox-port-20000")
	release, err := lockPort("20000")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := stillThere(f, path); err != nil {
		t.Errorf("while it is there: %v", err)
	}
	release()
	if stillThere(f, path) == nil {
		t.Error("the removed file is taken for the lock")
	}
	if release, err = lockPort("20000"); err != nil {
		t.Fatal(err)
	}
	defer release()
	if stillThere(f, path) == nil {
		t.Error("the file before is taken for the lock")
	}
}

// TestLockHolders: a lock that is taken and released all the time has one holder
// at most.
func TestLockHolders(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var holders, most atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 2000 {
				release, err := lockPort("20000")
				if err != nil {
					continue
				}
				if n := holders.Add(1); n > 1 {
					most.Store(n)
				}
				time.Sleep(10 * time.Microsecond)
				holders.Add(-1)
				release()
			}
		})
	}
	wg.Wait()
	if n := most.Load(); n != 0 {
		t.Errorf("the lock had %d holders", n)
	}
}
