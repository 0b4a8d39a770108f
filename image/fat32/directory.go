package fat32

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
)

// A directory entry:
//
//	offset size  what, little-endian
//	     0   11  name: 8 and 3 characters, filled with spaces
//	    11    1  attributes
//	    14    2  time of making, 22: of change
//	    16    2  date of making, 18: of access, 24: of change
//	    20    2  first cluster, upper half
//	    26    2  first cluster, lower half
//	    28    4  size, 0 for directories
//
// A name that is not wholly in capitals or does not fit 8 and 3 characters is
// preceded by entries of 13 UTF-16 characters each, the last of them first:
//
//	 0    1  number from 1; 40 is added to the last one's
//	 1   10  characters 1 to 5
//	11    1  0f
//	13    1  checksum of the short name
//	14   12  characters 6 to 11
//	28    4  characters 12 and 13
//
// The name ends with a zero, if there is room, and then ffff.
const (
	attrLabel     = 0x08
	attrDirectory = 0x10
	attrArchive   = 0x20
	attrLong      = 0x0f

	charsInEntry = 13
	lastLong     = 0x40
	maxName      = 255
)

// charOffsets are where the characters of a long name's entry are.
var charOffsets = [charsInEntry]int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30}

// entries returns how many entries a directory takes.
func (d *directory) entries() int {
	n := 1 // the label, in the root
	if d.parent != nil {
		n = 2 // "." and ".."
	}
	for _, name := range d.names {
		n += 1 + longEntries(name)
	}
	return n
}

// put writes the directory's entries. First are the first clusters of the files.
func (d *directory) put(b []byte, label [11]byte, at stamp, files []Entry, first []uint32) {
	put := func(name [11]byte, attr byte, cluster uint32, size int64) {
		le := binary.LittleEndian
		copy(b, name[:])
		b[11] = attr
		le.PutUint16(b[14:], at.time)
		le.PutUint16(b[16:], at.date)
		le.PutUint16(b[18:], at.date)
		le.PutUint16(b[20:], uint16(cluster>>16))
		le.PutUint16(b[22:], at.time)
		le.PutUint16(b[24:], at.date)
		le.PutUint16(b[26:], uint16(cluster))
		le.PutUint32(b[28:], uint32(size))
		b = b[entrySize:]
	}
	if d.parent == nil {
		put(label, attrLabel, 0, 0)
	} else {
		up := d.parent.cluster
		if d.parent.parent == nil {
			up = 0 // that is how a directory names the root
		}
		put([11]byte([]byte(".          ")), attrDirectory, d.cluster, 0)
		put([11]byte([]byte("..         ")), attrDirectory, up, 0)
	}
	short := shortNames(d.names)
	for i, name := range d.names {
		b = b[putLong(b, name, short[i]):]
		if below := d.dirs[name]; below != nil {
			put(short[i], attrDirectory, below.cluster, 0)
		} else {
			n := d.files[name]
			put(short[i], attrArchive, first[n], files[n].Size)
		}
	}
}

// checkName accepts what has the same meaning everywhere.
func checkName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("a name of %d bytes", len(name))
	}
	for _, c := range []byte(name) {
		if c < ' ' || c > '~' || strings.IndexByte(`"*/:<>?\|`, c) >= 0 {
			return fmt.Errorf("a name with %q in it", c)
		}
	}
	if name[len(name)-1] == '.' || name[len(name)-1] == ' ' || name[0] == ' ' {
		return errors.New("a name with a dot or a space at an end")
	}
	return nil
}

// stamp is a time in the form of FAT, which has no odd seconds.
type stamp struct{ date, time uint16 }

func stampOf(t time.Time) (stamp, error) {
	t = t.UTC()
	if t.Year() < 1980 || t.Year() > 2107 {
		return stamp{}, fmt.Errorf("FAT has no year %d", t.Year())
	}
	return stamp{
		date: uint16(t.Year()-1980)<<9 | uint16(t.Month())<<5 | uint16(t.Day()),
		time: uint16(t.Hour())<<11 | uint16(t.Minute())<<5 | uint16(t.Second()/2),
	}, nil
}

// labelOf returns the 11 bytes of a label.
func labelOf(text string) (label [11]byte, ok bool) {
	if text == "" || len(text) > len(label) || shorten(text) != text {
		return label, false
	}
	copy(label[:], fmt.Sprintf("%-11s", text))
	return label, true
}

// longEntries returns how many entries precede that of a name.
func longEntries(name string) int {
	if short, ok := fits(name); ok && joined(short) == name {
		return 0
	}
	return (len(name) + charsInEntry - 1) / charsInEntry
}

// putLong writes the entries that precede that of a name, and returns their size.
func putLong(b []byte, name string, short [11]byte) int {
	n := longEntries(name)
	sum := checksum(short)
	for i := range n {
		number := n - i
		e := b[i*entrySize:][:entrySize]
		e[0], e[11], e[13] = byte(number), attrLong, sum
		if i == 0 {
			e[0] |= lastLong
		}
		for j, offset := range charOffsets {
			at := (number-1)*charsInEntry + j
			c := uint16(0xffff)
			switch {
			case at < len(name):
				c = uint16(name[at])
			case at == len(name):
				c = 0
			}
			binary.LittleEndian.PutUint16(e[offset:], c)
		}
	}
	return n * entrySize
}

// checksum ties the entries of a long name to the short name that follows.
func checksum(short [11]byte) (sum byte) {
	for _, c := range short {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}

// shortNames returns a short name for each name of a directory. One that fits,
// but for its case, has itself, so that firmware without long names finds it.
func shortNames(names []string) [][11]byte {
	short := make([][11]byte, len(names))
	taken := map[[11]byte]bool{}
	for i, name := range names {
		if s, ok := fits(name); ok {
			short[i] = s
			taken[s] = true
		}
	}
	for i, name := range names {
		if short[i] != ([11]byte{}) {
			continue
		}
		base, ext := name, ""
		if dot := strings.LastIndexByte(name, '.'); dot >= 0 {
			base, ext = name[:dot], name[dot+1:]
		}
		base, ext = shorten(base), shorten(ext)
		for n := 1; ; n++ {
			tail := fmt.Sprintf("~%d", n)
			s := padded(base[:min(len(base), 8-len(tail))]+tail, ext[:min(len(ext), 3)])
			if !taken[s] {
				short[i] = s
				taken[s] = true
				break
			}
		}
	}
	return short
}

// fits returns a name of at most 8 and 3 characters in capitals.
func fits(name string) (short [11]byte, ok bool) {
	base, ext, dot := strings.Cut(name, ".")
	if len(base) == 0 || len(base) > 8 || len(ext) > 3 || dot && ext == "" ||
		shorten(base) != strings.ToUpper(base) || shorten(ext) != strings.ToUpper(ext) {
		return short, false
	}
	return padded(shorten(base), shorten(ext)), true
}

// shorten returns what a short name can have of a name: capitals, no dots, and
// an underscore for whatever is neither letter, digit, "-" nor "_".
func shorten(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '.':
			return -1
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '_':
			return r
		}
		return '_'
	}, s)
}

func padded(base, ext string) [11]byte {
	return [11]byte(fmt.Appendf(nil, "%-8s%-3s", base, ext))
}

// joined returns a short name as people write it.
func joined(short [11]byte) string {
	base, ext := strings.TrimRight(string(short[:8]), " "), strings.TrimRight(string(short[8:]), " ")
	if ext == "" {
		return base
	}
	return base + "." + ext
}
