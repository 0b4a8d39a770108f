package layout

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func fixedDataDisk(t testing.TB) *DataDisk {
	t.Helper()
	var d DataDiskID
	var box [32]byte
	for i := range d {
		d[i] = byte(0x10 + i)
	}
	for i := range box {
		box[i] = byte(0x80 + i)
	}
	disk, err := NewDataDisk(1<<30, d, box)
	if err != nil {
		t.Fatal(err)
	}
	disk.Filled = true
	return disk
}

// TestDataDisk holds the frozen bytes of a data disk's first sector.
func TestDataDisk(t *testing.T) {
	d := fixedDataDisk(t)
	got := d.Append(nil)
	want := hex.EncodeToString([]byte("cobox/v1/datadisk\x00")) + "01" +
		"101112131415161718191a1b1c1d1e1f" +
		"808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f" +
		"81673d9070da776d9af0f9c586c31d88cba42f18a5d1ced8cc6a76a023cb4797" +
		strings.Repeat("00", 341) + "10111213" + "0000" +
		"00feffff83feffff0008000000f81f00" + strings.Repeat("00", 48) + "55aa"
	if got := hex.EncodeToString(got); got != want {
		t.Errorf("sector\n%s\nwant\n%s", got, want)
	}
	if back, err := ParseDataDisk(got); err != nil || *back != *d {
		t.Errorf("read back %+v, %v", back, err)
	}
	if _, err := ParseMBR(got); !errors.Is(err, ErrForeignDisk) {
		t.Errorf("a data disk is taken for a disk that a box starts from: %v", err)
	}
}

func TestDataDiskSizes(t *testing.T) {
	for _, c := range []struct{ disk, data uint64 }{
		{MinDataDisk, TemplateSize},
		{MinDataDisk + 1<<20 - 1, TemplateSize},
		{500_107_862_016, 500_107_862_016&^(1<<20-1) - DataDiskStart},
		{4 << 40, (1<<32-1)*512&^(1<<20-1) - DataDiskStart},
	} {
		d, err := NewDataDisk(c.disk, DataDiskID{1}, [32]byte{2})
		if err != nil || d.Data.Size != c.data || d.Filled {
			t.Errorf("disk of %d bytes: %+v, %v; want %d", c.disk, d, err, c.data)
			continue
		}
		if back, err := ParseDataDisk(d.Append(nil)); err != nil || *back != *d {
			t.Errorf("disk of %d bytes: read back %+v, %v", c.disk, back, err)
		}
	}
	if _, err := NewDataDisk(MinDataDisk-1, DataDiskID{1}, [32]byte{2}); err == nil {
		t.Error("a disk that is too small is a data disk")
	}
}

// TestDamagedDataDisk flips each bit of the sector in turn.
func TestDamagedDataDisk(t *testing.T) {
	good := fixedDataDisk(t).Append(nil)
	for i := range len(good) * 8 {
		bad := bytes.Clone(good)
		bad[i/8] ^= 1 << (i % 8)
		if got, err := ParseDataDisk(bad); !errors.Is(err, ErrNoDataDisk) {
			t.Fatalf("bit %d is wrong, and the disk is read as %+v, %v", i, got, err)
		}
	}
	for _, b := range [][]byte{nil, good[:511], append(bytes.Clone(good), 0), make([]byte, SectorSize)} {
		if _, err := ParseDataDisk(b); !errors.Is(err, ErrNoDataDisk) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
	if _, err := ParseDataDisk((&DataDisk{Data: Partition{DataDiskStart, TemplateSize}}).Append(nil)); !errors.Is(err, ErrNoDataDisk) {
		t.Errorf("a disk without an id: %v", err)
	}
}

func FuzzParseDataDisk(f *testing.F) {
	f.Add(fixedDataDisk(f).Append(nil))
	f.Add(make([]byte, SectorSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDataDisk(b)
		if err == nil && !bytes.Equal(d.Append(nil), b) {
			t.Error("not canonical")
		}
	})
}
