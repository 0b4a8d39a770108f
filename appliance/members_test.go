package appliance

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestKeepWritten: what could not be written is written later, without a change.
func TestKeepWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		changed := make(chan struct{}, 1)
		var times []time.Duration
		var failing error
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		failing = errors.New("the disk is full")
		go func() {
			defer close(ended)
			keepWritten(ctx, changed, func() error {
				times = append(times, time.Since(begin))
				return failing
			})
		}()
		time.Sleep(2*peersAgain + time.Second)
		synctest.Wait()
		if len(times) != 3 || times[1] != peersAgain || times[2] != 2*peersAgain {
			t.Errorf("written at %v", times)
		}
		failing = nil
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(times) != 4 || times[3] != 3*peersAgain {
			t.Errorf("written at %v", times)
		}
		changed <- struct{}{}
		synctest.Wait()
		if len(times) != 5 {
			t.Errorf("a change was written: %v", times)
		}
		changed <- struct{}{}
		cancel()
		<-ended
		if len(times) != 6 {
			t.Errorf("the last change was not written: %v", times)
		}
	})
}
