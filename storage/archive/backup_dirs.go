package archive

import (
	"context"
	"errors"
	"io/fs"
	"slices"

	"cobox/storage/archive/fstree"
)

// How the entries of a directory are cut into jobs: files up to jobBytes
// together, or jobEntries entries.
const (
	jobBytes   = 1 << 20
	jobEntries = 64
)

// dirState is one directory on its way into the archive.
type dirState struct {
	dir    *fstree.Dir
	key    dirKey
	digest [16]byte    // of the stat data of everything below
	clean  bool        // the archive has it as it is
	racy   bool        // the stat data prove nothing
	self   fstree.Node // of the directory itself, with content once done
	nodes  []fstree.Node
	stats  []entryStat
	known  []bool // nodes[i] is valid
	kids   []*dirState
	finish chan struct{} // closed when the root is done

	// Guarded by backup.mu.
	parent  *dirState
	entry   int // in the parent
	pending int // jobs and children that are not done
	done    bool
}

// directory takes a directory from the scan: it finds out whether the archive
// has it already, and if not, what of it must be read.
func (b *backup) directory(ctx context.Context, d *fstree.Dir) error {
	path := d.Path()
	ds := &dirState{dir: d, key: b.scan.key(path)}
	b.keys = append(b.keys, ds.key)
	for _, err := range d.Errors {
		b.scanError(path, err)
	}
	clean := b.look(ds)
	entry, found := b.scan.lookup(ds.key)
	var old *scanRecord
	if clean = clean && found && entry.flags&flagRacy == 0 && entry.digest == ds.digest && !b.o.Force; clean {
		ds.clean, ds.done = true, true
		b.count(ds, nil)
		ds.self.Partial = d.Partial
		if d.Name() != fstree.RootName {
			b.dirs[d.Number] = ds
			ds.dir, ds.kids = nil, nil
			return nil
		}
		b.meter.known()
		b.root = ds
		return b.setSelf(ds)
	}
	if found && !b.o.Force {
		old = b.scan.record(entry)
	}
	n := len(d.Entries)
	ds.nodes, ds.stats, ds.known = make([]fstree.Node, n), make([]entryStat, n), make([]bool, n)
	ds.pending = 1 // until everything below has been handed out
	work := b.reuse(ds, old)
	b.count(ds, work)
	if d.Name() == fstree.RootName {
		b.root, ds.finish = ds, make(chan struct{})
		b.meter.known()
	} else {
		b.dirs[d.Number] = ds
	}
	b.attach(ds)
	if err := b.queue(ctx, ds, work); err != nil {
		return err
	}
	if ds.finish != nil {
		// The directories stay usable only until the scan returns.
		select {
		case <-ds.finish:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// look computes the digest of ds and reports whether the directories in it
// are all as the archive has them.
func (b *backup) look(ds *dirState) (clean bool) {
	d := ds.dir
	fp := d.Fingerprint()
	h := b.a.hash.h.Clone()
	h.WriteString("cobox/v1/scan-digest\x00")
	h.Write(fp[:])
	clean = !d.Incomplete && len(d.Errors) == 0
	ds.racy = !clean
	for i := range d.Entries {
		e := &d.Entries[i]
		ds.racy = ds.racy || e.RacyAt(b.from)
		if e.Dir == 0 {
			continue
		}
		kid := b.dirs[e.Dir]
		kid.entry = i
		ds.kids = append(ds.kids, kid)
		delete(b.dirs, e.Dir)
		h.Write(kid.digest[:])
		clean = clean && kid.clean
	}
	h.Digest().Read(ds.digest[:])
	return clean
}

// count adds the entries of a directory to what the backup has seen. What is
// not in work counts as done.
func (b *backup) count(ds *dirState, work []int) {
	var files, bytes, later, laterBytes uint64
	for i := range ds.dir.Entries {
		switch e := &ds.dir.Entries[i]; e.Kind {
		case fstree.File:
			files++
			bytes += e.Size
		case fstree.Directory:
		default:
			b.stats.Others++
		}
	}
	for _, i := range work {
		if e := &ds.dir.Entries[i]; e.Kind == fstree.File {
			later++
			laterBytes += e.Size
		}
	}
	if !ds.dir.Partial {
		b.stats.Dirs++
		b.meter.dirs.Add(1)
	}
	b.stats.Files += files
	b.stats.Bytes += bytes
	b.meter.totalFiles.Add(files)
	b.meter.totalBytes.Add(bytes)
	b.meter.files.Add(files - later)
	b.meter.bytes.Add(bytes - laterBytes)
}

// reuse fills in the nodes of entries that have not changed since the cached
// record was made and returns the others.
func (b *backup) reuse(ds *dirState, old *scanRecord) (work []int) {
	var nodes []fstree.Node
	if old != nil && len(old.listing) > 0 {
		var err error
		if nodes, err = fstree.ParseListing(old.listing); err != nil || len(nodes) != len(old.stats) {
			nodes = nil
		}
	}
	k := 0
	for i := range ds.dir.Entries {
		e := &ds.dir.Entries[i]
		if e.Kind == fstree.File || e.Kind == fstree.Symlink {
			for k < len(nodes) && nodes[k].Name < e.Name {
				k++
			}
			if k < len(nodes) && nodes[k].Name == e.Name && sameEntry(e, &nodes[k], &old.stats[k]) {
				ds.nodes[i], ds.known[i] = nodes[k], true
				ds.stats[i] = b.entryStat(e)
				continue
			}
		}
		work = append(work, i)
	}
	return work
}

func sameEntry(e *fstree.Entry, n *fstree.Node, s *entryStat) bool {
	return e.Kind == n.Kind && e.ModTime == n.ModTime && e.Inode == s.inode && e.Inode != 0 && e.ChangeTime == s.ctime &&
		e.Mode == n.Mode && e.UID == n.UID && e.GID == n.GID && e.Link() == n.Link &&
		(e.Kind != fstree.File || e.Size == n.Size)
}

// entryStat is what is kept of an entry to recognise it next time.
func (b *backup) entryStat(e *fstree.Entry) entryStat {
	if e.RacyAt(b.from) {
		return entryStat{e.Inode, never}
	}
	return entryStat{e.Inode, e.ChangeTime}
}

// attach makes ds wait for the directories in it.
func (b *backup) attach(ds *dirState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, kid := range ds.kids {
		kid.parent = ds
		if !kid.done {
			ds.pending++
		}
	}
}

// queue hands the entries that need work to the workers. The last job ends
// what ds.pending began with.
func (b *backup) queue(ctx context.Context, ds *dirState, work []int) error {
	for {
		n, bytes := 0, uint64(0)
		for n < len(work) && n < jobEntries && bytes < jobBytes {
			if e := &ds.dir.Entries[work[n]]; e.Kind == fstree.File {
				if n > 0 && bytes+e.Size > jobBytes {
					break
				}
				bytes += e.Size
			}
			n++
		}
		j := job{ds, work[:n]}
		work = work[n:]
		if len(work) > 0 {
			b.mu.Lock()
			ds.pending++
			b.mu.Unlock()
		}
		select {
		case b.jobs <- j:
		case <-ctx.Done():
			return ctx.Err()
		}
		if len(work) == 0 {
			return nil
		}
	}
}

// release ends one job or child of ds. When it was the last, the caller
// stores the listing, and those of the directories above that become ready.
func (b *backup) release(ctx context.Context, w *worker, ds *dirState) error {
	for ds != nil {
		b.mu.Lock()
		ds.pending--
		ready := ds.pending == 0
		b.mu.Unlock()
		if !ready {
			return nil
		}
		if err := w.listing(ctx, ds); err != nil {
			return err
		}
		b.mu.Lock()
		ds.done = true
		up := ds.parent
		b.mu.Unlock()
		if ds.finish != nil {
			close(ds.finish)
		}
		ds = up
	}
	return nil
}

// setSelf takes the listing of an unchanged root from the cache.
func (b *backup) setSelf(ds *dirState) error {
	n, err := ds.dir.SelfNode()
	if err != nil && n.Name == "" {
		return err
	}
	n.Partial = ds.dir.Partial
	ds.self = n
	if !b.loadClean(ds) {
		return errScanCache
	}
	ds.dir, ds.kids = nil, nil
	return nil
}

// scanError reports an error that the scan met in the directory.
func (b *backup) scanError(dir string, err error) {
	e := &FileError{Path: dir, Op: OpRead, Err: err}
	var p *fs.PathError
	if errors.As(err, &p) {
		e.Err = p.Err
		if p.Path != "" {
			e.Path = p.Path
		}
	}
	b.fileError(e)
}

// fileError reports a file that could not be backed up. What has gone since
// its name was read is no error.
func (b *backup) fileError(e *FileError) {
	if errors.Is(e.Err, fs.ErrNotExist) || errors.Is(e.Err, fstree.ErrReplaced) {
		e.Op = OpVanished
	}
	b.meter.fail(e, e.Op == OpRead)
}

// drop forgets entries that could not be read.
func (ds *dirState) drop() {
	nodes, stats := ds.nodes[:0], ds.stats[:0]
	for i, ok := range ds.known {
		if ok {
			nodes, stats = append(nodes, ds.nodes[i]), append(stats, ds.stats[i])
		}
	}
	ds.nodes, ds.stats = slices.Clip(nodes), stats
}
