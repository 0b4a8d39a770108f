package replica

import (
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// crashFS is Pebble's crashable file system in memory without its deadlock:
// Link, ReuseForWrite and Lock take the read lock that CrashClone waits for a
// second time while they hold it, so a CrashClone that begins in between
// waits for them, and they for it.
type crashFS struct {
	*vfs.MemFS
	clone *sync.RWMutex
}

func newCrashFS() crashFS { return crashFS{vfs.NewCrashableMem(), new(sync.RWMutex)} }

func (f crashFS) CrashClone(cfg vfs.CrashCloneCfg) crashFS {
	f.clone.Lock()
	defer f.clone.Unlock()
	return crashFS{f.MemFS.CrashClone(cfg), new(sync.RWMutex)}
}

func (f crashFS) Link(from, to string) error {
	f.clone.RLock()
	defer f.clone.RUnlock()
	return f.MemFS.Link(from, to)
}

func (f crashFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f.clone.RLock()
	defer f.clone.RUnlock()
	return f.MemFS.ReuseForWrite(from, to, c)
}

func (f crashFS) Lock(name string) (io.Closer, error) {
	f.clone.RLock()
	defer f.clone.RUnlock()
	return f.MemFS.Lock(name)
}

// TestCrashCloneDuringLink hangs on the deadlock that crashFS is there for.
func TestCrashCloneDuringLink(t *testing.T) {
	fs := newCrashFS()
	f, err := fs.Create("a", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	done := make(chan struct{})
	var links sync.WaitGroup
	links.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			name := fmt.Sprint("b", i%10)
			fs.Remove(name)
			if err := fs.Link("a", name); err != nil {
				t.Error(err)
				return
			}
			other, err := fs.ReuseForWrite(name, "c", vfs.WriteCategoryUnspecified)
			if err != nil {
				t.Error(err)
				return
			}
			other.Close()
		}
	})
	for range 200000 {
		fs.CrashClone(vfs.CrashCloneCfg{})
	}
	close(done)
	links.Wait()
}
