package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"cobox/appliance/admin"
)

func (a *app) boxRemoveCommand(box *string) *cobra.Command {
	return &cobra.Command{
		Use: "remove MEMBER", Short: "End a membership", Args: exactly(1, "a member"),
		Example: "  cobox box remove Ana",
		Long:    "Ends a membership at once. The member's data stays on the box, but nothing more is taken in\nand nobody of the account can connect.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withBox(cmd, box, func(ctx context.Context, l *link) error {
				m, err := findMember(ctx, l, args[0])
				if err != nil {
					return err
				}
				if _, err := call[admin.Empty](ctx, l, admin.MethodMemberRemove, admin.RemoveRequest{Account: m.Account}, nil); err != nil {
					return err
				}
				a.ui.Emit(doneEvent{boxID(l.box), l.box.Name, m.Account, nil, fmt.Sprintf("%s is no longer a member of box %q.", memberName(m), l.box.Name)})
				return nil
			})
		},
	}
}
