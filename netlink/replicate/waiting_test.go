package replicate

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"cobox/storage/merklelog"
)

// Here a log is kept waiting by something that is not its own doing. None may
// wait for longer than that lasts.

// TestScanPastHoles: the box lacks blocks in a thousand places, and the device
// has none of them any more.
func TestScanPastHoles(t *testing.T) {
	const gaps = 1000
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		log := NewTestLog("alice", "laptop", "log").Add(2 * gaps)
		dev, srv := startPair(t, deviceConfig(), box.config("alice"))
		must(must(dev.Offer(log)).WaitReceipt(t.Context(), 2*gaps))
		stopPair(t, dev, srv)
		for i := uint64(0); i < 2*gaps; i += 2 {
			delete(box.store.logs[log.ID()].blocks, i)
		}
		log.Lose(merklelog.Range{Count: 2 * gaps})

		dev, srv = startPair(t, deviceConfig(), box.config("alice"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var holes *HolesError
		if _, err := must(dev.Offer(log)).WaitReceipt(ctx, 2*gaps); !errors.As(err, &holes) || len(holes.Holes) == 0 {
			t.Errorf("lost blocks are not told of: %v", err)
		}
		stopPair(t, dev, srv)
	})
}

// unreadable is a source whose blocks take a while to fail.
type unreadable struct{ *TestLog }

func (unreadable) Block(uint64, []byte) error {
	time.Sleep(5 * time.Second)
	return errors.New("cannot be read")
}

// TestCreditOfAClosedOffer: one log has all of the session's credit, and its
// source fails. The other goes on.
func TestCreditOfAClosedOffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		log := NewTestLog("alice", "laptop", "a").Add(100)
		dev, srv := startPair(t, deviceConfig(), box.config("alice"))
		must(must(dev.Offer(log)).WaitReceipt(t.Context(), 100))
		stopPair(t, dev, srv)
		clear(box.store.logs[log.ID()].blocks)

		dev, srv = startPair(t, deviceConfig(), box.config("alice"))
		must(dev.Offer(unreadable{NewTestLog("alice", "laptop", "b").Add(200)}))
		time.Sleep(100 * time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := must(dev.Offer(log)).WaitReceipt(ctx, 100); err != nil {
			t.Error(err)
		}
		stopPair(t, dev, srv)
	})
}

// leafy is a source that has leaves, slowly, and no blocks.
type leafy struct{ *TestLog }

func (l leafy) Next(uint64) uint64 { return l.Checkpoint().Size }

func (l leafy) Leaves(first uint64, n int) ([]merklelog.Leaf, error) {
	time.Sleep(time.Millisecond)
	return l.TestLog.Leaves(first, n)
}

// TestLeavesOfManyLogs: as many logs as may be open are offered at once, each
// with more leaves than are asked for in one go. Nobody is to blame.
func TestLeavesOfManyLogs(t *testing.T) {
	const size = 3 * maxWantLeaves
	leaves := make([]merklelog.Leaf, size)
	for i := range leaves {
		leaves[i][0], leaves[i][1], leaves[i][2] = byte(merklelog.Data), byte(i), byte(i>>8)
	}
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		dev, srv := startPair(t, deviceConfig(), box.config("alice"))
		var offers []*Offering
		for k := range maxOffers {
			log := NewTestLog("alice", "laptop", fmt.Sprint("log", k))
			log.leaves = leaves
			for _, leaf := range leaves {
				log.frontier.Append(leaf)
			}
			log.sign()
			log.gone = []merklelog.Range{{Count: size}}
			offers = append(offers, must(dev.Offer(leafy{log})))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		for _, o := range offers {
			var holes *HolesError
			if _, err := o.WaitReceipt(ctx, size); !errors.As(err, &holes) {
				t.Fatal(err)
			}
		}
		stopPair(t, dev, srv)
	})
}

// TestOfferAgainAfterRefusal: as many offers are open as may be, but for one,
// which is refused and made again. A new offer may overtake the close of the one
// before it.
func TestOfferAgainAfterRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		bad := NewTestLog("alice", "laptop", "bad").Add(40)
		box.store.put = func(id merklelog.LogID, _ uint64) error {
			if id == bad.ID() {
				return errQuota
			}
			return nil
		}
		dev, srv := startPair(t, deviceConfig(), box.config("alice"))
		for k := range maxOffers - 1 {
			must(must(dev.Offer(NewTestLog("alice", "laptop", fmt.Sprint("log", k)).Add(1))).WaitReceipt(t.Context(), 1))
		}
		for range 20 {
			o := must(dev.Offer(bad))
			<-o.Done()
			if err := o.Err(); !errors.Is(err, &Error{Code: CodeQuota}) {
				t.Fatal(err)
			}
		}
		stopPair(t, dev, srv)
	})
}
