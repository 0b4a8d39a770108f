package fstree

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrFormat is wrapped by every error about bytes, or a node, that break the
// rules of the format.
var ErrFormat = errors.New("fstree: malformed")

// Flags of an encoded node.
const (
	flagPartial  = 1 << 0
	flagLink     = 1 << 1
	flagXattrs   = 1 << 2
	flagIndirect = 1 << 3
	flagsKnown   = flagPartial | flagLink | flagXattrs | flagIndirect
)

var be = binary.BigEndian

// AppendNode appends the encoding of n. Integers are big-endian.
//
//	bytes  field
//	1      kind: 1 file, 2 directory, 3 symlink, 4 block device,
//	       5 character device, 6 fifo, 7 socket
//	1      flags: 1 partial, 2 link, 4 attributes, 8 indirect; others 0
//	2      mode, at most 07777
//	4, 4   uid, gid
//	8, 4   modification time: seconds (signed), nanoseconds
//	8      size (0 unless a file or directory)
//	2, n   name
//	1, n   user name
//	1, n   group name
//	8, 8   if flag link: device, inode
//	2      if flag attributes: their number, at least 1; then for each, in
//	       ascending order of names:
//	         1, n  name
//	         4, n  value
//	then by kind
//	4, …   file, directory: number of extents, then the extents
//	2, n   symlink: target
//	4, 4   devices: major, minor
func AppendNode(dst []byte, n *Node) ([]byte, error) {
	if err := n.Check(); err != nil {
		return dst, err
	}
	var flags byte
	if n.Partial {
		flags |= flagPartial
	}
	if !n.Link.IsZero() {
		flags |= flagLink
	}
	if len(n.Xattrs) > 0 {
		flags |= flagXattrs
	}
	if n.Indirect {
		flags |= flagIndirect
	}
	start := len(dst)
	dst = append(dst, byte(n.Kind), flags)
	dst = be.AppendUint16(dst, n.Mode)
	dst = be.AppendUint32(dst, n.UID)
	dst = be.AppendUint32(dst, n.GID)
	dst = be.AppendUint64(dst, uint64(n.ModTime.Sec))
	dst = be.AppendUint32(dst, n.ModTime.Nsec)
	dst = be.AppendUint64(dst, n.Size)
	dst = be.AppendUint16(dst, uint16(len(n.Name)))
	dst = append(dst, n.Name...)
	dst = append(append(dst, byte(len(n.User))), n.User...)
	dst = append(append(dst, byte(len(n.Group))), n.Group...)
	if flags&flagLink != 0 {
		dst = be.AppendUint64(dst, n.Link.Device)
		dst = be.AppendUint64(dst, n.Link.Inode)
	}
	if flags&flagXattrs != 0 {
		dst = be.AppendUint16(dst, uint16(len(n.Xattrs)))
		for _, x := range n.Xattrs {
			dst = append(append(dst, byte(len(x.Name))), x.Name...)
			dst = be.AppendUint32(dst, uint32(len(x.Value)))
			dst = append(dst, x.Value...)
		}
	}
	switch n.Kind {
	case File, Directory:
		dst = be.AppendUint32(dst, uint32(len(n.Content)))
		for _, e := range n.Content {
			dst = appendExtent(dst, e)
		}
	case Symlink:
		dst = be.AppendUint16(dst, uint16(len(n.Target)))
		dst = append(dst, n.Target...)
	case BlockDevice, CharDevice:
		dst = be.AppendUint32(dst, n.Device.Major)
		dst = be.AppendUint32(dst, n.Device.Minor)
	}
	if len(dst)-start > MaxNodeSize {
		return dst[:start], fmt.Errorf("%w: node of %d bytes", ErrFormat, len(dst)-start)
	}
	return dst, nil
}

