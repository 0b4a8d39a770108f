package replicate_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"errors"
	"fmt"
	"iter"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"cobox/netlink/noiseconn"
	"cobox/netlink/replicate"
	"cobox/storage/account"
	"cobox/storage/merklelog"
	"cobox/storage/replica"
)

// store is the real replica store as a box hands it to a session.
type store struct{ *replica.Store }

func (s store) Log(log merklelog.LogID) (replicate.LogState, error) {
	info, err := s.Store.Log(log)
	if err != nil {
		return replicate.LogState{}, err
	}
	return replicate.LogState{Manifest: info.Manifest, Checkpoint: info.Checkpoint, Leaves: info.Leaves, Held: info.Held}, nil
}

func (s store) ReadBlock(log merklelog.LogID, index uint64, dst []byte) error {
	block, _, err := s.Store.ReadBlock(log, index, dst)
	if err == nil && &block[0] != &dst[0] {
		copy(dst, block)
	}
	return err
}

func code(err error) replicate.Code {
	var damaged *replica.DamagedError
	switch {
	case errors.Is(err, replica.ErrUnknownLog):
		return replicate.CodeUnknownLog
	case errors.Is(err, replica.ErrNotHeld), errors.Is(err, replica.ErrDropped):
		return replicate.CodeNotHeld
	case errors.Is(err, replica.ErrQuota):
		return replicate.CodeQuota
	case errors.As(err, &damaged):
		return replicate.CodeDamaged
	}
	return replicate.CodeInternal
}

// box is the smallest box over a real store, for whoever has an account.
type box struct {
	store  store
	limits *replicate.Limits
	mu     sync.Mutex
	seq    uint64
}

func openBox(t testing.TB, dir string, o replica.Options) *box {
	t.Helper()
	o.NoBallast = true
	s, err := replica.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return &box{store: store{s}, limits: replicate.NewLimits(0)}
}

func (b *box) MayDeliver(context.Context, replicate.Peer, merklelog.LogID, *merklelog.Manifest, *account.Certificate, bool) error {
	return nil
}
func (b *box) MayRead(context.Context, replicate.Peer, merklelog.LogID, *merklelog.Manifest) error {
	return nil
}
func (b *box) MayList(context.Context, replicate.Peer, account.ID) error { return nil }

func (b *box) receipt(_ context.Context, d *merklelog.Durable) (*replicate.Receipt, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seq++
	r := replicate.NewReceipt(d)
	r.Sequence = b.seq
	return &r, replicate.SignReceipt(&r, replicate.KeyOf("box"))
}

