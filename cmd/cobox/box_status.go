package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cobox/appliance/admin"
	"cobox/cmd/cobox/ui"
)

type boxStatusEvent struct{ admin.Status }

func (boxStatusEvent) Type() string { return "summary" }
func (e boxStatusEvent) Text() string {
	s := &e.Status
	rows := [][]string{
		{"Box", ui.Printable(s.Name)}, {"Version", s.Version}, {"Key", s.Key},
		{"Addresses", strings.Join(s.Addresses, " ")},
		{"Your use", ui.Bytes(s.You.Used) + " of " + quotaText(s.You.Quota)},
	}
	if s.ReadOnly {
		rows = append(rows, []string{"State", "read-only: it takes in nothing, and still serves restores"})
	}
	if b := s.Box; b != nil {
		rows = append(rows,
			[]string{"Up for", ui.Duration(time.Duration(b.Uptime) * time.Millisecond)},
			[]string{"Members", fmt.Sprint(b.Members)}, []string{"Logs", fmt.Sprint(b.Logs)},
			[]string{"Holds", ui.Bytes(b.Bytes)}, []string{"Damaged", ui.Count(b.Damaged, "block", "blocks")},
			[]string{"Links", fmt.Sprint(b.Sessions)},
			[]string{"Disk", ui.Bytes(b.DiskBytes) + " used, " + ui.Bytes(b.Free) + " free"})
	}
	return ui.Table(rows)
}

func (a *app) boxStatusCommand(box *string) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show how a box is doing", Args: exactly(0, ""),
		Example: "  cobox box status",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withBox(cmd, box, func(ctx context.Context, l *link) error {
				s, err := call[admin.Status](ctx, l, admin.MethodStatus, admin.StatusRequest{}, nil)
				if err != nil {
					return err
				}
				a.ui.Emit(boxStatusEvent{s})
				return nil
			})
		},
	}
}
