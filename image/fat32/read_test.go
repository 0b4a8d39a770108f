package fat32_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cobox/image/fat32"
	"cobox/image/layout"
)

// TestReadForeign reads what others have made and used: names of all kinds,
// deleted entries, and files in pieces.
func TestReadForeign(t *testing.T) {
	name := filepath.Join(t.TempDir(), "fat")
	program(t, "mkfs.vfat", "-C", "-F", "32", "-S", "512", "-s", "1", "-n", "FOREIGN", name, fmt.Sprint(layout.BootselSize>>10))
	dir := t.TempDir()
	put := func(path string, data []byte) {
		t.Helper()
		from := filepath.Join(dir, "file")
		if err := os.WriteFile(from, data, 0o600); err != nil {
			t.Fatal(err)
		}
		program(t, "mcopy", "-i", name, from, "::/"+path)
	}
	r := rand.New(rand.NewPCG(1, 2))
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	want := map[string][]byte{}
	for i, path := range []string{
		"UPPER.TXT", "lower.txt", "Mixed.Txt", "lower.TXT2", "a name with spaces", ".hidden", "ünïcödé and mörë.txt",
		"thirteen-char", strings.Repeat("x", 26), strings.Repeat("long", 60),
	} {
		want[path] = random(i * 700)
		put(path, want[path])
	}
	program(t, "mmd", "-i", name, "::/System Volume Information", "::/System Volume Information/Deep.er")
	want["System Volume Information/Deep.er/x"] = []byte("x")
	put("System Volume Information/Deep.er/x", []byte("x"))
	// Every second one of many goes, so that the last one is in pieces.
	for i := range 60 {
		put(fmt.Sprintf("hole %d", i), random(3000))
	}
	put("end", random(30<<20)) // takes what is left
	for i := range 60 {
		if i%2 == 0 {
			program(t, "mdel", "-i", name, fmt.Sprintf("::/hole %d", i))
		}
	}
	program(t, "mdel", "-i", name, "::/end")
	put("end", random(33<<20))
	program(t, "mdel", "-i", name, "::/hole *")
	program(t, "mdel", "-i", name, "::/end")
	want["pieces"] = random(34 << 20)
	put("pieces", want["pieces"])

	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	files, err := fat32.Read(bytes.NewReader(b), 0, int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if data, ok := want[f.Path]; !ok || !bytes.Equal(data, f.Data) {
			t.Errorf("%q has %d bytes that differ", f.Path, len(f.Data))
		}
		delete(want, f.Path)
	}
	for path := range want {
		t.Errorf("%q is missing", path)
	}
	used, err := fat32.Used(b)
	if err != nil || used > int64(len(b)) || used < 34<<20 {
		t.Errorf("%d bytes are used, %v", used, err)
	}
}

