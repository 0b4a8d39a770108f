package archive

import (
	"context"
	"errors"
	"fmt"
	"io"

	"cobox/storage/archive/fstree"
)

// job is some entries of one directory.
type job struct {
	ds      *dirState
	entries []int
}

// readSize is how much of a large file is read ahead of the chunker. It is at
// least twice the longest chunk.
const readSize = 1 << 20

// indirectFrom is how many extents a node lists itself.
const indirectFrom = 1024

// A worker reads files and stores them.
type worker struct {
	b       *backup
	pack    *packer
	buf     []byte
	listBuf []byte
}

func (w *worker) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case j, ok := <-w.b.jobs:
			if !ok {
				return ctx.Err()
			}
			if err := w.job(ctx, j); err != nil {
				return err
			}
		}
	}
}

func (w *worker) job(ctx context.Context, j job) error {
	for _, i := range j.entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.entry(ctx, j.ds, i); err != nil {
			return err
		}
		if err := w.b.commitIfDue(ctx); err != nil {
			return err
		}
	}
	return w.b.release(ctx, w, j.ds)
}

// packer returns the worker's packer. The first one loads the index: a backup
// that finds nothing changed does not.
func (w *worker) packer(ctx context.Context) (*packer, error) {
	if w.pack == nil {
		x, err := w.b.a.loadIndex(ctx)
		if err != nil {
			return nil, err
		}
		p, err := newPacker(w.b.w, x, w.b.a.hash)
		if err != nil {
			return nil, err
		}
		w.b.gate.RLock() // against a commit that looks for packers to flush
		w.pack = p
		w.b.gate.RUnlock()
		w.buf = make([]byte, readSize)
	}
	return w.pack, nil
}

func (w *worker) entry(ctx context.Context, ds *dirState, i int) error {
	e := &ds.dir.Entries[i]
	if e.Kind == fstree.File {
		err := w.file(ctx, ds, i)
		w.b.meter.files.Add(1)
		if !ds.known[i] {
			w.b.missed.Add(1)
			w.b.missedBytes.Add(e.Size)
		}
		return err
	}
	n, err := ds.dir.Node(e)
	if err != nil {
		w.b.fileError(&FileError{Path: join(ds.dir.Path(), e.Name), Op: OpRead, Err: err})
		if n.Name == "" {
			return nil
		}
	}
	ds.nodes[i], ds.known[i] = n, true
	ds.stats[i] = w.b.entryStat(e)
	if err != nil {
		ds.stats[i].ctime = never
	}
	return nil
}

// file stores one file. Errors of the file are reported; those returned end
// the backup.
func (w *worker) file(ctx context.Context, ds *dirState, i int) error {
	b := w.b
	e := &ds.dir.Entries[i]
	path := join(ds.dir.Path(), e.Name)
	b.meter.current.Store(&path)
	b.changed.Add(1)
	if w.linked(ds, i) {
		b.meter.bytes.Add(e.Size)
		return nil
	}
	p, err := w.packer(ctx)
	if err != nil {
		return err
	}
	f, err := ds.dir.Open(e)
	if err != nil {
		return w.fileFailed(ctx, path, OpRead, err)
	}
	defer f.Close()
	n, nodeErr := f.Node()
	if nodeErr != nil {
		if err := w.fileFailed(ctx, path, OpRead, nodeErr); err != nil || n.Name == "" {
			return err
		}
	}
	c := contents{w: w, p: p}
	if err := c.read(ctx, f); err != nil {
		var fatal *fatalError
		if errors.As(err, &fatal) {
			return fatal.err
		}
		return w.fileFailed(ctx, path, OpRead, err)
	}
	if err := c.end(); err != nil {
		return err
	}
	n.Size, n.Content, n.Indirect = c.size, c.extents, c.indirect
	st := f.Stat()
	stat := fstree.Entry{Name: e.Name, Stat: st}
	ds.nodes[i], ds.known[i], ds.stats[i] = n, true, b.entryStat(&stat)
	changed, err := f.Changed()
	if changed || err != nil {
		ds.stats[i].ctime = never
		if err == nil {
			err = errors.New("it was written to")
		}
		b.meter.fail(&FileError{Path: path, Op: OpChanged, Err: err}, false)
	}
	if nodeErr != nil {
		ds.stats[i].ctime = never
	} else if !changed && !n.Link.IsZero() {
		b.mu.Lock()
		b.links[n.Link] = linked{st, n}
		b.mu.Unlock()
	}
	return nil
}

