package appliance

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"cobox/appliance/admin"
	"cobox/appliance/roster"
	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
	"cobox/netlink/replicate"
	"cobox/storage/account"
)

const (
	defaultLifetime = 7 * 24 * time.Hour
	defaultEvents   = 100
	maxEventsReply  = 500
	// maxListReply is where a part of a list ends; the rest is asked for again.
	maxListReply = replicate.MaxReply / 2
)

// administration answers requests by method.
type administration struct{ b *box }

// call is one request being answered.
type call struct {
	peer     roster.Peer
	body     []byte
	upload   io.Reader // nil if nothing comes with it
	progress func(any)
}

// Serve implements replicate.Admin.
func (a administration) Serve(ctx context.Context, p replicate.Peer, r *replicate.Request) ([]byte, error) {
	handlers := map[string]struct {
		allowed func(*roster.Roster, roster.Peer) bool
		serve   func(context.Context, *call) (any, error)
		writes  bool
	}{
		admin.MethodStatus:         {(*roster.Roster).Allowed, a.status, false},
		admin.MethodMembers:        {(*roster.Roster).Administers, a.members, false},
		admin.MethodInviteCreate:   {(*roster.Roster).Administers, a.createInvite, true},
		admin.MethodInviteCancel:   {(*roster.Roster).Administers, a.cancelInvite, true},
		admin.MethodQuotaSet:       {(*roster.Roster).Administers, a.setQuota, true},
		admin.MethodMemberRemove:   {(*roster.Roster).Administers, a.removeMember, true},
		admin.MethodCheck:          {(*roster.Roster).Administers, a.check, false},
		admin.MethodLog:            {(*roster.Roster).Administers, a.events, false},
		admin.MethodDeviceRegister: {recovering, a.registerDevice, true},
		admin.MethodDevices:        {member, a.accountDevices, false},
		admin.MethodUpdate:         {(*roster.Roster).Administers, a.update, true},
		admin.MethodDisks:          {(*roster.Roster).Administers, a.disks, false},
		admin.MethodDiskUse:        {(*roster.Roster).Administers, a.useDisk, true},
	}
	method := r.Method
	h, known := handlers[method]
	if !known {
		return nil, &replicate.Error{Code: replicate.CodeUnsupported, Message: "this box does not know the request " + method}
	}
	c := &call{peer: rosterPeer(p), body: r.Body, upload: r.Upload, progress: r.Progress}
	result := "ok"
	defer func() { a.b.metrics.requests.WithLabelValues(method, result).Inc() }()
	if !h.allowed(a.b.roster, c.peer) {
		result = "refused"
		return nil, notAllowed("you may not do this: it is for administrators, or for a login with the recovery phrase")
	}
	if h.writes && a.b.store.ReadOnly() {
		result = "refused"
		return nil, &replicate.Error{Code: replicate.CodeReadOnly, Message: "the box's disk cannot be written"}
	}
	reply, err := h.serve(ctx, c)
	var out []byte
	if err == nil {
		out, err = json.Marshal(reply)
	}
	var refused *replicate.Error
	switch err = a.b.refusal(err); {
	case errors.As(err, &refused):
		result = "refused"
	case err != nil:
		result = "failed"
		a.b.log.Error("a request failed", "method", method, "error", err)
	}
	return out, err
}

// recovering reports whether p has logged in with a recovery phrase.
func recovering(r *roster.Roster, p roster.Peer) bool {
	return p.Kind == roster.KindRecovery && r.Allowed(p)
}

func (c *call) decode(into any) error { return decode(c.body, into) }

func quota(bytes uint64) admin.Quota {
	if bytes == roster.Unlimited {
		return admin.Quota{Unlimited: true}
	}
	return admin.Quota{Bytes: bytes}
}

func quotaBytes(q admin.Quota) (uint64, error) {
	switch {
	case q.Unlimited && q.Bytes != 0:
		return 0, &replicate.Error{Code: replicate.CodeInvalid, Message: "a quota is unlimited or a number of bytes, not both"}
	case q.Unlimited:
		return roster.Unlimited, nil
	case q.Bytes == roster.Unlimited:
		return 0, &replicate.Error{Code: replicate.CodeInvalid, Message: "this number of bytes is no quota"}
	}
	return q.Bytes, nil
}

