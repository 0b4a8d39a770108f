package appliance_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cobox/appliance"
	"cobox/appliance/admin"
	"cobox/appliance/boxtest"
	"cobox/appliance/machine"
	"cobox/image/bundle"
	"cobox/image/bundle/bundletest"
	"cobox/netlink/replicate"
	"cobox/storage/replica"
)

// firstProcess answers a box as the first process of the image does. What it
// writes, and that it verifies, is tested in package update.
type firstProcess struct {
	mu     sync.Mutex
	state  machine.State
	refuse int // how often Proved fails
	proved int
	tried  chan struct{}
	wrote  []byte // the bundle
	dir    string
}

func newFirstProcess(dir string) *firstProcess {
	return &firstProcess{dir: dir, tried: make(chan struct{}, 8), state: machine.State{Slot: "a", Board: bundle.BoardRPi,
		Release: machine.Release{Version: "1.3.0", Number: 3}, Floor: 2}}
}

func (p *firstProcess) set(change func(*machine.State)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.state)
}

func (p *firstProcess) provedTimes() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.proved
}

func (p *firstProcess) handle(_ context.Context, q *machine.Question) (any, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch q.Method {
	case machine.MethodState:
		return p.state, nil
	case machine.MethodInstall:
		var err error
		if p.wrote, err = os.ReadFile(filepath.Join(p.dir, machine.UpdateFile)); err != nil {
			return nil, err
		}
		q.Progress(machine.InstallProgress{Done: 1, Total: int64(len(p.wrote))})
		r := machine.Release{Version: "1.4.0", Number: 4}
		p.state.Other, p.state.Update = &r, &machine.Update{Release: r, Result: machine.ResultWritten}
		return r, nil
	case machine.MethodTry:
		p.tried <- struct{}{}
		return machine.Empty{}, nil
	case machine.MethodProved:
		if p.proved++; p.proved <= p.refuse {
			return nil, errors.New("not now")
		}
		return machine.Empty{}, nil
	}
	return nil, machine.Errorf(machine.CodeUnknown, "no method %s", q.Method)
}