// fileFailed reports a file error, unless the backup is being ended.
func (w *worker) fileFailed(ctx context.Context, path string, op Op, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.b.fileError(&FileError{Path: path, Op: op, Err: err})
	return nil
}

// linked takes over what was read under another name of the same file.
func (w *worker) linked(ds *dirState, i int) bool {
	e := &ds.dir.Entries[i]
	if e.Link().IsZero() {
		return false
	}
	w.b.mu.Lock()
	l, ok := w.b.links[e.Link()]
	w.b.mu.Unlock()
	if !ok || !e.SameContent(&l.stat) {
		return false
	}
	ds.nodes[i], ds.known[i], ds.stats[i] = l.node, true, w.b.entryStat(e)
	ds.nodes[i].Name = e.Name
	return true
}

// fatalError marks errors that are not the file's.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }

// contents collects the extents of one file.
type contents struct {
	w        *worker
	p        *packer
	size     uint64
	extents  []fstree.Extent
	indirect bool
	list     []byte          // of extents, not yet stored
	chunks   []fstree.Extent // of the list
}

// read stores what a file holds. Data is cut run by run, so that chunks do
// not depend on where holes are.
func (c *contents) read(ctx context.Context, f *fstree.OpenFile) error {
	for {
		r, err := f.NextRun()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if r.Hole {
			if err := c.add(fstree.Extent{Hole: true, Length: r.Length}); err != nil {
				return &fatalError{err}
			}
			c.w.b.meter.bytes.Add(r.Length)
			continue
		}
		n, err := c.run(ctx, f)
		if err != nil || n < r.Length { // shorter than it was
			return err
		}
	}
}

// run stores one run of data and returns its length.
func (c *contents) run(ctx context.Context, f *fstree.OpenFile) (total uint64, err error) {
	chunker := c.w.b.a.chunkers.files
	buf := c.w.buf
	have, eof := 0, false
	for {
		for !eof && have < len(buf) {
			n, err := f.Read(buf[have:])
			have += n
			if err == io.EOF {
				eof = true
			} else if err != nil {
				return total, err
			}
		}
		at := 0
		for at < have && (eof || have-at >= chunker.Max()) {
			n := chunker.Next(buf[at:have])
			if err := c.chunk(buf[at : at+n]); err != nil {
				return total, &fatalError{err}
			}
			at += n
			total += uint64(n)
		}
		have = copy(buf, buf[at:have])
		if eof && have == 0 {
			return total, nil
		}
		if err := c.w.b.commitIfDue(ctx); err != nil {
			return total, &fatalError{err}
		}
		if err := ctx.Err(); err != nil {
			return total, &fatalError{err}
		}
	}
}

func (c *contents) chunk(b []byte) error {
	c.w.b.gate.RLock()
	id, fresh, err := c.p.file(b)
	c.w.b.gate.RUnlock()
	if err != nil {
		return err
	}
	c.w.b.meter.bytes.Add(uint64(len(b)))
	if fresh {
		c.w.b.meter.added.Add(uint64(len(b)))
	}
	return c.add(fstree.Extent{ID: id, Length: uint64(len(b))})
}

func (c *contents) add(e fstree.Extent) error {
	c.size += e.Length
	if n := len(c.extents); e.Hole && n > 0 && c.extents[n-1].Hole {
		// What began after the first was punched out before it was read.
		c.extents[n-1].Length += e.Length
		return nil
	}
	c.extents = append(c.extents, e)
	if len(c.extents) < indirectFrom {
		return nil
	}
	c.indirect = true
	if e.Hole { // it may grow
		return nil
	}
	return c.spill(false)
}

