package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cobox/appliance/admin"
	"cobox/cmd/cobox/ui"
	"cobox/storage/account"
)

type memberEvent struct {
	Account       account.ID     `json:"account"`
	Fingerprint   string         `json:"fingerprint"`
	Name          string         `json:"name"`
	Administrator bool           `json:"administrator"`
	Removed       bool           `json:"removed"`
	Quota         admin.Quota    `json:"quota"`
	Used          uint64         `json:"used"`
	Logs          int            `json:"logs"`
	Joined        ui.Time        `json:"joined"` // by the box's clock, as are all times here
	Devices       []memberDevice `json:"devices"`
}

type memberDevice struct {
	Device  account.DeviceKey `json:"device"`
	Name    string            `json:"name"`
	Joined  ui.Time           `json:"joined"`
	Seen    *ui.Time          `json:"seen,omitempty"` // absent: never
	Revoked bool              `json:"revoked"`
	Online  bool              `json:"online"`
}

func newMemberEvent(m *admin.Member) memberEvent {
	e := memberEvent{
		Account: m.Account, Fingerprint: m.Account.Fingerprint(), Name: m.Name, Administrator: m.Administrator,
		Removed: m.Removed, Quota: m.Quota, Used: m.Used, Logs: m.Logs, Joined: unixTime(m.Joined), Devices: []memberDevice{},
	}
	for _, d := range m.Devices {
		x := memberDevice{Device: d.Device, Name: d.Name, Joined: unixTime(d.Joined), Revoked: d.Revoked, Online: d.Online}
		if d.Seen != 0 {
			seen := unixTime(d.Seen)
			x.Seen = &seen
		}
		e.Devices = append(e.Devices, x)
	}
	return e
}

func unixTime(s int64) ui.Time { return ui.Time{Time: time.Unix(s, 0)} }

func (memberEvent) Type() string { return "member" }
func (memberEvent) Text() string { return "" }

// openInviteEvent is one invite in a list: never with its secret.
type openInviteEvent struct {
	ID      string             `json:"id"`
	Name    string             `json:"name"`
	Quota   admin.Quota        `json:"quota"`
	State   string             `json:"state"` // open, used, expired or cancelled
	Created ui.Time            `json:"created"`
	Expires int64              `json:"expires_seconds,omitempty"` // from now; only while it is open
	UsedBy  *account.DeviceKey `json:"used_by,omitempty"`
}

func newOpenInviteEvent(i *admin.Invite) openInviteEvent {
	return openInviteEvent{i.ID, i.Name, i.Quota, i.State, unixTime(i.Created), (i.Remaining + 999) / 1000, i.UsedBy}
}

func (openInviteEvent) Type() string { return "invite" }
func (openInviteEvent) Text() string { return "" }

// countSummary ends a list that a box has sent.
type countSummary struct {
	Box     string `json:"box"`
	BoxName string `json:"box_name"`
	Count   int    `json:"count"`
}

func (countSummary) Type() string { return "summary" }
func (countSummary) Text() string { return "" }

func (a *app) boxMembersCommand(box *string) *cobra.Command {
	return &cobra.Command{
		Use: "members", Short: "List the members, their quotas and what they use", Args: exactly(0, ""),
		Example: "  cobox box members",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withBox(cmd, box, func(ctx context.Context, l *link) error {
				members, invites, err := listMembers(ctx, l)
				if err != nil {
					return err
				}
				rows := [][]string{{"Account", "Name", "Used", "Quota", "Devices", ""}}
				for _, m := range members {
					a.emitJSON(newMemberEvent(&m))
					note := ""
					switch {
					case m.Removed:
						note = "removed"
					case m.Administrator:
						note = "administrator"
					}
					var names []string
					for _, d := range m.Devices {
						names = append(names, ui.Printable(d.Name))
					}
					rows = append(rows, []string{m.Account.Fingerprint(), ui.Printable(m.Name), ui.Bytes(m.Used), quotaText(m.Quota), strings.Join(names, ", "), note})
				}
				for _, i := range invites {
					a.emitJSON(newOpenInviteEvent(&i))
					if i.State == "open" {
						rows = append(rows, []string{"invite " + i.ID, ui.Printable(i.Name), "", quotaText(i.Quota), "",
							"open for " + ui.Duration(time.Duration(i.Remaining)*time.Millisecond)})
					}
				}
				a.ui.Table(rows)
				a.ui.Emit(countSummary{boxID(l.box), l.box.Name, len(members)})
				return nil
			})
		},
	}
}

func listMembers(ctx context.Context, l *link) (members []admin.Member, invites []admin.Invite, err error) {
	var after *account.ID
	for {
		part, err := call[admin.Members](ctx, l, admin.MethodMembers, admin.MembersRequest{After: after}, nil)
		if err != nil {
			return nil, nil, err
		}
		members, invites = append(members, part.Members...), append(invites, part.Invites...)
		if !part.More || len(part.Members) == 0 {
			return members, invites, nil
		}
		after = &part.Members[len(part.Members)-1].Account
	}
}

// findMember finds a member by fingerprint, account or name.
func findMember(ctx context.Context, l *link, who string) (*admin.Member, error) {
	members, _, err := listMembers(ctx, l)
	if err != nil {
		return nil, err
	}
	var found []*admin.Member
	for i := range members {
		m := &members[i]
		if m.Account.String() == who || strings.EqualFold(m.Account.Fingerprint(), who) || m.Name == who && !m.Removed {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, &ui.Failure{Exit: ui.ExitFailed, Code: "no_member", What: fmt.Sprintf("the box has no member %q", who), Hint: "See 'cobox box members'; give the account as it stands there, or the name."}
	}
	return nil, &ui.Failure{Exit: ui.ExitFailed, Code: "ambiguous_member", What: fmt.Sprintf("the box has %d members called %q", len(found), who), Hint: "Give the account as it stands in 'cobox box members'."}
}
