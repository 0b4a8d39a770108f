package replicate

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cobox/storage/merklelog"
)

// cutter counts the messages that go through both ends of a connection and
// closes it in the middle of one of them.
type cutter struct {
	mu   sync.Mutex
	left int // messages to let through
	cut  func()
}

// cutConn looks at what is written.
type cutConn struct {
	net.Conn
	c    *cutter
	head []byte // of the message that is being written
	body int    // bytes of its body that are still to come
}

func (c *cutConn) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		if c.body > 0 {
			n := min(c.body, len(p)-done)
			c.body -= n
			done += n
			continue
		}
		n := min(headerSize-len(c.head), len(p)-done)
		c.head = append(c.head, p[done:done+n]...)
		done += n
		if len(c.head) < headerSize {
			continue
		}
		c.body = int(binary.BigEndian.Uint32(c.head[5:]))
		c.head = c.head[:0]
		c.c.mu.Lock()
		c.c.left--
		cut := c.c.left == 0
		c.c.mu.Unlock()
		if cut {
			n, _ := c.Conn.Write(p[:done]) // the header, without its body
			c.c.cut()
			return n, net.ErrClosed
		}
	}
	return c.Conn.Write(p)
}

// TestInvariant13CutAtEveryMessage ends the connection at each message of a
// conversation in turn, and lets the box lose what it had not made durable. The
// next session brings everything, and no block that was receipted comes again
// or is missing (invariants 1 and 13).
func TestInvariant13CutAtEveryMessage(t *testing.T) {
	const n = 24
	step := 1
	if testing.Short() {
		step = 7
	}
	for k := 1; ; k += step {
		over := false
		synctest.Test(t, func(t *testing.T) {
			log := NewTestLog("alice", "laptop", "log").Add(n - 8)
			box := newTestBox(newMemStore(), "alice")
			a, b := net.Pipe()
			c := &cutter{left: k, cut: func() { a.Close(); b.Close() }}
			cfg := box.config("alice")
			cfg.ReceiptBlocks = 8
			dev := startSession(t, &cutConn{Conn: a, c: c}, deviceConfig())
			srv := startSession(t, &cutConn{Conn: b, c: c}, cfg)
			var receipted uint64
			o, err := dev.Offer(log)
			log.Add(8)
			if err == nil { // else the session has ended already
				_, err := o.WaitReceipt(t.Context(), n)
				over = err == nil
				p, _ := o.Progress()
				receipted = p.DurableRun()
			}
			dev.Close()
			<-dev.end
			<-srv.end
			if blocks, sessions := srv.cfg.Limits.InUse(); blocks != 0 || sessions != 0 {
				t.Errorf("cut at message %d: %d blocks of credit are still taken", k, blocks)
			}

			box.store.crash()
			held := box.store.held(log.ID())
			if uint64(held) < receipted {
				t.Errorf("cut at message %d: %d blocks were receipted, %d are there", k, receipted, held)
			}
			box.store.puts = 0
			dev, srv = startPair(t, deviceConfig(), box.config("alice"))
			if _, err := must(dev.Offer(log)).WaitReceipt(t.Context(), n); err != nil {
				t.Errorf("cut at message %d: %v", k, err)
			}
			if box.store.puts != n-held {
				t.Errorf("cut at message %d: %d blocks came again, %d were missing", k, box.store.puts, n-held)
			}
			stopPair(t, dev, srv)
		})
		if over || t.Failed() {
			if k < n/step && !t.Failed() {
				t.Errorf("only %d messages were cut", k)
			}
			return
		}
	}
}

// TestInvariant11 lets ten members stall in every way that holds credit, and
// one send: it must get on as if it were alone.
func TestInvariant11(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		limits := NewLimits(0)
		cfg := box.config("alice")
		cfg.Limits = limits
		var stalled []*rawPeer
		var sessions []*running
		for i := range 10 {
			p, s := newRawPeer(t, cfg)
			log := NewTestLog("alice", "laptop", string(rune('a'+i))).Add(100)
			p.upToWant(log)
			if i%2 == 0 { // half of them in the middle of a block
				p.conn.Write(append(appendHeader(nil, header{kindBlock, 1, blockBody}), make([]byte, 1000)...))
			}
			stalled, sessions = append(stalled, p), append(sessions, s)
		}
		synctest.Wait()
		if blocks, n := limits.InUse(); n != 10 || blocks < DefaultCredit || blocks > DefaultCredit+10*leastCredit {
			t.Errorf("%d blocks of credit are taken by %d sessions", blocks, n)
		}

		a, b := net.Pipe()
		dev, srv := startSession(t, a, deviceConfig()), startSession(t, b, cfg)
		start := time.Now()
		if _, err := must(dev.Offer(NewTestLog("alice", "laptop", "honest").Add(500))).WaitReceipt(t.Context(), 500); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d != 0 { // no time passes but where somebody waits
			t.Errorf("the honest member had to wait for %v", d)
		}
		time.Sleep(16 * time.Second)
		if blocks, n := limits.InUse(); n != 0 || blocks != 0 {
			t.Errorf("%d blocks of credit are held by %d sessions that stall", blocks, n)
		}
		stopPair(t, dev, srv)
		for i, s := range sessions {
			if err := <-s.end; err == nil {
				t.Errorf("session %d ended in order", i)
			}
			stalled[i].conn.Close()
		}
	})
}

