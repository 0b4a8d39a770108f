package fstree

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
)

// A TargetFile is a regular file on its way into a target. It is written under
// a temporary name in its directory and takes its own with Commit.
type TargetFile struct {
	d    *TargetDir
	node Node // without content
	temp string
	link *linkSet

	handle pooled
	out    outFile // valid while handle is open

	mu      sync.Mutex
	created bool
	end     int64 // of the last byte written so far
	stat    Stat
	done    bool
}

// Create begins the file n in d. It returns nil and no error if there is
// nothing to write: the file that is there stays, or the name becomes a further
// one of a file that was begun under another (then it appears when that one is
// committed), or nothing is written at all (DryRun).
func (d *TargetDir) Create(n *Node) (*TargetFile, error) {
	f, err := d.begin(n)
	if f != nil {
		f.temp = d.t.temp()
		d.hold()
	}
	return f, err
}

// begin decides what is to be done for the file n.
func (d *TargetDir) begin(n *Node) (*TargetFile, error) {
	if err := d.admit(n, File); err != nil {
		return nil, err
	}
	set, leads := d.t.joinLinks(n.Link, d, n)
	if !leads {
		return nil, nil
	}
	old, skip, err := d.decide(n)
	if err != nil || skip {
		set.settle(d, n.Name, old, err)
		return nil, err
	}
	if d.t.o.DryRun {
		d.t.count(func(s *TargetStats) { s.Files++; s.Bytes += n.Size })
		set.settle(d, n.Name, nil, nil)
		return nil, nil
	}
	f := &TargetFile{d: d, node: *n, link: set}
	f.node.Content = nil
	return f, nil
}

// decide looks at what has n's name and reports whether it stays. old is what
// stays if it is as n wants it.
func (d *TargetDir) decide(n *Node) (old *Stat, skip bool, err error) {
	old, err = d.look(n.Name)
	if err != nil {
		return nil, false, d.fail("lstat", n.Name, err)
	}
	if old == nil {
		return nil, false, nil
	}
	switch d.t.policy() {
	case OverwriteRefuse:
		return nil, false, d.fail("create", n.Name, fs.ErrExist)
	case OverwriteNever:
		d.t.count(func(s *TargetStats) { s.Kept++ })
		return nil, true, nil
	case OverwriteIfChanged:
		same, err := d.same(n, old)
		if err != nil {
			return nil, false, d.fail("compare", n.Name, err)
		}
		if same && d.holds(n) {
			d.t.count(func(s *TargetStats) { s.Unchanged++ })
			return old, true, d.refresh(n, old)
		}
	}
	return nil, false, nil
}

// holds reports whether a file of an interrupted restore has its contents. One that
// cannot be read is written anew.
func (d *TargetDir) holds(n *Node) bool {
	if !d.t.resumed || d.t.o.Holds == nil || n.Kind != File {
		return true
	}
	holds := false
	err := d.use(func(p place) error {
		f, err := p.openRead(n.Name)
		if err == nil {
			holds = d.t.o.Holds(n, f)
			err = f.Close()
		}
		return err
	})
	return holds && err == nil
}

// same reports whether what is there has the content of n, as far as kind,
// size and time tell.
func (d *TargetDir) same(n *Node, old *Stat) (bool, error) {
	if n.Kind != old.Kind {
		return false, nil
	}
	switch n.Kind {
	case File:
		return n.Size == old.Size && n.ModTime == old.ModTime, nil
	case Symlink:
		var target string
		err := d.use(func(p place) (err error) {
			target, err = p.readLink(n.Name)
			return err
		})
		return target == n.Target, err
	case BlockDevice, CharDevice:
		return n.Device == old.Rdev, nil
	}
	return true, nil
}