// ParseNode decodes one node that takes up the whole of b.
func ParseNode(b []byte) (Node, error) {
	if len(b) > MaxNodeSize {
		return Node{}, fmt.Errorf("%w: node of %d bytes", ErrFormat, len(b))
	}
	c := cursor{b: b}
	var n Node
	n.Kind = Kind(c.u8())
	flags := c.u8()
	n.Mode = c.u16()
	n.UID, n.GID = c.u32(), c.u32()
	n.ModTime = Time{Sec: int64(c.u64()), Nsec: c.u32()}
	n.Size = c.u64()
	n.Name = c.str(int(c.u16()))
	n.User = c.str(int(c.u8()))
	n.Group = c.str(int(c.u8()))
	if flags&^flagsKnown != 0 {
		return Node{}, fmt.Errorf("%w: flags %#x", ErrFormat, flags)
	}
	n.Partial = flags&flagPartial != 0
	n.Indirect = flags&flagIndirect != 0
	if flags&flagLink != 0 {
		n.Link = LinkID{c.u64(), c.u64()}
		c.bad = c.bad || n.Link.IsZero()
	}
	if flags&flagXattrs != 0 {
		n.Xattrs = c.xattrs()
	}
	switch n.Kind {
	case File, Directory:
		n.Content = c.extents(int(c.u32()))
	case Symlink:
		n.Target = c.str(int(c.u16()))
	case BlockDevice, CharDevice:
		n.Device = Device{c.u32(), c.u32()}
	}
	if c.bad || len(c.b) != 0 {
		return Node{}, fmt.Errorf("%w: node of %d bytes", ErrFormat, len(b))
	}
	if err := n.Check(); err != nil {
		return Node{}, err
	}
	return n, nil
}

// appendExtent appends one extent.
//
//	4, 32  chunk: length, at least 1; id
//	4, 8   hole: 0; length, at least 1
func appendExtent(dst []byte, e Extent) []byte {
	if e.Hole {
		return be.AppendUint64(be.AppendUint32(dst, 0), e.Length)
	}
	return append(be.AppendUint32(dst, uint32(e.Length)), e.ID[:]...)
}

// AppendExtents appends the encoding of a list of extents, as the chunks of
// indirect content hold it: one extent after the other.
func AppendExtents(dst []byte, es []Extent) ([]byte, error) {
	if _, err := checkExtents(es); err != nil {
		return dst, fmt.Errorf("%w: %s", ErrFormat, err)
	}
	for _, e := range es {
		dst = appendExtent(dst, e)
	}
	return dst, nil
}

// ParseExtents decodes as many whole extents as b begins with and returns the
// bytes after them, which are the start of an extent that goes on in what
// follows, or empty. So a long list can be read piece by piece; two holes in
// a row are refused within one piece.
func ParseExtents(b []byte) (es []Extent, rest []byte, err error) {
	for len(b) >= 4 {
		size := 36
		hole := be.Uint32(b) == 0
		if hole {
			size = 12
		}
		if len(b) < size {
			break
		}
		c := cursor{b: b[:size]}
		es = append(es, c.extent())
		b = b[size:]
	}
	if _, err := checkExtents(es); err != nil {
		return nil, nil, fmt.Errorf("%w: %s", ErrFormat, err)
	}
	return es, b, nil
}

// A cursor reads fields from the front of b. Once a field is longer than what
// is left, bad is set and every further read yields zero.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if c.bad || n < 0 || n > len(c.b) {
		c.bad = true
		return nil
	}
	v := c.b[:n]
	c.b = c.b[n:]
	return v
}

func (c *cursor) u8() uint8 {
	if v := c.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (c *cursor) u16() uint16 {
	if v := c.take(2); v != nil {
		return be.Uint16(v)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if v := c.take(4); v != nil {
		return be.Uint32(v)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if v := c.take(8); v != nil {
		return be.Uint64(v)
	}
	return 0
}

func (c *cursor) str(n int) string { return string(c.take(n)) }

func (c *cursor) xattrs() []Xattr {
	n := int(c.u16())
	if n == 0 || n > MaxXattrs || n*6 > len(c.b) {
		c.bad = true
		return nil
	}
	xs := make([]Xattr, n)
	for i := range xs {
		xs[i].Name = c.str(int(c.u8()))
		if v := c.take(int(c.u32())); len(v) > 0 {
			xs[i].Value = append([]byte(nil), v...)
		}
	}
	return xs
}

func (c *cursor) extents(n int) []Extent {
	if n < 0 || n > MaxExtents || n*12 > len(c.b) {
		c.bad = true
		return nil
	}
	if n == 0 {
		return nil
	}
	es := make([]Extent, n)
	for i := range es {
		es[i] = c.extent()
	}
	return es
}

func (c *cursor) extent() Extent {
	if n := c.u32(); n != 0 {
		e := Extent{Length: uint64(n)}
		copy(e.ID[:], c.take(32))
		return e
	}
	return Extent{Hole: true, Length: c.u64()}
}
