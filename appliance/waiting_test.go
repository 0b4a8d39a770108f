package appliance_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"cobox/appliance"
	"cobox/appliance/admin"
	"cobox/appliance/boxtest"
	"cobox/appliance/config"
	"cobox/appliance/datadir"
	"cobox/appliance/machine"
	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
	"cobox/netlink/replicate"
	"cobox/storage/merklelog"
)

// first plays the first process of a box as far as disks go.
type first struct {
	mu    sync.Mutex
	state machine.State
	disks machine.Disks
	used  []string // disks that were taken into use
}

// client returns coboxd's end of a connection with it.
func (f *first) client(t *testing.T) *machine.Client {
	t.Helper()
	a, b := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- machine.Serve(context.Background(), b, f.answer) }()
	c := machine.NewClient(a)
	t.Cleanup(func() {
		c.Close()
		<-served
	})
	return c
}

func (f *first) answer(_ context.Context, q *machine.Question) (any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch q.Method {
	case machine.MethodState:
		return f.state, nil
	case machine.MethodDisks:
		return f.disks, nil
	case machine.MethodUseDisk:
		var p machine.UseDisk
		if err := q.Params(&p); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(f.disks.Disks, func(d machine.Disk) bool { return d.ID == p.ID }) {
			return nil, machine.Errorf(machine.CodeRefused, "there is no disk %s", p.ID)
		}
		q.Progress(machine.CopyProgress{Step: "preparing", Done: 1, Total: 2})
		f.used = append(f.used, p.ID)
		return machine.Empty{}, nil
	}
	return nil, machine.Errorf(machine.CodeUnknown, "no method %s", q.Method)
}

const waitsFor = "the box's data lies on the disk 1234abcd, which is not plugged in; plug it in: nothing is lost"

