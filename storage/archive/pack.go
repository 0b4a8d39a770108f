package archive

import (
	"fmt"

	"cobox/storage/archive/fstree"

	"github.com/klauspost/compress/zstd"
)

// How chunks are put together. Measured on mixed office files: groups of 256
// KiB at the fastest level take 1 % more room than the default level on each
// file alone, for 60 % of its time; 512 KiB would gain another 0.6 % and make
// every lost block cost twice as much.
const (
	groupFiles    = 256 << 10 // bytes of file chunks in a group
	groupListings = 128 << 10 // bytes of listing chunks in a group
	storeAlone    = 32 << 10  // incompressible chunks from here on are not copied
)

// A packer collects the chunks that are new, compresses them in groups and
// hands the groups to the writer. It is for one goroutine at a time.
type packer struct {
	w        *writer // nil in a dry run: nothing is stored
	index    *index
	hash     hasher
	zstd     *zstd.Encoder
	text     batch // chunks to compress
	random   batch // chunks that do not compress
	listings batch
	header   []byte
	out      []byte
}

type batch struct {
	limit   int
	raw     []byte
	lengths []uint32
	chunks  []chunkPrefix
}

func newPacker(w *writer, x *index, key hashKey) (*packer, error) {
	z, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(128<<10), // as good as the whole group, and faster
		zstd.WithEncoderCRC(false))   // every chunk is checked against its id
	if err != nil {
		return nil, fmt.Errorf("archive: zstd: %w", err)
	}
	return &packer{
		w: w, index: x, hash: key.hasher(), zstd: z,
		text:     batch{limit: groupFiles},
		random:   batch{limit: groupFiles},
		listings: batch{limit: groupListings},
	}, nil
}

// file stores a chunk of a file unless the archive has it. It returns the id,
// and whether the chunk is new.
func (p *packer) file(chunk []byte) (fstree.ChunkID, bool, error) {
	id := p.hash.chunkID(chunk)
	k := chunkPrefix(id[:16])
	if !p.index.claim(k) {
		return id, false, nil
	}
	if p.w == nil {
		return id, true, nil
	}
	if !incompressible(chunk) {
		return id, true, p.add(&p.text, k, chunk)
	}
	if len(chunk) >= storeAlone {
		p.header = appendGroupHeader(p.header[:0], codecRaw, []uint32{uint32(len(chunk))})
		return id, true, p.w.group([]chunkPrefix{k}, p.header, chunk)
	}
	return id, true, p.add(&p.random, k, chunk)
}

// listing is file for a chunk of a listing or of a list of extents.
func (p *packer) listing(chunk []byte) (fstree.ChunkID, bool, error) {
	id := p.hash.chunkID(chunk)
	k := chunkPrefix(id[:16])
	if !p.index.claim(k) {
		return id, false, nil
	}
	if p.w == nil {
		return id, true, nil
	}
	return id, true, p.add(&p.listings, k, chunk)
}

func (p *packer) add(b *batch, k chunkPrefix, chunk []byte) error {
	if len(b.raw)+len(chunk) > b.limit || len(b.chunks) == maxGroupChunks {
		if err := p.flushBatch(b); err != nil {
			return err
		}
	}
	b.raw = append(b.raw, chunk...)
	b.lengths = append(b.lengths, uint32(len(chunk)))
	b.chunks = append(b.chunks, k)
	return nil
}

// flush hands everything collected to the writer.
func (p *packer) flush() error {
	for _, b := range []*batch{&p.text, &p.random, &p.listings} {
		if err := p.flushBatch(b); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) flushBatch(b *batch) error {
	if len(b.chunks) == 0 {
		return nil
	}
	codec, data := byte(codecRaw), b.raw
	if b != &p.random {
		p.out = p.zstd.EncodeAll(b.raw, p.out[:0])
		if len(p.out) < len(b.raw) {
			codec, data = codecZstd, p.out
		}
	}
	p.header = appendGroupHeader(p.header[:0], codec, b.lengths)
	err := p.w.group(b.chunks, p.header, data)
	b.raw, b.lengths, b.chunks = b.raw[:0], b.lengths[:0], b.chunks[:0]
	return err
}

func (p *packer) close() { p.zstd.Close() }

// incompressible reports whether a chunk is so random that trying to compress
// it is a waste of time. It counts bytes in eight samples of 512 and compares
// the sum of the squares of the counts with what uniform random bytes give,
// n + n²/256: compressed and encrypted data lie within 2 % of that, text at
// several times as much. Where the samples happen to miss what would have
// compressed, room is lost, nothing else.
func incompressible(b []byte) bool {
	const samples, size = 8, 512
	if len(b) < samples*size/2 {
		return false
	}
	var counts [256]uint32
	step := len(b) / samples
	n := 0
	for i := range samples {
		s := b[i*step : i*step+min(size, step)]
		for _, c := range s {
			counts[c]++
		}
		n += len(s)
	}
	sum := 0
	for _, c := range counts {
		sum += int(c) * int(c)
	}
	uniform := n + n*n/256
	return sum < uniform+uniform/8
}
