package archive

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// PayloadSize is the number of sealed bytes in a block, as package seal has
// it; bodySize is what the payload's header leaves for records.
const (
	PayloadSize = 65463
	headerSize  = 6
	bodySize    = PayloadSize - headerSize // 65,457
)

// Values of a payload header that stand for "none".
const (
	noRecord = 0xFFFF     // no record starts in this payload
	noFooter = 0xFFFFFFFF // no footer before this payload
)

// errFormat is wrapped by all errors about bytes that break the format.
var errFormat = errors.New("archive: malformed")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errFormat, fmt.Sprintf(format, args...))
}

var be = binary.BigEndian

// payloadHeader begins every payload.
//
//	bytes  field
//	2      offset in the body of the first record that starts in it;
//	       0xFFFF if none does
//	4      distance in blocks back to the block that ends with the latest
//	       footer: 0 this one, 0xFFFFFFFF none
//	65457  body: the next piece of the stream of records
type payloadHeader struct {
	first    uint16
	distance uint32
}

func putPayloadHeader(dst []byte, h payloadHeader) {
	be.PutUint16(dst, h.first)
	be.PutUint32(dst[2:], h.distance)
}

// parsePayload splits the payload of block index into header and body.
func parsePayload(payload []byte, index uint64) (payloadHeader, []byte, error) {
	if len(payload) != PayloadSize {
		return payloadHeader{}, nil, malformed("payload of %d bytes", len(payload))
	}
	h := payloadHeader{first: be.Uint16(payload), distance: be.Uint32(payload[2:])}
	if h.first != noRecord && h.first >= bodySize {
		return payloadHeader{}, nil, malformed("first record at %d", h.first)
	}
	if h.distance != noFooter && uint64(h.distance) > index {
		return payloadHeader{}, nil, malformed("footer %d blocks before block %d", h.distance, index)
	}
	return h, payload[headerSize:], nil
}

// Types of records. A zero byte in place of a type is one byte of padding.
const (
	typeGroup     = 1
	typeIndex     = 2
	typeSnapshots = 3
	typeFooter    = 4
)

// recordHeader is the type u8 and the length u24 of a record's contents.
const (
	recordHeader  = 4
	maxGroup      = 1 << 20   // bytes of a group's contents
	maxSegment    = 8 << 20   // bytes of an index or snapshot segment
	maxAnyRecord  = 1<<24 - 1 // what the length can say
	maxBlockIndex = 1<<32 - 2 // block numbers are u32; the last value is "none"
)

func appendRecordHeader(dst []byte, typ byte, n int) []byte {
	return append(dst, typ, byte(n>>16), byte(n>>8), byte(n))
}

// parseRecordHeader checks type and length against the limits.
func parseRecordHeader(b []byte) (typ byte, n int, err error) {
	typ, n = b[0], int(b[1])<<16|int(b[2])<<8|int(b[3])
	limit := 0
	switch typ {
	case typeGroup:
		limit = maxGroup
	case typeIndex, typeSnapshots:
		limit = maxSegment
	case typeFooter:
		limit = bodySize - recordHeader
	default:
		return 0, 0, malformed("record of type %d", typ)
	}
	if n == 0 || n > limit {
		return 0, 0, malformed("record of type %d with %d bytes", typ, n)
	}
	return typ, n, nil
}

// location is where a record starts in a log: block, and offset in the body
// of that block's payload.
type location struct {
	block uint32
	off   uint16
}

func (l location) before(m location) bool {
	return l.block < m.block || l.block == m.block && l.off < m.off
}

// A cursor reads fields from the front of b. Once a field is malformed or
// longer than what is left, bad is set and all further reads yield zero.
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

// uvarint reads a number of at most limit in its shortest LEB128 form.
func (c *cursor) uvarint(limit uint64) uint64 {
	if c.bad {
		return 0
	}
	v, n := binary.Uvarint(c.b)
	if n <= 0 || v > limit || n > 1 && c.b[n-1] == 0 {
		c.bad = true
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) str(limit uint64) string {
	n := c.uvarint(limit)
	return string(c.take(int(n)))
}

// end reports whether everything was read and well formed.
func (c *cursor) end() bool { return !c.bad && len(c.b) == 0 }

func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}