// TestReadRefuses: nothing that a file system says of itself makes the reader run
// for ever or take more than is there.
func TestReadRefuses(t *testing.T) {
	var files []fat32.File
	for i := range 4 {
		files = append(files, fat32.File{Path: fmt.Sprintf("F%d", i), Data: bytes.Repeat([]byte{byte(i)}, 2000)})
	}
	files = append(files, fat32.File{Path: "DIR/BELOW", Data: []byte("x")})
	deep := strings.Repeat("D/", 17) + "F"
	made32 := func(files ...fat32.File) []byte {
		b, err := fat32.Make(layout.BootselSize, "X", made, files)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := made32(files...)
	le := binary.LittleEndian
	table := int64(le.Uint16(good[14:])) * 512
	data := table + 2*int64(le.Uint32(good[36:]))*512
	// entry returns where the directory entry of a short name is.
	entry := func(name string) int64 {
		at := bytes.Index(good[data:], fmt.Appendf(nil, "%-11s", name))
		if at < 0 {
			t.Fatalf("no %s", name)
		}
		return data + int64(at)
	}
	link := func(b []byte, from, to uint32) { le.PutUint32(b[table+4*int64(from):], to) }
	first := func(name string) uint32 { return uint32(le.Uint16(good[entry(name)+26:])) }
	for name, c := range map[string]struct {
		change func(b []byte)
		says   string
	}{
		"no boot sector":           {func(b []byte) { clear(b[:512]) }, "not a FAT32"},
		"clusters of nothing":      {func(b []byte) { b[13] = 0 }, "is no FAT32"},
		"more sectors than bytes":  {func(b []byte) { le.PutUint32(b[32:], 1<<31) }, "is no FAT32"},
		"a table as large as all":  {func(b []byte) { le.PutUint32(b[36:], 1<<31) }, "is no FAT32"},
		"a table that is short":    {func(b []byte) { le.PutUint32(b[36:], 10) }, "is no FAT32"},
		"large sectors":            {func(b []byte) { le.PutUint16(b[11:], 4096) }, "sectors of 4096"},
		"no root":                  {func(b []byte) { le.PutUint32(b[44:], 0) }, "which is none"},
		"a file that goes round":   {func(b []byte) { link(b, first("F0")+1, first("F0")) }, "belongs to something else"},
		"a directory in a ring":    {func(b []byte) { link(b, first("DIR"), first("DIR")) }, "belongs to something else"},
		"a directory in itself":    {func(b []byte) { le.PutUint16(b[entry("BELOW")+26:], uint16(first("DIR"))); b[entry("BELOW")+11] = 0x10 }, "belongs to something else"},
		"two files in one place":   {func(b []byte) { le.PutUint16(b[entry("F1")+26:], uint16(first("F0"))) }, "belongs to something else"},
		"a size that is not there": {func(b []byte) { le.PutUint32(b[entry("F2")+28:], 1<<32-1) }, "4294967295 bytes and 4 clusters"},
		"a chain that is too long": {func(b []byte) { le.PutUint32(b[entry("F2")+28:], 1) }, "1 bytes and 4 clusters"},
		"a chain into nothing":     {func(b []byte) { link(b, first("F3"), 1<<27) }, "which is none"},
		"a chain that is free":     {func(b []byte) { link(b, first("F3"), 0) }, "which is none"},
		"a name twice":             {func(b []byte) { copy(b[entry("F1"):], "F0") }, "is there twice"},
		"a name upwards":           {func(b []byte) { copy(b[entry("F1"):], "A/B") }, "is no name"},
	} {
		b := bytes.Clone(good)
		c.change(b)
		if _, err := fat32.Read(bytes.NewReader(b), 0, int64(len(b))); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := made32(fat32.File{Path: deep})
	if _, err := fat32.Read(bytes.NewReader(b), 0, int64(len(b))); err == nil || !strings.Contains(err.Error(), "within each other") {
		t.Errorf("directories in directories: %v", err)
	}
	var many []fat32.File
	for i := range 10_001 {
		many = append(many, fat32.File{Path: fmt.Sprintf("d%d/f%d", i%7, i)})
	}
	b = made32(many...)
	if _, err := fat32.Read(bytes.NewReader(b), 0, int64(len(b))); err == nil || !strings.Contains(err.Error(), "more than 10000") {
		t.Errorf("very many files: %v", err)
	}
	if _, err := fat32.Read(bytes.NewReader(good[:len(good)/2]), 0, int64(len(good))); err != nil {
		t.Errorf("what is cut behind the last file can be read: %v", err)
	}
	if _, err := fat32.Read(bytes.NewReader(good[:data]), 0, int64(len(good))); err == nil {
		t.Error("what is cut before the files was read")
	}
}

// overlay is a file system of which little is there: its boot sector, the
// beginning of its table, and the first clusters.
type overlay struct{ boot, table, data []byte }

const (
	overlayTable = 32 * 512
	overlayData  = overlayTable + 2*576*512
)

func (o *overlay) ReadAt(b []byte, at int64) (int, error) {
	clear(b)
	for start, part := range map[int64][]byte{0: o.boot, overlayTable: o.table, overlayData: o.data} {
		if from := start - at; from >= 0 && from < int64(len(b)) {
			copy(b[from:], part)
		} else if from < 0 && -from < int64(len(part)) {
			copy(b, part[-from:])
		}
	}
	return len(b), nil
}

// FuzzRead: whatever a file system says, no more comes out of it than it has
// room for, under paths that stay below where they belong.
func FuzzRead(f *testing.F) {
	b, err := fat32.Make(layout.BootselSize, "X", made, []fat32.File{
		{Path: "SHORT", Data: []byte("x")}, {Path: "a long name", Data: make([]byte, 600)}, {Path: "d/e", Data: []byte("y")},
	})
	if err != nil {
		f.Fatal(err)
	}
	if at := int(b[14])*512 + 2*512*int(binary.LittleEndian.Uint32(b[36:])); at != overlayData {
		f.Fatalf("the data begins at %d sectors", at/512)
	}
	f.Add(b[:512], b[overlayTable:overlayTable+64], b[overlayData:overlayData+8*512])
	f.Fuzz(func(t *testing.T, boot, table, data []byte) {
		if len(boot) > 512 || len(table) > 4096 || len(data) > 1<<20 {
			return
		}
		files, err := fat32.Read(&overlay{boot, table, data}, 0, layout.BootselSize)
		if err != nil {
			if files != nil {
				t.Error("files and an error")
			}
			return
		}
		total := 0
		for i, f := range files {
			total += len(f.Data)
			if !fs.ValidPath(f.Path) || f.Path == "." || strings.Count(f.Path, "/") > 16 {
				t.Errorf("path %q", f.Path)
			}
			if i > 0 && files[i-1].Path >= f.Path {
				t.Errorf("%q after %q", f.Path, files[i-1].Path)
			}
		}
		if total > layout.BootselSize {
			t.Errorf("%d bytes", total)
		}
	})
}

// TestNoRoom tells what does not fit from what is no file system.
func TestNoRoom(t *testing.T) {
	v := &fat32.Volume{Geometry: fat32.Geometry{Sectors: 73728, PerCluster: 1, Reserved: 32, PerTable: 576}, Label: "X", Made: made}
	const room = (73728 - 32 - 2*576) * 512
	if p, err := v.Plan([]fat32.Entry{{Path: "x", Size: room - 512}}); err != nil || p.Offsets[0] != overlayData+512 || len(p.Head) != overlayData+512 {
		t.Errorf("a file that takes all: %v", err)
	}
	for _, sizes := range [][]int64{{room - 511}, {room}, {room / 2, room / 2}, {-1}, {1 << 62, 1 << 62, 1 << 62}} {
		var entries []fat32.Entry
		for i, size := range sizes {
			entries = append(entries, fat32.Entry{Path: fmt.Sprint(i), Size: size})
		}
		if _, err := v.Plan(entries); !errors.Is(err, fat32.ErrNoRoom) {
			t.Errorf("%d: %v", sizes, err)
		}
	}
	for name, change := range map[string]func(*fat32.Volume){
		"too few clusters":  func(v *fat32.Volume) { v.PerCluster = 2 },
		"a table too small": func(v *fat32.Volume) { v.PerTable = 500 },
		"no room for boot":  func(v *fat32.Volume) { v.Reserved = 7 },
		"a small label":     func(v *fat32.Volume) { v.Label = "x" },
		"a long label":      func(v *fat32.Volume) { v.Label = "ABCDEFGHIJKL" },
	} {
		bad := *v
		change(&bad)
		if _, err := bad.Plan(nil); err == nil || errors.Is(err, fat32.ErrNoRoom) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
