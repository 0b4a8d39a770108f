package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"cobox/appliance/admin"
	"cobox/cmd/cobox/ui"
	"cobox/storage/account"
)

// doneEvent says that a member was changed.
type doneEvent struct {
	Box     string       `json:"box"`
	BoxName string       `json:"box_name"`
	Account account.ID   `json:"account"`
	Quota   *admin.Quota `json:"quota,omitempty"` // the new one; absent from the summary of box remove

	text string
}

func (doneEvent) Type() string   { return "summary" }
func (e doneEvent) Text() string { return e.text }

func (a *app) boxQuotaCommand(box *string) *cobra.Command {
	return &cobra.Command{
		Use: "quota MEMBER SIZE", Short: "Change how much a member may store", Args: exactly(2, "a member and a size"),
		Example: "  cobox box quota Ana 1TB\n  cobox box quota ABCD-EFGH-IJKL-MNOP none",
		Long:    "Changes a member's quota. Over quota new data is refused; what is there stays.",
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := parseQuota(args[1])
			if err != nil {
				return err
			}
			return a.withBox(cmd, box, func(ctx context.Context, l *link) error {
				m, err := findMember(ctx, l, args[0])
				if err != nil {
					return err
				}
				if _, err := call[admin.Empty](ctx, l, admin.MethodQuotaSet, admin.QuotaRequest{Account: m.Account, Quota: q}, nil); err != nil {
					return err
				}
				a.ui.Emit(doneEvent{boxID(l.box), l.box.Name, m.Account, &q, fmt.Sprintf("Member %s may now store %s.", memberName(m), quotaText(q))})
				return nil
			})
		},
	}
}

func memberName(m *admin.Member) string {
	if m.Name != "" {
		return ui.Printable(m.Name)
	}
	return m.Account.Fingerprint()
}
