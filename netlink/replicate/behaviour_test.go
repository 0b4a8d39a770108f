package replicate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cobox/storage/merklelog"
)

// TestRegression offers a log to a box that knows more of it, or another
// history of it: the device must learn so and leave the log.
func TestRegression(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		dev, srv := startPair(t, deviceConfig(), box.config("alice"))
		long := NewTestLog("alice", "laptop", "log").Add(30)
		if _, err := must(dev.Offer(long)).WaitReceipt(t.Context(), 30); err != nil {
			t.Fatal(err)
		}
		short := NewTestLog("alice", "laptop", "log").Add(20) // as after a restored disk image
		_, err := must(dev.Offer(short)).WaitReceipt(t.Context(), 20)
		var r *RegressionError
		if !errors.As(err, &r) || r.Peer != long.Checkpoint() || r.Own != short.Checkpoint() {
			t.Errorf("a shorter log: %v", err)
		}
		stopPair(t, dev, srv)

		// A box that has nothing but a checkpoint of another history.
		p, s := newRawPeer(t, deviceConfig())
		o := must(s.Offer(long.here()))
		p.want(kindOffer)
		p.send(kindKnown, 1, appendKnown(nil, &known{long.Fork(7).Checkpoint(), 0, 0}))
		p.want(kindClose)
		p.send(kindError, 1, appendError(nil, &Error{}))
		<-o.Done()
		if err := o.Err(); !errors.As(err, &r) || r.Peer.Size != 7 {
			t.Errorf("another history: %v", err)
		}
		p.leave(s)
	})
}

// TestFork offers two histories of one log.
func TestFork(t *testing.T) {
	for name, sizes := range map[string][2]int{"same size": {10, 10}, "shorter": {10, 6}, "longer": {10, 15}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				box := newTestBox(newMemStore(), "alice")
				log := NewTestLog("alice", "laptop", "log").Add(sizes[0])
				dev, srv := startPair(t, deviceConfig(), box.config("alice"))
				o := must(dev.Offer(log))
				if _, err := o.WaitReceipt(t.Context(), uint64(sizes[0])); err != nil {
					t.Fatal(err)
				}
				stopPair(t, dev, srv)

				// The copied device would stop at known; a liar goes on.
				fork := log.Fork(sizes[1])
				p, s := newRawPeer(t, box.config("alice"))
				p.offer(1, fork)
				if sizes[1] > sizes[0] {
					p.want(kindKnown)
					p.send(kindAdvance, 1, appendAdvance(nil, &advance{fork.Checkpoint(), 10, must(fork.Consistency(10, 15))}))
				}
				f := must(merklelog.ParseFork(p.want(kindFork).body))
				if err := f.Verify(log.manifest.Writer); err != nil {
					t.Error(err)
				}
				if e := must(parseError(p.want(kindError).body)); e.Code != CodeFrozen {
					t.Errorf("refused with %v", e)
				}
				p.leave(s)

				// The honest device hears of it with the evidence, and what is there is served.
				dev, srv = startPair(t, deviceConfig(), box.config("alice"))
				log.Add(1)
				o = must(dev.Offer(log))
				_, err := o.WaitReceipt(t.Context(), uint64(sizes[0]+1))
				var forked *merklelog.ForkError
				if !errors.As(err, &forked) || forked.Fork.Verify(log.manifest.Writer) != nil {
					t.Errorf("offering a frozen log: %v", err)
				}
				fn := func(uint64, []byte, merklelog.Leaf) error { return nil }
				old := NewTestLog("alice", "laptop", "log").Add(sizes[0])
				if err := dev.Read(t.Context(), old.manifest, old.Checkpoint(), []uint64{0, 9}, fn); err != nil {
					t.Errorf("reading a frozen log: %v", err)
				}
				stopPair(t, dev, srv)
			})
		})
	}
}

