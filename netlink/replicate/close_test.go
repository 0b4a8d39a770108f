package replicate

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"cobox/storage/merklelog"
)

// hangingStore is a store whose Commit ends only when it is let go.
type hangingStore struct {
	*memStore
	letGo chan struct{}
}

func (s *hangingStore) Commit(ctx context.Context, id merklelog.LogID) (merklelog.Durable, error) {
	<-s.letGo
	return s.memStore.Commit(ctx, id)
}

// TestCloseEndsWait closes an offering while the box hangs in its commit and
// answers nothing: who waits for the receipt hears of it at once.
func TestCloseEndsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		store := &hangingStore{box.store, make(chan struct{})}
		cfg := box.config("alice")
		cfg.Box.Store = store
		dev, srv := startPair(t, deviceConfig(), cfg)
		o := must(dev.Offer(NewTestLog("alice", "laptop", "log").Add(5)))
		time.AfterFunc(time.Minute, o.Close)
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if _, err := o.WaitReceipt(ctx, 5); !errors.Is(err, ErrClosed) || time.Since(start) != time.Minute {
			t.Errorf("waiting ended after %v with %v", time.Since(start), err)
		}
		close(store.letGo)
		stopPair(t, dev, srv)
	})
}