func (b *box) logs(_ context.Context, who account.ID) iter.Seq2[*replicate.LogEntry, error] {
	return func(yield func(*replicate.LogEntry, error) bool) {
		for info, err := range b.store.Logs(who) {
			if err != nil {
				yield(nil, err)
				return
			}
			e := &replicate.LogEntry{Manifest: info.Manifest, Checkpoint: info.Checkpoint, Leaves: info.Leaves, Held: info.Held}
			if info.Leaves == info.Checkpoint.Size {
				e.Readable = &info.Checkpoint
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (b *box) config() replicate.Config {
	return replicate.Config{Limits: b.limits, Box: &replicate.Box{
		Store: b.store, Authorizer: b, Receipt: b.receipt, Logs: b.logs, Code: code,
	}}
}

func noiseKey(name string) (private [32]byte, public [32]byte) {
	s := sha512.Sum512([]byte(name))
	k, err := ecdh.X25519().NewPrivateKey(s[:32])
	if err != nil {
		panic(err)
	}
	return [32]byte(s[:32]), [32]byte(k.PublicKey().Bytes())
}

// link connects a device to the box by TCP and Noise and runs both sessions.
// The function returned ends them.
func link(t testing.TB, b *box) (*replicate.Session, func() error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var psk noiseconn.PSK
	rand.Read(psk[:])
	boxPriv, boxPub := noiseKey("box noise")
	devPriv, _ := noiseKey("device noise")
	accepted := make(chan *noiseconn.Conn, 1)
	go func() {
		nc, err := l.Accept()
		if err != nil {
			t.Error(err)
			close(accepted)
			return
		}
		c, err := noiseconn.Accept(context.Background(), nc, noiseconn.ServerConfig{
			Static:  noiseconn.StaticPrivate(boxPriv),
			LinkPSK: func(noiseconn.StaticPublic) (noiseconn.PSK, any, bool) { return psk, nil, true },
		})
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := noiseconn.Dial(context.Background(), nc, noiseconn.Config{
		Mode: noiseconn.ModeLink, Static: noiseconn.StaticPrivate(devPriv), Remote: noiseconn.StaticPublic(boxPub), PSK: psk,
	})
	if err != nil {
		t.Fatal(err)
	}
	served := <-accepted
	if served == nil {
		t.FailNow()
	}
	dev, err := replicate.NewSession(c, replicate.Config{BoxKey: replicate.BoxKey(replicate.KeyOf("box").Public().(ed25519.PublicKey))})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := replicate.NewSession(served, b.config())
	if err != nil {
		t.Fatal(err)
	}
	ends := make(chan error, 2)
	go func() { ends <- dev.Run(context.Background()) }()
	go func() { ends <- srv.Run(context.Background()) }()
	return dev, func() error {
		dev.Close()
		return errors.Join(<-ends, <-ends)
	}
}

func TestRealStore(t *testing.T) {
	n := 700
	if testing.Short() {
		n = 300
	}
	dir := t.TempDir()
	log := replicate.NewTestLog("alice", "laptop", "log").Add(n / 2)
	b := openBox(t, dir, replica.Options{})
	dev, end := link(t, b)
	o, err := dev.Offer(log)
	if err != nil {
		t.Fatal(err)
	}
	log.Add(n - n/2)
	if _, err := o.WaitReceipt(t.Context(), uint64(n)); err != nil {
		t.Fatal(err)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	if err := b.store.Close(); err != nil {
		t.Fatal(err)
	}

	// Another start: the list leads to the log, and all of it comes back.
	b = openBox(t, dir, replica.Options{})
	defer b.store.Close()
	dev, end = link(t, b)
	list, err := dev.Logs(t.Context(), replicate.AccountOf("alice"))
	if err != nil || len(list) != 1 || list[0].Held != uint64(n) || list[0].Readable == nil {
		t.Fatalf("list %+v, %v", list, err)
	}
	var indexes []uint64
	for i := range uint64(n) { // forwards, backwards and across
		indexes = append(indexes, i, uint64(n)-1-i, i*7919%uint64(n))
	}
	k := 0
	want := make([]byte, merklelog.BlockSize)
	err = dev.Read(t.Context(), list[0].Manifest, *list[0].Readable, indexes, func(i uint64, block []byte, _ merklelog.Leaf) error {
		log.Fill(i, want)
		if i != indexes[k] || !bytes.Equal(block, want) {
			return fmt.Errorf("block %d is wrong", i)
		}
		k++
		return nil
	})
	if err != nil || k != len(indexes) {
		t.Errorf("read %d of %d blocks: %v", k, len(indexes), err)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
}

func TestRealStoreQuota(t *testing.T) {
	full := uint64(100 << 16)
	b := openBox(t, t.TempDir(), replica.Options{Quota: func(account.ID) (uint64, bool) { return full, true }})
	defer b.store.Close()
	dev, end := link(t, b)
	log := replicate.NewTestLog("alice", "laptop", "log").Add(150)
	o, err := dev.Offer(log)
	if err != nil {
		t.Fatal(err)
	}
	_, err = o.WaitReceipt(t.Context(), 150)
	if !errors.Is(err, &replicate.Error{Code: replicate.CodeQuota}) {
		var e *replicate.Error
		if !errors.As(err, &e) || e.Code != replicate.CodeQuota {
			t.Errorf("over quota: %v", err)
		}
	}
	p, _ := o.Progress()
	if p.Receipt == nil || p.DurableRun() < 90 {
		t.Errorf("what came before the quota was full was not receipted: %+v", p)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
}

func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkIntake and BenchmarkRead move one log of 1 GiB over loopback, both
// sides in this process, and report the CPU seconds a GiB of both together.
func BenchmarkIntake(b *testing.B) {
	const n = 16384
	log := replicate.NewTestLog("alice", "laptop", "log").Add(n)
	b.SetBytes(n << 16)
	for b.Loop() {
		dir, err := os.MkdirTemp("", "replicate")
		if err != nil {
			b.Fatal(err)
		}
		bx := openBox(b, dir, replica.Options{})
		dev, end := link(b, bx)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := cpu()
		o, err := dev.Offer(log)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := o.WaitReceipt(b.Context(), n); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric((cpu() - start).Seconds(), "cpu-s/GiB")
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.Mallocs-before.Mallocs)/n, "allocs/block")
		b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/n, "B/block")
		if err := end(); err != nil {
			b.Error(err)
		}
		bx.store.Close()
		os.RemoveAll(dir)
	}
}

func BenchmarkRead(b *testing.B) {
	const n = 16384
	log := replicate.NewTestLog("alice", "laptop", "log").Add(n)
	dir := b.TempDir()
	bx := openBox(b, dir, replica.Options{})
	defer bx.store.Close()
	dev, end := link(b, bx)
	o, err := dev.Offer(log)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := o.WaitReceipt(b.Context(), n); err != nil {
		b.Fatal(err)
	}
	indexes := make([]uint64, n)
	for i := range indexes {
		indexes[i] = uint64(i)
	}
	b.SetBytes(n << 16)
	for b.Loop() {
		start := cpu()
		if err := dev.Read(b.Context(), log.Manifest(), log.Checkpoint(), indexes, func(uint64, []byte, merklelog.Leaf) error { return nil }); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric((cpu() - start).Seconds(), "cpu-s/GiB")
	}
	if err := end(); err != nil {
		b.Error(err)
	}
}