// TestHoles offers a log of which the source has lost parts.
func TestHoles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		log := NewTestLog("alice", "laptop", "log").Add(600)
		lost := []merklelog.Range{{First: 0, Count: 1}, {First: 10, Count: 300}, {First: 400, Count: 1}, {First: 599, Count: 1}}
		for _, r := range lost {
			log.Lose(r)
		}
		dev, srv := startPair(t, deviceConfig(), box.config("alice"))
		o := must(dev.Offer(log))
		_, err := o.WaitReceipt(t.Context(), 600)
		var h *HolesError
		if !errors.As(err, &h) || !slices.Equal(h.Holes, lost) || h.Truncated {
			t.Fatalf("%v", err)
		}
		if rc := &h.Receipt; rc.Held != 600-303 || rc.Complete() {
			t.Errorf("receipt %+v", rc)
		}
		p, _ := o.Progress()
		if p.Durable(0) || !p.Durable(1) || p.Durable(10) || !p.Durable(310) || p.Durable(600) || p.DurableRun() != 0 {
			t.Errorf("progress %+v", p)
		}
		// New blocks go on after the holes.
		log.Add(5)
		_, err = o.WaitReceipt(t.Context(), 605)
		if !errors.As(err, &h) || h.Receipt.Size != 605 || !slices.Equal(h.Holes, lost) {
			t.Errorf("later: %v", err)
		}
		// The wants must not have asked for every lost block apart.
		if n := box.store.puts; n != 302 {
			t.Errorf("%d blocks came", n)
		}

		// Reading tells what is not there, and gives the rest; also that of a request
		// with a block on a bad sector.
		box.store.logs[log.ID()].damaged[350] = true
		box.store.logs[log.ID()].bad = 351
		var got []uint64
		err = dev.Read(t.Context(), log.manifest, log.Checkpoint(), []uint64{9, 10, 350, 351, 604}, func(i uint64, _ []byte, _ merklelog.Leaf) error {
			got = append(got, i)
			return nil
		})
		var n *NotHeldError
		if !errors.As(err, &n) || !slices.Equal(n.Indexes, []uint64{10, 350, 351}) || n.Damaged != 2 || !slices.Equal(got, []uint64{9, 604}) {
			t.Errorf("read %v: %v", got, err)
		}
		stopPair(t, dev, srv)

		// Another session, with what was lost in a place from where it comes again.
		log.mu.Lock()
		log.gone = nil
		log.mu.Unlock()
		dev, srv = startPair(t, deviceConfig(), box.config("alice"))
		if _, err := must(dev.Offer(log)).WaitReceipt(t.Context(), 605); err != nil {
			t.Error(err)
		}
		if n := box.store.puts; n != 605 {
			t.Errorf("%d blocks came in all", n)
		}
		stopPair(t, dev, srv)
	})
}

// TestSourceFails ends the offering, not the session.
func TestSourceFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		log := NewTestLog("alice", "laptop", "log").Add(20)
		log.fail = errors.New("the disk is gone")
		dev, srv := startPair(t, deviceConfig(), box.config("alice"))
		_, err := must(dev.Offer(log)).WaitReceipt(t.Context(), 20)
		if !errors.Is(err, log.fail) {
			t.Errorf("%v", err)
		}
		other := NewTestLog("alice", "laptop", "other").Add(20)
		if _, err := must(dev.Offer(other)).WaitReceipt(t.Context(), 20); err != nil {
			t.Error(err)
		}
		stopPair(t, dev, srv)
	})
}

// TestQuota refuses new data with a clear error after receipting what came before.
func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		box.store.put = func(_ merklelog.LogID, i uint64) error {
			if i >= 100 {
				return errQuota
			}
			return nil
		}
		log := NewTestLog("alice", "laptop", "log").Add(300)
		dev, srv := startPair(t, deviceConfig(), box.config("alice"))
		o := must(dev.Offer(log))
		if _, err := o.WaitReceipt(t.Context(), 300); codeOf(err) != CodeQuota {
			t.Errorf("%v", err)
		}
		if p, _ := o.Progress(); p.DurableRun() != 100 {
			t.Errorf("%d blocks were receipted", p.DurableRun())
		}
		if blocks, _ := srv.cfg.Limits.InUse(); blocks != 0 {
			t.Errorf("%d blocks of credit are still taken", blocks)
		}
		if list, err := dev.Logs(t.Context(), testAccount("alice")); err != nil || len(list) != 1 {
			t.Errorf("the session did not go on: %v", err)
		}
		stopPair(t, dev, srv)
	})
}

// TestStoreIsDamaged does not blame the peer for what the store finds in itself.
func TestStoreIsDamaged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		box.store.put = func(_ merklelog.LogID, i uint64) error {
			if i == 7 {
				return fmt.Errorf("%w: leaf tile: %w", errDamaged, merklelog.ErrBlock)
			}
			return nil
		}
		dev, srv := startPair(t, deviceConfig(), box.config("alice"))
		o := must(dev.Offer(NewTestLog("alice", "laptop", "log").Add(20)))
		if _, err := o.WaitReceipt(t.Context(), 20); codeOf(err) != CodeDamaged {
			t.Errorf("%v", err)
		}
		stopPair(t, dev, srv)
	})
}

