package archive

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"

	"cobox/storage/merklelog"
)

// A writer packs records into payloads, seals them and appends them to the
// log, and makes commits. It is safe for concurrent use.
type writer struct {
	a      *Archive
	v      *logView
	log    Log
	sealer Sealer

	mu      sync.Mutex
	err     error  // the first failure; nothing is appended after it
	index   uint64 // of the block being filled
	payload []byte // PayloadSize bytes; those from used on are zero
	used    int    // bytes of it, at least headerSize
	first   int    // offset of the first record that starts in it; noRecord
	block   []byte // sealed, reused

	segment segmentWriter // groups since the last commit
	covered uint64        // first block after the last commit's footer
	start   uint64        // first block of this backup
	padding uint64        // blocks of padding in it
	commits int
}

func newWriter(a *Archive, v *logView, log Log, sealer Sealer) *writer {
	w := &writer{
		a: a, v: v, log: log, sealer: sealer,
		index:   log.Size(),
		payload: make([]byte, PayloadSize),
		used:    headerSize,
		first:   noRecord,
		block:   make([]byte, 0, merklelog.BlockSize),
	}
	w.start, w.covered = w.index, 0
	if v.foot != nil {
		w.covered = v.footAt + 1
	}
	return w
}

// group appends a group of chunks to the log and the index. The contents are
// the concatenation of parts.
func (w *writer) group(chunks []chunkPrefix, parts ...[]byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	l, n, err := w.recordLocked(typeGroup, parts...)
	if err != nil {
		return err
	}
	w.segment.add(indexGroup{l, n, chunks})
	w.a.index.add(place{l, w.v.num, n}, chunks)
	return nil
}

// recordLocked appends one record and returns where it starts and the length
// of its contents.
func (w *writer) recordLocked(typ byte, parts ...[]byte) (location, uint32, error) {
	if w.err != nil {
		return location{}, 0, w.err
	}
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if w.used == PayloadSize {
		w.flushLocked()
	}
	l := location{uint32(w.index), uint16(w.used - headerSize)}
	if w.first == noRecord {
		w.first = w.used - headerSize
	}
	var header [recordHeader]byte
	w.writeLocked(appendRecordHeader(header[:0], typ, n))
	for _, p := range parts {
		w.writeLocked(p)
	}
	return l, uint32(n), w.err
}

func (w *writer) writeLocked(b []byte) {
	for len(b) > 0 {
		if w.used == PayloadSize {
			w.flushLocked()
		}
		n := copy(w.payload[w.used:], b)
		w.used += n
		b = b[n:]
	}
}

// flushLocked seals the payload, whether full or not, and appends it.
func (w *writer) flushLocked() {
	distance := uint32(noFooter)
	if w.v.foot != nil {
		distance = uint32(w.index - w.v.footAt)
	}
	w.sealLocked(distance)
}

func (w *writer) sealLocked(distance uint32) {
	if w.err != nil {
		w.used, w.first = headerSize, noRecord
		return
	}
	putPayloadHeader(w.payload, payloadHeader{uint16(w.first), distance})
	clear(w.payload[w.used:])
	w.block = w.sealer.Seal(w.block[:0], w.index, w.payload)
	i, err := w.log.Append(w.block)
	switch {
	case err != nil:
		w.err = fmt.Errorf("archive: append block %d: %w", w.index, err)
	case i != w.index:
		w.err = fmt.Errorf("archive: block %d was appended as block %d: the log has another writer", w.index, i)
	case i >= maxBlockIndex:
		w.err = fmt.Errorf("archive: log %s is full", w.v.id)
	}
	w.index++
	w.used, w.first = headerSize, noRecord
}

// pending returns how many blocks and how many bytes of index the next commit
// would cover.
func (w *writer) pending() (blocks uint64, index int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.index - max(w.covered, w.start), len(w.segment.buf)
}

// appended returns how many blocks were appended in this backup, and how many
// of them are padding.
func (w *writer) appended() (blocks, padding uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.index - w.start, w.padding
}

