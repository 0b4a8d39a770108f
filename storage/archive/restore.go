package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"cobox/storage/archive/fstree"
)

// planChunks is how many chunks are planned before they are read. It bounds
// memory: about 100 bytes a chunk, and a file that is not finished for each.
const planChunks = 1 << 16

// A restore is one run of Restore.
type restore struct {
	a       *Archive
	o       *RestoreOptions
	r       *chunkReader
	target  *fstree.Target
	plan    readPlan
	paths   []string // cleaned, without the leading slash
	include *fstree.Patterns
	exclude *fstree.Patterns
	meter
}

// restoreFile is a file that waits for chunks.
type restoreFile struct {
	out  *fstree.TargetFile // nil: only counted
	path string

	mu   sync.Mutex
	left int // chunks, and one until all are planned
	err  error
	op   Op
}

// Restore writes the files of a snapshot below a target. Files of which
// something is lost are left out and listed in the summary; everything else
// is restored. An error means that the restore did not come to its end; the
// same call continues it.
func (a *Archive) Restore(ctx context.Context, o RestoreOptions) (RestoreSummary, error) {
	began := time.Now()
	before := a.fetched.Load()
	r := &restore{a: a, o: &o}
	r.hooks = o.Hooks
	if err := r.open(ctx); err != nil {
		return RestoreSummary{}, err
	}
	defer r.r.close()
	defer r.target.Close()
	stop := r.meter.run(func() uint64 { return a.fetched.Load() - before })
	r.totalFiles.Store(o.Snapshot.Stats.Files)
	r.totalBytes.Store(o.Snapshot.Stats.Bytes)
	err := r.run(ctx)
	stats := r.target.Stats()
	if err == nil {
		stats, err = r.target.Finish()
	}
	stop()
	stats.Failed += r.meter.errors.Load()
	return RestoreSummary{
		TargetStats: stats, Resumed: r.target.Resumed(), Errors: r.meter.list(),
		Blocks: a.fetched.Load() - before, Duration: time.Since(began),
	}, err
}

func (r *restore) open(ctx context.Context) (err error) {
	o := r.o
	for _, p := range o.Paths {
		r.paths = append(r.paths, strings.Trim(path.Clean("/"+filepath.ToSlash(p)), "/"))
	}
	if slices.Contains(r.paths, "") {
		r.paths = nil
	}
	if r.include, err = fstree.ParsePatterns(o.Include); err != nil {
		return fmt.Errorf("archive: include: %w", err)
	}
	if r.exclude, err = fstree.ParsePatterns(o.Exclude); err != nil {
		return fmt.Errorf("archive: exclude: %w", err)
	}
	dir := o.Target
	switch {
	case (dir == "") == !o.InPlace:
		return errors.New("archive: RestoreOptions needs one of Target and InPlace")
	case o.InPlace && runtime.GOOS == "windows":
		return errors.New("archive: restoring in place is not possible on Windows; give a target")
	case o.InPlace:
		dir = "/"
	}
	if r.r, err = r.a.newChunkReader(ctx); err != nil {
		return err
	}
	r.plan = readPlan{a: r.a, x: r.r.x, got: r.got, bad: r.bad}
	to := fstree.TargetOptions{
		InPlace: o.InPlace, Overwrite: o.Overwrite, Delete: o.Delete, DryRun: o.DryRun, Note: r.note,
		Holds: func(n *fstree.Node, f io.ReaderAt) bool { return r.holds(ctx, n, f) },
	}
	copy(to.Snapshot[:], o.Snapshot.ID[:])
	if r.target, err = fstree.OpenTarget(dir, to); err != nil {
		r.r.close()
		return err
	}
	return nil
}

// holds reports whether a file has the contents of n, by the names of its chunks.
// Nothing was ever written where n has holes.
func (r *restore) holds(ctx context.Context, n *fstree.Node, f io.ReaderAt) bool {
	h := r.a.hash.hasher()
	var buf []byte
	offset := int64(0)
	errOther := errors.New("other contents")
	err := r.r.extents(ctx, n, func(es []fstree.Extent) error {
		for _, e := range es {
			at := offset
			if offset += int64(e.Length); e.Hole {
				continue
			}
			if e.Length > maxChunk {
				return errOther // no chunk is so long
			}
			buf = slices.Grow(buf[:0], int(e.Length))[:e.Length]
			if _, err := f.ReadAt(buf, at); err != nil && err != io.EOF {
				return err
			}
			if h.chunkID(buf) != e.ID {
				return errOther
			}
		}
		return nil
	})
	return err == nil
}

// note takes what the target has to tell about paths that no method call of
// ours is waiting for.
func (r *restore) note(n fstree.Note) {
	op := OpMeta
	switch n.Kind {
	case fstree.NoteDeleted:
		return
	case fstree.NoteFailed:
		op = OpWrite
	}
	r.meter.fail(&FileError{Path: "/" + n.Path, Op: op, Err: n.Err}, false)
}

func (r *restore) fail(path string, op Op, err error) {
	r.meter.fail(&FileError{Path: path, Op: op, Err: err}, true)
}

func (r *restore) run(ctx context.Context) error {
	_, part := r.chosen("")
	root := &restoreDir{
		r: r, path: "/", td: r.target.Root(), node: &r.o.Snapshot.root,
		wanted: part && r.include.Empty(),
	}
	if err := r.walk(ctx, root); err != nil {
		return err
	}
	return r.plan.run(ctx)
}

// restoreDir is a directory on the way down. It is entered in the target when
// the first thing in it is to be restored.
type restoreDir struct {
	r      *restore
	parent *restoreDir
	path   string
	node   *fstree.Node
	wanted bool // all of it, but for what is excluded
	td     *fstree.TargetDir
	err    error
	failed bool
}

