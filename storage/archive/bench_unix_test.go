//go:build unix

package archive

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cobox/storage/merklelog"
)

// usage is what this process has used of the CPU.
type usage struct{ user, sys float64 }

func cpu() usage {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return usage{}
	}
	return usage{time.Duration(u.Utime.Nano()).Seconds(), time.Duration(u.Stime.Nano()).Seconds()}
}

// report reports what was used since, for each GiB.
func (before usage) report(b *testing.B, size int64) {
	now := cpu()
	b.ReportMetric((now.user-before.user)/float64(size)*gib, "user-s/GiB")
	b.ReportMetric((now.sys-before.sys)/float64(size)*gib, "sys-s/GiB")
}

// benchTree returns the directory named by COBOX_BENCH_DIR, or makes a small
// one of mixed office files: text, text with a random part, random bytes and
// copies.
func benchTree(b *testing.B) (dir string, size int64) {
	if dir = os.Getenv("COBOX_BENCH_DIR"); dir == "" {
		dir = filepath.Join(b.TempDir(), "office")
		makeOffice(b, dir, 2000)
	}
	filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if st, err := d.Info(); err == nil {
				size += st.Size()
			}
		}
		return nil
	})
	return dir, size
}

func makeOffice(b *testing.B, dir string, files int) {
	r := rand.New(rand.NewPCG(1, 2))
	bin := rand.NewChaCha8([32]byte{1})
	zipf := rand.NewZipf(r, 1.08, 4, 5999)
	text := func(n int) []byte {
		var s strings.Builder
		for s.Len() < n {
			fmt.Fprintf(&s, "w%x ", zipf.Uint64()*2654435761%1e9)
		}
		return []byte(s.String()[:n])
	}
	var old [][]byte
	for i := range files {
		var data []byte
		switch k := r.IntN(100); {
		case k < 10 && len(old) > 0:
			data = old[r.IntN(len(old))]
		case k < 50:
			data = text(1024 + r.IntN(23<<10))
		case k < 72:
			data = text(8192 + r.IntN(152<<10))
			bin.Read(data[len(data)/2 : len(data)/2+len(data)*15/100])
		case k < 99:
			data = make([]byte, 15<<10+r.IntN(120<<10))
			bin.Read(data)
		default:
			data = text(256<<10 + r.IntN(1280<<10))
		}
		if r.IntN(12) == 0 {
			old = append(old, data)
		}
		p := filepath.Join(dir, fmt.Sprintf("d%02d/s%02d/f%05d", i%37, i/37%29, i))
		os.MkdirAll(filepath.Dir(p), 0o755)
		if err := os.WriteFile(p, data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
}

const gib = 1 << 30

func BenchmarkBackup(b *testing.B) {
	dir, size := benchTree(b)
	b.SetBytes(size)
	for b.Loop() {
		s := newMemSpace(b)
		l := s.newLog("log")
		l.discard = true
		before := cpu()
		sum := s.backup(l, b.TempDir(), dir)
		before.report(b, size)
		b.ReportMetric(float64(sum.Blocks*merklelog.BlockSize)/1e6, "stored-MB")
	}
}

func BenchmarkUnchanged(b *testing.B) {
	dir, _ := benchTree(b)
	s := newMemSpace(b)
	l := s.newLog("log")
	cache := b.TempDir()
	time.Sleep(2100 * time.Millisecond) // until no change of the tree is recent
	s.backup(l, cache, dir)
	for b.Loop() {
		before := cpu()
		sum := s.backup(l, cache, dir)
		before.report(b, gib)
		if sum.Blocks != 1 || sum.Changed != 0 {
			b.Fatalf("%+v", sum)
		}
	}
}

func BenchmarkRestore(b *testing.B) {
	dir, size := benchTree(b)
	s := newMemSpace(b)
	l := s.newLog("log")
	sum := s.backup(l, "", dir)
	b.SetBytes(size)
	for b.Loop() {
		target := b.TempDir()
		before := cpu()
		r, err := s.open("").Restore(context.Background(), RestoreOptions{Snapshot: *sum.Snapshot, Target: target})
		if err != nil || r.Failed > 0 {
			b.Fatal(err, r)
		}
		before.report(b, size)
		b.StopTimer()
		os.RemoveAll(target)
		b.StartTimer()
	}
}
