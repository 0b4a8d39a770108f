package replica

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cobox/storage/merklelog"
)

// faultLife is a history on a file system that fails once. It always does the
// same, as far as goroutines allow.
func faultLife(at int64, persist bool) (*history, *faultFS) {
	h := newHistory(7, tuning{})
	h.tune.smallRun, h.tune.tableSize = 1, 4*merklelog.BlockSize
	h.tune.idle = time.Hour
	h.every = 1 << 62
	h.stride = 2
	h.cache = 64 << 10
	return h, &faultFS{FS: h.mem, at: at, persist: persist}
}

// liveFaulty lives until some steps after the fault, or closes fatal and does
// not return. The error is one that no fault excuses.
func liveFaulty(h *history, fs *faultFS, fatal chan struct{}) error {
	o := h.options(fs)
	var once sync.Once
	o.Fatal = func(error) { once.Do(func() { close(fatal) }) }
	living := func(err error) error {
		if errors.Is(err, errUnknown) {
			select {} // the process is ending, even if Fatal comes a moment later
		}
		return err
	}
	open := func() (err error) {
		h.s, err = Open("box", o)
		return living(err)
	}
	if err := open(); err != nil {
		if !fs.hit.Load() {
			return err
		}
		if err := open(); err != nil { // as the next start of the process would
			return fmt.Errorf("open after a failed open: %w", err)
		}
	}
	after := 0
	for n := 0; after < 4 && n < 2000; n++ {
		if fs.same.Load() || fs.ops.Load() > 2200 {
			break
		}
		if fs.hit.Load() {
			after++
		}
		var err error
		switch {
		case n%30 == 29:
			if err = living(h.s.Close()); err == nil || fs.hit.Load() {
				err = errors.Join(err, open())
			}
		case n%14 == 4:
			err = h.drop()
		case n%2 == 1:
			key, value := fmt.Sprint("key", n%3), fmt.Sprint(n)
			h.mu.Lock()
			delete(h.owed.table, key)
			h.mu.Unlock()
			if err = h.s.Table("t").Put([]byte(key), []byte(value)); err == nil {
				h.mu.Lock() // runFault may be looking already
				h.owed.table[key] = value
				h.mu.Unlock()
			}
		default:
			i := n / 2 % 3
			if err = h.extend(h.rng, i); err == nil {
				err = h.commit(i)
			}
		}
		if living(err) != nil && !fs.hit.Load() {
			return fmt.Errorf("step %d: %w", n, err)
		}
		if h.s == nil {
			break // it could not be opened again
		}
	}
	if h.s != nil {
		if err := living(h.s.Close()); err != nil && !fs.hit.Load() {
			return err
		}
	}
	return nil
}

// runFault injects one fault and verifies what is on the disk afterwards: as
// the process left it, and as a power cut would.
func runFault(at int64, persist bool) (died bool, err error) {
	h, fs := faultLife(at, persist)
	fatal := make(chan struct{})
	done := make(chan error, 1)
	go func() { done <- liveFaulty(h, fs, fatal) }()
	select {
	case err := <-done:
		if err != nil {
			return false, err
		}
	case <-fatal:
		// The process ends. Whatever goroutines are left wait for ever.
		died = true
		h.mu.Lock() // nothing more is owed from here on
		defer fs.end()
	case <-time.After(2 * time.Minute):
		return false, errors.New("hangs")
	}
	if fs.same.Load() {
		return false, nil // the other run of this operation tells as much
	}
	owed := h.owed.clone()
	rng := rand.New(rand.NewPCG(uint64(at), 9))
	cut := func(percent int, on bool) error {
		c := &powerCut{fs: h.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}), owed: owed.clone(), unsyncd: percent}
		return newHistory(8, tuning{}).verify(c, on)
	}
	if err := cut(0, at%16 == 0); err != nil {
		return died, err
	}
	if at%8 == 0 {
		if err := cut(50, false); err != nil {
			return died, err
		}
	}
	if died { // the process starts again, and the kernel lost nothing
		return died, cut(100, at%16 == 1)
	}
	// The store can be opened again in the same process: no lock is left.
	c := &powerCut{fs: h.mem, owed: owed, unsyncd: 100}
	if err := newHistory(8, tuning{}).verify(c, at%16 == 1); err != nil {
		return died, fmt.Errorf("opened again: %w", err)
	}
	return died, nil
}

// TestInjectedErrors fails each of the first 2,000 I/O operations, twice.
func TestInjectedErrors(t *testing.T) {
	crashLogs()
	step := int64(1)
	switch {
	case testing.Short():
		step = 199
	case raceEnabled:
		step = 29
	}
	var next, deaths, runs, reached atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for !t.Failed() {
				n := next.Add(1) - 1
				at := 1 + n/2*step
				if at > 2000 {
					return
				}
				died, err := runFault(at, n%2 == 1)
				if err != nil {
					t.Errorf("operation %d fails, persisted %v: %v", at, n%2 == 1, err)
				}
				runs.Add(1)
				if died {
					deaths.Add(1)
				}
				reached.Store(max(reached.Load(), at))
			}
		})
	}
	wg.Wait()
	t.Logf("%d runs, of which %d ended the process", runs.Load(), deaths.Load())
	if h, fs := faultLife(0, false); !t.Failed() {
		if err := liveFaulty(h, fs, make(chan struct{})); err != nil {
			t.Fatal(err)
		}
		if fs.ops.Load() < 2000 {
			t.Errorf("a life without a fault has %d operations, want at least 2,000", fs.ops.Load())
		}
	}
}