// TestManyLogsShareCredit offers many logs at once in one session.
func TestManyLogsShareCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		dev, srv := startPair(t, deviceConfig(), box.config("alice"))
		var offers []*Offering
		for i := range 12 {
			offers = append(offers, must(dev.Offer(NewTestLog("alice", "laptop", string(rune('a'+i))).Add(90))))
		}
		for i, o := range offers {
			if _, err := o.WaitReceipt(t.Context(), 90); err != nil {
				t.Errorf("log %d: %v", i, err)
			}
		}
		if blocks, sessions := srv.cfg.Limits.InUse(); blocks != 0 || sessions != 0 {
			t.Errorf("%d blocks of credit are still taken", blocks)
		}
		stopPair(t, dev, srv)
	})
}

// TestBothSidesOffer lets two boxes give each other a log.
func TestBothSidesOffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newTestBox(newMemStore(), "alice"), newTestBox(newMemStore(), "alice")
		x, y := startPair(t, a.config("alice"), b.config("alice"))
		one := must(x.Offer(NewTestLog("alice", "laptop", "one").Add(300)))
		two := must(y.Offer(NewTestLog("alice", "desk", "two").Add(300)))
		for _, o := range []*Offering{one, two} {
			if _, err := o.WaitReceipt(t.Context(), 300); err != nil {
				t.Error(err)
			}
		}
		stopPair(t, x, y)
	})
}

// TestReadCanceled cancels a read whose consumer is slow, and reads on.
func TestReadCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		log := NewTestLog("alice", "laptop", "log").Add(600)
		dev, srv := startPair(t, deviceConfig(), box.config("alice"))
		if _, err := must(dev.Offer(log)).WaitReceipt(t.Context(), 600); err != nil {
			t.Fatal(err)
		}
		all := make([]uint64, 600)
		for i := range all {
			all[i] = uint64(i)
		}
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		err := dev.Read(ctx, log.manifest, log.Checkpoint(), all, func(uint64, []byte, merklelog.Leaf) error {
			if n++; n == 50 {
				cancel()
			}
			synctest.Wait() // until everything that may come has come
			return nil
		})
		if !errors.Is(err, context.Canceled) || n < 50 || n > 300 {
			t.Errorf("after %d blocks: %v", n, err)
		}
		failed := errors.New("no space for the file")
		err = dev.Read(t.Context(), log.manifest, log.Checkpoint(), all, func(i uint64, _ []byte, _ merklelog.Leaf) error {
			if i == 77 {
				return failed
			}
			return nil
		})
		if !errors.Is(err, failed) {
			t.Errorf("%v", err)
		}
		checkRead(t, dev, log)
		synctest.Wait()
		if n := len(dev.ownReads); n != 0 {
			t.Errorf("%d reads are still counted as open", n)
		}
		stopPair(t, dev, srv)
	})
}

// TestConcurrentReads runs more reads at once than may be open.
func TestConcurrentReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		log := NewTestLog("alice", "laptop", "log").Add(300)
		dev, srv := startPair(t, deviceConfig(), box.config("alice"))
		if _, err := must(dev.Offer(log)).WaitReceipt(t.Context(), 300); err != nil {
			t.Fatal(err)
		}
		ends := make(chan error)
		for k := range 100 {
			go func() {
				var some []uint64
				for i := range uint64(40) {
					some = append(some, (i*37+uint64(k)*11)%300)
				}
				n := 0
				err := dev.Read(t.Context(), log.manifest, log.Checkpoint(), some, func(i uint64, _ []byte, _ merklelog.Leaf) error {
					if some[n] != i {
						return errors.New("out of order")
					}
					n++
					return nil
				})
				if err == nil && n != len(some) {
					err = errors.New("blocks are missing")
				}
				ends <- err
			}()
		}
		for range 100 {
			if err := <-ends; err != nil {
				t.Error(err)
			}
		}
		stopPair(t, dev, srv)
	})
}

// TestSilence keeps an idle session alive by pings and ends one whose peer is gone.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		dev, srv := startPair(t, deviceConfig(), box.config("alice"))
		time.Sleep(24 * time.Hour)
		if _, err := dev.Logs(t.Context(), testAccount("alice")); err != nil {
			t.Errorf("after a day without a word: %v", err)
		}
		stopPair(t, dev, srv)

		p, s := newRawPeer(t, deviceConfig())
		start := time.Now()
		p.want(kindPing)
		if d := time.Since(start); d != 25*time.Second {
			t.Errorf("pinged after %v", d)
		}
		err := <-s.end
		if d := time.Since(start); d < 75*time.Second || d > 80*time.Second || err == nil {
			t.Errorf("ended after %v with %v", d, err)
		}
		p.conn.Close()
	})
}

