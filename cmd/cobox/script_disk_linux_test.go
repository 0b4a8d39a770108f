package main

import (
	"os"
	"path/filepath"
	"syscall"
	"time"

	"cobox/appliance/machine"
)

// Disks of a box whose first process is the test's.
const (
	cardDisk    = "c0c0c0c0"
	blankDisk   = "b1a0b1a0"
	foreignDisk = "f0f0f0f0"
	smallDisk   = "50505050"
)

func (p *firstProcess) disks() []machine.Disk {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := []machine.Disk{
		{ID: cardDisk, Name: "SD32G", Bytes: 32 << 30, Holds: machine.HoldsSystem, Found: "the box's system and its data", Unfit: "the box starts from it", Device: "mmcblk0"},
		{ID: blankDisk, Name: "Acme Portable", Bytes: 1 << 40, Holds: machine.HoldsNothing, Device: "sda"},
		{ID: foreignDisk, Name: "Ultra\x1b[31m Fit", Bytes: 64 << 30, Holds: machine.HoldsForeign, Found: `a file system ext4 named "PHOTOS"`, Unfit: "it is not blank", Device: "sdb"},
		{ID: smallDisk, Name: "Old Stick", Bytes: 1 << 30, Holds: machine.HoldsNothing, Unfit: "it is too small: the box's data needs 3482 MiB", Device: "sdc"},
	}
	if p.state.Data.Disk == blankDisk {
		list[0].Found = "the box's system"
		list[1].Holds, list[1].Found, list[1].Unfit = machine.HoldsData, "the box's data", "it is in use"
	}
	return list
}

// useDisk answers as init does, and then moves the store away and back while a
// coboxd waits. Whether the data is on the disk then is a matter of luck.
func (p *firstProcess) useDisk(q *machine.Question) (any, error) {
	var ask machine.UseDisk
	if err := q.Params(&ask); err != nil {
		return nil, err
	}
	if ask.ID != blankDisk {
		return nil, machine.Errorf(machine.CodeRefused, "disk %s cannot take the data", ask.ID)
	}
	q.Progress(machine.CopyProgress{Step: "preparing", Done: 1 << 20, Total: 256 << 20})
	p.mu.Lock()
	p.state.Data.Move = &machine.Move{Disk: blankDisk, CopyProgress: machine.CopyProgress{Step: "preparing"}}
	asked := make(chan struct{})
	p.asked = asked
	p.mu.Unlock()
	p.running.Go(func() { p.moveData(asked) })
	return machine.Empty{}, nil
}

// moveData begins when coboxd asks how things are: it does so for the program
// that waits for the move, which has its answer then.
func (p *firstProcess) moveData(asked <-chan struct{}) {
	select {
	case <-p.ctx.Done():
	case <-asked:
	}
	p.sleep(200 * time.Millisecond)
	p.box.end()
	store, away := filepath.Join(p.box.data, "db"), p.box.data+".away"
	os.Rename(store, away) // its end shows as a box that does not start
	flags := p.box.flags
	p.box.flags = append(flags[:len(flags):len(flags)], "--waiting", "its data is being moved to disk "+blankDisk)
	p.box.launch()
	step := func(m *machine.Move) {
		p.mu.Lock()
		p.state.Data.Move = m
		p.mu.Unlock()
		p.sleep(1500 * time.Millisecond) // longer than between two looks at the box
	}
	step(&machine.Move{Disk: blankDisk, CopyProgress: machine.CopyProgress{Step: "copying", Done: 1 << 30, Total: 3 << 30}})
	step(&machine.Move{Disk: blankDisk, CopyProgress: machine.CopyProgress{Step: "comparing", Done: 2 << 30, Total: 3 << 30}})
	p.box.end()
	os.Rename(away, store)
	p.mu.Lock()
	if p.luck == "bad" {
		p.state.Data.Move = &machine.Move{Disk: blankDisk, Failed: "comparing db/000001.sst: the copy is not what was written; the disk is broken"}
	} else {
		p.state.Data = machine.Data{Disk: blankDisk}
	}
	p.mu.Unlock()
	p.box.flags = flags
	if p.ctx.Err() == nil {
		p.box.launch()
	}
}

// end ends the program, in an orderly way if it can.
func (b *box) end() {
	cmd, exited := b.process()
	cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-exited:
	case <-time.After(atMost):
		cmd.Process.Kill()
		<-exited
	}
}