// spill moves the extents collected so far into the list that is stored in
// place of them.
func (c *contents) spill(end bool) (err error) {
	if c.list, err = fstree.AppendExtents(c.list, c.extents); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	c.extents = c.extents[:0]
	chunks, n, err := c.w.store(c.p, c.list, end)
	c.list = c.list[:copy(c.list, c.list[n:])]
	c.chunks = append(c.chunks, chunks...)
	return err
}

// end finishes the list, if there is one.
func (c *contents) end() error {
	if !c.indirect {
		return nil
	}
	if err := c.spill(true); err != nil {
		return err
	}
	c.extents = c.chunks
	return nil
}

// store cuts a listing, or a list of extents, and stores its chunks. Unless
// it is at its end, what is too short to be cut is left; n is how much was
// stored.
func (w *worker) store(p *packer, list []byte, end bool) (es []fstree.Extent, n int, err error) {
	w.b.gate.RLock()
	defer w.b.gate.RUnlock()
	c := w.b.a.chunkers.listings
	for n < len(list) && (end || len(list)-n >= c.Max()) {
		m := c.Next(list[n:])
		id, fresh, err := p.listing(list[n : n+m])
		if err != nil {
			return nil, n, err
		}
		if fresh {
			w.b.meter.added.Add(uint64(m))
		}
		es = append(es, fstree.Extent{ID: id, Length: uint64(m)})
		n += m
	}
	return es, n, nil
}

// listing stores the listing of a directory whose entries are all done.
func (w *worker) listing(ctx context.Context, ds *dirState) error {
	p, err := w.packer(ctx)
	if err != nil {
		return err
	}
	b := w.b
	for _, kid := range ds.kids {
		n := &ds.nodes[kid.entry]
		if !ds.known[kid.entry] {
			continue
		}
		if kid.clean && !b.loadClean(kid) {
			return errScanCache
		}
		n.Size, n.Content, n.Partial = kid.self.Size, kid.self.Content, kid.self.Partial
	}
	for _, ok := range ds.known {
		ds.racy = ds.racy || !ok
	}
	ds.drop()
	for i := range ds.nodes {
		ds.racy = ds.racy || ds.stats[i].ctime == never
	}
	w.listBuf = w.listBuf[:0]
	if len(ds.nodes) > 0 {
		if w.listBuf, err = fstree.AppendListing(w.listBuf, ds.nodes); err != nil {
			return fmt.Errorf("archive: listing of %q: %w", ds.dir.Path(), err)
		}
	}
	content, _, err := w.store(p, w.listBuf, true)
	if err != nil {
		return err
	}
	if ds.finish != nil {
		n, err := ds.dir.SelfNode()
		if err != nil && n.Name == "" {
			return fmt.Errorf("archive: %w", err)
		}
		ds.self = n
	}
	ds.self.Size, ds.self.Content = uint64(len(w.listBuf)), content
	ds.self.Partial = ds.dir.Partial || ds.dir.Incomplete
	rec := &scanRecord{key: ds.key, digest: ds.digest, content: content, listing: w.listBuf, stats: ds.stats}
	if ds.racy {
		rec.flags = flagRacy
	}
	if b.w != nil {
		b.gate.RLock()
		b.scan.add(rec)
		b.gate.RUnlock()
	}
	ds.dir, ds.nodes, ds.stats, ds.known, ds.kids = nil, nil, nil, nil, nil
	return nil
}

// loadClean fetches the content of an unchanged directory from the cache.
func (b *backup) loadClean(ds *dirState) bool {
	e, ok := b.scan.lookup(ds.key)
	if !ok {
		return false
	}
	r := b.scan.record(e)
	if r == nil {
		return false
	}
	ds.self.Size, ds.self.Content = uint64(len(r.listing)), r.content
	return true
}
