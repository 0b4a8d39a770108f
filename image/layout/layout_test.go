package layout

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func TestSlots(t *testing.T) {
	for _, s := range []Slot{SlotA, SlotB} {
		if got, err := ParseSlot(s.String()); got != s || err != nil {
			t.Errorf("%v is read as %v, %v", s, got, err)
		}
		if got, ok := SlotOf(s.Partition()); got != s || !ok {
			t.Errorf("partition %d is %v, %v", s.Partition(), got, ok)
		}
		if s.Other() == s || s.Other().Other() != s {
			t.Errorf("the other of %v is %v", s, s.Other())
		}
	}
	for _, n := range []int{-1, 0, 1, 4} {
		if s, ok := SlotOf(n); ok {
			t.Errorf("partition %d is slot %v", n, s)
		}
	}
	for _, text := range []string{"", "A", "c", "ab"} {
		if s, err := ParseSlot(text); err == nil {
			t.Errorf("%q is slot %v", text, s)
		}
	}
}

// TestTable holds the frozen bytes of an image's first sector.
func TestTable(t *testing.T) {
	table, err := NewTable(ImageSize)
	if err != nil {
		t.Fatal(err)
	}
	mbr := table.AppendMBR(nil)
	want := strings.Repeat("00", 440) + "43426f78" + "0000" +
		"00fefffF0cfeffff0008000000200100" +
		"00fefffF0cfeffff0028010000000300" +
		"00fefffF0cfeffff0028040000000300" +
		"00fefffF83feffff0028070000000800" +
		"55aa"
	if got := hex.EncodeToString(mbr); got != strings.ToLower(want) {
		t.Errorf("MBR\n%s\nwant\n%s", got[880:], strings.ToLower(want[880:]))
	}
	for n := 1; n < 4; n++ {
		p, _ := table.Partition(n)
		q, ok := table.Partition(n + 1)
		if !ok || p.End() != q.Start {
			t.Errorf("partition %d ends at %d, %d begins at %d", n, p.End(), n+1, q.Start)
		}
	}
	for _, n := range []int{0, 5} {
		if _, ok := table.Partition(n); ok {
			t.Errorf("there is a partition %d", n)
		}
	}
}

func TestTableOfDisks(t *testing.T) {
	for _, c := range []struct{ disk, data uint64 }{
		{ImageSize, TemplateSize},
		{ImageSize + 1<<20 - 1, TemplateSize},
		{64 << 30, 64<<30 - DataStart},
		{4 << 40, (1<<32-1)*512&^(1<<20-1) - DataStart}, // an MBR ends at 2 TiB
	} {
		table, err := NewTable(c.disk)
		if err != nil || table.Data.Size != c.data {
			t.Errorf("disk of %d bytes: data %+v, %v; want %d", c.disk, table, err, c.data)
			continue
		}
		back, err := ParseMBR(table.AppendMBR(nil))
		if err != nil || *back != *table {
			t.Errorf("disk of %d bytes: read back %+v, %v", c.disk, back, err)
		}
	}
	if _, err := NewTable(ImageSize - 1); err == nil {
		t.Error("a disk that is too small got a table")
	}
}

// TestForeignDisks changes each byte of the sector in turn.
func TestForeignDisks(t *testing.T) {
	table, _ := NewTable(1 << 30)
	mbr := table.AppendMBR(nil)
	for i := range mbr {
		bad := bytes.Clone(mbr)
		bad[i] ^= 0x40
		got, err := ParseMBR(bad)
		size := i >= mbrTableOffset+3*mbrEntrySize+12 && i < mbrMagicOffset
		if err == nil && !(size && got.Data != table.Data) {
			t.Errorf("byte %d is wrong, and the disk is taken for ours", i)
		} else if err != nil && !errors.Is(err, ErrForeignDisk) {
			t.Errorf("byte %d: %v", i, err)
		}
	}
	for _, b := range [][]byte{nil, mbr[:511], append(bytes.Clone(mbr), 0)} {
		if _, err := ParseMBR(b); !errors.Is(err, ErrForeignDisk) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
}

func TestAutoboot(t *testing.T) {
	for _, s := range []Slot{SlotA, SlotB} {
		b := Autoboot{s}.Append(nil)
		if len(b) != AutobootSize {
			t.Errorf("%d bytes", len(b))
		}
		if got, err := ParseAutoboot(b); err != nil || got.Slot != s {
			t.Errorf("read back %v, %v", got, err)
		}
		for i := range b {
			bad := bytes.Clone(b)
			bad[i] ^= 1
			if got, err := ParseAutoboot(bad); err == nil {
				t.Errorf("byte %d is wrong, read as %v", i, got)
			}
		}
	}
	if got := string(Autoboot{SlotB}.Append(nil)); !strings.HasPrefix(got, "[all]\ntryboot_a_b=1\nboot_partition=3\n[tryboot]\nboot_partition=2\n#...") || !strings.HasSuffix(got, "..\n") {
		t.Errorf("autoboot.txt for slot b:\n%s", got)
	}
}

func FuzzParseMBR(f *testing.F) {
	table, _ := NewTable(1 << 30)
	f.Add(table.AppendMBR(nil))
	f.Add(make([]byte, SectorSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		table, err := ParseMBR(b)
		if err == nil && !bytes.Equal(table.AppendMBR(nil), b) {
			t.Error("not canonical")
		}
	})
}

func FuzzParseAutoboot(f *testing.F) {
	f.Add(Autoboot{SlotA}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAutoboot(b)
		if err == nil && !bytes.Equal(a.Append(nil), b) {
			t.Error("not canonical")
		}
	})
}
