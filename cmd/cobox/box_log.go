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

// eventKind says, for people, what a kind of event is.
type eventKind struct {
	kind    admin.Kind
	meaning string
}

var eventKinds = []eventKind{
	{admin.EventStarted, "the box started"},
	{admin.EventStopped, "the box was stopped in order; without it the power was cut"},
	{admin.EventClaimed, "somebody became the first administrator"},
	{admin.EventJoined, "a member joined by an invite"},
	{admin.EventDevice, "a member has one more device"},
	{admin.EventRecovered, "an account logged in with its recovery phrase"},
	{admin.EventInvited, "an administrator made an invite"},
	{admin.EventCancelled, "an administrator cancelled one"},
	{admin.EventQuota, "an administrator changed a quota"},
	{admin.EventRemoved, "an administrator removed a member"},
	{admin.EventNewLog, "a device began to back up, into a log of its own"},
	{admin.EventForked, "a log takes in nothing more: its device signed two versions of it"},
	{admin.EventRefused, "strangers were refused; one line an hour and reason"},
	{admin.EventPairingRefused, "somebody with a code was refused"},
	{admin.EventFull, "new data was refused, as a quota is used up"},
	{admin.EventNoSpace, "new data was refused, as the disk is full"},
	{admin.EventDamaged, "stored data is not what was stored"},
	{admin.EventChecked, "a check has ended"},
	{admin.EventViolation, "a member's device sent what no honest one sends"},
	{admin.EventUpdateWritten, "an administrator sent an update; the box restarts to try it"},
	{admin.EventUpdatePromoted, "an update has proved itself and stays"},
	{admin.EventUpdateFellBack, "an update has not; the system before runs again"},
	{admin.EventDiskUse, "an administrator lets a disk take the data"},
	{admin.EventDataMoved, "the data lies on another disk than before"},
	{admin.EventDataBack, "the data is here again, after the box had to wait for it"},
}

// eventKindsHelp is the legend of box log.
func eventKindsHelp() string {
	rows := make([][]string, 0, len(eventKinds))
	for _, k := range eventKinds {
		rows = append(rows, []string{"  " + string(k.kind), k.meaning})
	}
	return ui.Table(rows)
}

func (a *app) boxLogCommand(box *string) *cobra.Command {
	var max int
	c := &cobra.Command{
		Use: "log", Short: "Show what happened on a box, newest first", Args: exactly(0, ""),
		Long: "Shows what happened on a box, newest first: when, by the box's clock, what, and\n" +
			"whom it concerns. 'cobox box members' tells who that is.\n\n" + eventKindsHelp(),
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
