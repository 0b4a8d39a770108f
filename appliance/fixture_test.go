package appliance_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cobox/appliance"
	"cobox/appliance/admin"
	"cobox/appliance/boxtest"
	"cobox/appliance/config"
	"cobox/netlink/replicate"
	"cobox/storage/merklelog"
	"cobox/storage/replica"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// box is a running box.
type box struct {
	t    *testing.T
	info appliance.Info
	stop func() error // stops it and returns what Run returned
}

// start runs a box on a data directory until the test ends.
func start(t *testing.T, data string, store ...replica.Options) *box {
	t.Helper()
	return startConfig(t, data, func(cfg *appliance.Config) {
		for _, o := range store {
			cfg.SetStore(o)
		}
	})
}

func startConfig(t *testing.T, data string, change func(*appliance.Config)) *box {
	t.Helper()
	cfg := appliance.Config{
		Settings: config.Config{Data: data, Listen: "127.0.0.1:0", HTTP: "127.0.0.1:0"},
		Version:  "test",
		Logger:   slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	change(&cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan appliance.Info, 1)
	done := make(chan error, 1)
	cfg.Ready = func(i appliance.Info) { ready <- i }
	go func() { done <- appliance.Run(ctx, cfg) }()
	b := &box{t: t}
	var result error
	stopped := false
	b.stop = func() error {
		if !stopped {
			stopped = true
			cancel()
			result = <-done
		}
		return result
	}
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := b.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case b.info = <-ready:
	case err := <-done:
		stopped, result = true, err
		t.Fatalf("Run: %v", err)
	}
	return b
}

func (b *box) get(path string) (int, string) {
	b.t.Helper()
	resp, err := http.Get("http://" + b.info.HTTP.String() + path)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// metric returns the value of one line of /metrics, as text.
func (b *box) metric(name string) string {
	b.t.Helper()
	_, body := b.get("/metrics")
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return "absent"
}

func (b *box) addr() string { return b.info.Listen.String() }

// device makes a member with one device and pairs it.
func (b *box) device(ctx context.Context, code string) *boxtest.Device {
	b.t.Helper()
	m, err := boxtest.NewMember()
	if err != nil {
		b.t.Fatal(err)
	}
	d, err := m.NewDevice()
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := d.Pair(ctx, code); err != nil {
		b.t.Fatal(err)
	}
	return d
}

func (b *box) link(ctx context.Context, d *boxtest.Device) *boxtest.Link {
	b.t.Helper()
	l, err := d.Link(ctx, b.addr(), b.info.Key)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(l.Close)
	return l
}

func (b *box) log(d *boxtest.Device, blocks int) *boxtest.Log {
	b.t.Helper()
	log, err := boxtest.NewLog(d, merklelog.Tag{1})
	if err != nil {
		b.t.Fatal(err)
	}
	if err := log.Append(blocks); err != nil {
		b.t.Fatal(err)
	}
	return log
}

func (b *box) ask(ctx context.Context, l *boxtest.Link, method string, request, reply any) {
	b.t.Helper()
	if err := l.Ask(ctx, method, request, reply); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
}

// invite makes an invite and returns its code.
func (b *box) invite(ctx context.Context, l *boxtest.Link, quota uint64) admin.Invited {
	b.t.Helper()
	var got admin.Invited
	b.ask(ctx, l, admin.MethodInviteCreate, admin.InviteRequest{Name: "bakery", Quota: admin.Quota{Bytes: quota}}, &got)
	return got
}

func wantCode(t *testing.T, what string, err error, want replicate.Code) {
	t.Helper()
	if !errors.Is(err, &replicate.Error{Code: want}) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// readBack lists the account's logs and reads one of them, block by block.
func readBack(t *testing.T, ctx context.Context, l *boxtest.Link, log *boxtest.Log) {
	t.Helper()
	entries, err := l.Logs(ctx, log.Account())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Manifest.ID() != log.ID() {
			continue
		}
		if e.Receipt == nil || e.Receipt.Size != e.Checkpoint.Size || e.Readable == nil {
			t.Errorf("listed with receipt %+v and readable %+v", e.Receipt, e.Readable)
		}
		indexes := make([]uint64, e.Checkpoint.Size)
		for i := range indexes {
			indexes[i] = uint64(i)
		}
		want := make([]byte, merklelog.BlockSize)
		n := 0
		err := l.Read(ctx, e.Manifest, e.Checkpoint, indexes, func(index uint64, block []byte, _ merklelog.Leaf) error {
			n++
			if err := log.Block(index, want); err != nil {
				return err
			}
			if string(block) != string(want) {
				t.Errorf("block %d is another", index)
			}
			return nil
		})
		if err != nil || n != len(indexes) {
			t.Errorf("read %d of %d blocks: %v", n, len(indexes), err)
		}
		return
	}
	t.Fatalf("the log is not among the %d listed", len(entries))
}

func readSome(t *testing.T, ctx context.Context, l *boxtest.Link, log *boxtest.Log, n uint64) {
	t.Helper()
	entries, err := l.Logs(ctx, log.Account())
	if err != nil {
		t.Fatal(err)
	}
	e := entries[0]
	indexes := make([]uint64, n)
	for i := range indexes {
		indexes[i] = uint64(i)
	}
	if e.Readable == nil {
		t.Fatalf("nothing of the log can be read: %+v", e)
	}
	got := uint64(0)
	if err := l.Read(ctx, e.Manifest, *e.Readable, indexes, func(uint64, []byte, merklelog.Leaf) error { got++; return nil }); err != nil || got != n {
		t.Errorf("read %d of %d blocks: %v", got, n, err)
	}
}
