package fstree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
)

// A linkSet is what is known of a file with several names. The first name that
// is asked for leads: it gets the content. The others become links to it once
// it is complete. A nil *linkSet is for entries with one name.
type linkSet struct {
	t *Target

	// Under Target.mu. With neither dir nor a leader at work, the next name
	// leads.
	leading bool
	dir     *TargetDir // where the complete file is, and its name
	name    string
	stat    Stat
	waiting []linkName
}

// A linkName is a name that is to be made.
type linkName struct {
	d    *TargetDir
	node Node
}

// joinLinks adds the name n in d to the names of its file. If it does not lead
// it has been dealt with, or will be.
func (t *Target) joinLinks(id LinkID, d *TargetDir, n *Node) (set *linkSet, leads bool) {
	if id.IsZero() {
		return nil, true
	}
	w := linkName{d, *n}
	w.node.Content = nil
	t.mu.Lock()
	set = t.links[id]
	if set == nil {
		set = &linkSet{t: t}
		t.links[id] = set
	}
	switch {
	case set.dir != nil:
		t.mu.Unlock()
		d.hold()
		set.make(w)
		return set, false
	case set.leading:
		d.hold()
		set.waiting = append(set.waiting, w)
		t.mu.Unlock()
		return set, false
	}
	set.leading = true
	t.mu.Unlock()
	return set, true
}

// settle says that the leading name is complete (st), or was left as something
// else (neither st nor err), or has failed, and makes the names that waited.
// Something else must not get further names, so there the next name leads.
func (s *linkSet) settle(d *TargetDir, name string, st *Stat, err error) {
	if s == nil {
		return
	}
	t := s.t
	t.mu.Lock()
	s.leading = false
	if st != nil && err == nil || t.o.DryRun {
		s.dir, s.name = d, name
		if st != nil {
			s.stat = *st
		}
	}
	waiting := s.waiting
	s.waiting = nil
	t.mu.Unlock()
	for _, w := range waiting {
		t.mu.Lock()
		failed := s.dir == nil // another name may lead and be complete meanwhile
		t.mu.Unlock()
		if failed {
			t.note(NoteFailed, w.d.pathOf(w.node.Name), fmt.Errorf("fstree: further name of %q: %w", d.pathOf(name), errors.Join(errNoLeader, err)))
			w.d.drop()
			continue
		}
		s.make(w)
	}
}

var errNoLeader = errors.New("that file was not restored")

// make makes w a further name of the complete file and lets go of its
// directory.
func (s *linkSet) make(w linkName) {
	if err := s.link(w); err != nil {
		s.t.note(NoteFailed, w.d.pathOf(w.node.Name), err)
	}
	w.d.drop()
}

func (s *linkSet) link(w linkName) error {
	t := s.t
	old, err := w.d.look(w.node.Name)
	switch {
	case err != nil:
		return err
	case old == nil:
	case s.stat.Inode != 0 && old.SameFile(&s.stat):
		t.count(func(st *TargetStats) { st.Unchanged++ })
		return nil
	case t.policy() == OverwriteNever:
		t.count(func(st *TargetStats) { st.Kept++ })
		return nil
	case t.policy() == OverwriteRefuse:
		return fs.ErrExist
	}
	if !t.o.DryRun {
		err = s.dir.use(func(from place) error {
			return w.d.use(func(to place) error { return s.linkAt(from, to, w) })
		})
		if err != nil {
			return err
		}
	}
	t.count(func(st *TargetStats) { st.Links++ })
	return nil
}

func (s *linkSet) linkAt(from, to place, w linkName) error {
	at := w.node.Name
	if !w.d.fresh {
		at = s.t.temp()
	}
	err := from.link(s.name, to, at)
	if err == nil {
		var st Stat
		if st, err = to.lstat(at); err == nil && !st.SameFile(&s.stat) {
			err = ErrReplaced
		}
	} else if noLinks(err) && s.stat.Kind == File {
		err = s.copyTo(from, to, at, w)
	}
	if err == nil && at != w.node.Name {
		err = w.d.install(to, at, w.node.Name)
	}
	if err != nil {
		_ = to.unlink(at)
		return fmt.Errorf("fstree: further name of %q: %w", s.dir.pathOf(s.name), err)
	}
	return nil
}

// noLinks reports whether a file cannot get (so many) further names here, so
// that a copy has to do.
func noLinks(err error) bool {
	for _, e := range []error{errors.ErrUnsupported, syscall.EMLINK, syscall.EPERM, syscall.EXDEV} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// copyTo makes a copy where no link can be made.
func (s *linkSet) copyTo(from, to place, at string, w linkName) error {
	in, err := from.openRead(s.name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := to.create(at)
	if err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	var off int64
	for err == nil {
		var n int
		n, err = in.Read(buf)
		if n > 0 {
			if _, wErr := out.writeAt(buf[:n], off); wErr != nil {
				err = wErr
			}
			off += int64(n)
		}
	}
	if err == io.EOF {
		var skipped metaSkipped
		skipped, err = out.setMeta(&w.node, s.t.metaWant(w.d), true)
		s.t.countSkipped(w.d.pathOf(w.node.Name), skipped)
	}
	return errors.Join(err, out.close())
}
