package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cobox/appliance/admin"
	"cobox/cmd/cobox/ui"
	"cobox/storage/account"
)

// logEvent is one entry of the box's event log.
type logEvent struct {
	Number  uint64             `json:"number"`
	Time    ui.Time            `json:"time"`            // by the box's clock
	Elapsed int64              `json:"elapsed_seconds"` // that the box has been running in its whole life
	Kind    admin.Kind         `json:"kind"`
	Account *account.ID        `json:"account,omitempty"`
	Device  *account.DeviceKey `json:"device,omitempty"`
	By      *account.ID        `json:"by,omitempty"`
	Log     string             `json:"log,omitempty"`
	Detail  string             `json:"detail,omitempty"`
	Count   uint64             `json:"count,omitempty"`
}

func newLogEvent(e *admin.Event) logEvent {
	return logEvent{e.Number, unixTime(e.Wall), e.Elapsed / 1000, e.Kind, e.Account, e.Device, e.By, e.Log, e.Detail, e.Count}
}

func (logEvent) Type() string { return "event" }
func (e logEvent) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %-10s", e.Time.Local().Format("2006-01-02 15:04:05"), e.Kind)
	if e.Account != nil {
		b.WriteString(" " + e.Account.Fingerprint())
	}
	if e.Detail != "" {
		b.WriteString(" " + ui.Printable(e.Detail))
	}
	if e.Count > 1 {
		fmt.Fprintf(&b, " (%d times)", e.Count)
	}
	return b.String()
}

func (a *app) boxLogCommand(box *string) *cobra.Command {
	var max int
	c := &cobra.Command{
		Use: "log", Short: "Show what happened on a box, newest first", Args: exactly(0, ""),
		Example: "  cobox box log\n  cobox box log --max 1000 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if max < 1 {
				return ui.Usagef("", "--max must be at least 1")
			}
			return a.withBox(cmd, box, func(ctx context.Context, l *link) error {
				before, left := uint64(0), max
				for left > 0 {
					part, err := call[admin.Log](ctx, l, admin.MethodLog, admin.LogRequest{Before: before, Max: min(left, 500)}, nil)
					if err != nil {
						return err
					}
					for _, e := range part.Events {
						a.ui.Emit(newLogEvent(&e))
						before, left = e.Number, left-1
					}
					if !part.More || len(part.Events) == 0 {
						break
					}
				}
				a.ui.Emit(countSummary{boxID(l.box), l.box.Name, max - left})
				return nil
			})
		},
	}
	c.Flags().IntVar(&max, "max", 100, "at most so many events")
	return c
}
