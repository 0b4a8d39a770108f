package fat32

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"unicode/utf16"
)

// Limits of Read. What is made here has far fewer.
const (
	maxDepth = 16     // directories within each other
	maxNodes = 10_000 // files and directories
)

// Read returns the files of the file system in a part of r, sorted by path. It
// trusts nothing: no cluster may belong to two things, so that there are neither
// loops nor more bytes than the part has, whatever the sizes say.
func Read(r io.ReaderAt, start, size int64) ([]File, error) {
	files, err := read(r, start, size)
	if err != nil {
		return nil, fmt.Errorf("fat32: reading: %w", err)
	}
	return files, nil
}

func read(r io.ReaderAt, start, size int64) ([]File, error) {
	in := io.NewSectionReader(r, start, size)
	b := make([]byte, sectorSize)
	if _, err := in.ReadAt(b, 0); err != nil {
		return nil, cut(err)
	}
	g, root, err := parseBootSector(b, size)
	if err != nil {
		return nil, err
	}
	v := &reader{Geometry: g, in: in, table: make([]byte, 4*(int64(g.clusters())+firstCluster))}
	v.used = make([]bool, g.clusters())
	if _, err := in.ReadAt(v.table, g.table(0)); err != nil {
		return nil, cut(err)
	}
	if err := v.directory(root, "", 0); err != nil {
		return nil, err
	}
	slices.SortFunc(v.files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return v.files, nil
}

// Used returns how many bytes of a file system matter: all that follow are free
// clusters, which may hold anything.
func Used(b []byte) (int64, error) {
	if len(b) < sectorSize {
		return 0, errors.New("fat32: not a file system")
	}
	g, _, err := parseBootSector(b[:sectorSize], int64(len(b)))
	if err != nil {
		return 0, fmt.Errorf("fat32: %w", err)
	}
	last := firstCluster + g.clusters() - 1
	table := b[g.table(0):]
	for last >= firstCluster && binary.LittleEndian.Uint32(table[4*last:])&linkMask == 0 {
		last--
	}
	return g.offset(last + 1), nil
}

// parseBootSector reads sector 0 of a file system that has so many bytes of room.
func parseBootSector(b []byte, size int64) (g Geometry, root uint32, err error) {
	le := binary.LittleEndian
	g = Geometry{Sectors: le.Uint32(b[32:]), PerCluster: uint32(b[13]), Reserved: uint32(le.Uint16(b[14:])), PerTable: le.Uint32(b[36:])}
	root = le.Uint32(b[44:])
	switch {
	case b[510] != 0x55 || b[511] != 0xaa, le.Uint16(b[17:]) != 0, le.Uint16(b[19:]) != 0, le.Uint16(b[22:]) != 0, le.Uint16(b[42:]) != 0:
		return g, 0, errors.New("not a FAT32")
	case le.Uint16(b[11:]) != sectorSize:
		return g, 0, fmt.Errorf("sectors of %d bytes, want %d", le.Uint16(b[11:]), sectorSize)
	case b[16] != fatCopies:
		return g, 0, fmt.Errorf("%d allocation tables, want %d", b[16], fatCopies)
	case !g.valid(size):
		return g, 0, fmt.Errorf("%+v is no FAT32 of %d bytes", g, size)
	}
	return g, root, nil
}

// reader reads a file system from its root down.
type reader struct {
	Geometry
	in    io.ReaderAt
	table []byte
	used  []bool // by number of the cluster, from the first
	files []File
	nodes int
}

// content reads what begins at a cluster: size bytes, or as far as the chain goes
// if size is negative. Memory is taken for clusters that are there, never for a
// size that is only told.
func (v *reader) content(first uint32, size int64) ([]byte, error) {
	var chain []uint32
	for at, more := first, size != 0; more; {
		if at < firstCluster || at-firstCluster >= v.clusters() {
			return nil, fmt.Errorf("it goes on in cluster %d, which is none", at)
		}
		if v.used[at-firstCluster] {
			return nil, fmt.Errorf("its cluster %d belongs to something else too", at)
		}
		v.used[at-firstCluster] = true
		chain = append(chain, at)
		next := binary.LittleEndian.Uint32(v.table[4*at:]) & linkMask
		more = next < 0x0ffffff8
		at = next
	}
	switch n := int64(len(chain)); {
	case size < 0:
		size = n * v.clusterSize()
	case n != v.clustersOf(size):
		return nil, fmt.Errorf("it has %d bytes and %d clusters of %d", size, n, v.clusterSize())
	}
	b := make([]byte, int64(len(chain))*v.clusterSize())
	for i := 0; i < len(chain); {
		n := 1
		for i+n < len(chain) && chain[i+n] == chain[i]+uint32(n) {
			n++
		}
		part := b[int64(i)*v.clusterSize():][:int64(n)*v.clusterSize()]
		if _, err := v.in.ReadAt(part, v.offset(chain[i])); err != nil {
			return nil, cut(err)
		}
		i += n
	}
	return b[:size], nil
}

// directory reads a directory with all below it.
func (v *reader) directory(cluster uint32, path string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: more than %d directories within each other", path, maxDepth)
	}
	b, err := v.content(cluster, -1)
	if err != nil {
		return fmt.Errorf("directory %q: %w", path, err)
	}
	seen := map[string]bool{}
	var long longName
	for ; len(b) > 0 && b[0] != 0; b = b[entrySize:] {
		e := b[:entrySize]
		attr := e[11]
		switch {
		case e[0] == 0xe5: // deleted
			long = longName{}
			continue
		case attr&0x3f == attrLong:
			long.add(e)
			continue
		case attr&attrLabel != 0, e[0] == '.':
			long = longName{}
			continue
		}
		name := long.of([11]byte(e))
		long = longName{}
		if name == "" {
			name = shortName(e)
		}
		if !fs.ValidPath(name) || name == "." || strings.ContainsAny(name, "/\\\x00") {
			return fmt.Errorf("directory %q: %q is no name", path, cmp.Or(name, string(e[:11])))
		}
		if seen[name] {
			return fmt.Errorf("directory %q: %q is there twice", path, name)
		}
		seen[name] = true
		if v.nodes++; v.nodes > maxNodes {
			return fmt.Errorf("more than %d files and directories", maxNodes)
		}
		if path != "" {
			name = path + "/" + name
		}
		le := binary.LittleEndian
		first := uint32(le.Uint16(e[20:]))<<16 | uint32(le.Uint16(e[26:]))
		if attr&attrDirectory != 0 {
			if err := v.directory(first, name, depth+1); err != nil {
				return err
			}
			continue
		}
		data, err := v.content(first, int64(le.Uint32(e[28:])))
		if err != nil {
			return fmt.Errorf("file %q: %w", name, err)
		}
		v.files = append(v.files, File{name, data})
	}
	return nil
}

