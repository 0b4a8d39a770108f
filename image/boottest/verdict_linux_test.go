package boottest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"testing/fstest"

	"cobox/image/fat32"
	"cobox/image/layout"
	"cobox/image/slot"
)

// verdict is what a firmware would start from a disk at an ordinary start.
type verdict struct {
	slot    layout.Slot
	version string // of the system's manifest
}

// judge reads a disk as a firmware does, but all of it: partition table, choice
// of a slot, and each file of the system in that slot.
func judge(disk io.ReaderAt) (verdict, error) {
	s, err := chosenSlot(disk)
	if err != nil {
		return verdict{}, err
	}
	files, err := readPartition(disk, s.Partition())
	if err != nil {
		return verdict{}, fmt.Errorf("slot %v is chosen: %w", s, err)
	}
	system, err := slot.Read(files)
	if err == nil {
		err = system.Verify(files)
	}
	if err != nil {
		return verdict{}, fmt.Errorf("slot %v is chosen: %w", s, err)
	}
	return verdict{s, system.Manifest.Version}, nil
}

func chosenSlot(disk io.ReaderAt) (layout.Slot, error) {
	sector := make([]byte, layout.SectorSize)
	if _, err := disk.ReadAt(sector, 0); err != nil {
		return 0, err
	}
	if _, err := layout.ParseMBR(sector); err != nil {
		return 0, err
	}
	files, err := readPartition(disk, 1)
	if err != nil {
		return 0, err
	}
	f := files[layout.AutobootFile]
	if f == nil {
		return 0, errors.New("there is no " + layout.AutobootFile)
	}
	a, err := layout.ParseAutoboot(f.Data)
	return a.Slot, err
}

func readPartition(disk io.ReaderAt, n int) (fstest.MapFS, error) {
	p, _ := new(layout.Table).Partition(n)
	files, err := fat32.Read(disk, int64(p.Start), int64(p.Size))
	if err != nil {
		return nil, fmt.Errorf("partition %d: %w", n, err)
	}
	m := fstest.MapFS{}
	for _, f := range files {
		m[f.Path] = &fstest.MapFile{Data: f.Data}
	}
	return m, nil
}

// history is what a disk was like after each of its writes.
type history struct {
	base   string // the disk before
	writes []write
	// starts are the verdicts: starts[n] after n of writes.
	starts []verdict
	end    *os.File // the disk after all of them
}

// newHistory checks after every write that the disk starts a whole system, if
// the power goes then. And that it does so if the disk had kept what was written
// in a cache: then all is gone that was not flushed, but perhaps the one write, or
// some sectors of it, for a disk writes only a sector wholly or not at all. A
// write that is neither to what comes before the slots nor to the chosen slot
// changes no verdict.
func newHistory(t testing.TB, base string, writes []write) (*history, error) {
	t.Helper()
	h := &history{base: base, writes: writes}
	all, flushed := openCopy(t, base), openCopy(t, base)
	now, err := judge(all)
	if err != nil {
		return nil, fmt.Errorf("before the first write: %w", err)
	}
	sure, flushedTo := now, 0
	h.starts = append(h.starts, now)
	for n, w := range writes {
		where := fmt.Sprintf("write %d of %d, %d bytes at %d", n+1, len(writes), len(w.data), w.at)
		if w.flush {
			apply(t, flushed, writes[flushedTo:n])
			flushedTo, sure = n, now
			h.starts = append(h.starts, now)
			continue
		}
		if sure.changedBy(w) {
			for done := layout.SectorSize; done <= len(w.data); done += layout.SectorSize {
				if _, err := judge(with{flushed, write{at: w.at, data: w.data[:done]}}); err != nil {
					return nil, fmt.Errorf("%s: if the disk has done %d bytes of it and none of what was not flushed before: %w", where, done, err)
				}
			}
		}
		apply(t, all, []write{w})
		if now.changedBy(w) {
			if now, err = judge(all); err != nil {
				return nil, fmt.Errorf("after %s: %w", where, err)
			}
			t.Logf("after %s: %s in slot %v starts", where, now.version, now.slot)
		}
		h.starts = append(h.starts, now)
	}
	h.end = all
	return h, nil
}

// changedBy tells whether a write could change the verdict.
func (v verdict) changedBy(w write) bool {
	first, _ := new(layout.Table).Partition(layout.SlotA.Partition())
	chosen, _ := new(layout.Table).Partition(v.slot.Partition())
	return w.touches(0, first.Start) || w.touches(chosen.Start, chosen.End())
}

// openCopy opens a copy of a disk for reading and writing.
func openCopy(t testing.TB, disk string) *os.File {
	t.Helper()
	info, err := os.Stat(disk)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(copySparse(t, disk, info.Size()), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// sameDisk compares the disk that the log of its writes makes with the true one:
// the log has left nothing out.
func sameDisk(t testing.TB, made *os.File, disk string) {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); ; off += int64(len(a)) {
		n, err := made.ReadAt(a, off)
		m, err2 := f.ReadAt(b, off)
		if n != m || !bytes.Equal(a[:n], b[:m]) {
			t.Fatalf("the log of writes does not tell all: the disk differs within a MiB of %d", off)
		}
		if err != nil || err2 != nil {
			if err != io.EOF || err2 != io.EOF {
				t.Fatal(errors.Join(err, err2))
			}
			return
		}
	}
}
