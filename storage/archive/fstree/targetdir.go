package fstree

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
)

// A TargetDir is a directory in a target. It is entered or made by Enter and
// must be closed; its metadata is set, and what does not belong in it deleted,
// when it is closed and everything in it is finished.
type TargetDir struct {
	t      *Target
	parent *TargetDir
	node   Node // without content
	fresh  bool // made by this run: whatever is in it, this run put there
	absent bool // only in a dry run: would have been made
	stat   Stat // when it was made or entered
	follow bool // may be a link, in place above what was backed up
	mode   int  // mode to put back where it had to be widened, or -1
	// defaultACL means that what is made in d starts with an access list.
	defaultACL bool

	handle pooled
	place  place // valid while handle is open

	mu      sync.Mutex
	refs    int // one until Close, and one for everything unfinished in it
	closed  bool
	partial bool
	seen    map[string]struct{} // names that Delete keeps
}

// Path returns the path relative to the target, with "/".
func (d *TargetDir) Path() string {
	var names []string
	for ; d.parent != nil; d = d.parent {
		names = append(names, d.node.Name)
	}
	var b strings.Builder
	for i := len(names) - 1; i >= 0; i-- {
		b.WriteString(names[i])
		if i > 0 {
			b.WriteByte('/')
		}
	}
	return b.String()
}

func (d *TargetDir) pathOf(name string) string { return joinRel(d.Path(), name) }

func (d *TargetDir) fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("fstree: restoring: %w", &fs.PathError{Op: op, Path: d.pathOf(name), Err: err})
}

// adopt takes over the handle p, which has just been opened. That of the
// target itself stays open, because nothing leads back to it.
func (d *TargetDir) adopt(p place) {
	d.stat, _ = p.stat()
	d.defaultACL = p.hasDefaultACL()
	_ = d.t.pool.acquire(&d.handle, func() (func() error, error) {
		d.place = p
		return func() error { p.close(); return nil }, nil
	})
	if d.parent != nil {
		d.t.pool.release(&d.handle)
	}
}

// use calls f with d's handle, opening it again if it was closed meanwhile.
func (d *TargetDir) use(f func(place) error) error {
	if err := d.acquire(); err != nil {
		return err
	}
	defer d.t.pool.release(&d.handle)
	return f(d.place)
}

func (d *TargetDir) acquire() error {
	return d.t.pool.acquire(&d.handle, func() (func() error, error) {
		if d.parent == nil {
			return nil, fs.ErrClosed
		}
		var p place
		err := d.parent.use(func(up place) (err error) {
			p, err = up.sub(d.node.Name, d.follow)
			return err
		})
		if err != nil {
			return nil, err
		}
		if st, err := p.stat(); err != nil || !st.SameFile(&d.stat) {
			p.close()
			return nil, errors.Join(ErrReplaced, err)
		}
		d.place = p
		return func() error { p.close(); return nil }, nil
	})
}

// hold counts one more unfinished thing in d.
func (d *TargetDir) hold() {
	d.mu.Lock()
	d.refs++
	d.mu.Unlock()
}

// drop counts one less, and finishes d and then what is above with the last.
func (d *TargetDir) drop() {
	for d != nil {
		d.mu.Lock()
		d.refs--
		last := d.refs == 0
		d.mu.Unlock()
		if !last {
			return
		}
		d.finish()
		d = d.parent
	}
}

// Keep tells that an entry of this name belongs here though nothing is
// restored for it, so that Delete leaves it.
func (d *TargetDir) Keep(name string) {
	if !d.t.o.Delete || d.fresh || d.absent {
		return
	}
	d.mu.Lock()
	if d.seen == nil {
		d.seen = make(map[string]struct{})
	}
	d.seen[name] = struct{}{}
	d.mu.Unlock()
}

// Partial tells that not everything that belongs here is known, so that Delete
// must leave everything in this directory.
func (d *TargetDir) Partial() {
	d.mu.Lock()
	d.partial = true
	d.mu.Unlock()
}

// Close says that nothing more will be asked of d.
func (d *TargetDir) Close() error {
	d.mu.Lock()
	again := d.closed
	d.closed = true
	d.mu.Unlock()
	if again {
		return fmt.Errorf("fstree: directory %q closed twice", d.Path())
	}
	d.drop()
	return nil
}

// admit checks a node before anything is done for it.
func (d *TargetDir) admit(n *Node, kinds ...Kind) error {
	if err := n.Check(); err != nil {
		return err
	}
	if err := CheckName(n.Name); err != nil {
		return err
	}
	if err := checkSystemName(n.Name); err != nil {
		return d.fail("name", n.Name, err)
	}
	if d.parent == nil && n.Name == MarkerName {
		return d.fail("name", n.Name, fs.ErrInvalid)
	}
	for _, k := range kinds {
		if n.Kind == k {
			d.Keep(n.Name)
			return nil
		}
	}
	return fmt.Errorf("fstree: restoring %q: %s where another kind was expected", d.pathOf(n.Name), n.Kind)
}