// commit ends what was appended with an index segment, a snapshot if the
// backup is complete, padding if so, and a footer, and commits the log.
//
// A crash before the log's commit is done leaves blocks without a footer
// after them, which nobody reads.
func (w *writer) commit(ctx context.Context, snap *Snapshot) (merklelog.Checkpoint, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	old := w.v.foot
	f := &footer{complete: snap != nil, previous: noFooter}
	if old != nil {
		f.previous = uint32(w.v.footAt)
		f.index, f.snapshots = slices.Clone(old.index), slices.Clone(old.snapshots)
	}
	fail := func(err error) (merklelog.Checkpoint, error) {
		if w.err == nil {
			w.err = err
		}
		return merklelog.Checkpoint{}, w.err
	}
	type fresh struct {
		ref      *segmentRef
		contents []byte
	}
	var made []fresh
	if len(w.segment.buf) > 0 {
		contents, err := w.mergeLocked(ctx, typeIndex, &f.index, w.segment.buf)
		if err != nil {
			return fail(err)
		}
		made = append(made, fresh{&f.index[len(f.index)-1], contents})
	}
	var record []byte
	if snap != nil {
		var err error
		if record, err = appendSnapshot(nil, snap); err != nil {
			return fail(err)
		}
		contents, err := w.mergeLocked(ctx, typeSnapshots, &f.snapshots,
			appendSnapshotSegment(nil, []snapshotEntry{{0, record}}))
		if err != nil {
			return fail(err)
		}
		made = append(made, fresh{&f.snapshots[len(f.snapshots)-1], contents})
	}
	if len(f.index)+len(f.snapshots) > maxSegmentRefs {
		return fail(fmt.Errorf("archive: log %s holds as many segments as a footer can list", w.v.id))
	}
	size := recordHeader + f.size()
	if w.used+size > PayloadSize {
		w.flushLocked()
	}
	if snap != nil {
		w.padLocked()
	}
	// The rest of this payload up to the footer stays zero: padding.
	end := uint32(w.index) + 1
	for _, m := range made {
		m.ref.end = end
	}
	clear(w.payload[w.used:])
	w.used = PayloadSize - size
	if w.first == noRecord {
		w.first = w.used - headerSize
	}
	at := w.index
	b := appendRecordHeader(w.payload[:w.used], typeFooter, f.size())
	appendFooter(b, f)
	w.used = PayloadSize
	w.sealLocked(0)
	if w.err != nil {
		return merklelog.Checkpoint{}, w.err
	}
	cp, err := w.log.Commit(ctx)
	if err != nil {
		return fail(fmt.Errorf("archive: commit: %w", err))
	}
	w.v.mu.Lock()
	w.v.foot, w.v.footAt, w.v.loaded, w.v.blocks.size = f, at, true, w.index
	w.v.mu.Unlock()
	w.covered = w.index
	w.segment = segmentWriter{}
	w.commits++
	if snap != nil {
		snap.ID = w.a.hash.snapshotID(record, w.v.id)
		snap.Log, snap.End = w.v.id, w.index
	}
	for _, m := range made {
		w.a.cacheError(w.a.cache.put(segmentName(w.v, m.ref), m.contents))
	}
	w.a.cacheError(w.a.cache.putFooter(w.v, at, f))
	return cp, nil
}

// mergeLocked writes a segment with what is new and, where eight of one
// generation have come together, with what they said. It changes the list to
// end with the new segment, whose end of coverage the caller fills in.
func (w *writer) mergeLocked(ctx context.Context, typ byte, list *[]segmentRef, add []byte) ([]byte, error) {
	n, generation := mergeable(*list, len(add))
	old := (*list)[len(*list)-n:]
	contents := add
	if n > 0 {
		merged, err := w.a.mergeSegments(ctx, w.v, typ, old, add)
		switch {
		case err == nil:
			contents = merged
		case ctx.Err() != nil:
			return nil, err
		default: // one cannot be read now: leave them as they are
			w.a.log.Warn("segments not merged", "log", w.v.id, "err", err)
			n, generation, old = 0, 0, nil
		}
	}
	l, length, err := w.recordLocked(typ, contents)
	if err != nil {
		return nil, err
	}
	ref := segmentRef{loc: l, length: length, generation: generation, first: uint32(w.covered)}
	if n > 0 {
		ref.first = old[0].first
	}
	*list = append((*list)[:len(*list)-n], ref)
	return contents, nil
}

// mergeSegments joins the contents of segments, which are in the order of
// their coverage, and what a commit adds.
func (a *Archive) mergeSegments(ctx context.Context, v *logView, typ byte, refs []segmentRef, add []byte) ([]byte, error) {
	var index segmentWriter
	var snaps []snapshotEntry
	use := func(s segmentRef, contents []byte) error {
		if typ == typeIndex {
			return eachIndexGroup(contents, func(g indexGroup) error { index.add(g); return nil })
		}
		es, err := parseSnapshotSegment(contents)
		for _, e := range es {
			if e.end == 0 {
				e.end = s.end
			}
			snaps = append(snaps, e)
		}
		return err
	}
	missing, err := a.segments(ctx, v, typ, refs, use)
	if err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		return nil, errors.New("archive: a segment cannot be read")
	}
	if typ == typeIndex {
		err := eachIndexGroup(add, func(g indexGroup) error { index.add(g); return nil })
		return index.buf, err
	}
	es, err := parseSnapshotSegment(add)
	if err != nil {
		return nil, err
	}
	return appendSnapshotSegment(nil, append(snaps, es...)), nil
}

// padLocked appends blocks of zeros so that the number of blocks of this
// backup, counting the one that the footer will end, is a Padmé number. What
// a box sees of a backup's size is then within about 12 % of it.
func (w *writer) padLocked() {
	have := w.index - w.start + 1
	for extra := padme(have) - have; extra > 0 && w.err == nil; extra-- {
		w.flushLocked()
		w.padding++
	}
}

// padme rounds up to a number whose binary form has at most as many
// significant bits as its bit length needs bits to write down (Nikitin et
// al., "Reducing Metadata Leakage from Encrypted Files and Communication with
// PURBs", 2019).
func padme(n uint64) uint64 {
	if n < 2 {
		return n
	}
	e := bits.Len64(n) - 1
	s := bits.Len(uint(e))
	mask := uint64(1)<<(e-s) - 1
	return (n + mask) &^ mask
}
