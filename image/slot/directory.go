package slot

import (
	"encoding/binary"
	"fmt"
	"strings"

	"cobox/image/layout"
)

// A directory entry:
//
//	offset size  what, little-endian
//	     0   11  name: 8 and 3 characters, filled with spaces
//	    11    1  attributes
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
	entrySize    = 32
	charsInEntry = 13

	attrLabel     = 0x08
	attrDirectory = 0x10
	attrArchive   = 0x20
	attrLong      = 0x0f

	// firstDate is 1 January 1980, of every file: a slot has no time of its own.
	firstDate = 1<<5 | 1
)

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

// put writes the directory's entries.
func (d *directory) put(b []byte, s layout.Slot, files []extent) {
	put := func(name [11]byte, attr byte, cluster uint32, size int64) {
		copy(b, name[:])
		b[11] = attr
		for _, at := range []int{16, 18, 24} {
			binary.LittleEndian.PutUint16(b[at:], firstDate)
		}
		binary.LittleEndian.PutUint16(b[20:], uint16(cluster>>16))
		binary.LittleEndian.PutUint16(b[26:], uint16(cluster))
		binary.LittleEndian.PutUint32(b[28:], uint32(size))
		b = b[entrySize:]
	}
	if d.parent == nil {
		put(labelOf(s), attrLabel, 0, 0)
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
			e := files[d.files[name]]
			put(short[i], attrArchive, e.cluster, e.file.Size)
		}
	}
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
	var sum byte
	for _, c := range short {
		sum = sum>>1 | sum<<7
		sum += c
	}
	for i := range n {
		number := n - i
		e := b[i*entrySize:][:entrySize]
		e[0], e[11], e[13] = byte(number), attrLong, sum
		if i == 0 {
			e[0] |= 0x40
		}
		for j := range charsInEntry {
			at := (number-1)*charsInEntry + j
			c := uint16(0xffff)
			switch {
			case at < len(name):
				c = uint16(name[at])
			case at == len(name):
				c = 0
			}
			offset := 1 + 2*j
			if j >= 11 {
				offset = 28 + 2*(j-11)
			} else if j >= 5 {
				offset = 14 + 2*(j-5)
			}
			binary.LittleEndian.PutUint16(e[offset:], c)
		}
	}
	return n * entrySize
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
// an underscore for "+".
func shorten(s string) string {
	return strings.NewReplacer(".", "", "+", "_").Replace(strings.ToUpper(s))
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
