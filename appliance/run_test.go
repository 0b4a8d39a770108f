package appliance_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cobox/appliance"
	"cobox/appliance/admin"
	"cobox/appliance/boxtest"
	"cobox/appliance/config"
	"cobox/appliance/datadir"
	"cobox/netlink/pairing"
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

// The whole life of a member's data: claim, back up, restart, read back,
// recover with the phrase alone.
func TestClaimBackUpRestartReadRecover(t *testing.T) {
	ctx := testContext(t)
	data := t.TempDir()
	b := start(t, data)

	if status, body := b.get("/healthz"); status != 200 || body != "ok\n" {
		t.Errorf("healthz: %d %q", status, body)
	}
	text, err := os.ReadFile(filepath.Join(data, "pairing.txt"))
	if err != nil || strings.TrimSpace(string(text)) != b.info.Code {
		t.Fatalf("pairing.txt: %q %v", text, err)
	}
	d := b.device(ctx, b.info.Code)
	for _, name := range []string{"pairing.txt", "pairing.png"} {
		if _, err := os.Stat(filepath.Join(data, name)); !os.IsNotExist(err) {
			t.Errorf("%s of a claimed box: %v", name, err)
		}
	}
	if got, err := d.Pair(ctx, b.info.Code); err != nil || got.Role != pairing.RoleAdministrator || got.Quota != 0 {
		t.Errorf("the same device again: %+v %v", got, err)
	}

	l := b.link(ctx, d)
	log := b.log(d, 100)
	receipt, err := l.Backup(ctx, log)
	if err != nil {
		t.Fatal(err)
	}
	if err := receipt.Verify(); err != nil || receipt.Size != 100 || !receipt.Complete() {
		t.Errorf("receipt %+v: %v", receipt, err)
	}
	if got := b.metric("cobox_replica_bytes"); got != "6.5536e+06" {
		t.Errorf("cobox_replica_bytes %s", got)
	}
	l.Close()
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}

	b = start(t, data)
	if b.info.Code != "" {
		t.Error("a claimed box shows a pairing code after a restart")
	}
	l = b.link(ctx, d)
	readBack(t, ctx, l, log)
	var status admin.Status
	b.ask(ctx, l, admin.MethodStatus, admin.StatusRequest{}, &status)
	if !status.You.Administrator || !status.You.Quota.Unlimited || status.You.Used < 100<<16 ||
		status.Box == nil || status.Box.Logs != 1 || status.Box.Members != 1 || status.Box.Sessions != 1 {
		t.Errorf("status %+v %+v", status, status.Box)
	}

	// With the recovery key alone: list, read, make a new device known.
	r, err := d.Member.Recover(ctx, b.addr(), b.info.Key)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	readBack(t, ctx, r, log)
	if _, err := r.Backup(ctx, log); err == nil {
		t.Error("a recovery login has delivered a log")
	}
	wantCode(t, "administration by a recovery login", r.Ask(ctx, admin.MethodMembers, admin.MembersRequest{}, nil), replicate.CodeNotAllowed)
	d2, err := d.Member.NewDevice()
	if err != nil {
		t.Fatal(err)
	}
	if err := d2.Register(ctx, r); err != nil {
		t.Fatal(err)
	}
	l2 := b.link(ctx, d2)
	readBack(t, ctx, l2, log)
	if _, err := l2.Backup(ctx, b.log(d2, 3)); err != nil {
		t.Errorf("backup of the new device: %v", err)
	}
	b.ask(ctx, l2, admin.MethodMembers, admin.MembersRequest{}, nil)
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

