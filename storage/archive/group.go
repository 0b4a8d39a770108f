package archive

import (
	"encoding/binary"

	"cobox/storage/chunker"
)

// Limits of a group: chunks in it, and bytes of them. One chunk may be as
// long as the chunker allows; more than one only up to maxGroupRaw together.
const (
	maxGroupChunks = 256
	maxGroupRaw    = 512 << 10
	maxChunk       = 256 << 10
)

// Codecs of a group.
const (
	codecRaw  = 0
	codecZstd = 1
)

// group is the header of a record of type 1: one or more chunks, one after
// the other, stored as they are or as one zstd frame (RFC 8878).
//
//	bytes    field
//	1        codec: 0 stored, 1 zstd
//	1        number of chunks, less one
//	uvarint  for each chunk: its length, 1 to 262,144; 524,288 together
//	…        stored: the chunks; zstd: one frame that holds them
type group struct {
	codec   byte
	lengths []uint32
	data    []byte // aliases the record
}

// raw is the length of all chunks together.
func (g *group) raw() (n int) {
	for _, l := range g.lengths {
		n += int(l)
	}
	return n
}

// appendGroupHeader appends what stands before a group's data.
func appendGroupHeader(dst []byte, codec byte, lengths []uint32) []byte {
	dst = append(dst, codec, byte(len(lengths)-1))
	for _, n := range lengths {
		dst = binary.AppendUvarint(dst, uint64(n))
	}
	return dst
}

// parseGroup decodes a group record. It reuses g.lengths.
func parseGroup(g *group, b []byte) error {
	c := cursor{b: b}
	g.codec = c.u8()
	n := int(c.u8()) + 1
	if c.bad || g.codec > codecZstd {
		return malformed("group header")
	}
	g.lengths = g.lengths[:0]
	total := 0
	for range n {
		l := c.uvarint(maxChunk)
		if c.bad || l == 0 {
			return malformed("length of a chunk in a group")
		}
		total += int(l)
		g.lengths = append(g.lengths, uint32(l))
	}
	if total > maxGroupRaw {
		return malformed("group of %d bytes", total)
	}
	g.data = c.b
	if g.codec == codecRaw && len(g.data) != total || len(g.data) == 0 {
		return malformed("group holds %d bytes of %d", len(g.data), total)
	}
	return nil
}

// chunkers are the two chunkers of a space.
type chunkers struct{ files, listings *chunker.Chunker }

func newChunkers(key [32]byte) chunkers {
	return chunkers{chunker.New(key, chunker.Files), chunker.New(key, chunker.Listings)}
}