func (a administration) status(ctx context.Context, c *call) (any, error) {
	if err := c.decode(&admin.StatusRequest{}); err != nil {
		return nil, err
	}
	b := a.b
	s := &admin.Status{
		Name: b.roster.Name(), Version: b.version, Key: noiseconn.StaticPublic(b.identity.StaticPublic()).String(),
		Signer: b.signer.String(), Addresses: b.addresses.now(), Elapsed: b.memory.elapsed().Milliseconds(),
		Wall: time.Now().Unix(), ReadOnly: b.store.ReadOnly(),
	}
	if q, ok := b.roster.Quota(c.peer.Account); ok {
		s.You.Quota, s.You.Used = quota(q), b.store.Usage(c.peer.Account).Total()
	}
	if s.You.Administrator = b.roster.Administers(c.peer); s.You.Administrator {
		m := b.store.Metrics()
		s.Box = &admin.BoxStatus{Uptime: b.memory.uptime().Milliseconds(), Members: b.roster.CountMembers(), Logs: m.Logs,
			Bytes: m.Held, Damaged: m.Damaged, Sessions: b.links.count(), Free: m.FreeBytes, DiskBytes: m.DiskBytes, DiskLow: m.Low}
		s.Machine = b.machineStatus(ctx)
		var err error
		if s.Data, err = (disks{b.machine}).data(ctx); err != nil {
			b.log.Error("where the data lies is unknown", "error", err)
		}
	}
	return s, nil
}

func (a administration) members(_ context.Context, c *call) (any, error) {
	var req admin.MembersRequest
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	b := a.b
	reply := &admin.Members{Members: []admin.Member{}, Invites: []admin.Invite{}}
	size := 0
	if req.After == nil {
		for _, i := range b.roster.Invites() {
			reply.Invites = append(reply.Invites, invite(i))
			size += 300
		}
	}
	skip := req.After != nil
	online := b.links.devices()
	now := b.memory.elapsed().Milliseconds()
	for _, m := range b.roster.Members() {
		if skip {
			skip = m.Account != *req.After
			continue
		}
		if size += 400 + 300*len(m.Devices); size > maxListReply {
			reply.More = true
			break
		}
		used := b.store.Usage(m.Account)
		member := admin.Member{Account: m.Account, Name: m.Name, Administrator: m.Administrator, Removed: m.Removed,
			Quota: quota(m.Quota), Used: used.Total(), Logs: used.Logs, Joined: m.Joined.Wall, Devices: []admin.Device{}}
		for _, d := range m.Devices {
			device := admin.Device{Device: d.Key, Name: d.Name, Joined: d.Joined.Wall, Seen: d.Seen.Wall,
				Revoked: d.Revoked, Online: online[d.Key]}
			if d.Seen != (roster.Stamp{}) {
				device.SeenAgo = max(0, now-d.Seen.Elapsed)
			}
			member.Devices = append(member.Devices, device)
		}
		reply.Members = append(reply.Members, member)
	}
	return reply, nil
}

func invite(i roster.Invite) admin.Invite {
	out := admin.Invite{ID: hex.EncodeToString(i.ID[:]), Name: i.Name, Quota: quota(i.Quota), State: string(i.State), Created: i.Created.Wall}
	if i.State == roster.InviteOpen {
		out.Remaining = i.Remaining.Milliseconds()
	}
	if i.State == roster.InviteUsed {
		out.UsedBy = &i.UsedBy
	}
	return out
}

func (a administration) createInvite(_ context.Context, c *call) (any, error) {
	var req admin.InviteRequest
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	bytes, err := quotaBytes(req.Quota)
	if err != nil {
		return nil, err
	}
	lifetime := defaultLifetime
	if req.Lifetime != 0 {
		// What does not fit into a duration is refused as too long.
		lifetime = time.Duration(min(req.Lifetime, int64(1<<63-1)/int64(time.Millisecond))) * time.Millisecond
	}
	i, secret, err := a.b.roster.CreateInvite(req.Name, bytes, lifetime)
	if err != nil {
		return nil, err
	}
	text, err := a.b.codeText(pairing.KindMember, i.ID, secret)
	if err != nil {
		return nil, err
	}
	a.b.events.add(a.by(c, admin.Event{Kind: admin.EventInvited, Detail: hex.EncodeToString(i.ID[:]) + " " + i.Name}))
	return &admin.Invited{Invite: invite(i), Code: text}, nil
}