// startSystem runs a box with a first process.
func startSystem(t *testing.T, data string, p *firstProcess, change ...func(*appliance.Config)) *box {
	t.Helper()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	for _, fd := range pair {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		conns = append(conns, c)
	}
	served := make(chan error, 1)
	go func() { served <- machine.Serve(context.Background(), conns[1], p.handle) }()
	client := machine.NewClient(conns[0])
	t.Cleanup(func() {
		client.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	keys := filepath.Join(t.TempDir(), "release.pub")
	var text []byte
	_, public := bundletest.Keys()
	for _, k := range public.Public() {
		text = k.Append(text)
	}
	if err := os.WriteFile(keys, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return startConfig(t, data, func(cfg *appliance.Config) {
		cfg.Machine, cfg.ReleaseKeys = client, keys
		for _, fn := range change {
			fn(cfg)
		}
	})
}

// release makes a signed update.
func release(t *testing.T) []byte {
	t.Helper()
	private, _ := bundletest.Keys()
	files := bundletest.Files{"cmdline.txt": []byte("rdinit=/init\n")}
	m := &bundle.Manifest{Version: "1.4.0", Number: 4, Floor: 1, Board: bundle.BoardRPi,
		Files: []bundle.File{{Path: "cmdline.txt", Size: 13, SHA256: sha256.Sum256(files["cmdline.txt"])}}}
	sigs, err := bundletest.Sign(m, private[0], private[1])
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := bundle.Write(&b, m, sigs, files.Open); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sendUpdate(ctx context.Context, l *boxtest.Link, data []byte, progress func([]byte)) (admin.Updated, error) {
	var got admin.Updated
	body, err := json.Marshal(admin.UpdateRequest{Size: int64(len(data))})
	if err != nil {
		return got, err
	}
	reply, err := l.Upload(ctx, admin.MethodUpdate, body, bytes.NewReader(data), progress)
	if err != nil {
		return got, err
	}
	return got, json.Unmarshal(reply, &got)
}

// updateEvents lists the events about updates, oldest first.
func (b *box) updateEvents(ctx context.Context, l *boxtest.Link) (list []admin.Event) {
	b.t.Helper()
	var log admin.Log
	b.ask(ctx, l, admin.MethodLog, admin.LogRequest{Max: 500}, &log)
	for i := len(log.Events) - 1; i >= 0; i-- {
		switch e := log.Events[i]; e.Kind {
		case admin.EventUpdateWritten, admin.EventUpdatePromoted, admin.EventUpdateFellBack:
			list = append(list, e)
		}
	}
	return list
}

// TestUpdate goes through an update as the administrator and the box see it: sent,
// written, tried, proved, and kept; then one that falls back.
func TestUpdate(t *testing.T) {
	ctx := testContext(t)
	data := t.TempDir()
	p := newFirstProcess(data)
	b := startSystem(t, data, p)
	d := b.device(ctx, b.info.Code)
	l := b.link(ctx, d)
	var status admin.Status
	b.ask(ctx, l, admin.MethodStatus, admin.StatusRequest{}, &status)
	if m := status.Machine; m == nil || m.Slot != "a" || m.Release.Number != 3 || m.Floor != 2 || m.Update != nil || m.Trying {
		t.Errorf("machine %+v", m)
	}

	steps := map[string]bool{}
	sent := release(t)
	got, err := sendUpdate(ctx, l, sent, func(text []byte) {
		var step admin.UpdateProgress
		if err := json.Unmarshal(text, &step); err != nil || step.Total != int64(len(sent)) {
			t.Errorf("progress %s, %v", text, err)
		}
		steps[step.Step] = true
	})
	if err != nil || got.Release != (admin.Release{Version: "1.4.0", Number: 4}) {
		t.Fatalf("%+v, %v", got, err)
	}
	if !bytes.Equal(p.wrote, sent) || !steps[admin.UpdateReceiving] || !steps[admin.UpdateWriting] {
		t.Errorf("%d of %d bytes were written; steps %v", len(p.wrote), len(sent), steps)
	}
	b.ask(ctx, l, admin.MethodStatus, admin.StatusRequest{}, &status)
	if u := status.Machine.Update; u == nil || u.Result != admin.UpdateWritten || u.Number != 4 {
		t.Errorf("the last update is %+v", u)
	}
	<-p.tried
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}

	// It restarts, on trial.
	running := machine.Release{Version: "1.4.0", Number: 4}
	p.set(func(s *machine.State) {
		s.Slot, s.Release, s.Trying, s.Update = "b", running, true, &machine.Update{Release: running, Result: machine.ResultTrying}
	})
	b = startSystem(t, data, p)
	eventually(t, "the box proving itself", func() bool { return p.provedTimes() == 1 })
	if n, m := b.metric(`cobox_sessions_total{peer="device"}`), b.metric("cobox_sessions"); n != "0" || m != "0" {
		t.Errorf("the box's call of itself counts as a link: %s, %s", n, m)
	}
	l = b.link(ctx, d)
	if _, err := sendUpdate(ctx, l, sent, nil); !errors.Is(err, &replicate.Error{Code: replicate.CodeBusy}) {
		t.Errorf("another update on trial: %v", err)
	}
	p.set(func(s *machine.State) { s.Trying, s.Update.Result = false, machine.ResultPromoted })
	want := []admin.Kind{admin.EventUpdateWritten, admin.EventUpdatePromoted}
	eventually(t, "the event", func() bool { return len(b.updateEvents(ctx, l)) == 2 })
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}

	// Once, however often the box starts.
	b = startSystem(t, data, p)
	l = b.link(ctx, d)
	if _, err := sendUpdate(ctx, l, sent, nil); err != nil {
		t.Fatal(err)
	}
	<-p.tried
	for range 2 {
		b.stop()
		p.set(func(s *machine.State) {
			s.Update = &machine.Update{Release: running, Result: machine.ResultFellBack, Reason: strings.Repeat("ü", 5000)}
		})
		b = startSystem(t, data, p)
		l = b.link(ctx, d)
		eventually(t, "the event", func() bool { return len(b.updateEvents(ctx, l)) == 4 })
	}
	want = append(want, admin.EventUpdateWritten, admin.EventUpdateFellBack)
	for i, e := range b.updateEvents(ctx, l) {
		if e.Kind != want[i] || !strings.HasPrefix(e.Detail, "CoBox 1.4.0 (number 4)") || (e.By != nil) != (e.Kind == admin.EventUpdateWritten) {
			t.Errorf("event %d: %+v", i, e)
		}
	}
	if n := p.provedTimes(); n != 1 {
		t.Errorf("the box proved itself %d times", n)
	}
	var log admin.Log
	b.ask(ctx, l, admin.MethodLog, admin.LogRequest{Max: 500}, &log)
	for _, e := range log.Events {
		if e.Kind == admin.EventRefused || e.Kind == admin.EventViolation {
			t.Errorf("the box's call of itself is an event: %+v", e)
		}
	}
}

// TestUpdateRefused: who may not, and what no box of that kind can.
func TestUpdateRefused(t *testing.T) {
	ctx := testContext(t)
	data := t.TempDir()
	p := newFirstProcess(data)
	b := startSystem(t, data, p)
	d := b.device(ctx, b.info.Code)
	l := b.link(ctx, d)
	bundle := release(t)
	m := b.link(ctx, b.device(ctx, b.invite(ctx, l, 1<<20).Code))
	_, err := sendUpdate(ctx, m, bundle, nil)
	wantCode(t, "an update by a member", err, replicate.CodeNotAllowed)
	var status admin.Status
	b.ask(ctx, m, admin.MethodStatus, admin.StatusRequest{}, &status)
	if status.Machine != nil {
		t.Errorf("a member sees %+v", status.Machine)
	}
	wantCode(t, "an update without one", l.Ask(ctx, admin.MethodUpdate, admin.UpdateRequest{Size: 5}, nil), replicate.CodeInvalid)
	_, err = sendUpdate(ctx, l, bundle[:len(bundle)-5], nil)
	wantCode(t, "half an update", err, replicate.CodeInvalid)
	if p.wrote != nil {
		t.Error("something was written")
	}
	if _, err := sendUpdate(ctx, l, bundle, nil); err != nil {
		t.Errorf("a whole one: %v", err)
	}

	plain := start(t, t.TempDir())
	l = plain.link(ctx, plain.device(ctx, plain.info.Code))
	_, err = sendUpdate(ctx, l, bundle, nil)
	wantCode(t, "an update of a plain program", err, replicate.CodeUnsupported)
	plain.ask(ctx, l, admin.MethodStatus, admin.StatusRequest{}, &status)
	if status.Machine != nil || status.Box == nil {
		t.Errorf("a plain program says %+v", status)
	}
}

// TestProvesItselfAgain: what fails is tried again, and a box that takes nothing
// in proves nothing.
func TestProvesItselfAgain(t *testing.T) {
	data := t.TempDir()
	p := newFirstProcess(data)
	p.state.Trying, p.refuse = true, 2
	b := startSystem(t, data, p)
	eventually(t, "the third attempt", func() bool { return p.provedTimes() == 3 })
	time.Sleep(200 * time.Millisecond)
	if n := p.provedTimes(); n != 3 {
		t.Errorf("%d attempts", n)
	}
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	startSystem(t, data, p, func(cfg *appliance.Config) { cfg.SetStore(replica.Options{FS: readOnlyFS{vfs.Default}}) })
	time.Sleep(2500 * time.Millisecond) // three attempts
	if n := p.provedTimes(); n != 3 {
		t.Errorf("a read-only box has proved itself")
	}
}

// TestProvesItselfEverywhere checks itself whatever address it listens at.
func TestProvesItselfEverywhere(t *testing.T) {
	for _, listen := range []string{":0", "0.0.0.0:0", "[::]:0", "127.0.0.1:0"} {
		t.Run(listen, func(t *testing.T) {
			data := t.TempDir()
			p := newFirstProcess(data)
			p.state.Trying = true
			startSystem(t, data, p, func(cfg *appliance.Config) { cfg.Settings.Listen = listen })
			eventually(t, "the box proving itself", func() bool { return p.provedTimes() == 1 })
		})
	}
}
