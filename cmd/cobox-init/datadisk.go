//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"cobox/appliance/datadir"
	"cobox/appliance/machine"
	"cobox/image/holds"
	"cobox/image/layout"
)

// dataDiskFile, on the card, names the disk that the data lies on. Without it the
// data lies on the card. That it is written is what moves the data.
const dataDiskFile = "datadisk"

// readDataDisk returns the id of the disk that the card names; ok is false if it
// names none. A repair of its file system may have lost dataDiskFile: then the mark
// counts that the card's directory has once the data was removed there.
func readDataDisk(card string) (id layout.DataDiskID, ok bool, err error) {
	b, err := readSmall(filepath.Join(card, dataDiskFile))
	if errors.Is(err, fs.ErrNotExist) {
		b, err = readSmall(filepath.Join(card, dataName, datadir.MovedFile))
		if errors.Is(err, fs.ErrNotExist) {
			return id, false, nil
		}
	}
	if err == nil {
		var raw [16]byte
		if raw, err = datadir.ParseMoved(b); err == nil {
			return raw, true, nil
		}
	}
	return id, true, fmt.Errorf("datadisk: reading which disk the data lies on: %w", err)
}

// lostDataDisk says whether only the mark names the disk.
func lostDataDisk(card string) bool {
	_, err := os.Lstat(filepath.Join(card, dataDiskFile))
	return errors.Is(err, fs.ErrNotExist)
}

func writeDataDisk(card string, id layout.DataDiskID) error {
	return writeDurably(filepath.Join(card, dataDiskFile), datadir.AppendMoved(nil, id), 0o600, 0)
}

// shortOf is the short name of a data disk.
func shortOf(id layout.DataDiskID) string { return shortID([4]byte(id[:4])) }

// A missingError says, to people, why the data is not there.
type missingError struct{ text string }

func (e *missingError) Error() string { return e.text }

func missingf(format string, args ...any) error { return &missingError{fmt.Sprintf(format, args...)} }

// findDataDisk looks once for the disk with the data, among all but the one that
// the box starts from. Of two with one id neither is taken: which of them is newer
// cannot be told.
func findDataDisk(sys, dev, card string, id layout.DataDiskID) (device string, d *layout.DataDisk, err error) {
	disks, err := listDisks(sys)
	if err != nil {
		return "", nil, err
	}
	for _, b := range disks {
		if b.device == card {
			continue
		}
		found, err := readHeader(filepath.Join(dev, b.device))
		if err != nil || found.ID != id {
			continue
		}
		if d != nil {
			return "", nil, missingf("two disks are plugged in that both say that they are disk %s (%s and %s), and which of them has the newer data cannot be told; unplug the copy", shortOf(id), device, b.device)
		}
		if found.Data.End() > b.bytes {
			return "", nil, missingf("disk %s shows only a part of itself (%d of %d bytes); plug it in as it was before, without another adapter", shortOf(id), b.bytes, found.Data.End())
		}
		device, d = b.device, found
	}
	if d == nil {
		return "", nil, missingf("its data lies on disk %s, which is not plugged in; plug it in: nothing is lost, and the box goes on by itself", shortOf(id))
	}
	return device, d, nil
}

// readHeader reads the first sector of a data disk.
func readHeader(path string) (*layout.DataDisk, error) {
	sector, err := firstSector(path)
	if err != nil {
		return nil, err
	}
	return layout.ParseDataDisk(sector)
}

// surroundings are what decides whether a disk can take the data.
type surroundings struct {
	card    string   // device of the disk that the box starts from
	inUse   string   // device of the disk with the data; "": the card, or none
	missing string   // the disk with the data, in words, if it is not there
	box     [32]byte // the box's static key
	used    uint64   // bytes that the data has
	look    func(d blockDisk) (*holds.Contents, error)
}

// reserve is what must be left on a disk beside the data, for the file system
// itself and for the next backups.
func reserve(used uint64) uint64 { return used/20 + 256<<20 }

// describeDisks says what each disk is to the box.
func describeDisks(list []blockDisk, s surroundings) []machine.Disk {
	out := make([]machine.Disk, 0, len(list))
	count := map[string]int{}
	for _, b := range list {
		d := describeDisk(b, s)
		count[d.ID]++
		out = append(out, d)
	}
	for i := range out {
		if d := &out[i]; count[d.ID] > 1 && d.Holds != machine.HoldsSystem && d.Holds != machine.HoldsData {
			d.Unfit = "another disk that is plugged in has the same ID; unplug one of them"
		}
	}
	return out
}

func describeDisk(b blockDisk, s surroundings) machine.Disk {
	d := machine.Disk{ID: shortID(b.id()), Name: b.name, Bytes: b.bytes, Device: b.device}
	if b.device == s.card {
		d.Holds, d.Found, d.Unfit = machine.HoldsSystem, "the box's system", "the box starts from it"
		if s.inUse == "" && s.missing == "" {
			d.Found = "the box's system and its data"
		}
		return d
	}
	c, err := s.look(b)
	if err != nil {
		d.Holds, d.Found, d.Unfit = machine.HoldsForeign, "something that cannot be read", "it makes errors: "+err.Error()
		return d
	}
	d.Found = c.Found
	switch c.Kind {
	case holds.Data:
		d.Holds, d.ID = machine.HoldsOther, shortOf(c.Disk.ID)
		if b.device == s.inUse {
			d.Holds, d.Found, d.Unfit = machine.HoldsData, "the box's data", "it is in use"
			return d
		}
		d.Found, d.Unfit = otherData(c.Disk, s.box)
	case holds.System:
		d.Holds, d.Unfit = machine.HoldsOther, "a box starts from it"
	case holds.Blank:
		d.Holds = machine.HoldsNothing
	default:
		d.Holds, d.Unfit = machine.HoldsForeign, "it is not blank"
	}
	if d.Unfit == "" {
		d.Unfit = unfit(b, s)
	}
	return d
}

// otherData says what is on a data disk that is not in use, and why it is not
// taken.
func otherData(d *layout.DataDisk, box [32]byte) (found, unfit string) {
	switch {
	case d.Box != box:
		return "the data of another CoBox", "somebody's data is on it"
	case d.Filled:
		return "data of this box of former times", "which of its data and the box's is newer cannot be told"
	}
	return "a copy that was begun and not ended", ""
}

// unfit says why a disk that is blank, or holds but the beginning of a copy,
// cannot be used all the same.
func unfit(b blockDisk, s surroundings) string {
	switch {
	case s.missing != "":
		return "the box's data is on " + s.missing + ", which is missing; it would start empty"
	case b.readOnly:
		return "it cannot be written"
	case b.sector != layout.SectorSize:
		return fmt.Sprintf("its sectors have %d bytes; only disks with %d can be used", b.sector, layout.SectorSize)
	}
	d, err := layout.NewDataDisk(b.bytes, layout.DataDiskID{1}, s.box)
	if need := s.used + reserve(s.used); err != nil || d.Data.Size < need {
		return fmt.Sprintf("it is too small: the box's data needs %d MiB", max(need, layout.MinDataDisk)>>20)
	}
	return ""
}

// lookAt reads what is on a disk.
func lookAt(dev string) func(blockDisk) (*holds.Contents, error) {
	return func(b blockDisk) (*holds.Contents, error) {
		f, err := os.Open(filepath.Join(dev, b.device))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return holds.Look(f, int64(b.bytes))
	}
}
