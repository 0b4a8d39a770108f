package fstree

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
)

// DiffOptions are the choices of a comparison; the zero value compares
// everything that a node keeps.
type DiffOptions struct {
	IgnoreOwners bool
	IgnoreXattrs bool
	// Limit ends the comparison after so many differences; 0 means none.
	Limit int
}

// A Difference is one way in which two trees are not the same.
type Difference struct {
	Path string // relative, with "/"; "." for the trees themselves
	What string
}

func (d Difference) String() string { return d.Path + ": " + d.What }

// Diff compares the trees at two paths byte for byte: names, kinds, modes,
// owners, modification times to the nanosecond, sizes, contents, link targets,
// device numbers, extended attributes and which names are one file. No link
// below the two paths is followed. An error means that something could not be
// read, so that nothing can be said.
func Diff(ctx context.Context, a, b string, o DiffOptions) ([]Difference, error) {
	d := &differ{o: o, owners: newOwnerNames(), pairs: make(map[LinkID]LinkID), back: make(map[LinkID]LinkID)}
	var st [2]Stat
	for i, p := range []string{a, b} {
		var err error
		if st[i], err = statPath(p, true); err != nil {
			return nil, &fs.PathError{Op: "stat", Path: p, Err: err}
		}
	}
	if st[0].Kind != Directory || st[1].Kind != Directory {
		return nil, fmt.Errorf("fstree: comparing %s and %s: %w", a, b, errNotDirectory)
	}
	var err error
	for i, p := range []string{a, b} {
		d.base[i], err = openBase(p)
		defer d.base[i].close()
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: p, Err: err}
		}
	}
	d.compareStat(".", &st[0], &st[1])
	if err := d.compareNodes("", ".", &st[0], &st[1]); err != nil {
		return nil, err
	}
	// Directories to be compared, as pairs of what is known of them.
	type pair struct {
		rel string
		st  [2]Stat
	}
	stack := []pair{{"", st}}
	for len(stack) > 0 && !d.full() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		p := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		var list [2][]Entry
		for i := range list {
			var errs []nameError
			if list[i], errs, err = d.base[i].readDir(p.rel, &p.st[i]); err != nil {
				return nil, &fs.PathError{Op: "read directory", Path: p.rel, Err: err}
			}
			for _, e := range errs {
				return nil, &fs.PathError{Op: "lstat", Path: joinRel(p.rel, e.name), Err: e.err}
			}
		}
		x, y := list[0], list[1]
		for (len(x) > 0 || len(y) > 0) && !d.full() {
			switch {
			case len(y) == 0 || len(x) > 0 && x[0].Name < y[0].Name:
				d.add(joinRel(p.rel, x[0].Name), "only in the first")
				x = x[1:]
			case len(x) == 0 || y[0].Name < x[0].Name:
				d.add(joinRel(p.rel, y[0].Name), "only in the second")
				y = y[1:]
			default:
				rel := joinRel(p.rel, x[0].Name)
				if err := d.compare(rel, &x[0].Stat, &y[0].Stat); err != nil {
					return nil, err
				}
				if x[0].Kind == Directory && y[0].Kind == Directory {
					stack = append(stack, pair{rel, [2]Stat{x[0].Stat, y[0].Stat}})
				}
				x, y = x[1:], y[1:]
			}
		}
	}
	slices.SortStableFunc(d.found, func(a, b Difference) int { return strings.Compare(a.Path, b.Path) })
	return d.found, nil
}

type differ struct {
	o      DiffOptions
	base   [2]*base
	owners *ownerNames
	found  []Difference
	buf    [2][]byte
	pairs  map[LinkID]LinkID // files with several names: first to second
	back   map[LinkID]LinkID // and second to first
}

func (d *differ) full() bool { return d.o.Limit > 0 && len(d.found) >= d.o.Limit }

func (d *differ) add(path, format string, args ...any) {
	d.found = append(d.found, Difference{path, fmt.Sprintf(format, args...)})
}

func (d *differ) compare(rel string, a, b *Stat) error {
	if a.Kind != b.Kind {
		d.add(rel, "%s and %s", a.Kind, b.Kind)
		return nil
	}
	d.compareStat(rel, a, b)
	if err := d.compareNodes(rel, rel, a, b); err != nil {
		return err
	}
	if a.Kind != Directory && (a.Links > 1 || b.Links > 1) {
		x, y := LinkID{a.Device, a.Inode}, LinkID{b.Device, b.Inode}
		first := d.pairs[x].IsZero() && d.back[y].IsZero()
		if first {
			d.pairs[x], d.back[y] = y, x
		}
		if d.pairs[x] != y || d.back[y] != x {
			d.add(rel, "a further name of different files")
		} else if !first {
			return nil // the same two files were compared under another name
		}
	}
	if a.Kind == File && a.Size == b.Size {
		return d.compareContent(rel, a, b)
	}
	return nil
}

