package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cobox/appliance/admin"
	"cobox/cmd/cobox/ui"
)

type checkEvent struct {
	Box         string          `json:"box"`
	BoxName     string          `json:"box_name"`
	Logs        uint64          `json:"logs"`
	Leaves      uint64          `json:"leaves"`
	Blocks      uint64          `json:"blocks"`
	Damaged     []admin.Damaged `json:"damaged"` // the first ones
	DamageCount uint64          `json:"damage_count"`
	Missing     uint64          `json:"missing"`
	Seconds     float64         `json:"seconds"`
}

func (checkEvent) Type() string { return "summary" }
func (e checkEvent) Text() string {
	var b strings.Builder
	for _, d := range e.Damaged {
		fmt.Fprintf(&b, "! log %.16s… block %d: %s\n", d.Log, d.Index, d.What)
	}
	fmt.Fprintf(&b, "%s in %s checked in %s: ", ui.Count(e.Blocks, "block", "blocks"), ui.Count(e.Logs, "log", "logs"),
		ui.Duration(time.Duration(e.Seconds*float64(time.Second))))
	if e.DamageCount == 0 {
		b.WriteString("all are as they were written.")
	} else {
		fmt.Fprintf(&b, "%s damaged. The devices that wrote them send them again if they can; the rest can be restored.",
			ui.Count(e.DamageCount, "thing is", "things are"))
	}
	if e.Missing > 0 {
		fmt.Fprintf(&b, "\n%s not there: lost, or not sent yet. The next backup of the device that wrote them sends them, or stores again what lay in them.",
			ui.Count(e.Missing, "block is", "blocks are"))
	}
	return b.String()
}

func (a *app) boxCheckCommand(box *string) *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Let the box verify everything that it holds", Args: exactly(0, ""),
		Example: "  cobox box check",
		Long:    "Lets the box read every block that it holds and check it against the signed logs.\nIt goes on serving meanwhile.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withBox(cmd, box, func(ctx context.Context, l *link) error {
				m := a.ui.Meter("Checking")
				r, err := call[admin.CheckReport](ctx, l, admin.MethodCheck, admin.CheckRequest{}, func(b []byte) {
					var p admin.CheckProgress
					if json.Unmarshal(b, &p) == nil {
						m.Update(ui.Progress{Bytes: p.Blocks * 65536, TotalBytes: p.TotalBlocks * 65536, Final: true})
					}
				})
				m.Done()
				if err != nil {
					return err
				}
				a.ui.Emit(checkEvent{
					Box: boxID(l.box), BoxName: l.box.Name, Logs: r.Logs, Leaves: r.Leaves, Blocks: r.Blocks,
					Damaged: append([]admin.Damaged{}, r.Damaged...), DamageCount: r.DamageCount, Missing: r.Missing, Seconds: float64(r.Millis) / 1000,
				})
				if r.DamageCount > 0 {
					a.exit = ui.ExitFailed
				}
				return nil
			})
		},
	}
}