// look returns what has the name already, or nil.
func (d *TargetDir) look(name string) (*Stat, error) {
	if d.fresh || d.absent {
		return nil, nil
	}
	var st Stat
	err := d.use(func(p place) (err error) {
		st, err = p.lstat(name)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return &st, err
}

// Enter makes the directory n in d, or enters it if it is there.
func (d *TargetDir) Enter(n *Node) (*TargetDir, error) {
	if err := d.admit(n, Directory); err != nil {
		return nil, err
	}
	c := &TargetDir{t: d.t, parent: d, node: *n, mode: -1, refs: 1, partial: n.Partial}
	c.node.Content = nil
	c.follow = d.t.o.InPlace && n.Partial
	old, err := d.look(n.Name)
	if err != nil {
		return nil, d.fail("lstat", n.Name, err)
	}
	if old != nil && old.Kind != Directory && !(c.follow && old.Kind == Symlink) {
		if d.t.policy() == OverwriteNever || d.t.policy() == OverwriteRefuse {
			return nil, d.fail("mkdir", n.Name, ErrInTheWay)
		}
		if !d.t.o.DryRun {
			if err := d.use(func(p place) error { return p.unlink(n.Name) }); err != nil {
				return nil, d.fail("unlink", n.Name, err)
			}
		}
		old = nil
	}
	if old == nil {
		c.fresh = true
		d.t.count(func(s *TargetStats) { s.Dirs++ })
	}
	if d.t.o.DryRun && c.fresh {
		c.absent = true
	} else if err := d.use(c.enter); err != nil {
		return nil, d.fail("enter", n.Name, err)
	}
	d.hold()
	d.t.mu.Lock()
	d.t.open++
	d.t.mu.Unlock()
	return c, nil
}

// enter makes c in up if it is fresh, opens it, and sees to it that entries can
// be made in it.
func (c *TargetDir) enter(up place) error {
	if c.fresh {
		if err := up.mkdir(c.node.Name); err != nil {
			return err
		}
	}
	p, err := up.sub(c.node.Name, c.follow)
	if err != nil {
		return err
	}
	st, err := p.stat()
	if err != nil {
		p.close()
		return err
	}
	const needed = 0o700
	if !c.fresh && !c.t.o.DryRun && !c.t.privileged && st.UID == c.t.self.uid && st.Mode&needed != needed {
		if err := p.chmod(st.Mode | needed); err == nil {
			c.mode = int(st.Mode)
			p.close()
			if p, err = up.sub(c.node.Name, c.follow); err != nil {
				return err
			}
		}
	}
	c.adopt(p)
	if !c.fresh && !c.t.o.DryRun {
		c.sweep()
	}
	return nil
}

// sweep removes temporary files that an interrupted restore of the same
// snapshot left in c.
func (c *TargetDir) sweep() {
	_ = c.use(func(p place) error {
		names, err := p.names()
		for _, n := range names {
			if c.t.leftover(n) {
				_ = p.unlink(n)
			}
		}
		return err
	})
}

// A lateMode is a directory's mode that would shut this process itself out, so
// that it is set when nothing more is to be done.
type lateMode struct {
	d    *TargetDir
	mode uint16
}

func (l lateMode) apply() error {
	return l.d.use(func(p place) error { return p.chmod(l.mode) })
}

// finish removes what does not belong in d and sets its metadata.
func (d *TargetDir) finish() {
	t := d.t
	defer func() {
		t.mu.Lock()
		t.open--
		t.mu.Unlock()
	}()
	if d.parent == nil || d.absent {
		return
	}
	if t.o.Delete && !d.partial && !d.fresh && t.policy() != OverwriteRefuse {
		if err := d.use(d.deleteRest); err != nil {
			t.note(NoteFailed, d.Path(), err)
		}
	}
	if t.o.DryRun {
		_ = t.pool.forget(&d.handle)
		return
	}
	if err := d.use(d.finishMeta); err != nil {
		t.note(NoteFailed, d.Path(), err)
	}
	_ = t.pool.forget(&d.handle)
}

func (d *TargetDir) finishMeta(p place) error {
	t := d.t
	if !d.fresh && (d.node.Partial || t.policy() == OverwriteNever) {
		if d.mode >= 0 {
			return d.setMode(p, uint16(d.mode))
		}
		return nil
	}
	n := d.node
	want := t.metaWant(d.parent)
	if !d.fresh {
		want = t.metaWantOf(&d.stat)
	}
	skipped, err := p.setMeta(&n, want, false)
	t.countSkipped(d.Path(), skipped)
	if err != nil {
		return err
	}
	return d.setMode(p, skipped.mode)
}

// setMode sets the mode, later if this process could not search d any more:
// further names may be made of files in it.
func (d *TargetDir) setMode(p place, mode uint16) error {
	if mode&0o100 == 0 && !d.t.privileged {
		d.t.mu.Lock()
		d.t.late = append(d.t.late, lateMode{d, mode})
		d.t.mu.Unlock()
		return nil
	}
	return p.chmod(mode)
}

// deleteRest removes everything in d that was not asked for.
func (d *TargetDir) deleteRest(p place) error {
	names, err := p.names()
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range names {
		if _, ok := d.seen[n]; ok {
			continue
		}
		if !d.t.o.DryRun {
			if err := p.removeAll(n); err != nil {
				errs = append(errs, &fs.PathError{Op: "delete", Path: n, Err: err})
				continue
			}
		}
		d.t.note(NoteDeleted, d.pathOf(n), nil)
	}
	return errors.Join(errs...)
}