func TestAdministration(t *testing.T) {
	ctx := testContext(t)
	b := start(t, t.TempDir())
	boss := b.device(ctx, b.info.Code)
	l := b.link(ctx, boss)

	inv := b.invite(ctx, l, 1<<20)
	d := b.device(ctx, inv.Code)
	m := b.link(ctx, d)
	for _, method := range admin.Methods() {
		if method != admin.MethodStatus && method != "devices" {
			wantCode(t, method+" by a member", m.Ask(ctx, method, struct{}{}, nil), replicate.CodeNotAllowed)
		}
	}
	wantCode(t, "unknown request", m.Ask(ctx, "format.disk", struct{}{}, nil), replicate.CodeUnsupported)
	wantCode(t, "unknown field", l.Ask(ctx, admin.MethodQuotaSet, map[string]any{"qouta": 1}, nil), replicate.CodeInvalid)
	wantCode(t, "unknown member", l.Ask(ctx, admin.MethodQuotaSet, admin.QuotaRequest{}, nil), replicate.CodeInvalid)
	wantCode(t, "not an invite", l.Ask(ctx, admin.MethodInviteCancel, admin.CancelRequest{ID: "xyz"}, nil), replicate.CodeInvalid)
	wantCode(t, "a second of life", l.Ask(ctx, admin.MethodInviteCreate, admin.InviteRequest{Quota: admin.Quota{Bytes: 1}, Lifetime: 1000}, nil), replicate.CodeInvalid)
	wantCode(t, "device.register by a device", m.Ask(ctx, admin.MethodDeviceRegister, admin.RegisterRequest{}, nil), replicate.CodeNotAllowed)

	var status admin.Status
	b.ask(ctx, m, admin.MethodStatus, admin.StatusRequest{}, &status)
	if status.Box != nil || status.You.Administrator || status.You.Quota.Bytes != 1<<20 {
		t.Errorf("a member sees %+v", status)
	}

	// 15 blocks and the leaves fit into 1 MiB, 16 do not.
	log := b.log(d, 15)
	if _, err := m.Backup(ctx, log); err != nil {
		t.Fatal(err)
	}
	if err := log.Append(5); err != nil {
		t.Fatal(err)
	}
	_, err := m.Backup(ctx, log)
	wantCode(t, "over quota", err, replicate.CodeQuota)
	if b.metric("cobox_quota_refusals_total") == "0" {
		t.Error("the refusal is not counted")
	}
	readSome(t, ctx, m, log, 15) // what is there stays
	b.ask(ctx, l, admin.MethodQuotaSet, admin.QuotaRequest{Account: d.Member.Card.ID, Quota: admin.Quota{Unlimited: true}}, nil)
	if _, err := m.Backup(ctx, log); err != nil {
		t.Errorf("with more quota: %v", err)
	}

	var members admin.Members
	b.ask(ctx, l, admin.MethodMembers, admin.MembersRequest{}, &members)
	if len(members.Members) != 2 || members.Members[1].Name != "bakery" || !members.Members[1].Devices[0].Online ||
		members.Members[1].Used < 20<<16 || len(members.Invites) != 1 || members.Invites[0].State != "used" || members.More {
		t.Errorf("members %+v", members)
	}
	after := members.Members[0].Account
	b.ask(ctx, l, admin.MethodMembers, admin.MembersRequest{After: &after}, &members)
	if len(members.Members) != 1 {
		t.Errorf("the rest of the members: %+v", members.Members)
	}

	var report admin.CheckReport
	b.ask(ctx, l, admin.MethodCheck, admin.CheckRequest{}, &report)
	if report.Blocks != 20 || report.Logs != 1 || report.DamageCount != 0 {
		t.Errorf("check %+v", report)
	}

	// A removed member's link is dropped at once, and so are its logins.
	b.ask(ctx, l, admin.MethodMemberRemove, admin.RemoveRequest{Account: d.Member.Card.ID}, nil)
	wantCode(t, "link of a removed member", m.Wait(), replicate.CodeNotAllowed)
	if _, err := d.Link(ctx, b.addr(), b.info.Key); err == nil {
		t.Error("a removed member's device has logged in")
	}
	if _, err := d.Member.Recover(ctx, b.addr(), b.info.Key); err == nil {
		t.Error("a removed member's phrase has logged in")
	}
	eventually(t, "counting the removed member's logins", func() bool {
		return b.metric(`cobox_handshakes_refused_total{reason="unknown_peer"}`) == "2"
	})
	wantCode(t, "the last administrator", l.Ask(ctx, admin.MethodMemberRemove, admin.RemoveRequest{Account: boss.Member.Card.ID}, nil), replicate.CodeInvalid)

	second := b.invite(ctx, l, 5)
	b.ask(ctx, l, admin.MethodInviteCancel, admin.CancelRequest{ID: second.Invite.ID}, nil)

	var events admin.Log
	b.ask(ctx, l, admin.MethodLog, admin.LogRequest{}, &events)
	var kinds []string
	for _, e := range events.Events {
		kinds = append(kinds, string(e.Kind))
	}
	want := "cancelled invited removed checked quota quota-full log joined invited claimed started"
	if got := strings.Join(kinds, " "); got != want {
		t.Errorf("events\n%s, want\n%s", got, want)
	}
	var page admin.Log
	b.ask(ctx, l, admin.MethodLog, admin.LogRequest{Before: events.Events[3].Number, Max: 2}, &page)
	if len(page.Events) != 2 || page.Events[0].Kind != admin.EventQuota || !page.More {
		t.Errorf("page %+v", page)
	}
	wantCode(t, "too many events", l.Ask(ctx, admin.MethodLog, admin.LogRequest{Max: 1e6}, nil), replicate.CodeInvalid)
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

func TestInUseAndNewer(t *testing.T) {
	data := t.TempDir()
	b := start(t, data)
	run := func() error {
		return appliance.Run(t.Context(), appliance.Config{Settings: config.Config{Data: data, Listen: "127.0.0.1:0", HTTP: "127.0.0.1:0"}})
	}
	var inUse *datadir.InUseError
	if err := run(); !errors.As(err, &inUse) || !strings.Contains(inUse.Holder, "coboxd run") {
		t.Errorf("second box: %v", err)
	}
	if _, err := appliance.Check(t.Context(), data, nil, nil); !errors.As(err, &inUse) {
		t.Errorf("check of a running box: %v", err)
	}
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	if report, err := appliance.Check(t.Context(), data, nil, nil); err != nil || report.DamageCount != 0 {
		t.Errorf("check of a new box: %+v %v", report, err)
	}
	if err := os.WriteFile(filepath.Join(data, "FORMAT"), []byte("cobox-box 2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var newer *datadir.NewerError
	if err := run(); !errors.As(err, &newer) {
		t.Errorf("newer format: %v", err)
	}
}

// A box that starts before the router has given it an address puts the address
// into its code as soon as there is one.
func TestAddressesThatComeLate(t *testing.T) {
	if testing.Short() {
		t.Skip("waits until the box looks again")
	}
	data := t.TempDir()
	var late atomic.Bool
	startConfig(t, data, func(cfg *appliance.Config) {
		cfg.Settings.Listen = ":0"
		cfg.SetInterfaces(func() ([]net.Addr, error) {
			if !late.Load() {
				return nil, nil
			}
			return []net.Addr{&net.IPNet{IP: net.IPv4(192, 168, 7, 7), Mask: net.CIDRMask(24, 32)}}, nil
		})
	})
	code := func() *pairing.Code {
		text, _, err := datadir.ReadPairing(data)
		if err != nil {
			t.Fatal(err)
		}
		code, err := pairing.ParseCode(text)
		if err != nil {
			t.Fatal(err)
		}
		return code
	}
	if n := len(code().Addresses); n != 0 {
		t.Errorf("%d addresses at first", n)
	}
	late.Store(true)
	eventually(t, "the new address in the code", func() bool {
		a := code().Addresses
		return len(a) == 1 && a[0].Host == "192.168.7.7"
	})
}

// Whoever is connected when the box stops is told so, and what was receipted
// is there.
func TestStopWhileConnected(t *testing.T) {
	ctx := testContext(t)
	data := t.TempDir()
	b := start(t, data)
	d := b.device(ctx, b.info.Code)
	l := b.link(ctx, d)
	log := b.log(d, 200)
	if _, err := l.Backup(ctx, log); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "the link of a box that stops", l.Wait(), replicate.CodeShutdown)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("stopping took %v", took)
	}
	b = start(t, data)
	readBack(t, ctx, b.link(ctx, d), log)
}

// A provisioned box has the identity and the code that were printed for it.
func TestProvisioned(t *testing.T) {
	ctx := testContext(t)
	data := t.TempDir()
	secret, invite := pairing.NewSecret()
	p := &datadir.Provision{Identity: datadir.NewIdentity(), InviteID: invite, Secret: secret}
	if err := os.WriteFile(filepath.Join(data, "provision"), datadir.AppendProvision(nil, p), 0o600); err != nil {
		t.Fatal(err)
	}
	b := start(t, data)
	code, err := pairing.ParseCode(b.info.Code)
	if err != nil || code.Box != p.Identity.StaticPublic() || code.Invite != invite || !code.Secret.Equal(secret) {
		t.Errorf("code %+v %v", code, err)
	}
	if _, err := os.Stat(filepath.Join(data, "provision")); !os.IsNotExist(err) {
		t.Errorf("the provisioning file: %v", err)
	}
	b.device(ctx, b.info.Code)
	b.stop()
	b = start(t, data)
	if b.info.Key != p.Identity.StaticPublic() {
		t.Error("another identity after a restart")
	}
}

// A crash between the claim and the removal of the code leaves the code in the
// directory; the next start removes it.
func TestCodeLeftByACrash(t *testing.T) {
	ctx := testContext(t)
	data := t.TempDir()
	b := start(t, data)
	b.device(ctx, b.info.Code)
	b.stop()
	for _, name := range []string{"pairing.txt", "pairing.png"} {
		if err := os.WriteFile(filepath.Join(data, name), []byte(b.info.Code), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start(t, data)
	if _, _, err := datadir.ReadPairing(data); !errors.Is(err, datadir.ErrNoCode) {
		t.Errorf("the code is still there: %v", err)
	}
}
