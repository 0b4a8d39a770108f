package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cobox/appliance/admin"
	"cobox/cmd/cobox/device"
	"cobox/cmd/cobox/ui"
)

type diskUsedEvent struct {
	Box     string  `json:"box"`
	BoxName string  `json:"box_name"`
	Disk    string  `json:"disk"`
	Seconds float64 `json:"seconds"`
}

func (diskUsedEvent) Type() string { return "summary" }
func (e diskUsedEvent) Text() string {
	return fmt.Sprintf("The data of box %q lies on disk %s now, and is removed from the card. The box needs the disk from now\non: without it, it tells its members so and waits.",
		ui.Printable(e.BoxName), ui.Printable(e.Disk))
}

func (a *app) boxDiskUseCommand(box *string) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "use ID", Short: "Let a blank disk take the data of a box", Args: exactly(1, "the ID of a disk: see 'cobox box disk list'"),
		Example: "  cobox box disk use 1a2b3c4d\n  cobox box disk use 1a2b3c4d --yes",
		Long: `Copies all that the box holds to a blank disk, compares it, and goes on from
there. Meanwhile the box takes in and gives back nothing; backups wait on the
members' computers. If anything fails before the end, the box goes on with the
data where it was.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.useDisk(cmd.Context(), *box, args[0], yes)
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask whether it is meant")
	return c
}

func (a *app) useDisk(ctx context.Context, name, id string, yes bool) error {
	if !yes && !a.ui.Interactive() {
		return ui.Usagef("Look at 'cobox box disk list' first, and then give --yes.", "nobody can be asked whether disk %s is meant", ui.Printable(id))
	}
	l, done, err := a.oneBox(ctx, name)
	if err != nil {
		return err
	}
	defer func() { done() }()
	list, err := askDisks(ctx, l)
	if err != nil {
		return err
	}
	disk, err := chooseDisk(list.Disks, id)
	if err != nil {
		return err
	}
	if !yes {
		if err := a.confirmDisk(ctx, l.box, disk, list.Used); err != nil {
			return err
		}
	}
	began := time.Now()
	meter := a.newMoveMeter()
	defer meter.done()
	_, err = call[admin.Empty](ctx, l, admin.MethodDiskUse, admin.DiskUseRequest{ID: disk.ID}, func(b []byte) {
		var p admin.CopyProgress
		if json.Unmarshal(b, &p) == nil {
			meter.show(p)
		}
	})
	if err != nil {
		return err
	}
	done()
	done = func() {}
	if err := a.followMove(ctx, l.box, disk.ID, meter); err != nil {
		return err
	}
	meter.done()
	a.ui.Emit(diskUsedEvent{boxID(l.box), l.box.Name, disk.ID, time.Since(began).Seconds()})
	return nil
}

// chooseDisk finds the disk that is meant, if it can take the data.
func chooseDisk(disks []admin.Disk, id string) (*admin.Disk, error) {
	at := slices.IndexFunc(disks, func(d admin.Disk) bool { return d.ID == id })
	if at < 0 {
		f := &ui.Failure{Exit: ui.ExitFailed, Code: "unknown_disk", What: fmt.Sprintf("the box has no disk %q", ui.Printable(id)),
			Hint: "It sees no disk at all. Is it plugged in, and has it power?"}
		if len(disks) > 0 {
			var there []string
			for i := range disks {
				there = append(there, fmt.Sprintf("  %s  %s, %s: %s", ui.Printable(disks[i].ID), ui.Printable(disks[i].Name), ui.Bytes(disks[i].Bytes), holdsText(&disks[i])))
			}
			f.Hint = "It sees these:\n" + strings.Join(there, "\n")
		}
		return nil, f
	}
	d := &disks[at]
	switch {
	case d.Holds == admin.HoldsData:
		return nil, &ui.Failure{Exit: ui.ExitFailed, Code: "disk_in_use", What: fmt.Sprintf("the box's data lies on disk %s already", ui.Printable(d.ID)), Hint: "There is nothing to do."}
	case d.Holds == admin.HoldsForeign:
		return nil, &ui.Failure{Exit: ui.ExitFailed, Code: "disk_foreign", What: fmt.Sprintf("disk %s is not blank: it holds %s", ui.Printable(d.ID), holdsText(d)), Hint: blankHint}
	case d.Unfit != "":
		return nil, &ui.Failure{Exit: ui.ExitFailed, Code: "disk_unfit", What: fmt.Sprintf("disk %s cannot take the data: %s", ui.Printable(d.ID), ui.Printable(d.Unfit)), Hint: "See 'cobox box disk list' for the others."}
	}
	return d, nil
}

const blankHint = `A box never erases a disk. If nothing on it is needed any more, make it blank on a
computer, where you see what you delete: with 'clean all' of diskpart on Windows,
'diskutil zeroDisk' on a Mac, or 'dd if=/dev/zero of=/dev/…' on Linux. Then plug it in again.`

// confirmDisk lets a person say that this is meant.
func (a *app) confirmDisk(ctx context.Context, box *device.Box, d *admin.Disk, used uint64) error {
	a.ui.Notef("All that box %q holds moves to this blank disk, and what is on the card is then deleted:", ui.Printable(box.Name))
	a.ui.Notef("  %s  %s, %s", ui.Printable(d.ID), ui.Printable(d.Name), ui.Bytes(d.Bytes))
	if used > 0 {
		a.ui.Notef("%s are copied and compared, which takes about %s. Meanwhile the box takes in and gives back nothing.", ui.Bytes(used), ui.Duration(moveTime(used)))
	}
	a.ui.Notef("From then on the box needs the disk.")
	answer, err := a.ui.Ask(ctx, "Type yes to go on: ")
	if err != nil {
		return err
	}
	if answer != "yes" {
		return &ui.Failure{Exit: ui.ExitFailed, Code: "not_confirmed", What: "nothing was done", Hint: "Only 'yes' goes on."}
	}
	return nil
}

// moveTime is how long moving so many bytes may take: what a USB disk on a small
// board copies and reads back.
func moveTime(bytes uint64) time.Duration {
	const perSecond = 12 << 20
	return time.Minute + time.Duration(bytes/perSecond)*time.Second
}

// moveMeter shows the steps of a move, one after the other.
type moveMeter struct {
	a    *app
	step string
	m    *ui.Meter
}

func (a *app) newMoveMeter() *moveMeter { return &moveMeter{a: a} }

func (m *moveMeter) show(p admin.CopyProgress) {
	if p.Step == "" {
		return
	}
	if m.m == nil || p.Step != m.step {
		m.done()
		step := ui.Printable(p.Step)
		m.step, m.m = p.Step, m.a.ui.Meter(strings.ToUpper(step[:1])+step[1:])
	}
	m.m.Update(ui.Progress{Bytes: p.Done, TotalBytes: p.Total, Final: p.Total > 0})
}

func (m *moveMeter) done() {
	if m.m != nil {
		m.m.Done()
		m.m = nil
	}
}

const (
	// moveAway is how long a box that moves its data may be out of reach: coboxd
	// starts anew on the way, and verifies what it holds.
	moveAway = 5 * time.Minute
	// moveIdle is how long nothing may have come of it.
	moveIdle = time.Minute
	moveAsk  = time.Second
)

// followMove asks the box how far it is until its data lies on the disk.
func (a *app) followMove(ctx context.Context, box *device.Box, id string, meter *moveMeter) error {
	seen, busy := time.Now(), time.Now() // when it answered last, and when it was at it
	for {
		s, err := a.statusAnew(ctx, box)
		now := time.Now()
		switch {
		case ctx.Err() != nil:
			a.ui.Notef("The box goes on by itself; 'cobox box status' shows how far it is.")
			return ctx.Err()
		case err != nil && now.Sub(seen) > moveAway:
			return &ui.Failure{Exit: ui.ExitNoBox, Code: "no_box", What: fmt.Sprintf("box %q has not come back", ui.Printable(box.Name)), Err: err,
				Hint: "Nothing is lost: until all was compared, its data is where it was. Look at the box; 'cobox box status' shows what became of it."}
		case err == nil && s.Data == nil:
			return errors.New("the box does not say where its data lies")
		case err == nil && s.Data.Move != nil && s.Data.Move.Failed != "":
			return &ui.Failure{Exit: ui.ExitFailed, Code: "disk_failed", What: "moving the data to the disk has failed: " + ui.Printable(s.Data.Move.Failed),
				Hint: "The box goes on with the data where it was. The disk can be used again: it holds nothing but a part of a copy."}
		case err == nil && s.Waiting == "" && s.Data.Disk == id:
			return nil
		case err == nil && s.Data.Move != nil:
			seen, busy = now, now
			meter.show(s.Data.Move.CopyProgress)
		case err == nil && now.Sub(busy) > moveIdle:
			return &ui.Failure{Exit: ui.ExitFailed, Code: "disk_failed", What: "the box does not move its data; it lies on " + dataText(s.Data),
				Hint: "See 'cobox box log' for what has happened, and try again."}
		case err == nil:
			seen = now
		}
		select {
		case <-ctx.Done():
		case <-time.After(moveAsk):
		}
	}
}

// statusAnew asks a box over a link of its own: it stops and starts meanwhile.
func (a *app) statusAnew(ctx context.Context, box *device.Box) (*admin.Status, error) {
	st, err := a.open()
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(st.Boxes, func(b *device.Box) bool { return b.Static == box.Static })
	if at < 0 {
		return nil, errNoBoxes
	}
	f := a.newFleet(st, st.Boxes[at:at+1])
	f.admin = true
	return askStatus(ctx, f)
}