// A box without its data knows its members, says what it waits for, and does
// nothing else; with its data it goes on as if nothing had been.
func TestWaiting(t *testing.T) {
	ctx := testContext(t)
	data, away := t.TempDir(), filepath.Join(t.TempDir(), "db")
	b := start(t, data)
	owner := b.device(ctx, b.info.Code)
	l := b.link(ctx, owner)
	invited := b.invite(ctx, l, 1<<30)
	ana := b.device(ctx, invited.Code)
	left := b.invite(ctx, l, 1<<30)
	log := b.log(ana, 3)
	if _, err := b.link(ctx, ana).Backup(ctx, log); err != nil {
		t.Fatal(err)
	}
	gone := b.device(ctx, b.invite(ctx, l, 1<<30).Code)
	b.ask(ctx, l, admin.MethodMemberRemove, admin.RemoveRequest{Account: gone.Certificate.Account}, nil)
	l.Close()
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(data, datadir.StoreDir), away); err != nil {
		t.Fatal(err)
	}
	moved := filepath.Join(data, datadir.MovedFile)
	if err := os.WriteFile(moved, datadir.AppendMoved(nil, [16]byte{0x12, 0x34}), 0o600); err != nil {
		t.Fatal(err)
	}

	// Without being told that its data is elsewhere, it does not start.
	var refused *datadir.MovedError
	if err := appliance.Run(ctx, appliance.Config{Settings: config.Config{Data: data, Listen: "127.0.0.1:0", HTTP: "127.0.0.1:0"}}); !errors.As(err, &refused) {
		t.Errorf("a box without its data started: %v", err)
	}

	f := &first{
		state: machine.State{Data: machine.Data{Disk: "1234abcd", Problem: "missing"}},
		disks: machine.Disks{Used: 7, Disks: []machine.Disk{{ID: "00c0ffee", Name: "Acme Disk", Bytes: 1 << 40, Holds: machine.HoldsForeign, Found: "a file system ext4", Unfit: "it holds something", Device: "sda"}}},
	}
	wait := func(t *testing.T, m *machine.Client) *box {
		return startConfig(t, data, func(c *appliance.Config) { c.Waiting, c.Machine = waitsFor, m })
	}
	t.Run("waiting", func(t *testing.T) {
		w := wait(t, f.client(t))
		if w.info.Waiting != waitsFor || w.info.Name != b.info.Name || w.info.Key != b.info.Key || w.info.Code != "" {
			t.Errorf("%+v", w.info)
		}
		if status, text := w.get("/healthz"); status != http.StatusOK || text != "ok, but waiting: "+waitsFor+"\n" {
			t.Errorf("healthz: %d %q", status, text)
		}
		if got := w.metric("cobox_waiting"); got != "1" {
			t.Errorf("cobox_waiting is %s", got)
		}
		member, administrator := w.link(ctx, ana), w.link(ctx, owner)
		hello, err := member.PeerHello(ctx)
		if err != nil || hello.Features&replicate.FeatureWaiting == 0 || hello.Name != b.info.Name {
			t.Errorf("hello: %+v %v", hello, err)
		}
		var s admin.Status
		w.ask(ctx, member, admin.MethodStatus, admin.StatusRequest{}, &s)
		if s.Waiting != waitsFor || s.You.Administrator || s.Data != nil || s.Box != nil || s.Name != b.info.Name {
			t.Errorf("a member is told %+v", s)
		}
		s = admin.Status{}
		w.ask(ctx, administrator, admin.MethodStatus, admin.StatusRequest{}, &s)
		if s.Waiting != waitsFor || !s.You.Administrator || s.Data == nil || s.Data.Disk != "1234abcd" || s.Data.Problem != "missing" {
			t.Errorf("an administrator is told %+v", s)
		}
		refusesWhatNeedsData(t, ctx, member, log)
		for _, method := range []string{admin.MethodDisks, admin.MethodDiskUse} {
			wantCode(t, method+" of a member", member.Ask(ctx, method, struct{}{}, nil), replicate.CodeNotAllowed)
		}
		wantCode(t, "members", administrator.Ask(ctx, admin.MethodMembers, admin.MembersRequest{}, nil), replicate.CodeWaiting)
		wantCode(t, "an unknown field", administrator.Ask(ctx, admin.MethodDiskUse, map[string]string{"di": "x"}, nil), replicate.CodeInvalid)
		usesDisks(t, ctx, w, administrator, f)

		recovered, err := owner.Member.Recover(ctx, w.addr(), w.info.Key)
		if err != nil {
			t.Fatalf("the phrase: %v", err)
		}
		defer recovered.Close()
		s = admin.Status{}
		w.ask(ctx, recovered, admin.MethodStatus, admin.StatusRequest{}, &s)
		if s.Waiting != waitsFor || s.You.Administrator {
			t.Errorf("the phrase is told %+v", s)
		}
		// Strangers, and who was removed, are hung up on as ever.
		if _, err := gone.Link(ctx, w.addr(), w.info.Key); err == nil {
			t.Error("a removed member is let in")
		}
		m, err := boxtest.NewMember()
		if err != nil {
			t.Fatal(err)
		}
		d, err := m.NewDevice()
		if err != nil {
			t.Fatal(err)
		}
		code, err := pairing.ParseCode(left.Code)
		if err != nil {
			t.Fatal(err)
		}
		addr, err := pairing.ParseAddress(w.addr())
		if err != nil {
			t.Fatal(err)
		}
		code.Addresses = []pairing.Address{addr}
		text, err := code.Text()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Pair(ctx, text); !errors.Is(err, noiseconn.ErrNoAnswer) {
			t.Errorf("a box without its roster, and somebody with an invite: %v", err)
		}
	})
	t.Run("waiting as a plain program", func(t *testing.T) {
		w := wait(t, nil)
		l := w.link(ctx, owner)
		wantCode(t, "disks", l.Ask(ctx, admin.MethodDisks, admin.DisksRequest{}, nil), replicate.CodeUnsupported)
		var s admin.Status
		w.ask(ctx, l, admin.MethodStatus, admin.StatusRequest{}, &s)
		if s.Waiting != waitsFor || s.Data != nil {
			t.Errorf("%+v", s)
		}
	})
	if _, err := os.Stat(filepath.Join(data, datadir.StoreDir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a store was made: %v", err)
	}

	// The disk is back.
	if err := errors.Join(os.Rename(away, filepath.Join(data, datadir.StoreDir)), os.Remove(moved)); err != nil {
		t.Fatal(err)
	}
	f.state = machine.State{Data: machine.Data{Disk: "1234abcd", Away: 90}}
	client := f.client(t)
	b = startConfig(t, data, func(c *appliance.Config) { c.Machine = client })
	if got := b.metric("cobox_waiting"); got != "0" {
		t.Errorf("cobox_waiting is %s", got)
	}
	l = b.link(ctx, ana)
	readBack(t, ctx, l, log)
	if err := log.Append(2); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Backup(ctx, log); err != nil {
		t.Error(err)
	}
	l = b.link(ctx, owner)
	wantEvents(t, ctx, b, l, map[admin.Kind]string{
		admin.EventDataMoved: "from the disk that the box starts from to disk 1234abcd",
		admin.EventDataBack:  "disk 1234abcd was missing for 1m30s",
	})
}

// refusesWhatNeedsData: each answer says what the box waits for.
func refusesWhatNeedsData(t *testing.T, ctx context.Context, l *boxtest.Link, log *boxtest.Log) {
	t.Helper()
	waits := func(what string, err error) {
		t.Helper()
		wantCode(t, what, err, replicate.CodeWaiting)
		if err != nil && !strings.Contains(err.Error(), waitsFor) {
			t.Errorf("%s does not say why: %v", what, err)
		}
	}
	_, err := l.Backup(ctx, log)
	waits("a backup", err)
	_, err = l.Logs(ctx, log.Account())
	waits("a list", err)
	err = l.Read(ctx, log.Manifest(), log.Checkpoint(), []uint64{0}, func(uint64, []byte, merklelog.Leaf) error { return nil })
	waits("a restore", err)
	for _, method := range admin.Methods() {
		if !slices.Contains([]string{admin.MethodStatus, admin.MethodDisks, admin.MethodDiskUse}, method) {
			waits(method, l.Ask(ctx, method, struct{}{}, nil))
		}
	}
	waits("an unknown method", l.Ask(ctx, "no.such", struct{}{}, nil))
}

