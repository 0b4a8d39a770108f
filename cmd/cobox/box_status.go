package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cobox/appliance/admin"
	"cobox/cmd/cobox/device"
	"cobox/cmd/cobox/ui"
)

type boxStatusEvent struct {
	Box       string      `json:"box"`
	BoxName   string      `json:"box_name"`
	Version   string      `json:"version"`
	Addresses []string    `json:"addresses"` // where it can be reached now
	Time      ui.Time     `json:"time"`      // by its clock
	Elapsed   int64       `json:"elapsed_seconds"`
	ReadOnly  bool        `json:"read_only"`
	You       admin.You   `json:"you"`
	State     *stateOfBox `json:"state,omitempty"`   // for its administrators, unless it waits
	Data      *dataOfBox  `json:"data,omitempty"`    // for its administrators, if it knows its disks
	Move      *admin.Move `json:"move,omitempty"`    // of the data to a disk, that goes on or was the last one and failed
	Waiting   string      `json:"waiting,omitempty"` // what it waits for; it then knows nothing of what lies where its data is

	// For its administrators, if it runs CoBox's own system.
	System *systemOfBox `json:"system,omitempty"`
	Update *updateOfBox `json:"update,omitempty"` // the last one
}

// dataOfBox is where a box's data lies.
type dataOfBox struct {
	Disk    string `json:"disk,omitempty"`
	Problem string `json:"problem,omitempty"`
}

type stateOfBox struct {
	Uptime    int64  `json:"uptime_seconds"`
	Members   int    `json:"members"`
	Logs      int    `json:"logs"`
	Bytes     uint64 `json:"bytes"`   // of blocks held
	Damaged   uint64 `json:"damaged"` // blocks found bad since it started
	Links     int    `json:"links"`
	DiskBytes uint64 `json:"disk_bytes"` // that the box's store occupies
	DiskFree  uint64 `json:"disk_free"`
	DiskLow   bool   `json:"disk_low"`
}

type systemOfBox struct {
	Version string `json:"version"`
	Number  uint32 `json:"number"`
	Slot    string `json:"slot"`
	Trying  bool   `json:"trying"`
	Board   string `json:"board"`
	Floor   uint32 `json:"floor"` // the lowest number that can be installed
}

func (s *systemOfBox) text() string {
	text := "CoBox " + ui.Printable(s.Version)
	switch {
	case s.Number == 0:
		text += ", of an unknown number"
	default:
		text += fmt.Sprintf(", release %d", s.Number)
	}
	if s.Slot != "" {
		text += ", in slot " + ui.Printable(s.Slot)
	}
	if s.Trying {
		text += ", on trial: it has to prove itself yet"
	}
	return text
}

type updateOfBox struct {
	Version string `json:"version"`
	Number  uint32 `json:"number"`
	Result  string `json:"result"`
	Reason  string `json:"reason,omitempty"`
}

func (u *updateOfBox) text() string {
	text := "CoBox " + ui.Printable(u.Version)
	switch admin.UpdateResult(u.Result) {
	case admin.UpdateWritten:
		text += " is written, and tried at the next restart"
	case admin.UpdateTrying:
		text += " is being tried"
	case admin.UpdatePromoted:
		text += " has proved itself"
	case admin.UpdateFellBack:
		text += " did not prove itself, so the box went back"
	default:
		text += ": " + ui.Printable(u.Result)
	}
	if u.Reason != "" {
		text += ": " + ui.Printable(u.Reason)
	}
	return text
}

func newBoxStatusEvent(b *device.Box, s *admin.Status) boxStatusEvent {
	e := boxStatusEvent{
		Box: boxID(b), BoxName: s.Name, Version: s.Version, Addresses: append([]string{}, s.Addresses...),
		Time: unixTime(s.Wall), Elapsed: s.Elapsed / 1000, ReadOnly: s.ReadOnly, You: s.You,
		Waiting: s.Waiting,
	}
	if d := s.Data; d != nil {
		e.Data, e.Move = &dataOfBox{d.Disk, d.Problem}, d.Move
	}
	if x := s.Box; x != nil {
		e.State = &stateOfBox{x.Uptime / 1000, x.Members, x.Logs, x.Bytes, x.Damaged, x.Sessions, x.DiskBytes, x.Free, x.DiskLow}
	}
	if m := s.Machine; m != nil {
		e.System = &systemOfBox{m.Release.Version, m.Release.Number, m.Slot, m.Trying, m.Board, m.Floor}
		if u := m.Update; u != nil {
			e.Update = &updateOfBox{u.Version, u.Number, string(u.Result), u.Reason}
		}
	}
	return e
}

func (boxStatusEvent) Type() string { return "summary" }
func (e boxStatusEvent) Text() string {
	rows := [][]string{
		{"Box", ui.Printable(e.BoxName)}, {"Version", ui.Printable(e.Version)}, {"Key", e.Box},
		{"Addresses", ui.Printable(strings.Join(e.Addresses, " "))},
	}
	if e.Waiting == "" {
		rows = append(rows, []string{"You use", usedText(e.You)})
	} else {
		rows = append(rows, []string{"State", "waits: " + ui.Printable(e.Waiting)})
	}
	if e.Data != nil {
		rows = append(rows, []string{"Data on", dataText(&admin.Data{Disk: e.Data.Disk, Problem: e.Data.Problem, Move: e.Move})})
	}
	if e.ReadOnly {
		rows = append(rows, []string{"State", "read-only: it takes in nothing, and still serves restores"})
	}
	if s := e.State; s != nil {
		if s.DiskLow {
			rows = append(rows, []string{"State", "full: it takes in nothing new, and still serves restores"})
		}
		rows = append(rows,
			[]string{"Up for", ui.Duration(time.Duration(s.Uptime) * time.Second)},
			[]string{"Members", fmt.Sprint(s.Members)}, []string{"Logs", fmt.Sprint(s.Logs)},
			[]string{"Holds", ui.Bytes(s.Bytes)}, []string{"Damaged", ui.Count(s.Damaged, "block", "blocks")},
			[]string{"Links", fmt.Sprint(s.Links)},
			[]string{"Disk", ui.Bytes(s.DiskBytes) + " used, " + ui.Bytes(s.DiskFree) + " free"})
	}
	if s := e.System; s != nil {
		rows = append(rows, []string{"System", s.text()})
	}
	if e.Update != nil {
		rows = append(rows, []string{"Last update", e.Update.text()})
	}
	return ui.Table(rows)
}

// usedText says how much of what may be used is used.
func usedText(y admin.You) string {
	if y.Quota.Unlimited {
		return ui.Bytes(y.Used) + ", without a limit"
	}
	return ui.Bytes(y.Used) + " of " + ui.Chosen(y.Quota.Bytes)
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
				a.ui.Emit(newBoxStatusEvent(l.box, &s))
				return nil
			})
		},
	}
}

// askStatus connects to the one box of a fleet, asks how it is, and hangs up.
func askStatus(ctx context.Context, f *fleet) (*admin.Status, error) {
	f.connect(ctx)
	defer f.close()
	l := f.links[0]
	if err := l.wait(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	s, err := call[admin.Status](ctx, l, admin.MethodStatus, admin.StatusRequest{}, nil)
	return &s, err
}
