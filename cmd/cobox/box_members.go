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

type memberEvent struct{ admin.Member }

func (memberEvent) Type() string { return "member" }
func (memberEvent) Text() string { return "" }

type openInviteEvent struct{ admin.Invite }

func (openInviteEvent) Type() string { return "invite" }
func (openInviteEvent) Text() string { return "" }

type countSummary struct {
	Box   string `json:"box"`
	Count int    `json:"count"`
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
					a.emitJSON(memberEvent{m})
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
					a.emitJSON(openInviteEvent{i})
					if i.State == "open" {
						rows = append(rows, []string{"invite " + i.ID, ui.Printable(i.Name), "", quotaText(i.Quota), "",
							"open for " + ui.Duration(time.Duration(i.Remaining)*time.Millisecond)})
					}
				}
				a.ui.Table(rows)
				a.ui.Emit(countSummary{l.box.Name, len(members)})
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
