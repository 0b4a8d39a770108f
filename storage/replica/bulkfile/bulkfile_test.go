package bulkfile

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// create makes a file on the real file system and skips the test where that
// has no direct writes.
func create(t testing.TB, wrap func(File) File) (*Writer, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "table")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w, ok := New(wrap(f))
	if !ok {
		f.Close()
		t.Skip("this file system has no direct writes")
	}
	return w, path
}

func same(f File) File { return f }

// TestContent writes files of lengths around every boundary in odd pieces.
func TestContent(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{
		0, 1, alignment - 1, alignment, alignment + 1, bufferSize - 1, bufferSize, bufferSize + 1,
		2 * bufferSize, 3*bufferSize + alignment, 5*bufferSize - 7,
	} {
		want := make([]byte, size)
		for i := range want {
			want[i] = byte(rng.Uint32())
		}
		w, path := create(t, same)
		for rest := want; len(rest) > 0; {
			n := min(len(rest), 1+rng.IntN(200_000))
			if err := w.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := w.Finish(); err != nil {
			t.Fatal(err)
		}
		if err := w.Write([]byte("more")); !errors.Is(err, ErrFinished) {
			t.Errorf("writing after Finish: %v", err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: the file has %d, and differs (%v)", size, len(got), err)
		}
	}
}

// notOpen is a file without a descriptor, as file systems in memory have.
type notOpen struct{ File }

func (notOpen) Fd() uintptr { return ^uintptr(0) }

func TestNoDirectWrites(t *testing.T) {
	if w, ok := New(notOpen{}); ok || w != nil {
		t.Error("a file without a descriptor is written directly")
	}
}

// failing is a file of which some writes fail, and which counts syncs.
type failing struct {
	File
	err   error
	after int // writes that succeed before
	times int // writes that fail then
	syncs int
}

func (f *failing) Write(p []byte) (int, error) {
	if f.after > 0 {
		f.after--
	} else if f.times > 0 {
		f.times--
		return 0, f.err
	}
	return f.File.Write(p)
}

func (f *failing) Sync() error {
	f.syncs++
	return f.File.Sync()
}

// TestRefusedDirectWrites is a file system that takes the flag and then
// refuses.
func TestRefusedDirectWrites(t *testing.T) {
	w, path := create(t, func(f File) File {
		return &failing{File: f, err: &os.PathError{Op: "write", Err: syscall.EINVAL}, times: 1}
	})
	want := bytes.Repeat([]byte{1, 2, 3}, bufferSize)
	if err := errors.Join(w.Write(want), w.Finish()); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file differs (%v)", err)
	}
}

// TestFailedWrite: an error that comes after Write has returned is told by
// the next ones and by Finish, which does not sync.
func TestFailedWrite(t *testing.T) {
	for after := range 3 {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			f := &failing{err: syscall.ENOSPC, after: after, times: 1}
			w, _ := create(t, func(real File) File { f.File = real; return f })
			var err error
			for range 8 {
				if err = w.Write(make([]byte, bufferSize)); err != nil {
					break
				}
			}
			if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("Write says %v", err)
			}
			if err := w.Finish(); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("Finish says %v", err)
			}
			if f.syncs > 0 {
				t.Error("it was synced all the same")
			}
		})
	}
}

// TestFailedTail lets the last, short write fail.
func TestFailedTail(t *testing.T) {
	f := &failing{err: syscall.EIO, times: 1}
	w, _ := create(t, func(real File) File { f.File = real; return f })
	if err := w.Write([]byte("short")); err != nil {
		t.Fatal(err)
	}
	if err := w.Finish(); !errors.Is(err, syscall.EIO) || f.syncs > 0 {
		t.Errorf("Finish says %v, after %d syncs", err, f.syncs)
	}
}

// TestAbort gives up a file in the middle; goleak sees to the goroutine.
func TestAbort(t *testing.T) {
	w, _ := create(t, same)
	if err := w.Write(make([]byte, 3*bufferSize/2)); err != nil {
		t.Fatal(err)
	}
	w.Abort()
}

// BenchmarkWrite compares a table's way to the disk with that through the page
// cache.
func BenchmarkWrite(b *testing.B) {
	const size = 64 << 20
	block := make([]byte, 64<<10)
	direct := func(b *testing.B) error {
		w, _ := create(b, same)
		for range size / len(block) {
			if err := w.Write(block); err != nil {
				return err
			}
		}
		return w.Finish()
	}
	cache := func(b *testing.B) error {
		f, err := os.Create(filepath.Join(b.TempDir(), "table"))
		if err != nil {
			return err
		}
		for range size / len(block) {
			if _, err := f.Write(block); err != nil {
				return err
			}
		}
		return errors.Join(f.Sync(), f.Close())
	}
	for name, fn := range map[string]func(*testing.B) error{"direct": direct, "cache": cache} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			before := cpu(b)
			for b.Loop() {
				if err := fn(b); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric((cpu(b)-before)/(float64(b.N)*size/(1<<30)), "cpu-s/GiB")
		})
	}
}

// cpu is the process's CPU time in seconds.
func cpu(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