// refresh sets the metadata of what stays where it differs.
func (d *TargetDir) refresh(n *Node, old *Stat) error {
	if d.t.o.DryRun || (n.Mode == old.Mode || n.Kind == Symlink) && n.ModTime == old.ModTime && len(n.Xattrs) == 0 &&
		(!d.t.privileged || n.UID == old.UID && n.GID == old.GID) {
		return nil
	}
	err := d.use(func(p place) error {
		skipped, err := p.setEntryMeta(n.Name, n, d.t.metaWantOf(old))
		d.t.countSkipped(d.pathOf(n.Name), skipped)
		return err
	})
	return d.fail("set metadata", n.Name, err)
}

// WriteFile makes or replaces the file n, whose content is given whole. It is
// Create, WriteAt and Commit in one, with the fewest calls of the system.
func (d *TargetDir) WriteFile(n *Node, content []byte) error {
	if uint64(len(content)) != n.Size {
		return fmt.Errorf("fstree: restoring %q: %d bytes for a file of %d", d.pathOf(n.Name), len(content), n.Size)
	}
	f, err := d.begin(n)
	if err != nil || f == nil {
		return err
	}
	f.temp = d.t.temp()
	d.hold()
	err = d.use(func(p place) error {
		out, err := p.create(f.temp)
		if err != nil {
			return err
		}
		f.created = true
		var n int
		n, err = out.writeAt(content, 0)
		f.end = int64(n)
		if err == nil {
			err = f.seal(out)
		}
		if err = errors.Join(err, out.close()); err != nil {
			return err
		}
		return d.install(p, f.temp, f.node.Name)
	})
	return f.conclude(err)
}

// WriteAt writes bytes of the file at any offset within its size, in any
// order, from several goroutines. What is never written is a hole.
func (f *TargetFile) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || uint64(off) > f.node.Size || uint64(len(p)) > f.node.Size-uint64(off) {
		return 0, fmt.Errorf("fstree: restoring %q: write outside the file", f.d.pathOf(f.node.Name))
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := f.acquire(); err != nil {
		return 0, f.d.fail("create", f.node.Name, err)
	}
	defer f.d.t.pool.release(&f.handle)
	n, err := f.out.writeAt(p, off)
	f.mu.Lock()
	f.end = max(f.end, off+int64(n))
	f.mu.Unlock()
	return n, f.d.fail("write", f.node.Name, err)
}