// by names who has done what an event tells.
func (a administration) by(c *call, ev admin.Event) admin.Event {
	if c.peer.Kind != roster.KindKey {
		ev.By = &c.peer.Account
	}
	return ev
}

func (a administration) cancelInvite(_ context.Context, c *call) (any, error) {
	var req admin.CancelRequest
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	var id noiseconn.InviteID
	raw, err := hex.DecodeString(req.ID)
	if err != nil || len(raw) != len(id) {
		return nil, &replicate.Error{Code: replicate.CodeInvalid, Message: fmt.Sprintf("%q is no invite: want %d hexadecimal digits", req.ID, 2*len(id))}
	}
	copy(id[:], raw)
	if err := a.b.roster.CancelInvite(id); err != nil {
		return nil, err
	}
	a.b.events.add(a.by(c, admin.Event{Kind: admin.EventCancelled, Detail: req.ID}))
	return &admin.Empty{}, nil
}

func (a administration) setQuota(_ context.Context, c *call) (any, error) {
	var req admin.QuotaRequest
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	bytes, err := quotaBytes(req.Quota)
	if err != nil {
		return nil, err
	}
	if err := a.b.roster.SetQuota(req.Account, bytes); err != nil {
		return nil, err
	}
	detail := "unlimited"
	if !req.Quota.Unlimited {
		detail = fmt.Sprintf("%d bytes", bytes)
	}
	a.b.events.add(a.by(c, admin.Event{Kind: admin.EventQuota, Account: &req.Account, Detail: detail}))
	return &admin.Empty{}, nil
}

func (a administration) removeMember(_ context.Context, c *call) (any, error) {
	var req admin.RemoveRequest
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	cancelled, err := a.b.roster.RemoveMember(req.Account)
	if err != nil {
		return nil, err
	}
	a.b.links.drop()
	a.b.events.add(a.by(c, admin.Event{Kind: admin.EventRemoved, Account: &req.Account}))
	for _, id := range cancelled {
		a.b.events.add(a.by(c, admin.Event{Kind: admin.EventCancelled, Detail: fmt.Sprintf("%x, with its administrator", id)}))
	}
	return &admin.Empty{}, nil
}

func (a administration) events(_ context.Context, c *call) (any, error) {
	req := admin.LogRequest{}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if req.Max == 0 {
		req.Max = defaultEvents
	}
	if req.Max < 0 || req.Max > maxEventsReply {
		return nil, &replicate.Error{Code: replicate.CodeInvalid, Message: fmt.Sprintf("at most %d events at a time", maxEventsReply)}
	}
	list, more, err := a.b.events.list(req.Before, req.Max)
	if err != nil {
		return nil, err
	}
	if list == nil {
		list = []admin.Event{}
	}
	return &admin.Log{Events: list, More: more}, nil
}

func (a administration) registerDevice(_ context.Context, c *call) (any, error) {
	var req admin.RegisterRequest
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	card, err := account.ParseCard(req.Card)
	var cert *account.Certificate
	if err == nil {
		cert, err = account.ParseCertificate(req.Certificate)
	}
	if err != nil {
		return nil, &replicate.Error{Code: replicate.CodeInvalid, Message: err.Error()}
	}
	got, err := a.b.roster.RegisterDevice(c.peer, card, cert, req.Name)
	if err != nil {
		return nil, err
	}
	if got.New {
		a.b.events.add(admin.Event{Kind: admin.EventDevice, Account: &cert.Account, Device: &cert.Device,
			Detail: "certified with the recovery phrase"})
	}
	return &admin.Registered{LinkPSK: got.LinkPSK[:], Role: string(got.Role), Quota: quota(got.Quota), Box: a.b.roster.Name()}, nil
}
