package appliance

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestKeepWritten: what could not be written is written later, without a change.
func TestKeepWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		changed := make(chan struct{}, 1)
		var mu sync.Mutex
		var all []time.Duration
		written := func() []time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(all)
		}
		var failing atomic.Bool
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		failing.Store(true)
		go func() {
			defer close(ended)
			keepWritten(ctx, changed, func() error {
				mu.Lock()
				all = append(all, time.Since(begin))
				mu.Unlock()
				if failing.Load() {
					return errors.New("the disk is full")
				}
				return nil
			})
		}()
		time.Sleep(2*peersAgain + time.Second)
		synctest.Wait()
		if times := written(); len(times) != 3 || times[1] != peersAgain || times[2] != 2*peersAgain {
			t.Errorf("written at %v", times)
		}
		failing.Store(false)
		time.Sleep(time.Hour)
		synctest.Wait()
		if times := written(); len(times) != 4 || times[3] != 3*peersAgain {
			t.Errorf("written at %v", times)
		}
		changed <- struct{}{}
		synctest.Wait()
		if times := written(); len(times) != 5 {
			t.Errorf("a change was written: %v", times)
		}
		changed <- struct{}{}
		cancel()
		<-ended
		if times := written(); len(times) != 6 {
			t.Errorf("the last change was not written: %v", times)
		}
	})
}
