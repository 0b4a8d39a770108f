package appliance_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cobox/appliance"
	"cobox/appliance/admin"
	"cobox/appliance/config"
	"cobox/appliance/datadir"
	"cobox/netlink/pairing"
	"cobox/netlink/replicate"
)

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
	// The link ends soon; closing the store behind it waits for the disk.
	began := time.Now()
	ended := make(chan time.Duration, 1)
	go func() {
		l.Wait()
		ended <- time.Since(began)
	}()
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	stopped := time.Since(began)
	wantCode(t, "the link of a box that stops", l.Wait(), replicate.CodeShutdown)
	if took := <-ended; took > 5*time.Second {
		t.Errorf("ending the link took %v", took)
	}
	if stopped > 30*time.Second {
		t.Errorf("stopping took %v", stopped)
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
