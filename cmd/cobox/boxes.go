package main

import (
	"strings"

	"github.com/spf13/cobra"

	"cobox/appliance/admin"
	"cobox/cmd/cobox/device"
	"cobox/cmd/cobox/ui"
)

type boxEvent struct {
	ID            string     `json:"id"`
	Name          string     `json:"name"`
	Addresses     []string   `json:"addresses"`
	Administrator bool       `json:"administrator"`
	Paired        ui.Time    `json:"paired"`
	Reachable     bool       `json:"reachable"`
	Problem       string     `json:"problem,omitempty"`
	Waiting       string     `json:"waiting,omitempty"` // what the box waits for, and has no data until then
	You           *admin.You `json:"you,omitempty"`     // if the box answered
}

func (boxEvent) Type() string { return "box" }
func (boxEvent) Text() string { return "" }

type boxesSummary struct {
	Boxes     int `json:"boxes"`
	Reachable int `json:"reachable"`
}

func (boxesSummary) Type() string { return "summary" }
func (e boxesSummary) Text() string {
	if e.Boxes == 0 {
		return errNoBoxes.What + ".\n" + errNoBoxes.Hint
	}
	return ""
}

func (a *app) boxesCommand() *cobra.Command {
	return &cobra.Command{
		Use: "boxes", Short: "List the boxes that this device is paired with", Args: exactly(0, ""),
		Example: "  cobox boxes",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			st, err := a.open()
			if err != nil {
				return err
			}
			f := a.newFleet(st, st.Boxes)
			f.admin = true
			f.connect(ctx)
			defer f.close()
			if err := f.waitTried(ctx); err != nil {
				return err
			}
			rows := [][]string{{"Box", "State", "You use", "Quota", "Key", "Addresses"}}
			sum := boxesSummary{Boxes: len(f.links)}
			for _, l := range f.links {
				e := newBoxEvent(l.box)
				state := "not reachable"
				used, quota := "", ""
				if err := l.wait(ctx); err == nil {
					e.Reachable = true
					sum.Reachable++
					state = "reachable"
					s, err := call[admin.Status](ctx, l, admin.MethodStatus, admin.StatusRequest{}, nil)
					if err != nil {
						e.Problem, state = err.Error(), "reachable, but: "+err.Error()
					} else {
						e.You = &s.You
						used, quota = ui.Bytes(s.You.Used), quotaText(s.You.Quota)
						switch {
						case s.Waiting != "":
							// What is used of what lies where the data is.
							e.You, e.Waiting = nil, s.Waiting
							state, used, quota = "waits: "+ui.Printable(s.Waiting), "", ""
						case s.ReadOnly:
							state = "read-only"
						}
					}
				} else if _, _, err := l.state(); err != nil {
					e.Problem = err.Error()
				}
				a.emitJSON(e)
				rows = append(rows, []string{ui.Printable(e.Name), state, used, quota, e.ID[:16] + "…", strings.Join(e.Addresses, " ")})
			}
			if len(f.links) > 0 {
				a.ui.Table(rows)
			}
			a.ui.Emit(sum)
			return nil
		},
	}
}

func newBoxEvent(b *device.Box) boxEvent {
	return boxEvent{ID: boxID(b), Name: b.Name, Addresses: append([]string{}, b.Addresses...), Administrator: b.Administrator, Paired: ui.Time{Time: b.Paired}}
}
