package archive

import (
	"fmt"

	"cobox/storage/archive/fstree"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"
)

// A hasher computes ids of chunks; it is for one goroutine.
type hasher struct{ h *blake3.Hasher }

func (k hashKey) hasher() hasher { return hasher{k.h.Clone()} }

// chunkID is keyed BLAKE3 of the chunk under the space's key.
func (h hasher) chunkID(chunk []byte) (id fstree.ChunkID) {
	h.h.Reset()
	h.h.Write(chunk)
	h.h.Sum(id[:0])
	return id
}

// A decoder takes groups apart; it is for one goroutine.
type decoder struct {
	zstd   *zstd.Decoder
	group  group
	buf    []byte
	chunks [][]byte
}

func newDecoder() (*decoder, error) {
	z, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxGroupRaw+1),
		zstd.WithDecoderMaxWindow(8<<20),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("archive: zstd: %w", err)
	}
	return &decoder{zstd: z}, nil
}

func (d *decoder) close() { d.zstd.Close() }

// decode returns the chunks of a group; they are valid until the next call.
func (d *decoder) decode(contents []byte) ([][]byte, error) {
	if err := parseGroup(&d.group, contents); err != nil {
		return nil, err
	}
	raw, total := d.group.data, d.group.raw()
	if d.group.codec == codecZstd {
		if cap(d.buf) < total {
			d.buf = make([]byte, 0, max(total, 256<<10))
		}
		var err error
		// The capacity limits what a frame may decode to.
		raw, err = d.zstd.DecodeAll(d.group.data, d.buf[:0:total])
		if err != nil || len(raw) != total {
			return nil, malformed("group does not decode to %d bytes", total)
		}
	}
	d.chunks = d.chunks[:0]
	for _, n := range d.group.lengths {
		d.chunks = append(d.chunks, raw[:n:n])
		raw = raw[n:]
	}
	return d.chunks, nil
}
