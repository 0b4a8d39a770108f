package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"cobox/cmd/cobox/device"
	"cobox/cmd/cobox/ui"
	"cobox/netlink/replicate"
	"cobox/storage/account"
	"cobox/storage/archive/spool"
	"cobox/storage/merklelog"
)

// muteBox is a box that is there and answers neither offers nor reads.
type muteBox struct {
	replicate.Store
	own *spool.Spool // that it claims to hold
}

func (b *muteBox) Log(merklelog.LogID) (replicate.LogState, error) {
	if b.own == nil {
		return replicate.LogState{}, replicate.ErrUnknownLog
	}
	cp := b.own.Checkpoint()
	return replicate.LogState{Manifest: b.own.Manifest(), Checkpoint: cp, Leaves: cp.Size, Held: cp.Size}, nil
}

func (b *muteBox) MayDeliver(ctx context.Context, _ replicate.Peer, _ merklelog.LogID, _ *merklelog.Manifest, _ *account.Certificate, _ bool) error {
	<-ctx.Done()
	return ctx.Err()
}

func (b *muteBox) MayRead(ctx context.Context, _ replicate.Peer, _ merklelog.LogID, _ *merklelog.Manifest) error {
	<-ctx.Done()
	return ctx.Err()
}

func (b *muteBox) MayList(context.Context, replicate.Peer, account.ID) error { return nil }

// wholeBox holds all that the log it claims to hold has, and says so.
type wholeBox struct {
	muteBox
	key ed25519.PrivateKey
}

func (b *wholeBox) MayDeliver(context.Context, replicate.Peer, merklelog.LogID, *merklelog.Manifest, *account.Certificate, bool) error {
	return nil
}

func (b *wholeBox) OfferCheckpoint(*merklelog.Manifest, merklelog.Checkpoint, merklelog.Proof) error {
	return nil
}

func (b *wholeBox) Missing(merklelog.LogID, uint64, int) ([]merklelog.Range, error) { return nil, nil }

func (b *wholeBox) Commit(context.Context, merklelog.LogID) (merklelog.Durable, error) {
	cp := b.own.Checkpoint()
	return merklelog.Durable{Checkpoint: cp, Held: cp.Size, HolesDigest: merklelog.DigestRanges(nil)}, nil
}

func (b *wholeBox) receipt(_ context.Context, d *merklelog.Durable) (*replicate.Receipt, error) {
	r := replicate.NewReceipt(d)
	r.Sequence = 1
	return &r, replicate.SignReceipt(&r, b.key)
}

type pipeConn struct {
	net.Conn
	*bufio.Writer
}

func (c pipeConn) Write(p []byte) (int, error) { return c.Writer.Write(p) }

// connect gives the link a session with the box until the test has ended.
func (b *muteBox) connect(t *testing.T, l *link) {
	t.Helper()
	connect(t, l, &replicate.Box{Store: b, Authorizer: b, Receipt: func(context.Context, *merklelog.Durable) (*replicate.Receipt, error) {
		return nil, errors.New("no receipts here")
	}})
}

func connect(t *testing.T, l *link, b *replicate.Box) {
	t.Helper()
	b.Code = func(error) replicate.Code { return replicate.CodeInternal }
	here, there := net.Pipe()
	for conn, cfg := range map[net.Conn]replicate.Config{here: {BoxKey: l.box.Sign}, there: {Box: b}} {
		s, err := replicate.NewSession(pipeConn{conn, bufio.NewWriter(conn)}, cfg)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		ctx, end := context.WithCancel(context.Background())
		go func() { defer close(ended); _ = s.Run(ctx) }()
		t.Cleanup(func() { end(); <-ended })
		if conn == here {
			l.current = s
		}
	}
}

// newDelivery makes a delivery that offers to nobody yet.
func newDelivery(t *testing.T, links ...*link) (*delivery, *spool.Spool) {
	t.Helper()
	s, own := newLogSpace(t)
	s.fleet = s.a.newFleet(s.st, nil)
	d := s.deliver(t.Context())
	t.Cleanup(d.end)
	for _, l := range links {
		l.f, l.changed = s.fleet, make(chan struct{})
		d.boxes[l] = &boxDelivery{}
	}
	return d, own
}

func appendTo(t *testing.T, own *spool.Spool, blocks int) merklelog.Checkpoint {
	t.Helper()
	block := make([]byte, merklelog.BlockSize)
	for i := range blocks {
		block[0], block[1] = byte(merklelog.Data), byte(i)
		if _, err := own.Append(t.Context(), block); err != nil {
			t.Fatal(err)
		}
	}
	cp, err := own.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

// receipted lets the spool go of what the box has, and the box serve it.
func receipted(t *testing.T, d *delivery, own *spool.Spool, l *link, cp merklelog.Checkpoint) {
	t.Helper()
	if err := own.Receipted(spool.Receipt{Box: spool.BoxKey(l.box.Static), Size: cp.Size, Root: cp.Root}); err != nil {
		t.Fatal(err)
	}
	d.s.holds(l, own, &replicate.Receipt{Log: cp.Log, Size: cp.Size, Root: cp.Root})
}

// TestStall leaves out a box that lacks something and does not answer for long,
// but not one for which there is nothing yet, or nothing until just now.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{box: &device.Box{Name: "shelf"}}
		d, own := newDelivery(t, l)
		(&muteBox{}).connect(t, l)
		o, err := l.current.Offer(own)
		if err != nil {
			t.Fatal(err)
		}
		var watching bool
		go func() { watching = true; d.watch(t.Context(), l, own, o); watching = false }()
		stalled := func() bool {
			synctest.Wait()
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.boxes[l].err != nil || !watching
		}
		time.Sleep(3*stall - time.Millisecond)
		if stalled() {
			t.Fatal("a box was left out that was to take nothing")
		}
		appendTo(t, own, 3)
		time.Sleep(stall / 2)
		if stalled() {
			t.Fatal("a box was left out that had half the time only")
		}
		time.Sleep(stall)
		if !stalled() || !errors.Is(d.boxes[l].err, errStalled) {
			t.Fatal("a box that does not answer was not left out")
		}
	})
}

