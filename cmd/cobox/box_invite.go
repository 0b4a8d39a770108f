package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cobox/appliance/admin"
	"cobox/cmd/cobox/ui"
	"cobox/netlink/pairing"
)

type inviteEvent struct {
	Box     string      `json:"box"`
	BoxName string      `json:"box_name"`
	ID      string      `json:"id"`
	Code    string      `json:"code"`
	Quota   admin.Quota `json:"quota"`
	Expires int64       `json:"expires_seconds"`
	Picture string      `json:"picture,omitempty"`

	qr string
}

func (inviteEvent) Type() string { return "summary" }
func (e inviteEvent) Text() string {
	var b strings.Builder
	b.WriteString(e.qr)
	fmt.Fprintf(&b, "%s\n\nWhoever has this code first may use up to %s. It expires in %s.\n",
		e.Code, quotaText(e.Quota), ui.Duration(time.Duration(e.Expires)*time.Second))
	if e.Picture != "" {
		fmt.Fprintf(&b, "The picture is %s. ", e.Picture)
	}
	b.WriteString("On the other computer: cobox init, then cobox join with the picture or the text.")
	return b.String()
}

func (a *app) boxInviteCommand(box *string) *cobra.Command {
	c := &cobra.Command{
		Use:     "invite",
		Short:   "Make an invite",
		Example: "  cobox box invite member --quota 500GB --out invite.png",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return ui.Usagef("Say 'cobox box invite member --quota SIZE'.", "there is no invite for a %q", args[0])
			}
			return cmd.Help()
		},
	}
	var quota, expires, out, name string
	m := &cobra.Command{
		Use:     "member --quota SIZE",
		Short:   "Invite a member, who may use up to SIZE",
		Example: "  cobox box invite member --quota 500GB --out invite.png\n  cobox box invite member --quota 1TB --expires 2d --name Ana",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if quota == "" {
				return ui.Usagef("Give --quota SIZE, for example 500GB, or none for no limit.", "an invite needs a quota")
			}
			q, err := parseQuota(quota)
			if err != nil {
				return err
			}
			lifetime, err := ui.ParseDuration(expires)
			if err != nil {
				return ui.Usagef("Give for example 12h, 7d or 2w.", "%s", err)
			}
			return a.withBox(cmd, box, func(ctx context.Context, l *link) error {
				inv, err := call[admin.Invited](ctx, l, admin.MethodInviteCreate,
					admin.InviteRequest{Name: name, Quota: q, Lifetime: lifetime.Milliseconds()}, nil)
				if err != nil {
					return err
				}
				e := inviteEvent{Box: boxID(l.box), BoxName: l.box.Name, ID: inv.Invite.ID, Code: inv.Code, Quota: inv.Invite.Quota, Expires: (inv.Invite.Remaining + 999) / 1000, Picture: out}
				qr, err := pairing.Draw(inv.Code)
				if err != nil {
					return fmt.Errorf("the box's invite makes no sense: %w", err)
				}
				if out != "" {
					png, err := qr.PNG(8)
					if err != nil {
						return err
					}
					if err := os.WriteFile(out, png, 0o600); err != nil {
						return ui.Fail(err, "write", "cannot write the picture", "The invite was made: its code is "+inv.Code)
					}
				} else {
					e.qr = qr.Terminal()
				}
				a.ui.Emit(e)
				return nil
			})
		},
	}
	m.Flags().StringVar(&quota, "quota", "", "how much the member may store, such as 500GB; none: no limit")
	m.Flags().StringVar(&expires, "expires", "7d", "how long the invite is good, such as 12h or 7d")
	m.Flags().StringVar(&out, "out", "", "write the QR code as a PNG picture to this file")
	m.Flags().StringVar(&name, "name", "", "what to call the member")
	c.AddCommand(m)
	return c
}
