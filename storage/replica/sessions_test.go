package replica

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// Here several sessions are at the same log or account at once.

// fullStore returns a store that has no more room for blocks until indexMu is
// unlocked, and a log of n leaves whose first four blocks fill it.
func fullStore(t *testing.T, o Options, n uint64) (*Store, *fixtureLog) {
	t.Helper()
	o.tune.tableSize = 2 * merklelog.BlockSize
	s := openTest(t, o)
	l := newLog(newWriter("a", "d"), "x", int(n))
	if err := errors.Join(l.offer(s, n), l.appendLeaves(s, n, n)); err != nil {
		t.Fatal(err)
	}
	s.indexMu.Lock() // the flusher comes no further
	if err := l.put(s, 0, 4); err != nil {
		t.Fatal(err)
	}
	return s, l
}

// TestQuotaAfterWaiting lets eight blocks wait for room in the store, where the
// quota has room for one.
func TestQuotaAfterWaiting(t *testing.T) {
	o := testOptions(vfs.NewMem())
	var limit atomic.Uint64
	limit.Store(1 << 60)
	o.Quota = func(account.ID) (uint64, bool) { return limit.Load(), true }
	s, l := fullStore(t, o, 40)
	limit.Store(s.Usage(l.w.account).Total() + merklelog.BlockSize)
	var taken, refused atomic.Int32
	var waiting sync.WaitGroup
	for i := range uint64(8) {
		waiting.Go(func() {
			switch err := s.PutBlock(context.Background(), l.id, 10+i, l.block(10+i)); {
			case err == nil:
				taken.Add(1)
			case errors.Is(err, ErrQuota):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	time.Sleep(100 * time.Millisecond) // the more of them wait by then, the more the test sees
	s.indexMu.Unlock()
	waiting.Wait()
	if taken.Load() != 1 || refused.Load() != 7 {
		t.Errorf("%d blocks were taken in and %d refused where one has room", taken.Load(), refused.Load())
	}
	closeTest(t, s)
}

// While blocks become durable each of them counts once, so that the last ones
// that a quota has room for are not refused.
func TestUsageCountsOnce(t *testing.T) {
	s := openTest(t, testOptions(vfs.NewMem()))
	l := newLog(newWriter("a", "d"), "l", 400)
	if err := errors.Join(l.offer(s, 400), l.appendLeaves(s, 400, 400)); err != nil {
		t.Fatal(err)
	}
	var begun atomic.Uint64
	over := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			used := s.Usage(l.w.account).Blocks / merklelog.BlockSize
			if n := begun.Load(); used > n {
				t.Errorf("%d blocks count of %d that were put", used, n)
				return
			}
			select {
			case <-over:
				return
			default:
			}
		}
	})
	for i := range uint64(400) {
		begun.Add(1)
		err := l.put(s, i, i+1)
		if err == nil && i%3 == 0 {
			_, err = s.Commit(context.Background(), l.id)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	close(over)
	watcher.Wait()
	closeTest(t, s)
}

// TestLogIsNeverAheadOfItself looks at a log that grows.
func TestLogIsNeverAheadOfItself(t *testing.T) {
	n := uint64(1500)
	if testing.Short() {
		n = 300
	}
	s := openTest(t, testOptions(vfs.NewMem()))
	l := newLog(newWriter("a", "d"), "x", int(n))
	if err := l.bring(s, 0, 1); err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	var looking sync.WaitGroup
	for range 3 {
		looking.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				info, err := s.Log(l.id)
				if err != nil || info.Held > info.Leaves || info.Leaves > info.Checkpoint.Size {
					t.Errorf("%d blocks, %d leaves, checkpoint of size %d (%v)", info.Held, info.Leaves, info.Checkpoint.Size, err)
					return
				}
			}
		})
	}
	for i := uint64(2); i <= n; i++ {
		if err := errors.Join(l.offer(s, i), l.appendLeaves(s, i, i)); err != nil {
			t.Fatal(err)
		}
	}
	close(over)
	looking.Wait()
	closeTest(t, s)
}

// TestBeginTogether lets four sessions offer a new log at once.
func TestBeginTogether(t *testing.T) {
	logs := 1500
	if testing.Short() {
		logs = 200
	}
	s := openTest(t, testOptions(vfs.NewMem()))
	w := newWriter("a", "d")
	for range logs {
		l := newLog(w, "l", 1)
		var offering sync.WaitGroup
		for range 4 {
			offering.Go(func() {
				if err := l.offer(s, 1); err != nil {
					t.Error(err)
				}
			})
		}
		offering.Wait()
		if err := s.RemoveLog(l.id); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			break
		}
	}
	closeTest(t, s)
}

// TestMissingWhileTaken: a block that a session is still putting in is missing
// to others. If it fails there, one of them brings it.
func TestMissingWhileTaken(t *testing.T) {
	s, l := fullStore(t, testOptions(vfs.NewMem()), 12)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- s.PutBlock(ctx, l.id, 10, l.block(10)) }()
	ls, err := s.acquire(l.id)
	if err != nil {
		t.Fatal(err)
	}
	for begun := false; !begun; time.Sleep(time.Millisecond) {
		ls.mu.Lock()
		_, begun = ls.pending[10]
		ls.mu.Unlock()
	}
	s.release(ls)
	missing, err := s.Missing(l.id, 10, 9)
	if err != nil || !merklelog.RangesContain(missing, 10) {
		t.Errorf("missing from 10 on: %v (%v)", missing, err)
	}
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	s.indexMu.Unlock()
	if err := l.put(s, 10, 11); err != nil {
		t.Error(err)
	}
	closeTest(t, s)
}
