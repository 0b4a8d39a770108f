package archive

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"slices"

	"cobox/storage/archive/fstree"
)

// errDamaged is wrapped by errors about chunks that the archive no longer
// holds as they were.
var errDamaged = errors.New("archive: the archive no longer holds all of it")

// treeCache bounds the decoded groups of listings that are kept, and
// prefetchGroups how many are asked for together.
const (
	treeCache      = 24 << 20
	prefetchGroups = 64
)

// A chunkReader reads single chunks: listings and lists of extents. It keeps
// the groups that it decoded, because listings that are read together lie
// together. It is for one goroutine.
type chunkReader struct {
	a     *Archive
	x     *index
	dec   *decoder
	hash  hasher
	order *list.List // of *decodedGroup, latest first
	byNum map[uint32]*list.Element
	size  int
}

type decodedGroup struct {
	num    uint32
	raw    []byte
	chunks [][]byte // in raw
	err    error    // it cannot be read
}

func (a *Archive) newChunkReader(ctx context.Context) (*chunkReader, error) {
	x, err := a.loadIndex(ctx)
	if err != nil {
		return nil, err
	}
	dec, err := newDecoder()
	if err != nil {
		return nil, err
	}
	return &chunkReader{a: a, x: x, dec: dec, hash: a.hash.hasher(), order: list.New(), byNum: map[uint32]*list.Element{}}, nil
}

func (r *chunkReader) close() { r.dec.close() }

// load fetches the groups of chunks that are not at hand, as far as they fit
// the cache; the first is always fetched. Errors are those of the operation;
// what cannot be read is told by get.
func (r *chunkReader) load(ctx context.Context, ids []fstree.ChunkID) error {
	byLog := make(map[uint16][]uint32)
	asked := map[uint32]bool{}
	n := 0
	for _, id := range ids {
		g, _, ok := r.x.find(chunkPrefix(id[:16]))
		if !ok || asked[g] {
			continue
		}
		if e := r.byNum[g]; e != nil {
			r.order.MoveToFront(e)
			continue
		}
		asked[g] = true
		p := r.x.placeOf(g)
		byLog[p.log] = append(byLog[p.log], g)
		if n++; n == prefetchGroups {
			break
		}
	}
	for num, groups := range byLog {
		if err := r.fetch(ctx, r.a.logs[num], groups); err != nil {
			return err
		}
	}
	return nil
}

func (r *chunkReader) fetch(ctx context.Context, v *logView, groups []uint32) error {
	slices.SortFunc(groups, func(g, h uint32) int {
		if r.x.placeOf(g).loc.before(r.x.placeOf(h).loc) {
			return -1
		}
		return 1
	})
	refs := make([]recordRef, len(groups))
	for i, g := range groups {
		p := r.x.placeOf(g)
		refs[i] = recordRef{p.loc, p.length, typeGroup}
	}
	missing, cause, err := r.a.readRecords(ctx, v, refs, func(i int, contents []byte) error {
		d := &decodedGroup{num: groups[i]}
		chunks, err := r.dec.decode(contents)
		if err != nil {
			d.err = err
		}
		for _, c := range chunks {
			d.raw = append(d.raw, c...)
		}
		at := 0
		for _, c := range chunks {
			d.chunks = append(d.chunks, d.raw[at:at+len(c)])
			at += len(c)
		}
		r.keep(d)
		return nil
	})
	if err != nil {
		return err
	}
	for _, i := range missing {
		r.keep(&decodedGroup{num: groups[i], err: lostError(v, refs[i].loc, cause)})
	}
	return nil
}

// lostError says why a record cannot be read.
func lostError(v *logView, l location, cause error) error {
	if cause == nil {
		cause = errors.New("a block is missing")
	}
	return fmt.Errorf("at block %d of log %s: %w", l.block, v.id, cause)
}

func (r *chunkReader) keep(d *decodedGroup) {
	if r.byNum[d.num] != nil {
		return
	}
	r.byNum[d.num] = r.order.PushFront(d)
	r.size += len(d.raw)
	for r.size > treeCache && r.order.Len() > 1 {
		old := r.order.Remove(r.order.Back()).(*decodedGroup)
		delete(r.byNum, old.num)
		r.size -= len(old.raw)
	}
}

