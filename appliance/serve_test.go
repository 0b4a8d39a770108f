package appliance_test

import (
	"strings"
	"testing"

	"cobox/appliance/admin"
	"cobox/netlink/replicate"
)

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