// TestStalledStore lets the store hang for one member: the other goes on, and
// the session of the first survives.
func TestStalledStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		slow := NewTestLog("alice", "laptop", "slow").Add(200)
		box.store.put = func(log merklelog.LogID, i uint64) error {
			if log == slow.ID() && i == 20 {
				time.Sleep(5 * time.Minute)
			}
			return nil
		}
		one, srv1 := startPair(t, deviceConfig(), box.config("alice"))
		o := must(one.Offer(slow))
		two, srv2 := startPair(t, deviceConfig(), box.config("alice"))
		start := time.Now()
		if _, err := must(two.Offer(NewTestLog("alice", "laptop", "quick").Add(200))).WaitReceipt(t.Context(), 200); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("the quick log took %v", d)
		}
		// The box reads nothing of the first for 5 minutes, so the device's
		// writes time out: it may connect again.
		_, err := o.WaitReceipt(t.Context(), 200)
		if err != nil && !errors.Is(err, ErrClosed) {
			t.Errorf("the slow log: %v", err)
		}
		one.Close()
		<-one.end
		<-srv1.end
		stopPair(t, two, srv2)
	})
}

// TestInvariant10 moves logs by eight sessions at once and looks at the memory
// that sessions need, without that of the connections and the store.
func TestInvariant10(t *testing.T) {
	if testing.Short() {
		t.Skip("moves 8 × 32 MiB")
	}
	store := newMemStore()
	box := newTestBox(store, "alice")
	limits := NewLimits(0)
	var logs []*TestLog
	for i := range 8 {
		logs = append(logs, NewTestLog("alice", "laptop", string(rune('a'+i))).Add(512))
	}
	cfg := box.config("alice")
	cfg.Limits = limits
	cfg.Box.Store = forgetful{store}
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var wg sync.WaitGroup
	for _, log := range logs {
		wg.Go(func() {
			dev, srv := startPair(t, deviceConfig(), cfg)
			if _, err := must(dev.Offer(log)).WaitReceipt(t.Context(), 512); err != nil {
				t.Error(err)
			}
			stopPair(t, dev, srv)
		})
	}
	stop := make(chan struct{})
	peak := make(chan uint64)
	go func() {
		highest := uint64(0)
		for {
			select {
			case <-stop:
				peak <- highest
				return
			case <-time.After(20 * time.Millisecond):
			}
			runtime.GC() // what is garbage is not needed
			runtime.ReadMemStats(&now)
			highest = max(highest, now.HeapAlloc)
			if blocks, _ := limits.InUse(); blocks > DefaultCredit+8*leastCredit {
				t.Errorf("%d blocks of credit are taken", blocks)
			}
		}
	}()
	wg.Wait()
	close(stop)
	used := int64(<-peak) - int64(before.HeapAlloc)
	t.Logf("8 devices and 8 sessions of a box took %d KiB at most", used>>10)
	if used > 24<<20 {
		t.Errorf("8 devices and 8 sessions of a box took %d MiB", used>>20)
	}
}

// forgetful is a store that remembers which blocks it has, not what they are.
type forgetful struct{ *memStore }

func (s forgetful) Commit(ctx context.Context, id merklelog.LogID) (merklelog.Durable, error) {
	return s.memStore.Commit(ctx, id)
}

func (s forgetful) PutBlock(ctx context.Context, id merklelog.LogID, index uint64, block []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.logs[id]
	if err := l.leaves[index].Check(block); err != nil {
		return err
	}
	l.blocks[index] = []byte{}
	return nil
}

// TestCredit checks the sharing of credit by itself.
func TestCredit(t *testing.T) {
	l := NewLimits(100)
	a, b, c := &credit{l: l}, &credit{l: l}, &credit{l: l}
	take := func(x *credit, want, got int) {
		t.Helper()
		if n := x.take(want); n != got {
			t.Errorf("took %d of %d, want %d", n, want, got)
		}
	}
	use := func(blocks, sessions int) {
		t.Helper()
		if n, m := l.InUse(); n != blocks || m != sessions {
			t.Errorf("%d blocks and %d sessions, want %d and %d", n, m, blocks, sessions)
		}
	}
	take(a, 10, 10)
	take(a, 1000, sessionCredit-10)
	take(a, 1, 0)
	use(64, 1)
	take(b, 64, 36) // what is left
	use(100, 2)
	take(c, 64, leastCredit) // nobody is left without
	take(c, 1, 0)
	a.give(64)
	use(40, 2)
	take(c, 64, 50-leastCredit) // half of all, as a has gone
	use(86, 2)
	a.park() // holds nothing
	b.park()
	use(50, 1)
	take(b, 64, 14) // its half, less what is still under way
	use(64, 2)
	b.give(36) // what was parked comes first
	use(64, 2)
	b.give(14)
	use(50, 1)
	c.close()
	a.close()
	use(0, 0)
	defer func() {
		if recover() == nil {
			t.Error("gave back more than was taken")
		}
	}()
	a.give(1)
}
