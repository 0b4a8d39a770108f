package replica

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"cobox/storage/merklelog"
)

// cost is what a piece of work took.
type cost struct {
	wall, cpu time.Duration
	written   int64 // bytes that the process sent to the disk; 0 if unknown
}

// procValue reads a number of the process, which is 0 where there is no /proc.
func procValue(file, name string) (n int64) {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			fmt.Sscan(rest, &n)
		}
	}
	return n
}

func measure(fn func()) cost {
	cpu := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			panic(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	written := func() int64 { return procValue("/proc/self/io", "write_bytes:") }
	c, w, start := cpu(), written(), time.Now()
	fn()
	return cost{time.Since(start), cpu() - c, written() - w}
}

// stream is what one session sends.
type stream struct {
	log     *fixtureLog
	batches []merklelog.Batch
}

func newStreams(n int, blocks uint64) []*stream {
	streams := make([]*stream, n)
	var wg sync.WaitGroup
	for i := range streams {
		wg.Go(func() {
			l := newLog(newWriter(fmt.Sprint("bench", i), "d"), fmt.Sprint("bench", i), int(blocks))
			st := &stream{log: l}
			for first := uint64(0); first < blocks; first += merklelog.TileWidth {
				st.batches = append(st.batches, must(l.tree.Batch(first, blocks)))
			}
			l.checkpoint(blocks)
			streams[i] = st
		})
	}
	wg.Wait()
	return streams
}

// send brings a whole log at full speed and asks for a receipt every 256
// blocks, without waiting for it, as a session does.
func (st *stream) send(s *Store) error {
	l, ctx := st.log, context.Background()
	size := uint64(len(l.leaves))
	if err := s.OfferCheckpoint(l.manifest, l.checkpoint(size), nil); err != nil {
		return err
	}
	ask := make(chan struct{}, 1)
	answers := make(chan error, 1)
	go func() {
		for range ask {
			if _, err := s.Commit(ctx, l.id); err != nil {
				answers <- err
				return
			}
		}
		s.Flush(l.id)
		d, err := s.Commit(ctx, l.id)
		if err == nil && d.Held != size {
			err = fmt.Errorf("%d blocks of %d are held", d.Held, size)
		}
		answers <- err
	}()
	block := l.block(0)
	for _, batch := range st.batches {
		if err := s.AppendLeaves(l.id, batch); err != nil {
			return err
		}
		for i := range uint64(len(batch.Leaves)) {
			if err := s.PutBlock(ctx, l.id, batch.First+i, l.fill(block, batch.First+i)); err != nil {
				return err
			}
		}
		select {
		case ask <- struct{}{}:
		default: // the last answer is still awaited
		}
	}
	close(ask)
	return <-answers
}

// floor does what cannot be avoided: each block is hashed, written to a table
// and ingested, with no index and no log of what is where.
func floor(dir string, streams []*stream) error {
	s := &Store{opts: Options{}.withDefaults(), dir: dir, ctx: context.Background(), failed: make(chan struct{})}
	o := s.pebbleOptions()
	defer s.cache.Unref()
	db, err := pebble.Open(dir, o)
	if err != nil {
		return err
	}
	s.db = db
	if err := os.Mkdir(dir+"/"+incomingDir, 0o700); err != nil {
		return err
	}
	t := (*tableWriter)(nil)
	end := func() error {
		if err := t.finish(); err != nil {
			return err
		}
		return db.Ingest(context.Background(), []string{t.path})
	}
	arrival := uint64(0)
	block := make([]byte, merklelog.BlockSize)
	for _, st := range streams {
		for i := range uint64(len(st.log.leaves)) {
			st.log.fill(block, i)
			if leaf, err := merklelog.LeafOf(block); err != nil || leaf != st.log.leaves[i] {
				return fmt.Errorf("leaf %d: %w", i, err)
			}
			if t == nil {
				if t, err = s.newTable(arrival); err != nil {
					return err
				}
			}
			if err := t.add(1, i, block); err != nil {
				return err
			}
			if arrival++; int(t.count)*merklelog.BlockSize == s.opts.tune.tableSize {
				if err := end(); err != nil {
					return err
				}
				t = nil
			}
		}
	}
	if t != nil {
		if err := end(); err != nil {
			return err
		}
	}
	return db.Close()
}

// BenchmarkIntake takes in 1 GiB from one session and from eight at once, and
// compares the CPU time with the floor measured in turn.
func BenchmarkIntake(b *testing.B) {
	const total = 1 << 30 / merklelog.BlockSize
	for _, sessions := range []int{1, 8} {
		streams := newStreams(sessions, uint64(total/sessions))
		b.Run(fmt.Sprint("sessions=", sessions), func(b *testing.B) {
			var least, got cost
			var peak int64
			for b.Loop() {
				c := measure(func() {
					if err := floor(b.TempDir(), streams); err != nil {
						b.Fatal(err)
					}
				})
				least.cpu += c.cpu
				least.wall += c.wall
				os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // VmHWM begins anew
				c = measure(func() {
					s, err := Open(b.TempDir(), Options{FS: vfs.Default, NoBallast: true})
					if err != nil {
						b.Fatal(err)
					}
					var wg sync.WaitGroup
					for _, st := range streams {
						wg.Go(func() {
							if err := st.send(s); err != nil {
								b.Error(err)
							}
						})
					}
					wg.Wait()
					if err := s.Close(); err != nil {
						b.Fatal(err)
					}
				})
				got.cpu += c.cpu
				got.wall += c.wall
				got.written += c.written
				peak = max(peak, procValue("/proc/self/status", "VmHWM:"))
			}
			gib := float64(b.N) * float64(total) * merklelog.BlockSize / (1 << 30)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(1024*gib/got.wall.Seconds(), "MiB/s")
			b.ReportMetric(got.cpu.Seconds()/gib, "cpu-s/GiB")
			b.ReportMetric(least.cpu.Seconds()/gib, "floor-cpu-s/GiB")
			b.ReportMetric(got.cpu.Seconds()/least.cpu.Seconds(), "of-floor")
			b.ReportMetric(float64(got.written)/(gib*(1<<30)), "write-amp")
			b.ReportMetric(float64(peak)/1024, "peak-MiB") // also of what was left of the floor
		})
	}
}

// BenchmarkRead reads blocks in their order, with an inclusion proof for each.
func BenchmarkRead(b *testing.B) {
	const blocks = 1024
	st := newStreams(1, blocks)[0]
	s, err := Open(b.TempDir(), Options{NoBallast: true})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if err := st.send(s); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(merklelog.BlockSize)
	b.ReportAllocs()
	buf := make([]byte, merklelog.BlockSize)
	i := uint64(0)
	for b.Loop() {
		if _, _, err := s.ReadBlock(st.log.id, i%blocks, buf); err != nil {
			b.Fatal(err)
		}
		if _, err := s.Inclusion(st.log.id, i%blocks, blocks); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
