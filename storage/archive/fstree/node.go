package fstree

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// A Kind says what a directory entry is. The values are part of the format.
type Kind uint8

const (
	File        Kind = 1
	Directory   Kind = 2
	Symlink     Kind = 3
	BlockDevice Kind = 4
	CharDevice  Kind = 5
	FIFO        Kind = 6
	Socket      Kind = 7
)

func (k Kind) String() string {
	switch k {
	case File:
		return "file"
	case Directory:
		return "dir"
	case Symlink:
		return "symlink"
	case BlockDevice:
		return "block"
	case CharDevice:
		return "char"
	case FIFO:
		return "fifo"
	case Socket:
		return "socket"
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

// Permission bits beyond rwx, as in Node.Mode and Stat.Mode.
const (
	ModeSticky = 0o1000
	ModeSetGID = 0o2000
	ModeSetUID = 0o4000
	ModeMask   = 0o7777
)

// A Time is seconds since 1970 in UTC, negative before, and nanoseconds that
// always count forward from there (0 to 999,999,999).
type Time struct {
	Sec  int64
	Nsec uint32
}

// Time converts t for printing. Years beyond those that [time.Time] can print
// still compare correctly as Time values.
func (t Time) Time() time.Time { return time.Unix(t.Sec, int64(t.Nsec)) }

// Compare orders two times.
func (t Time) Compare(u Time) int {
	return cmp.Or(cmp.Compare(t.Sec, u.Sec), cmp.Compare(t.Nsec, u.Nsec))
}

// TimeOf converts from the standard library's time.
func TimeOf(t time.Time) Time { return Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())} }

// A ChunkID names a chunk; what it is a hash of is the archive's business.
type ChunkID [32]byte

// An Extent is a run of content: a chunk, or a hole that reads as zeros.
type Extent struct {
	Hole   bool
	ID     ChunkID // zero for a hole
	Length uint64  // bytes, at least 1; a chunk's fits in 32 bits
}

// A LinkID says which names in a snapshot are hard links to one file: the
// device and inode number at the time of the scan. Zero means not shared. It
// is meaningful only within one snapshot.
type LinkID struct{ Device, Inode uint64 }

// IsZero reports whether the entry has no other names.
func (l LinkID) IsZero() bool { return l == LinkID{} }

// A Device is the number of a block or character device.
type Device struct{ Major, Minor uint32 }

// An Xattr is one extended attribute; access lists are among them, under the
// names and in the form in which the system keeps them.
type Xattr struct {
	Name  string
	Value []byte
}

// Limits of a node. Whatever a file system holds beyond them is reported when
// it is read and left out, and refused by the parser.
const (
	MaxName        = 1024    // bytes of a name; Linux allows 255, Windows 765 in UTF-8
	MaxTarget      = 65535   // bytes of a symbolic link
	MaxOwnerName   = 255     // bytes of a user or group name
	MaxXattrs      = 4096    // attributes of one entry
	MaxXattrBytes  = 1 << 20 // names and values of one entry's attributes together
	MaxExtents     = 1 << 16 // extents in one node; longer lists are kept as indirect content
	MaxNodeSize    = 4 << 20 // bytes of one encoded node
	MaxFileSize    = 1<<63 - 1
	RootName       = "/" // the name of the node above all others of a snapshot
	maxXattrName   = 255 // bytes
	nanosPerSecond = 1e9 // upper bound of Time.Nsec
	listingVersion = 1   // first byte of a listing
	maxChunkLength = 1<<32 - 1
)

// A Node is one directory entry. Strings hold any bytes.
type Node struct {
	Kind Kind
	// Partial marks a directory of which a snapshot holds only the entries
	// that lead to what was asked for: its other entries are unknown, not gone.
	Partial     bool
	Name        string
	Mode        uint16 // permission, set-id and sticky bits
	UID, GID    uint32
	User, Group string // names of UID and GID where it was read; may be empty
	ModTime     Time
	Link        LinkID // not for directories
	Xattrs      []Xattr

	Target string // symbolic links only
	Device Device // block and character devices only

	// Size is the length of a file, and of a directory's encoded listing.
	Size uint64
	// Content is where the bytes are, for files and directories, in order. If
	// Indirect, the chunks hold an encoded list of extents (AppendExtents) in
	// place of the bytes, for files with very many.
	Content  []Extent
	Indirect bool
}