// enter returns the directory in the target.
func (d *restoreDir) enter() (*fstree.TargetDir, error) {
	if d.td != nil || d.failed {
		return d.td, d.err
	}
	up, err := d.parent.enter()
	if err == nil {
		d.td, err = up.Enter(d.node)
		if err != nil {
			d.r.fail(d.path, OpWrite, err)
			up.Keep(d.node.Name)
		}
	}
	if err != nil {
		d.failed, d.err = true, err
	}
	return d.td, err
}

// chosen says how a path stands to what was asked for: above it, or part of
// it, or neither.
func (r *restore) chosen(p string) (above, part bool) {
	if len(r.paths) == 0 {
		return false, true
	}
	for _, w := range r.paths {
		if p == w || strings.HasPrefix(p, w+"/") {
			return false, true
		}
		if p == "" || strings.HasPrefix(w, p+"/") {
			above = true
		}
	}
	return above, false
}

// walk restores what is in a directory. Whatever goes wrong with one entry is
// reported and the others go on.
func (r *restore) walk(ctx context.Context, d *restoreDir) error {
	nodes, err := r.r.read(ctx, d.node)
	damaged := errors.Is(err, errDamaged)
	if err != nil && !damaged {
		return err
	}
	if err := r.r.prefetch(ctx, nodes); err != nil {
		return err
	}
	rel := strings.Trim(d.path, "/")
	if d.wanted {
		d.enter() // also when it is empty; an error was reported
	}
	for i := range nodes {
		n := &nodes[i]
		p := n.Name
		if rel != "" {
			p = rel + "/" + n.Name
		}
		isDir := n.Kind == fstree.Directory
		up, part := r.chosen(p)
		switch {
		case !up && !part, part && r.exclude.Excluded(p, isDir):
			if d.td != nil {
				d.td.Keep(n.Name)
			}
			continue
		case isDir:
			sub := *n
			wanted := part && (r.include.Empty() || r.include.Excluded(p, true))
			sub.Partial = sub.Partial || !wanted
			if err := r.walk(ctx, &restoreDir{r: r, parent: d, path: "/" + p, node: &sub, wanted: wanted}); err != nil {
				return err
			}
			if d.td != nil {
				d.td.Keep(n.Name)
			}
			continue
		case up, !r.include.Empty() && !r.include.Excluded(p, false):
			if d.td != nil {
				d.td.Keep(n.Name)
			}
			continue
		}
		td, err := d.enter()
		if err != nil {
			break // the directory was reported
		}
		if err := r.node(ctx, td, n, "/"+p); err != nil {
			return err
		}
		if len(r.plan.wants) >= planChunks {
			if err := r.plan.run(ctx); err != nil {
				return err
			}
		}
	}
	if damaged {
		r.fail(d.path, OpDamaged, fmt.Errorf("some of what is in this directory: %w", err))
		if d.td != nil {
			d.td.Partial()
		}
	}
	r.meter.dirs.Add(1)
	if d.td != nil {
		return d.td.Close()
	}
	return nil
}

// node restores one entry that is no directory. The error returned ends the
// restore.
func (r *restore) node(ctx context.Context, td *fstree.TargetDir, n *fstree.Node, p string) error {
	if n.Kind != fstree.File {
		if err := td.Make(n); err != nil {
			td.Keep(n.Name)
			r.fail(p, OpWrite, err)
		}
		return ctx.Err()
	}
	r.current.Store(&p)
	out, err := td.Create(n)
	if err != nil {
		td.Keep(n.Name)
		r.fail(p, OpWrite, err)
		return ctx.Err()
	}
	if out == nil { // it stays, is a link, or this is a dry run
		r.meter.files.Add(1)
		r.meter.bytes.Add(n.Size)
		return ctx.Err()
	}
	f := &restoreFile{out: out, path: p, left: 1}
	offset := uint64(0)
	err = r.r.extents(ctx, n, func(es []fstree.Extent) error {
		for _, e := range es {
			if e.Hole {
				r.meter.bytes.Add(e.Length)
			} else {
				f.mu.Lock()
				f.left++
				f.mu.Unlock()
				r.plan.add(e, offset, f)
			}
			offset += e.Length
		}
		if len(r.plan.wants) >= planChunks {
			return r.plan.run(ctx)
		}
		return nil
	})
	if errors.Is(err, errDamaged) {
		f.lose(OpDamaged, err)
	} else if err != nil {
		return err
	}
	r.release(f)
	return nil
}

// got writes a chunk.
func (r *restore) got(w *chunkWant, chunk []byte) error {
	f := w.file
	f.mu.Lock()
	lost := f.err != nil
	f.mu.Unlock()
	if !lost {
		if _, err := f.out.WriteAt(chunk, int64(w.offset)); err != nil {
			f.lose(OpWrite, err)
		}
	}
	r.meter.bytes.Add(uint64(len(chunk)))
	r.release(f)
	return nil
}

func (r *restore) bad(w *chunkWant, err error) {
	w.file.lose(OpDamaged, err)
	r.release(w.file)
}

// lose gives a file up.
func (f *restoreFile) lose(op Op, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.op, f.err = op, err
	}
}

// release counts a chunk that has come or is lost, and ends the file with the
// last.
func (r *restore) release(f *restoreFile) {
	f.mu.Lock()
	f.left--
	last, op, err := f.left == 0, f.op, f.err
	f.mu.Unlock()
	if !last {
		return
	}
	if err != nil {
		f.out.Abort(err)
	} else if err = f.out.Commit(); err != nil {
		op = OpWrite
	}
	if err != nil {
		r.fail(f.path, op, err)
	} else {
		r.meter.files.Add(1)
	}
}
