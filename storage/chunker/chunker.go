// Package chunker cuts data into chunks at boundaries that depend on the data
// and on a key, so that an insertion moves few boundaries and nobody without
// the key can predict them.
//
// Start with New and Next. What is promised: for one key and one Params the
// boundaries of one byte sequence never change (vectors in testdata are
// frozen), every chunk but the last is at least Min and at most Max bytes
// long, and a boundary depends on nothing before the start of its chunk.
//
// The algorithm is FastCDC with normalized chunking (Xia et al., 2016 and
// 2020) over a Gear hash whose table comes from the key:
//
//	table    2,048 bytes of keyed BLAKE3(key; "cobox/v1/gear\0"), read as
//	         256 big-endian u64
//	h(i)     = h(i-1)<<1 + table[data[i]] (mod 2^64), started with h = 0 at
//	         64 bytes before Min, so that from Min on it depends on exactly
//	         the last 64 bytes
//	cut      after byte i, if i ≥ Min and the leading bits of h(i) are zero:
//	         log2(Normal)+1 bits before Normal, log2(Normal)-2 bits from there
//	         on; at Max in any case
//
// The leading bits are used because only they depend on all 64 bytes. The
// stricter condition before Normal and the laxer one after it pull sizes
// towards Normal.
package chunker

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/zeebo/blake3"
)

// Params are the limits of a chunk's size in bytes. Normal must be a power of
// two, and 64 ≤ Min ≤ Normal ≤ Max.
type Params struct {
	Min, Normal, Max int
}

// The two parameter sets of the archive: file contents, and directory
// listings, which are edited in smaller pieces.
var (
	Files    = Params{Min: 16 << 10, Normal: 64 << 10, Max: 256 << 10}
	Listings = Params{Min: 4 << 10, Normal: 16 << 10, Max: 64 << 10}
)

// window is the number of bytes that the leading bit of the hash depends on.
const window = 64

// Chunker finds boundaries. It holds no state between calls and is safe for
// concurrent use.
type Chunker struct {
	table  [256]uint64
	params Params
	strict uint64 // h < strict cuts before Normal
	lax    uint64 // h < lax cuts from Normal on
}

// New returns a chunker for a key. It panics on parameters that break the
// rules of Params, which are fixed at compile time.
func New(key [32]byte, p Params) *Chunker {
	if p.Min < window || p.Normal < p.Min || p.Max < p.Normal || p.Normal&(p.Normal-1) != 0 {
		panic(fmt.Sprintf("chunker: bad parameters %+v", p))
	}
	log := bits.TrailingZeros(uint(p.Normal))
	c := &Chunker{params: p, strict: 1 << (64 - (log + 1)), lax: 1 << (64 - (log - 2))}
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic("chunker: " + err.Error()) // only for a key that is not 32 bytes
	}
	h.WriteString("cobox/v1/gear\x00")
	var b [8 * 256]byte
	h.Digest().Read(b[:])
	for i := range c.table {
		c.table[i] = binary.BigEndian.Uint64(b[8*i:])
	}
	return c
}

// Max is the length of the longest chunk.
func (c *Chunker) Max() int { return c.params.Max }

// Next returns the length of the first chunk of data. The data must hold at
// least Max bytes or reach to the end of the input, else the result may be
// that of the end of the input. It is 0 only for empty data.
func (c *Chunker) Next(data []byte) int {
	p := &c.params
	if len(data) <= p.Min {
		return len(data)
	}
	if len(data) > p.Max {
		data = data[:p.Max]
	}
	h := c.warm(data[p.Min-window : p.Min-1])
	// A cut after byte Min-1 would make a chunk of exactly Min bytes; the
	// loop starts with that byte.
	normal := min(p.Normal, len(data))
	n, h := c.scan(data[p.Min-1:normal], h, c.strict)
	if n > 0 {
		return p.Min - 1 + n
	}
	if normal == len(data) {
		return normal
	}
	n, _ = c.scan(data[normal:], h, c.lax)
	if n > 0 {
		return normal + n
	}
	return len(data)
}

func (c *Chunker) warm(b []byte) (h uint64) {
	for _, v := range b {
		h = h<<1 + c.table[v]
	}
	return h
}

// scan returns the number of bytes up to and including the first one at which
// the hash falls below limit, or 0, and the hash at the end. Eight bytes are
// taken at a time: the sums of table values do not depend on h, so that the
// chain from one h to the next is one shift and one addition for two bytes.
func (c *Chunker) scan(b []byte, h, limit uint64) (int, uint64) {
	t := &c.table
	i := 0
	for ; i+8 <= len(b); i += 8 {
		v := binary.LittleEndian.Uint64(b[i:])
		a0, a1 := t[byte(v)], t[byte(v>>8)]
		a2, a3 := t[byte(v>>16)], t[byte(v>>24)]
		a4, a5 := t[byte(v>>32)], t[byte(v>>40)]
		a6, a7 := t[byte(v>>48)], t[byte(v>>56)]
		h0 := h<<1 + a0
		h1 := h<<2 + (a0<<1 + a1)
		h2 := h1<<1 + a2
		h3 := h1<<2 + (a2<<1 + a3)
		h4 := h3<<1 + a4
		h5 := h3<<2 + (a4<<1 + a5)
		h6 := h5<<1 + a6
		h7 := h5<<2 + (a6<<1 + a7)
		if h0 < limit {
			return i + 1, h0
		}
		if h1 < limit {
			return i + 2, h1
		}
		if h2 < limit {
			return i + 3, h2
		}
		if h3 < limit {
			return i + 4, h3
		}
		if h4 < limit {
			return i + 5, h4
		}
		if h5 < limit {
			return i + 6, h5
		}
		if h6 < limit {
			return i + 7, h6
		}
		if h7 < limit {
			return i + 8, h7
		}
		h = h7
	}
	for ; i < len(b); i++ {
		h = h<<1 + t[b[i]]
		if h < limit {
			return i + 1, h
		}
	}
	return 0, h
}