// CheckName reports whether a name may stand in a listing: not empty, not "."
// or "..", no '/' and no NUL, at most MaxName bytes.
func CheckName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: empty name", ErrFormat)
	case name == "." || name == "..":
		return fmt.Errorf("%w: name %q", ErrFormat, name)
	case len(name) > MaxName:
		return fmt.Errorf("%w: name of %d bytes", ErrFormat, len(name))
	case strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("%w: name %q", ErrFormat, name)
	}
	return nil
}

// Check reports the first rule of the format that n breaks. AppendNode and
// ParseNode apply it.
func (n *Node) Check() error {
	if n.Name != RootName || n.Kind != Directory {
		if err := CheckName(n.Name); err != nil {
			return err
		}
	}
	bad := func(what string) error { return fmt.Errorf("%w: %s of %q", ErrFormat, what, n.Name) }
	switch {
	case n.Kind < File || n.Kind > Socket:
		return bad("kind")
	case n.Mode&^ModeMask != 0:
		return bad("mode")
	case n.ModTime.Nsec >= nanosPerSecond:
		return bad("time")
	case !ownerName(n.User) || !ownerName(n.Group):
		return bad("owner's name")
	case n.Partial && n.Kind != Directory:
		return bad("partial mark")
	case !n.Link.IsZero() && n.Kind == Directory:
		return bad("link number")
	case (n.Kind == Symlink) != (n.Target != ""):
		return bad("link target")
	case len(n.Target) > MaxTarget || strings.IndexByte(n.Target, 0) >= 0:
		return bad("link target")
	case n.Device != Device{} && n.Kind != BlockDevice && n.Kind != CharDevice:
		return bad("device number")
	}
	if err := checkXattrs(n.Xattrs); err != nil {
		return bad(err.Error())
	}
	if err := n.checkContent(); err != nil {
		return bad(err.Error())
	}
	return nil
}

func ownerName(s string) bool {
	return len(s) <= MaxOwnerName && strings.IndexByte(s, 0) < 0
}

func checkXattrs(xs []Xattr) error {
	if len(xs) > MaxXattrs {
		return fmt.Errorf("number of attributes")
	}
	total := 0
	for i, x := range xs {
		if x.Name == "" || len(x.Name) > maxXattrName || strings.IndexByte(x.Name, 0) >= 0 {
			return fmt.Errorf("attribute name")
		}
		if i > 0 && xs[i-1].Name >= x.Name {
			return fmt.Errorf("order of attributes")
		}
		if total += len(x.Name) + len(x.Value); total > MaxXattrBytes {
			return fmt.Errorf("size of attributes")
		}
	}
	return nil
}

func (n *Node) checkContent() error {
	if n.Kind != File && n.Kind != Directory {
		if n.Size != 0 || len(n.Content) != 0 || n.Indirect {
			return fmt.Errorf("content")
		}
		return nil
	}
	if n.Size > MaxFileSize || len(n.Content) > MaxExtents {
		return fmt.Errorf("size")
	}
	if n.Indirect && (n.Kind != File || len(n.Content) == 0) {
		return fmt.Errorf("indirect content")
	}
	sum, err := checkExtents(n.Content)
	if err != nil {
		return err
	}
	if n.Kind == Directory || n.Indirect {
		for _, e := range n.Content {
			if e.Hole {
				return fmt.Errorf("hole")
			}
		}
	}
	if !n.Indirect && sum != n.Size {
		return fmt.Errorf("sum of extents")
	}
	return nil
}

// checkExtents checks each extent and returns how many bytes they stand for.
func checkExtents(es []Extent) (uint64, error) {
	var sum uint64
	for i, e := range es {
		switch {
		case e.Length == 0 || e.Length > MaxFileSize || sum+e.Length > MaxFileSize:
			return 0, fmt.Errorf("extent length")
		case e.Hole && (e.ID != ChunkID{} || i > 0 && es[i-1].Hole):
			return 0, fmt.Errorf("hole")
		case !e.Hole && e.Length > maxChunkLength:
			return 0, fmt.Errorf("chunk length")
		}
		sum += e.Length
	}
	return sum, nil
}