// TestShutdown ends a session by its context in the middle of everything.
func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		box.store.put = func(merklelog.LogID, uint64) error { time.Sleep(time.Millisecond); return nil }
		a, b := net.Pipe()
		dev := startSession(t, a, deviceConfig())
		srv := must(NewSession(NewBufferedConn(b), box.config("alice")))
		ctx, cancel := context.WithCancel(t.Context())
		end := make(chan error)
		go func() { end <- srv.Run(ctx) }()
		o := must(dev.Offer(NewTestLog("alice", "laptop", "log").Add(200)))
		time.Sleep(100 * time.Millisecond)
		cancel()
		if err := <-end; !errors.Is(err, context.Canceled) {
			t.Errorf("the box's Run: %v", err)
		}
		var e *Error
		if err := <-dev.end; !errors.As(err, &e) || e.Code != CodeShutdown {
			t.Errorf("the device's Run: %v", err)
		}
		if _, err := o.WaitReceipt(t.Context(), 200); !errors.Is(err, ErrClosed) {
			t.Errorf("waiting for a receipt: %v", err)
		}
		if _, err := dev.Offer(NewTestLog("alice", "laptop", "log")); !errors.Is(err, ErrClosed) {
			t.Errorf("offering in a closed session: %v", err)
		}
		if _, err := dev.Request(t.Context(), "status", nil, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("a request in a closed session: %v", err)
		}
		if err := dev.Run(t.Context()); err == nil {
			t.Error("Run ran twice")
		}
	})
}

// slowReads is a connection on which what was sent is read a moment later.
type slowReads struct{ Conn }

func (c slowReads) Read(p []byte) (int, error) {
	time.Sleep(10 * time.Millisecond)
	return c.Conn.Read(p)
}

// TestGoodbyeBeforeFailedWrite lets a peer say goodbye and close while
// something is being written to it: the session ended in order, although
// writing fails before the goodbye is read.
func TestGoodbyeBeforeFailedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		a, b := net.Pipe()
		srv := must(NewSession(slowReads{NewBufferedConn(a)}, box.config("alice")))
		end := make(chan error)
		go func() { end <- srv.Run(t.Context()) }()
		p := &rawPeer{t: t, conn: b}
		go p.send(kindHello, 0, appendHello(nil, &Hello{Version: Version, Name: "raw"}))
		// The box's hello is never read, so writing it waits until the end.
		time.Sleep(time.Second)
		p.send(kindGoodbye, 0, appendError(nil, &Error{}))
		b.Close()
		if err := <-end; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// TestFailedWriteEndsTheSession: without a goodbye the reader does not keep a
// session alive that can write nothing.
func TestFailedWriteEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		a, b := net.Pipe()
		srv := must(NewSession(brokenWrites{NewBufferedConn(a)}, box.config("alice")))
		start := time.Now()
		if err := srv.Run(t.Context()); !errors.Is(err, errBrokenWrite) {
			t.Errorf("Run: %v", err)
		}
		if d := time.Since(start); d > 2*goodbyeTime {
			t.Errorf("ended after %v", d)
		}
		b.Close()
	})
}

var errBrokenWrite = errors.New("nothing can be written")

type brokenWrites struct{ Conn }

func (brokenWrites) Write([]byte) (int, error) { return 0, errBrokenWrite }

// TestReceiptsAreCoalesced counts the receipts of a log that streams.
func TestReceiptsAreCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		log := NewTestLog("alice", "laptop", "log")
		dev, srv := startPair(t, deviceConfig(), box.config("alice"))
		o := must(dev.Offer(log))
		for range 60 { // 6 s
			log.Add(10)
			time.Sleep(100 * time.Millisecond)
		}
		if n := box.store.committed(); n < 2 || n > 8 {
			t.Errorf("%d commits in 6 s of streaming", n)
		}
		start := time.Now()
		if _, err := o.WaitReceipt(t.Context(), 600); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("the receipt took %v although it was asked for", d)
		}
		n := box.store.committed()
		time.Sleep(time.Hour)
		if more := box.store.committed() - n; more > 1 {
			t.Errorf("%d more commits of a log that does not change", more)
		}
		stopPair(t, dev, srv)
	})
}
