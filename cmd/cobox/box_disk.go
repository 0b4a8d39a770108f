package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"cobox/appliance/admin"
	"cobox/cmd/cobox/ui"
	"cobox/netlink/replicate"
)

// diskEvent is one disk that is plugged into a box.
type diskEvent struct {
	ID     string      `json:"id"`
	Name   string      `json:"name"`
	Bytes  uint64      `json:"bytes"`
	Holds  admin.Holds `json:"holds"`
	Found  string      `json:"found,omitempty"`
	Usable bool        `json:"usable"` // it can take the data
	Unfit  string      `json:"unfit,omitempty"`
	Device string      `json:"device,omitempty"`
}

func newDiskEvent(d *admin.Disk) diskEvent {
	return diskEvent{d.ID, d.Name, d.Bytes, d.Holds, d.Found, d.Unfit == "", d.Unfit, d.Device}
}

func (diskEvent) Type() string { return "disk" }
func (diskEvent) Text() string { return "" }

// holdsText says in words what is on a disk.
func holdsText(d *admin.Disk) string {
	if d.Found != "" {
		return ui.Printable(d.Found)
	}
	switch d.Holds {
	case admin.HoldsSystem:
		return "the box's system"
	case admin.HoldsData:
		return "the box's data"
	case admin.HoldsOther:
		return "data of a CoBox"
	case admin.HoldsNothing:
		return "nothing"
	}
	return "something that is not CoBox's"
}

type disksSummary struct {
	Box     string `json:"box"`
	BoxName string `json:"box_name"`
	Count   int    `json:"count"`
	Used    uint64 `json:"used,omitempty"`
}

func (disksSummary) Type() string { return "summary" }
func (e disksSummary) Text() string {
	if e.Count == 0 {
		return "The box sees no disk."
	}
	return ""
}

func (a *app) boxDiskCommand(box *string) *cobra.Command {
	c := &cobra.Command{
		Use: "disk", Short: "See the disks of a box, and let one take its data",
		Example: "  cobox box disk list\n  cobox box disk use 1a2b3c4d",
		Long: `A box keeps its data on the card that it starts from. A USB disk or SSD can take
it instead: one that is blank. The box never erases a disk that holds anything.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return ui.Usagef("See 'cobox box disk --help'.", "there is no command %q for disks", args[0])
			}
			return cmd.Help()
		},
	}
	c.AddCommand(a.boxDiskListCommand(box), a.boxDiskUseCommand(box))
	return c
}

func (a *app) boxDiskListCommand(box *string) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the disks that are plugged into a box, and what they hold", Args: exactly(0, ""),
		Example: "  cobox box disk list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withBox(cmd, box, func(ctx context.Context, l *link) error {
				list, err := askDisks(ctx, l)
				if err != nil {
					return err
				}
				rows := [][]string{{"ID", "Disk", "Size", "Holds", ""}}
				for i := range list.Disks {
					d := &list.Disks[i]
					a.emitJSON(newDiskEvent(d))
					can := "can take the data"
					switch {
					case d.Holds == admin.HoldsData:
						can = "in use"
					case d.Unfit != "":
						can = ui.Printable(d.Unfit)
					}
					rows = append(rows, []string{ui.Printable(d.ID), ui.Printable(d.Name), ui.Bytes(d.Bytes), holdsText(d), can})
				}
				if len(list.Disks) > 0 {
					a.ui.Table(rows)
				}
				a.ui.Emit(disksSummary{boxID(l.box), l.box.Name, len(list.Disks), list.Used})
				return nil
			})
		},
	}
}

// askDisks asks a box for its disks.
func askDisks(ctx context.Context, l *link) (admin.Disks, error) {
	list, err := call[admin.Disks](ctx, l, admin.MethodDisks, admin.DisksRequest{}, nil)
	if errors.Is(err, &replicate.Error{Code: replicate.CodeUnsupported}) {
		err = noSystem(l, "Its data lies in its data directory, which whoever runs it can move to another disk.")
	}
	return list, err
}

// dataText says where a box's data lies and what becomes of it.
func dataText(d *admin.Data) string {
	where := "the disk that the box starts from"
	if d.Disk != "" {
		where = "disk " + ui.Printable(d.Disk)
	}
	switch m := d.Move; {
	case m != nil && m.Failed != "":
		return fmt.Sprintf("%s; moving it to disk %s has failed: %s", where, ui.Printable(m.Disk), ui.Printable(m.Failed))
	case m != nil:
		return fmt.Sprintf("%s; it moves to disk %s: %s", where, ui.Printable(m.Disk), moveText(m))
	case d.Problem != "":
		return where + ", but: " + ui.Printable(d.Problem)
	}
	return where
}

func moveText(m *admin.Move) string {
	if m.Total == 0 {
		return ui.Printable(m.Step)
	}
	return fmt.Sprintf("%s, %s of %s", ui.Printable(m.Step), ui.Bytes(m.Done), ui.Bytes(m.Total))
}