// longName gathers the entries of a long name.
type longName struct {
	chars []uint16 // of all its entries
	next  int      // the entry that has to follow; 0: all are there
	sum   byte
}

func (l *longName) add(e []byte) {
	number := int(e[0] &^ lastLong)
	if e[0]&lastLong != 0 {
		*l = longName{}
		if number >= 1 && number*charsInEntry <= maxName+charsInEntry {
			*l = longName{chars: make([]uint16, number*charsInEntry), next: number, sum: e[13]}
		}
	}
	if number == 0 || number != l.next || e[13] != l.sum {
		*l = longName{}
		return
	}
	for i, offset := range charOffsets {
		l.chars[(number-1)*charsInEntry+i] = binary.LittleEndian.Uint16(e[offset:])
	}
	l.next--
}

// of returns the long name of a short one, or "" if it has none.
func (l *longName) of(short [11]byte) string {
	if l.next != 0 || checksum(short) != l.sum {
		return ""
	}
	chars := l.chars
	if end := slices.Index(chars, 0); end >= 0 {
		chars = chars[:end]
	}
	return string(utf16.Decode(chars))
}

// Bits of a directory entry that say that a part of the short name is in lower
// case, as Windows and Linux use them.
const (
	lowerBase = 0x08
	lowerExt  = 0x10
)

// shortName returns the name of an entry that has no other, or "" if it is not
// ASCII: its characters would depend on somebody's settings.
func shortName(e []byte) string {
	base, ext := strings.TrimRight(string(e[:8]), " "), strings.TrimRight(string(e[8:11]), " ")
	if e[12]&lowerBase != 0 {
		base = strings.ToLower(base)
	}
	if e[12]&lowerExt != 0 {
		ext = strings.ToLower(ext)
	}
	for _, c := range []byte(base + ext) {
		if c < ' ' || c > '~' {
			return ""
		}
	}
	if ext == "" {
		return base
	}
	return base + "." + ext
}

// cut keeps the end of the part from looking like the end of everything.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