// acquire opens the temporary file, and makes it the first time.
func (f *TargetFile) acquire() error {
	return f.d.t.pool.acquire(&f.handle, func() (func() error, error) {
		err := f.d.use(func(p place) (err error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.done {
				return fs.ErrClosed
			}
			if !f.created {
				if f.out, err = p.create(f.temp); err == nil {
					f.created = true
					f.stat, err = f.out.stat()
				}
				return err
			}
			if f.out, err = p.reopen(f.temp); err != nil {
				return err
			}
			if st, err := f.out.stat(); err != nil || !st.SameFile(&f.stat) {
				f.out.close()
				return errors.Join(ErrReplaced, err)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		return f.out.close, nil
	})
}

// Commit completes the file: length, owner, attributes, mode and times, and
// then its name, in place of what had it.
func (f *TargetFile) Commit() error {
	err := f.acquire()
	if err == nil {
		err = f.seal(f.out)
		f.d.t.pool.release(&f.handle)
	}
	if closeErr := f.d.t.pool.forget(&f.handle); err == nil {
		err = closeErr
	}
	if err == nil {
		err = f.d.use(func(p place) error { return f.d.install(p, f.temp, f.node.Name) })
	}
	return f.conclude(err)
}

// Abort gives the file up because of err; what had its name stays. Further
// names that waited for it are told as failed.
func (f *TargetFile) Abort(err error) {
	if err == nil {
		err = fs.ErrClosed
	}
	_ = f.d.t.pool.forget(&f.handle) // it is not wanted any more
	f.conclude(err)
}

// seal does the last steps on the written file before it takes its name.
func (f *TargetFile) seal(out outFile) error {
	if uint64(f.end) < f.node.Size {
		if err := out.truncate(int64(f.node.Size)); err != nil {
			return err
		}
	}
	skipped, err := out.setMeta(&f.node, f.d.t.metaWant(f.d), true)
	f.d.t.countSkipped(f.d.pathOf(f.node.Name), skipped)
	if err == nil && f.link != nil {
		f.stat, err = out.stat()
	}
	return err
}

// conclude ends the file, made or not.
func (f *TargetFile) conclude(err error) error {
	f.mu.Lock()
	again := f.done
	f.done = true
	f.mu.Unlock()
	if again {
		return fmt.Errorf("fstree: restoring %q: file ended twice", f.d.pathOf(f.node.Name))
	}
	if err != nil {
		if f.created {
			_ = f.d.use(func(p place) error { return p.unlink(f.temp) })
		}
		f.link.settle(f.d, f.node.Name, nil, err)
	} else {
		f.d.t.count(func(s *TargetStats) { s.Files++; s.Bytes += f.node.Size })
		f.link.settle(f.d, f.node.Name, &f.stat, nil)
	}
	f.d.drop()
	return f.d.fail("restore", f.node.Name, err)
}

// install gives what is complete under a temporary name its own. A directory
// that has the name must be empty, or may go with what is in it if Delete.
func (d *TargetDir) install(p place, temp, name string) error {
	err := p.rename(temp, name)
	if err == nil || d.fresh {
		return err
	}
	st, statErr := p.lstat(name)
	if statErr != nil || st.Kind != Directory {
		return err
	}
	if d.t.o.Delete {
		err = p.removeAll(name)
	} else if err = p.rmdir(name); err != nil {
		err = ErrInTheWay
	}
	if err != nil {
		return err
	}
	return p.rename(temp, name)
}

// Make makes the symbolic link, device or fifo n. A socket cannot be made, nor
// a device without privilege: that is counted and no error.
func (d *TargetDir) Make(n *Node) error {
	if err := d.admit(n, Symlink, BlockDevice, CharDevice, FIFO, Socket); err != nil {
		return err
	}
	if n.Kind == Socket {
		d.t.note(NoteSpecial, d.pathOf(n.Name), errSocket)
		return nil
	}
	set, leads := d.t.joinLinks(n.Link, d, n)
	if !leads {
		return nil
	}
	old, skip, err := d.decide(n)
	if err != nil || skip {
		set.settle(d, n.Name, old, err)
		return err
	}
	if d.t.o.DryRun {
		d.t.count(func(s *TargetStats) { s.Others++ })
		set.settle(d, n.Name, nil, nil)
		return nil
	}
	var st Stat
	err = d.use(func(p place) (err error) {
		st, err = d.make(p, n)
		return err
	})
	if errors.Is(err, errSpecial) {
		d.t.note(NoteSpecial, d.pathOf(n.Name), err)
		set.settle(d, n.Name, nil, err)
		return nil
	}
	if err == nil {
		d.t.count(func(s *TargetStats) { s.Others++ })
	}
	set.settle(d, n.Name, &st, err)
	return d.fail("make", n.Name, err)
}

func (d *TargetDir) make(p place, n *Node) (Stat, error) {
	at := n.Name
	if !d.fresh {
		at = d.t.temp()
	}
	if err := p.make(at, n); err != nil {
		return Stat{}, err
	}
	skipped, err := p.setEntryMeta(at, n, d.t.metaWant(d))
	d.t.countSkipped(d.pathOf(n.Name), skipped)
	var st Stat
	if err == nil {
		st, err = p.lstat(at)
	}
	if err == nil && at != n.Name {
		err = d.install(p, at, n.Name)
	}
	if err != nil {
		_ = p.unlink(at)
	}
	return st, err
}

var (
	errSocket = errors.New("a socket is made by the program that listens on it")
	// errSpecial is wrapped where the system or missing privilege does not
	// allow to make an entry of this kind.
	errSpecial = errors.New("not possible here")
)
