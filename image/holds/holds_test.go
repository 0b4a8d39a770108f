package holds

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cobox/image/layout"
)

// sparse is a disk that is zero but for a few bytes.
type sparse struct {
	size  int64
	parts map[int64][]byte
	bad   int64 // reading it fails; 0: none
	read  int64 // bytes that were read
}

func (s *sparse) put(off int64, b string) *sparse {
	if s.parts == nil {
		s.parts = map[int64][]byte{}
	}
	s.parts[off] = []byte(b)
	return s
}

func (s *sparse) ReadAt(b []byte, off int64) (int, error) {
	s.read += int64(len(b))
	if s.bad != 0 && off <= s.bad && s.bad < off+int64(len(b)) {
		return 0, errors.New("injected")
	}
	clear(b)
	for at, part := range s.parts {
		if at < off+int64(len(b)) && off < at+int64(len(part)) {
			if at >= off {
				copy(b[at-off:], part)
			} else {
				copy(b, part[off-at:])
			}
		}
	}
	if left := s.size - off; int64(len(b)) > left {
		return int(max(0, left)), io.EOF
	}
	return len(b), nil
}

const big = int64(500_107_862_016) // a disk of 500 GB

func look(t *testing.T, r io.ReaderAt, size int64) *Contents {
	t.Helper()
	c, err := Look(r, size)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestBlank(t *testing.T) {
	for _, size := range []int64{0, 1, 511, 512, 4096, head, head + 1, head + tail, head + tail + 1, 1 << 30, big, 18 << 40} {
		s := &sparse{size: size}
		if c := look(t, s, size); c.Kind != Blank || c.Found != "" {
			t.Errorf("%d zeros are %+v", size, c)
		}
		if most := int64(head+tail+2*Samples*sample) + 1<<20; s.read > most {
			t.Errorf("%d of %d bytes were read, at most %d are allowed", s.read, size, most)
		}
	}
	// One byte that is not zero, where the package says that it looks.
	for _, off := range []int64{0, 511, 512, 1 << 20, 8 << 20, head - 1, big - tail, big - 1, head, head + (big-head-tail)/Samples&^4095*200 + 4095} {
		if c := look(t, (&sparse{size: big}).put(off, "\x01"), big); c.Kind != Foreign || c.Found == "" {
			t.Errorf("a disk with something at %d is %+v", off, c)
		}
	}
	// A disk of which only the beginning was overwritten.
	rest := &sparse{size: 64 << 30}
	if c := look(t, rest.put(20<<20, string(bytes.Repeat([]byte{7}, 256<<20))), rest.size); c.Kind != Foreign {
		t.Errorf("the rest of a file system is %+v", c)
	}
}

func TestUnreadable(t *testing.T) {
	for _, bad := range []int64{1, 5 << 20, big - 5} {
		if c, err := Look(&sparse{size: big, bad: bad}, big); err == nil {
			t.Errorf("a disk that cannot be read at %d is %+v", bad, c)
		}
	}
	// Shorter than it says: a disk that lies about its size.
	if c, err := Look(&sparse{size: 1 << 30}, big); err == nil {
		t.Errorf("a disk that ends too early is %+v", c)
	}
}

func TestOurs(t *testing.T) {
	d, err := layout.NewDataDisk(uint64(big), layout.DataDiskID{1}, [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	c := look(t, (&sparse{size: big}).put(0, string(d.Append(nil))), big)
	if c.Kind != Data || c.Disk == nil || *c.Disk != *d {
		t.Errorf("a data disk is %+v", c)
	}
	bad := d.Append(nil)
	bad[20] ^= 1
	if c := look(t, (&sparse{size: big}).put(0, string(bad)), big); c.Kind != Foreign {
		t.Errorf("a data disk with a damaged header is %+v", c)
	}
	table, err := layout.NewTable(uint64(big))
	if err != nil {
		t.Fatal(err)
	}
	if c := look(t, (&sparse{size: big}).put(0, string(table.AppendMBR(nil))), big); c.Kind != System {
		t.Errorf("a disk that a box starts from is %+v", c)
	}
}

func le32(n uint32) string { return string(binary.LittleEndian.AppendUint32(nil, n)) }
func le64(n uint64) string { return string(binary.LittleEndian.AppendUint64(nil, n)) }

// entry is one of an MBR.
func entry(kind byte, start, sectors uint32) string {
	return "\x00\xfe\xff\xff" + string(kind) + "\xfe\xff\xff" + le32(start) + le32(sectors)
}

// TestFormats has the formats that no program here makes.
func TestFormats(t *testing.T) {
	mbr := func(entries ...string) string {
		b := make([]byte, 512)
		copy(b[446:], strings.Join(entries, ""))
		b[510], b[511] = 0x55, 0xaa
		return string(b)
	}
	gpt := func(s *sparse, header int64) *sparse {
		part := strings.Repeat("\xaf", 16) + strings.Repeat("\x01", 16) + le64(2048) + le64(4095)
		s.put(header, "EFI PART"+strings.Repeat("\x00", 64)+le64(2)+le32(128)+le32(128))
		return s.put(1024, part).put(1024+128*5, part[:32]+le64(8192)+le64(uint64(big)/512-34))
	}
	on := func() *sparse { return &sparse{size: big} }
	for want, s := range map[string]*sparse{
		"a LUKS encrypted volume":                             on().put(0, "LUKS\xba\xbe\x00\x02"),
		"a BitLocker encrypted volume":                        on().put(0, "\xeb\x58\x90-FVE-FS-"),
		"a file system exFAT":                                 on().put(0, "\xeb\x76\x90EXFAT   "),
		"a file system NTFS":                                  on().put(0, "\xeb\x52\x90NTFS    ").put(510, "\x55\xaa"),
		`a file system XFS named "backup"`:                    on().put(0, "XFSB").put(108, "backup"),
		`a file system btrfs named "Tobias' Fotos"`:           on().put(0x10040, "_BHRfS_M").put(0x1012b, "Tobias' Fotos"),
		"a file system btrfs":                                 on().put(0x10040, "_BHRfS_M"),
		"a file system F2FS":                                  on().put(1024, "\x10\x20\xf5\xf2"),
		"a file system APFS":                                  on().put(32, "NXSB"),
		"a file system HFS+":                                  on().put(1024, "H+\x00\x04"),
		`a disc image ISO 9660 named "DEBIAN 12"`:             on().put(0x8001, "CD001").put(0x8028, "DEBIAN 12              "),
		"a part of a RAID (md)":                               on().put(4096, "\xfc\x4e\x2b\xa9"),
		"a part of an LVM volume group":                       on().put(512, "LABELONE").put(512+24, "LVM2 001"),
		"a part of a ZFS pool":                                on().put(128<<10+5<<10, le64(0x00bab10c)),
		"something that is not known here, or the rest of it": on().put(3<<20, "x"),
		"partitions (MBR)":                                    on().put(0, mbr()),
		`partitions (MBR): a file system FAT32 named "CAMERA"`: on().put(0, mbr(entry(0x0c, 2048, 1<<20))).
			put(2048*512+0x52, "FAT32   ").put(2048*512+0x47, "CAMERA     "),
		"partitions (MBR): something that is not known here":                    on().put(0, mbr(entry(7, 1<<31, 1<<31))),
		"partitions (GPT): a file system XFS, something that is not known here": gpt(on(), 512).put(2048*512, "XFSB"),
		// Only the copy at the end is left.
		"partitions (GPT): a file system APFS, something that is not known here": gpt(on(), big-512).put(2048*512+32, "NXSB"),
	} {
		if c := look(t, s, big); c.Kind != Foreign || c.Found != want {
			t.Errorf("%+v, want %q", c, want)
		}
	}
	for _, off := range []int64{(big - 8<<10) &^ 4095, big&^(64<<10-1) - 64<<10} {
		if c := look(t, on().put(off, "\xfc\x4e\x2b\xa9"), big); c.Found != "a part of a RAID (md)" {
			t.Errorf("md with its description at %d: %+v", off, c)
		}
	}
	many := mbr(entry(0x83, 2048, 8), entry(0x83, 4096, 8), entry(0x83, 8192, 8), entry(0x83, 16384, 8))
	if c := look(t, on().put(0, many), big); strings.Count(c.Found, "not known") != 4 {
		t.Errorf("four partitions: %q", c.Found)
	}
	// A name is somebody's text.
	if c := look(t, on().put(0, "XFSB").put(108, "a\x1b[31m\n\xff\"b"), big); c.Found != `a file system XFS named "a[31m\"b"` {
		t.Errorf("%q", c.Found)
	}
}

// TestMade looks at file systems as the programs make them that people use.
func TestMade(t *testing.T) {
	for want, command := range map[string][]string{
		`a file system ext2 named "OLD"`:     {"mke2fs", "-q", "-F", "-t", "ext2", "-L", "OLD"},
		`a file system ext3`:                 {"mke2fs", "-q", "-F", "-t", "ext3"},
		`a file system ext4 named "PHOTOS"`:  {"mke2fs", "-q", "-F", "-t", "ext4", "-L", "PHOTOS"},
		`a file system FAT32 named "CAMERA"`: {"mkfs.vfat", "-F", "32", "-n", "CAMERA"},
		`a file system FAT16`:                {"mkfs.vfat", "-F", "16"},
		`swap space`:                         {"mkswap", "-q"},
	} {
		const size = 300 << 20
		path := filepath.Join(t.TempDir(), "disk")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		program, err := exec.LookPath(command[0])
		for _, dir := range []string{"/usr/sbin", "/sbin"} {
			if err != nil {
				program, err = exec.LookPath(filepath.Join(dir, command[0]))
			}
		}
		if err != nil {
			t.Logf("%s is not installed", command[0])
			continue
		}
		if out, err := exec.Command(program, append(command[1:], path)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", command, err, out)
		}
		if c := look(t, f, size); c.Kind != Foreign || c.Found != want {
			t.Errorf("%v: %+v", command, c)
		}
	}
}

// FuzzDescribe leaves out the look for blankness, which takes long and parses
// nothing.
func FuzzDescribe(f *testing.F) {
	f.Add([]byte("XFSB"), int64(0), int64(1<<20))
	f.Add([]byte("EFI PART"+strings.Repeat("\xff", 100)), int64(512), int64(1<<20))
	f.Add([]byte("\x53\xef"), int64(0x438), int64(4096))
	f.Add([]byte("\x00\x01\x55\xaa"), int64(508), big)
	f.Fuzz(func(t *testing.T, b []byte, off, size int64) {
		s := &sparse{size: max(0, size)}
		found := describe(s.put(max(0, off), string(b)), s.size)
		if found == "" || len(found) > 8192 {
			t.Errorf("%d bytes: %.100q", len(found), found)
		}
		if s.read > 8<<20 {
			t.Errorf("%d bytes were read", s.read)
		}
	})
}
