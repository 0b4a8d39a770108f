package fat32

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Attributes of a directory entry.
const (
	attrLabel     = 0x08
	attrDirectory = 0x10
	attrArchive   = 0x20
	attrLongName  = 0x0f
)

// Bits of a directory entry that say that a part of the short name is in lower
// case, as Windows NT and Linux use them.
const (
	lowerBase = 0x08
	lowerExt  = 0x10
)

// checkName accepts what has the same meaning everywhere.
func checkName(name string) error {
	if name == "" || len(name) > 255 {
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

// stamp is a time in the form of FAT.
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

// entry makes a directory entry of a short name of 11 bytes, without a cluster.
func (s stamp) entry(short string, attr byte, lower byte) []byte {
	e := make([]byte, entrySize)
	copy(e, short)
	e[11], e[12] = attr, lower
	le := binary.LittleEndian
	le.PutUint16(e[14:], s.time) // made
	le.PutUint16(e[16:], s.date)
	le.PutUint16(e[18:], s.date) // read
	le.PutUint16(e[22:], s.time) // written
	le.PutUint16(e[24:], s.date)
	return e
}

// withCluster sets the first cluster of an entry.
func withCluster(e []byte, cluster uint32) []byte {
	binary.LittleEndian.PutUint16(e[20:], uint16(cluster>>16))
	binary.LittleEndian.PutUint16(e[26:], uint16(cluster))
	return e
}

// shortNames are those that a directory has already.
type shortNames struct{ taken map[string]bool }

func newShortNames() *shortNames { return &shortNames{taken: map[string]bool{}} }

// entries makes the directory entries of a node: the long name, if the short one
// does not say it all, and then the short one.
func (s *shortNames) entries(n *node, at stamp) ([]byte, error) {
	attr := byte(attrArchive)
	if n.isDir {
		attr = attrDirectory
	}
	short, lower, whole := shortOf(n.name)
	if !whole || s.taken[short] {
		var err error
		if short, err = s.alias(n.name); err != nil {
			return nil, err
		}
		lower, whole = 0, false
	}
	s.taken[short] = true
	var b []byte
	if !whole {
		b = longEntries(n.name, short)
	}
	e := at.entry(short, attr, lower)
	binary.LittleEndian.PutUint32(e[28:], uint32(len(n.data)))
	return append(b, e...), nil
}

// shortOf returns the 11 bytes of a name that needs no more than those.
func shortOf(name string) (short string, lower byte, ok bool) {
	base, ext, _ := strings.Cut(name, ".")
	if len(base) == 0 || len(base) > 8 || len(ext) > 3 || strings.HasSuffix(name, ".") {
		return "", 0, false
	}
	for i, part := range []string{base, ext} {
		if strings.Map(plainShort, part) != part {
			return "", 0, false
		}
		switch part {
		case strings.ToUpper(part):
		case strings.ToLower(part):
			lower |= []byte{lowerBase, lowerExt}[i]
		default:
			return "", 0, false
		}
	}
	return strings.ToUpper(fmt.Sprintf("%-8s%-3s", base, ext)), lower, true
}

// plainShort drops what a short name does not take.
func plainShort(r rune) rune {
	if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_' || r == '-' {
		return r
	}
	return -1
}

// alias makes up a short name for a long one, such as "BCM271~3.DTB".
func (s *shortNames) alias(name string) (string, error) {
	base, ext := name, ""
	if dot := strings.LastIndexByte(name, '.'); dot > 0 {
		base, ext = name[:dot], name[dot+1:]
	}
	base = strings.ToUpper(strings.Map(plainShort, base))
	ext = strings.ToUpper(strings.Map(plainShort, ext))
	ext = ext[:min(3, len(ext))]
	for n := 1; n < 1e6; n++ {
		tail := fmt.Sprintf("~%d", n)
		short := fmt.Sprintf("%-8s%-3s", base[:min(len(base), 8-len(tail))]+tail, ext)
		if !s.taken[short] {
			return short, nil
		}
	}
	return "", errors.New("too many names that are alike")
}

// longEntries makes the entries of a long name, the last part first, which belong
// to the short name that follows them by its checksum.
func longEntries(name, short string) []byte {
	sum := byte(0)
	for _, c := range []byte(short) {
		sum = sum>>1 | sum<<7
		sum += c
	}
	const perEntry = 13
	places := [perEntry]int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30}
	count := (len(name) + perEntry - 1) / perEntry
	var b []byte
	for n := count; n > 0; n-- {
		e := make([]byte, entrySize)
		e[0] = byte(n)
		if n == count {
			e[0] |= 0x40
		}
		e[11], e[13] = attrLongName, sum
		for i, place := range places {
			unit := uint16(0xffff)
			switch at := (n-1)*perEntry + i; {
			case at < len(name):
				unit = uint16(name[at])
			case at == len(name):
				unit = 0
			}
			binary.LittleEndian.PutUint16(e[place:], unit)
		}
		b = append(b, e...)
	}
	return b
}