func (d *differ) compareStat(rel string, a, b *Stat) {
	if a.Mode != b.Mode && a.Kind != Symlink {
		d.add(rel, "mode: %04o and %04o", a.Mode, b.Mode)
	}
	if !d.o.IgnoreOwners && (a.UID != b.UID || a.GID != b.GID) {
		d.add(rel, "owner: %d:%d and %d:%d", a.UID, a.GID, b.UID, b.GID)
	}
	if a.ModTime != b.ModTime {
		d.add(rel, "modification time: %d.%09d and %d.%09d", a.ModTime.Sec, a.ModTime.Nsec, b.ModTime.Sec, b.ModTime.Nsec)
	}
	if a.Kind == File && a.Size != b.Size {
		d.add(rel, "size: %d and %d", a.Size, b.Size)
	}
	if a.Rdev != b.Rdev {
		d.add(rel, "device: %d:%d and %d:%d", a.Rdev.Major, a.Rdev.Minor, b.Rdev.Major, b.Rdev.Minor)
	}
}

func (d *differ) compareNodes(rel, name string, a, b *Stat) error {
	var n [2]Node
	last := rel[strings.LastIndexByte(rel, '/')+1:]
	for i, st := range []*Stat{a, b} {
		var err error
		if n[i], err = d.base[i].node(rel, cmp.Or(last, RootName), st, d.owners); err != nil {
			return fmt.Errorf("fstree: comparing %s: %w", name, err)
		}
	}
	if n[0].Target != n[1].Target {
		d.add(name, "link target: %q and %q", n[0].Target, n[1].Target)
	}
	if !d.o.IgnoreXattrs {
		d.compareXattrs(name, n[0].Xattrs, n[1].Xattrs)
	}
	return nil
}

func (d *differ) compareXattrs(name string, x, y []Xattr) {
	for len(x) > 0 || len(y) > 0 {
		switch {
		case len(y) == 0 || len(x) > 0 && x[0].Name < y[0].Name:
			d.add(name, "extended attribute %q only in the first", x[0].Name)
			x = x[1:]
		case len(x) == 0 || y[0].Name < x[0].Name:
			d.add(name, "extended attribute %q only in the second", y[0].Name)
			y = y[1:]
		default:
			if !bytes.Equal(x[0].Value, y[0].Value) {
				d.add(name, "extended attribute %q", x[0].Name)
			}
			x, y = x[1:], y[1:]
		}
	}
}

func (d *differ) compareContent(rel string, a, b *Stat) error {
	var f [2]*OpenFile
	for i, st := range []*Stat{a, b} {
		var err error
		if f[i], err = d.base[i].openFile(rel, st); err != nil {
			return &fs.PathError{Op: "open", Path: rel, Err: err}
		}
		defer f[i].Close()
	}
	x, y := &runReader{f: f[0]}, &runReader{f: f[1]}
	if d.buf[0] == nil {
		d.buf = [2][]byte{make([]byte, 64<<10), make([]byte, 64<<10)}
	}
	bx, by := d.buf[0], d.buf[1]
	for {
		// Where both have a hole nothing needs to be read.
		if skip := min(x.hole(), y.hole()); skip > 0 {
			x.left, y.left = x.left-skip, y.left-skip
			continue
		}
		n, err := x.read(bx)
		if err == nil {
			err = y.readFull(by[:n])
		}
		if err != nil {
			return &fs.PathError{Op: "read", Path: rel, Err: err}
		}
		if n == 0 {
			return nil
		}
		if !bytes.Equal(bx[:n], by[:n]) {
			d.add(rel, "content")
			return nil
		}
	}
}

// A runReader reads a file with its holes as zeros.
type runReader struct {
	f    *OpenFile
	run  Run
	left uint64 // of the run
}

// hole returns how much of a hole is next.
func (r *runReader) hole() uint64 {
	if r.left == 0 {
		run, err := r.f.NextRun()
		if err != nil {
			return 0
		}
		r.run, r.left = run, run.Length
	}
	if r.run.Hole {
		return r.left
	}
	return 0
}

// read returns 0 and no error at the end.
func (r *runReader) read(p []byte) (n int, err error) {
	if r.left == 0 {
		run, err := r.f.NextRun()
		if err == io.EOF {
			return 0, nil
		} else if err != nil {
			return 0, err
		}
		r.run, r.left = run, run.Length
	}
	p = p[:min(uint64(len(p)), r.left)]
	if r.run.Hole {
		clear(p)
		n = len(p)
	} else if n, err = r.f.Read(p); err == io.EOF {
		return 0, io.ErrUnexpectedEOF // shorter than when it was opened
	}
	r.left -= uint64(n)
	return n, err
}

func (r *runReader) readFull(p []byte) error {
	for len(p) > 0 {
		n, err := r.read(p)
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		p = p[n:]
	}
	return nil
}
