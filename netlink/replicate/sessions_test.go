package replicate

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"cobox/storage/merklelog"
)

// Here another session has the same log at the same time.

// TestTwoSessionsBringOneLog moves the same log by two sessions at once, one of
// which knows more of it.
func TestTwoSessionsBringOneLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		box.store.put = func(merklelog.LogID, uint64) error { time.Sleep(time.Millisecond); return nil }
		one, srv1 := startPair(t, deviceConfig(), box.config("alice"))
		two, srv2 := startPair(t, deviceConfig(), box.config("alice"))
		a := NewTestLog("alice", "laptop", "log").Add(600)
		b := NewTestLog("alice", "laptop", "log").Add(600)
		oa := must(one.Offer(a))
		ob := must(two.Offer(b))
		for range 10 { // the same history in other steps
			time.Sleep(5 * time.Millisecond)
			a.Add(30)
			b.Add(10)
			b.Add(20)
		}
		for _, o := range []*Offering{oa, ob} {
			if _, err := o.WaitReceipt(t.Context(), 900); err != nil {
				t.Error(err)
			}
		}
		stopPair(t, one, srv1)
		stopPair(t, two, srv2)
	})
}

// TestOvertaken lets another session move the log between the look at the store
// and the checkpoint that was proven against what was seen. Nobody is to blame.
func TestOvertaken(t *testing.T) {
	for name, tc := range map[string]struct{ before, other, after int }{
		"by a first checkpoint": {0, 300, 600},
		"by a newer one":        {600, 610, 630},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				box := newTestBox(newMemStore(), "alice")
				other := NewTestLog("alice", "laptop", "log").Add(tc.other)
				overtaken := 0
				box.store.offer = func(cp merklelog.Checkpoint) {
					if cp.Size != uint64(tc.after) {
						return
					}
					box.store.offer = nil
					overtaken++
					var proof merklelog.Proof
					if tc.before > 0 {
						proof = must(other.Consistency(uint64(tc.before), uint64(tc.other)))
					}
					if err := box.store.OfferCheckpoint(other.manifest, other.Checkpoint(), proof); err != nil {
						t.Error(err)
					}
				}
				dev, srv := startPair(t, deviceConfig(), box.config("alice"))
				log := NewTestLog("alice", "laptop", "log")
				if tc.before > 0 {
					log.Add(tc.before)
				} else {
					log.Add(tc.after)
				}
				o := must(dev.Offer(log))
				if tc.before > 0 {
					if _, err := o.WaitReceipt(t.Context(), uint64(tc.before)); err != nil {
						t.Error(err)
					}
					log.Add(tc.after - tc.before)
				}
				if _, err := o.WaitReceipt(t.Context(), uint64(tc.after)); err != nil {
					t.Error(err)
				}
				if overtaken != 1 {
					t.Errorf("overtaken %d times", overtaken)
				}
				stopPair(t, dev, srv)
			})
		})
	}
}

// TestMovedBetweenLooks lets another session move the log after each look at it
// in turn, while an offer of the same length is taken up. The offer hears of
// nothing that the box's side of it has not seen, so it is not left waiting.
func TestMovedBetweenLooks(t *testing.T) {
	for look := 1; ; look++ {
		moved := false
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			box := newTestBox(newMemStore(), "alice")
			dev, srv := startPair(t, deviceConfig(), box.config("alice"))
			log := NewTestLog("alice", "laptop", "log").Add(600)
			first := must(dev.Offer(log))
			if _, err := first.WaitReceipt(ctx, 600); err != nil {
				t.Fatal(err)
			}
			first.Close()
			<-first.Done()
			synctest.Wait()

			log.Add(10)
			looks := 0
			box.store.look = func() {
				if looks++; looks != look || box.store.size(log.ID()) == 610 {
					return
				}
				moved = true
				err := box.store.OfferCheckpoint(log.manifest, log.Checkpoint(), must(log.Consistency(600, 610)))
				if err != nil {
					t.Error(err)
				}
			}
			if _, err := must(dev.Offer(log)).WaitReceipt(ctx, 610); err != nil {
				t.Errorf("moved after look %d: %v", look, err)
			}
			stopPair(t, dev, srv)
		})
		if !moved {
			if look < 4 {
				t.Errorf("the log could be moved after %d looks only", look-1)
			}
			return
		}
	}
}