// TestRelayElsewhere counts on another box only while there is a session with it.
func TestRelayElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to, from := &link{box: &device.Box{Name: "shelf"}}, &link{box: &device.Box{Name: "attic"}}
		d, own := newDelivery(t, to, from)
		cp := appendTo(t, own, 3)
		receipted(t, d, own, from, cp)
		r := &relay{Spool: own, d: d, to: to}
		start := time.Now()
		err := r.Block(0, make([]byte, merklelog.BlockSize))
		if !errors.Is(err, replicate.ErrNotHere) || time.Since(start) != 0 || r.Next(0) != cp.Size {
			t.Errorf("of a box that has gone: %v after %v, next %d", err, time.Since(start), r.Next(0))
		}
		(&muteBox{own: own}).connect(t, from)
		if next := r.Next(0); next != 0 {
			t.Errorf("of a box that is there: next %d", next)
		}
	})
}

// TestRelayEnds ends the delivery while a block is read from a box that does not
// answer.
func TestRelayEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to, from := &link{box: &device.Box{Name: "shelf"}}, &link{box: &device.Box{Name: "attic"}}
		d, own := newDelivery(t, to, from)
		(&muteBox{own: own}).connect(t, from)
		receipted(t, d, own, from, appendTo(t, own, 3))
		time.AfterFunc(time.Second, d.stop)
		start := time.Now()
		err := (&relay{Spool: own, d: d, to: to}).Block(0, make([]byte, merklelog.BlockSize))
		if !errors.Is(err, replicate.ErrNotHere) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// TestReceiptThatCannotBeStored has no room for a receipt for a while. No other one
// comes: what is appended may wait for the room that this one gives.
func TestReceiptThatCannotBeStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		public, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		l := &link{box: &device.Box{Name: "shelf", Sign: [32]byte(public)}}
		d, own := newDelivery(t, l)
		appendTo(t, own, 3)
		b := &wholeBox{muteBox{own: own}, private}
		connect(t, l, &replicate.Box{Store: b, Authorizer: b, Receipt: b.receipt})
		inTheWay := filepath.Join(d.s.st.Home.LogDir(own.ID()), "receipts.tmp")
		if err := os.Mkdir(inTheWay, 0o700); err != nil {
			t.Fatal(err)
		}
		o, err := l.current.Offer(own)
		if err != nil {
			t.Fatal(err)
		}
		go d.watch(t.Context(), l, own, o)
		time.Sleep(stall / 2)
		if p, _ := o.Progress(); p.Receipt == nil || own.Waiting() == 0 {
			t.Fatalf("receipt %v, %d bytes wait", p.Receipt, own.Waiting())
		}
		if err := os.Remove(inTheWay); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * receiptRetry)
		if own.Waiting() != 0 {
			t.Errorf("%d bytes wait though the box has everything", own.Waiting())
		}
	})
}

// TestRefusals: what a box says of itself may be otherwise in a moment, and if not
// it is as good as out of reach. What it says of the backup stands.
func TestRefusals(t *testing.T) {
	for c, want := range map[replicate.Code]struct {
		waits time.Duration
		exit  int
	}{
		replicate.CodeInternal: {outage, ui.ExitNoBox},
		replicate.CodeShutdown: {outage, ui.ExitNoBox},
		replicate.CodeBusy:     {outage, ui.ExitNoBox},
		replicate.CodeTimeout:  {outage, ui.ExitNoBox},
		replicate.CodeDamaged:  {outage, ui.ExitFailed}, // its disk may have gone
		replicate.CodeQuota:    {0, ui.ExitFailed},
		replicate.CodeReadOnly: {0, ui.ExitFailed},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := &link{box: &device.Box{Name: "shelf"}, greeted: true}
			d, own := newDelivery(t, l)
			size := appendTo(t, own, 1).Size
			(&muteBox{own: own}).connect(t, l)
			o, err := l.current.Offer(own)
			if err != nil {
				t.Fatal(err)
			}
			said := &replicate.Error{Code: c}
			d.update(l, func(b *boxDelivery) { b.err, b.offers = said, map[merklelog.LogID]*replicate.Offering{own.ID(): o} })
			began := time.Now()
			_, err = d.waitBox(t.Context(), l, own, size, nil)
			if waited := time.Since(began); waited != want.waits || !errors.Is(err, said) {
				t.Errorf("%v: %v after %v", c, err, waited)
			}
			var f *ui.Failure
			if err := notDelivered(map[*link]error{l: err}, 1); !errors.As(err, &f) || f.Exit != want.exit {
				t.Errorf("%v: %+v", c, f)
			}
			// The same as the last word of a box that has hung up.
			l.err = said
			d.update(l, func(b *boxDelivery) { b.err, b.offers = nil, nil })
			_, err = d.waitBox(t.Context(), l, own, size, nil)
			if err := notDelivered(map[*link]error{l: err}, 1); !errors.As(err, &f) || f.Exit != want.exit {
				t.Errorf("%v as a goodbye: %+v", c, f)
			}
		})
	}
}
