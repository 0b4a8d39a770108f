package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cobox/cmd/cobox/device"
	"cobox/cmd/cobox/ui"
	"cobox/netlink/replicate"
	"cobox/storage/archive/spool"
	"cobox/storage/merklelog"
)

// logStatus is one of this device's logs on one box, by the receipts that are
// known here: it needs no connection.
type logStatus struct {
	Box      string   `json:"box"`
	BoxName  string   `json:"box_name"`
	Space    string   `json:"space"`
	Log      string   `json:"log"`
	Size     uint64   `json:"size"`              // blocks receipted
	Blocks   uint64   `json:"blocks"`            // blocks of the log
	Bytes    uint64   `json:"bytes"`             // receipted
	Missing  uint64   `json:"missing"`           // blocks below size that the box lacks
	Complete bool     `json:"complete"`          // everything is receipted
	Receipt  *ui.Time `json:"receipt,omitempty"` // time of the last one, by the box's clock
}

func (logStatus) Type() string { return "replica" }
func (logStatus) Text() string { return "" }

type spaceStatus struct {
	Space   string `json:"space"`
	Copies  int    `json:"copies"` // boxes on which the newest backup of this device is durable
	Boxes   int    `json:"boxes"`
	Waiting uint64 `json:"bytes_waiting"`
}

func (spaceStatus) Type() string { return "space" }
func (e spaceStatus) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Space %q: ", e.Space)
	switch {
	case e.Copies == 0:
		b.WriteString("the newest backup of this device is on NO box.")
	case e.Copies == 1:
		b.WriteString("the newest backup of this device is durable on 1 box.")
	default:
		fmt.Fprintf(&b, "the newest backup of this device is durable on %d boxes.", e.Copies)
	}
	if e.Waiting > 0 {
		fmt.Fprintf(&b, " %s wait here to be sent.", ui.Bytes(e.Waiting))
	}
	return b.String()
}

type statusSummary struct {
	Account     string `json:"account"`
	Fingerprint string `json:"fingerprint"`
	Device      string `json:"device"`
	Boxes       int    `json:"boxes"`
	Spaces      int    `json:"spaces"`
	Waiting     uint64 `json:"bytes_waiting"`
}

func (statusSummary) Type() string { return "summary" }
func (e statusSummary) Text() string {
	switch {
	case e.Boxes == 0:
		return errNoBoxes.What + ".\n" + errNoBoxes.Hint
	case e.Spaces == 0:
		return "Nothing has been backed up yet. Make a first backup with 'cobox backup PATH'."
	}
	return ""
}

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show what is safe where, by the boxes' receipts", Args: exactly(0, ""),
		Example: "  cobox status\n  cobox status --json",
		Long: `Shows, for each box and space, what the box has receipted of this device's
backups, on how many boxes the newest one is durable, and what waits here.
It rests on signed receipts and needs no connection; 'cobox verify' asks anew.`,
		RunE: func(*cobra.Command, []string) error { return a.status() },
	}
}

func (a *app) status() error {
	st, err := a.open()
	if err != nil {
		return err
	}
	sum := statusSummary{Account: st.Card.ID.String(), Fingerprint: st.Card.ID.Fingerprint(), Device: st.Name, Boxes: len(st.Boxes), Spaces: len(st.Spaces)}
	rows := [][]string{{"Box", "Space", "Holds", "Missing", "Last receipt"}}
	var spaces []spaceStatus
	for _, sp := range st.Spaces {
		e := spaceStatus{Space: sp.Keys.Name, Boxes: len(st.Boxes)}
		for _, l := range sp.Logs {
			if !l.Own || l.Left {
				continue
			}
			info, err := spool.Inspect(st.Home.LogDir(l.ID()))
			if err != nil {
				return fmt.Errorf("reading this device's log: %w", err)
			}
			e.Waiting += info.Waiting
			for _, b := range st.Boxes {
				r := replicaStatus(sp, l, b, &info)
				if r.Complete && !l.Left && info.Checkpoint.Size > 0 {
					e.Copies++
				}
				a.emitJSON(r)
				last := "never"
				if r.Receipt != nil {
					last = r.Receipt.Local().Format("2006-01-02 15:04:05")
				}
				missing := "nothing"
				if n := r.Missing + r.Blocks - r.Size; n > 0 {
					missing = ui.Bytes(n * 65536)
				}
				rows = append(rows, []string{ui.Printable(b.Name), ui.Printable(sp.Keys.Name), ui.Bytes(r.Bytes), missing, last})
			}
		}
		sum.Waiting += e.Waiting
		spaces = append(spaces, e)
	}
	if len(rows) > 1 {
		a.ui.Table(rows)
	}
	for _, b := range st.Boxes {
		if b.Waiting != "" {
			a.ui.Warnf("when box %q was last reached, it waited: %s", ui.Printable(b.Name), b.Waiting)
		}
	}
	for _, e := range spaces {
		a.ui.Emit(e)
	}
	a.ui.Emit(sum)
	return nil
}

func replicaStatus(sp *device.Space, l *device.Log, b *device.Box, info *spool.Info) logStatus {
	e := logStatus{Box: boxID(b), BoxName: b.Name, Space: sp.Keys.Name, Log: l.ID().String(), Blocks: info.Checkpoint.Size}
	for _, r := range info.Receipts {
		if r.Box != spool.BoxKey(b.Static) {
			continue
		}
		holes := r.Holes
		for _, lost := range l.Lost { // stored again since
			holes = merklelog.SubtractRange(holes, lost)
		}
		e.Missing = merklelog.CountRanges(holes)
		e.Size = r.Size
		e.Bytes = (r.Size - e.Missing) * 65536
		e.Complete = r.Size >= info.Checkpoint.Size && e.Missing == 0
		// The time is the box's own; receipts are verified before they are stored.
		if signed, err := replicate.ParseReceipt(r.Signed); err == nil {
			t := ui.Time{Time: time.UnixMilli(signed.Wall)}
			e.Receipt = &t
		}
	}
	return e
}