// usesDisks lists the disks and takes one into use.
func usesDisks(t *testing.T, ctx context.Context, b *box, l *boxtest.Link, f *first) {
	t.Helper()
	var list admin.Disks
	b.ask(ctx, l, admin.MethodDisks, admin.DisksRequest{}, &list)
	want := admin.Disk{ID: "00c0ffee", Name: "Acme Disk", Bytes: 1 << 40, Holds: admin.HoldsForeign, Found: "a file system ext4", Unfit: "it holds something", Device: "sda"}
	if len(list.Disks) != 1 || list.Disks[0] != want || list.Used != 7 {
		t.Errorf("disks: %+v", list)
	}
	err := l.Ask(ctx, admin.MethodDiskUse, admin.DiskUseRequest{ID: "ffffffff"}, nil)
	wantCode(t, "another disk", err, replicate.CodeInvalid)
	if err != nil && !strings.Contains(err.Error(), "there is no disk ffffffff") {
		t.Errorf("another disk: %v", err)
	}
	b.ask(ctx, l, admin.MethodDiskUse, admin.DiskUseRequest{ID: "00c0ffee"}, nil)
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.used) != 1 || f.used[0] != "00c0ffee" {
		t.Errorf("used %v", f.used)
	}
	f.used = nil
}

// TestDisks: a running box asks the first process for its administrators, and
// nobody on a box that has none.
func TestDisks(t *testing.T) {
	ctx := testContext(t)
	f := &first{
		state: machine.State{Data: machine.Data{Move: &machine.Move{Disk: "00c0ffee", CopyProgress: machine.CopyProgress{Step: "copying", Done: 1, Total: 2}, Failed: "it was pulled out"}}},
		disks: machine.Disks{Used: 7, Disks: []machine.Disk{{ID: "00c0ffee", Name: "Acme Disk", Bytes: 1 << 40, Holds: machine.HoldsForeign, Found: "a file system ext4", Unfit: "it holds something", Device: "sda"}}},
	}
	client := f.client(t)
	b := startConfig(t, t.TempDir(), func(c *appliance.Config) { c.Machine = client })
	owner := b.link(ctx, b.device(ctx, b.info.Code))
	usesDisks(t, ctx, b, owner, f)
	member := b.link(ctx, b.device(ctx, b.invite(ctx, owner, 1<<30).Code))
	for _, method := range []string{admin.MethodDisks, admin.MethodDiskUse} {
		wantCode(t, method+" of a member", member.Ask(ctx, method, struct{}{}, nil), replicate.CodeNotAllowed)
	}
	if len(f.used) != 0 {
		t.Errorf("a member used %v", f.used)
	}
	var s admin.Status
	b.ask(ctx, owner, admin.MethodStatus, admin.StatusRequest{}, &s)
	want := admin.Move{Disk: "00c0ffee", CopyProgress: admin.CopyProgress{Step: "copying", Done: 1, Total: 2}, Failed: "it was pulled out"}
	if s.Data == nil || s.Data.Disk != "" || s.Data.Move == nil || *s.Data.Move != want || s.Waiting != "" {
		t.Errorf("%+v %+v", s, s.Data)
	}
	wantEvents(t, ctx, b, owner, map[admin.Kind]string{admin.EventDiskUse: "the data moves to disk 00c0ffee"})

	plain := start(t, t.TempDir())
	owner = plain.link(ctx, plain.device(ctx, plain.info.Code))
	for _, method := range []string{admin.MethodDisks, admin.MethodDiskUse} {
		wantCode(t, method+" of a plain program", owner.Ask(ctx, method, struct{}{}, nil), replicate.CodeUnsupported)
	}
	s = admin.Status{}
	plain.ask(ctx, owner, admin.MethodStatus, admin.StatusRequest{}, &s)
	if s.Data != nil {
		t.Errorf("a plain program says that its data is at %+v", s.Data)
	}
}

// wantEvents waits for events of these kinds and details.
func wantEvents(t *testing.T, ctx context.Context, b *box, l *boxtest.Link, want map[admin.Kind]string) {
	t.Helper()
	for kind, detail := range want {
		for found := false; !found; {
			var log admin.Log
			b.ask(ctx, l, admin.MethodLog, admin.LogRequest{}, &log)
			for _, e := range log.Events {
				if e.Kind == kind {
					found = true
					if e.Detail != detail {
						t.Errorf("event %s: %q, want %q", kind, e.Detail, detail)
					}
				}
			}
			if ctx.Err() != nil {
				t.Fatalf("there is no event %s", kind)
			}
		}
	}
}