// get returns a chunk; it is valid until the next load.
func (r *chunkReader) get(ctx context.Context, e fstree.Extent) ([]byte, error) {
	g, pos, ok := r.x.find(chunkPrefix(e.ID[:16]))
	if !ok {
		return nil, fmt.Errorf("%w: a chunk is in no index", errDamaged)
	}
	if r.byNum[g] == nil {
		if err := r.load(ctx, []fstree.ChunkID{e.ID}); err != nil {
			return nil, err
		}
	}
	d := r.byNum[g].Value.(*decodedGroup)
	switch {
	case d.err != nil:
		return nil, fmt.Errorf("%w: %w", errDamaged, d.err)
	case int(pos) >= len(d.chunks) || uint64(len(d.chunks[pos])) != e.Length || r.hash.chunkID(d.chunks[pos]) != e.ID:
		return nil, fmt.Errorf("%w: a chunk is not what it was", errDamaged)
	}
	return d.chunks[pos], nil
}

// read returns the listing of a directory, or as much of it as there is with
// an error that wraps errDamaged.
func (r *chunkReader) read(ctx context.Context, n *fstree.Node) ([]fstree.Node, error) {
	if n.Size == 0 {
		return nil, nil
	}
	var b []byte
	var bad error
	for _, e := range n.Content {
		c, err := r.get(ctx, e)
		if errors.Is(err, errDamaged) {
			bad = err
			break
		}
		if err != nil {
			return nil, err
		}
		b = append(b, c...)
	}
	if bad == nil {
		nodes, err := fstree.ParseListing(b)
		if err != nil {
			err = fmt.Errorf("%w: %w", errDamaged, err)
		}
		return nodes, err
	}
	// What stands before the first lost chunk can be used.
	l := fstree.NewListingReader(&sliceReader{b})
	var nodes []fstree.Node
	for {
		node, err := l.Next()
		if err != nil {
			return nodes, bad
		}
		nodes = append(nodes, node)
	}
}

// extents hands out the extents of a file, a slice at a time.
func (r *chunkReader) extents(ctx context.Context, n *fstree.Node, fn func([]fstree.Extent) error) error {
	if !n.Indirect {
		return fn(n.Content)
	}
	var b []byte
	total := uint64(0)
	for i, e := range n.Content {
		if i%prefetchGroups == 0 {
			if err := r.load(ctx, idsOf(n.Content[i:min(len(n.Content), i+prefetchGroups)])); err != nil {
				return err
			}
		}
		c, err := r.get(ctx, e)
		if err != nil {
			return err
		}
		es, rest, err := fstree.ParseExtents(append(b, c...))
		if err != nil {
			return fmt.Errorf("%w: %w", errDamaged, err)
		}
		for _, e := range es {
			if e.Length > n.Size-total {
				return fmt.Errorf("%w: extents are longer than the file", errDamaged)
			}
			total += e.Length
		}
		if err := fn(es); err != nil {
			return err
		}
		b = append([]byte(nil), rest...)
	}
	if len(b) > 0 || total != n.Size {
		return fmt.Errorf("%w: extents are shorter than the file", errDamaged)
	}
	return nil
}

func idsOf(es []fstree.Extent) []fstree.ChunkID {
	ids := make([]fstree.ChunkID, 0, len(es))
	for _, e := range es {
		if !e.Hole {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

// prefetch asks for the listings of directories that will be read next.
func (r *chunkReader) prefetch(ctx context.Context, nodes []fstree.Node) error {
	var ids []fstree.ChunkID
	for i := range nodes {
		if n := &nodes[i]; n.Kind == fstree.Directory {
			ids = append(ids, idsOf(n.Content)...)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	return r.load(ctx, ids)
}

// sliceReader is bytes.Reader's Read without the rest.
type sliceReader struct{ b []byte }

func (r *sliceReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, errEnd
	}
	n := copy(p, r.b)
	r.b = r.b[n:]
	return n, nil
}

// errEnd ends a sliceReader in place of io.EOF, so that a listing that was cut
// off between two nodes is not taken for whole.
var errEnd = errors.New("archive: end of what is there")
