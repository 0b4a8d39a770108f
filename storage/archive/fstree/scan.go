package fstree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// ScanOptions are the choices of a scan; the zero value takes everything.
type ScanOptions struct {
	// Exclude leaves out what its rules match, but never a root itself.
	Exclude *Patterns
	// ExcludeCaches keeps of a directory with a valid CACHEDIR.TAG
	// (https://bford.info/cachedir/) only the directory and the tag.
	ExcludeCaches bool
	// OneFileSystem does not descend into other file systems than that of the
	// root; their mount points are kept as empty directories.
	OneFileSystem bool
	// Skip are paths to leave out wherever they are met, found by device and
	// inode: the program's own state.
	Skip []string
	// Workers is how many goroutines read directories ahead; 0 means one for
	// each processor, and two at least.
	Workers int
}

// ErrNoRoot means that none of the roots of a scan is there.
var ErrNoRoot = errors.New("fstree: nothing to scan")

// lookAhead bounds the entries that were read and not yet handed out. The
// directories on the way to the one that is needed next come on top.
const lookAhead = 1 << 16

// An Entry is one name in a scanned directory.
type Entry struct {
	Name string
	Stat
	// Dir is the Number of the directory's own Dir, which was handed out
	// before; 0 for what is no directory or was not descended into.
	Dir uint64
}

// A Dir is one scanned directory. It stays usable after it was handed out,
// from several goroutines, until Scan returns.
type Dir struct {
	Number uint64 // unique in the scan, never 0
	Stat   Stat
	// Partial marks a directory above a root: Entries are only those that
	// lead to roots.
	Partial bool
	// Incomplete means that the directory could not be read to its end.
	Incomplete bool
	Entries    []Entry // in ascending order of the names' bytes
	Errors     []error // of the directory and its entries, mostly *fs.PathError

	node *scanNode
}

// Path returns the absolute path of d. It is made of the root as it was given
// and may be longer than the system takes as a path.
func (d *Dir) Path() string { return d.node.path() }

// Name returns the last component of the path, or RootName.
func (d *Dir) Name() string {
	if d.node.parent == nil {
		return RootName
	}
	return d.node.name
}

// Fingerprint digests the names and stat data of all entries: as long as it
// stays the same, so do the nodes of this directory, except for the listings
// of directories in it and for what Stat.RacyAt warns of.
func (d *Dir) Fingerprint() [32]byte { return d.fingerprint() }

// Node returns the metadata of an entry of d with everything but Size and
// Content, which are the caller's. With an error that concerns a single
// attribute the node is usable without it; its Name is then not empty.
func (d *Dir) Node(e *Entry) (Node, error) {
	b, rel := d.node.locate()
	return b.node(joinRel(rel, e.Name), e.Name, &e.Stat, d.node.scan.owners)
}

// SelfNode returns the metadata of d itself, with the name that it has in the
// directory above it, or RootName.
func (d *Dir) SelfNode() (Node, error) {
	b, rel := d.node.locate()
	return b.node(rel, d.Name(), &d.Stat, d.node.scan.owners)
}

// Open opens a regular file of d for reading. If another file or something
// other than a file has taken its place, the error wraps ErrReplaced.
func (d *Dir) Open(e *Entry) (*OpenFile, error) {
	if e.Kind != File {
		return nil, fmt.Errorf("fstree: open %s %s: not a regular file", e.Kind, joinOS(d.Path(), e.Name))
	}
	b, rel := d.node.locate()
	f, err := b.openFile(joinRel(rel, e.Name), &e.Stat)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: joinOS(d.Path(), e.Name), Err: err}
	}
	f.name, f.owners = e.Name, d.node.scan.owners
	return f, nil
}

// Scan walks the trees below the roots and calls fn with each directory, after
// it was called with all directories in it: siblings in the order of their
// names, so always in the same order, and at last with the directory above
// all others (Partial unless it is a root itself), whose Path is "/". Roots
// may be files; a root that is a symbolic link is taken as a link unless it is
// given with a slash at its end. Links above a root are followed. Below a root
// none is.
//
// fn is called from one goroutine. Scan reads ahead in others while fn runs;
// it holds some 65,536 entries ahead at most. An error of fn or the end of ctx
// ends the scan. Everything else that goes wrong is in Dir.Errors, except
// that none of the roots exists, which is ErrNoRoot.
func Scan(ctx context.Context, roots []string, o ScanOptions, fn func(*Dir) error) error {
	top, err := newRootTree(roots)
	if err != nil {
		return err
	}
	if err := top.check(); err != nil {
		return err
	}
	s := &scan{o: o, owners: newOwnerNames()}
	s.cond.L = &s.mu
	defer s.closeBases()
	for _, p := range o.Skip {
		if st, err := statPath(p, true); err == nil && st.Inode != 0 {
			s.skip = append(s.skip, st)
		}
	}
	root := &scanNode{scan: s, root: top}
	workers := o.Workers
	if workers <= 0 {
		workers = max(2, runtime.GOMAXPROCS(0))
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(s.work)
	}
	stop := context.AfterFunc(ctx, s.stop)
	err = s.walk(ctx, root, fn)
	stop()
	s.stop()
	wg.Wait()
	return err
}

type scan struct {
	o      ScanOptions
	skip   []Stat
	owners *ownerNames

	mu      sync.Mutex
	cond    sync.Cond
	stopped bool
	stack   []*scanNode // what to read next, the next one last
	ahead   int         // entries read and not yet handed out
	number  uint64
	bases   []*base
}

// Steps in the life of a scanNode, under scan.mu.
const (
	waiting = iota
	reading
	ready
)

// A scanNode is a directory on the way from being met to being handed out.
type scanNode struct {
	scan   *scan
	parent *scanNode
	name   string
	number uint64
	stat   Stat
	root   *rootTree // what was asked for by name here or below, or nil
	whole  bool      // lies in a root, so all entries count
	match  *matcher  // of the root it lies in
	device uint64    // of the root it lies in

	base *base // own handle, or nil: reached from the parent's

	state    int // scan.mu
	dir      *Dir
	children []*scanNode
}

// walk hands out the directories in order. It reads a directory itself when
// no worker has begun to, so it never waits for room that it must make.
func (s *scan) walk(ctx context.Context, root *scanNode, fn func(*Dir) error) error {
	type level struct {
		n    *scanNode
		next int
	}
	path := []level{{n: root}}
	for len(path) > 0 {
		l := &path[len(path)-1]
		if l.next == 0 {
			s.need(l.n)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if l.next < len(l.n.children) {
			c := l.n.children[l.next]
			l.next++
			path = append(path, level{n: c})
			continue
		}
		d := l.n.dir
		if err := fn(d); err != nil {
			return err
		}
		l.n.dir, l.n.children = nil, nil
		path = path[:len(path)-1]
		if len(path) > 0 {
			path[len(path)-1].n.children[path[len(path)-1].next-1] = nil
		}
		s.mu.Lock()
		s.ahead -= len(d.Entries)
		s.mu.Unlock()
		s.cond.Broadcast()
	}
	return nil
}

// need returns when n has been read.
func (s *scan) need(n *scanNode) {
	s.mu.Lock()
	if n.state == waiting {
		n.state = reading
		s.mu.Unlock()
		s.read(n)
		return
	}
	for n.state != ready {
		s.cond.Wait()
	}
	s.mu.Unlock()
}

// work reads directories ahead, the next one needed first.
func (s *scan) work() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for !s.stopped && (len(s.stack) == 0 || s.ahead >= lookAhead) {
			s.cond.Wait()
		}
		if s.stopped {
			return
		}
		n := s.stack[len(s.stack)-1]
		s.stack[len(s.stack)-1] = nil
		s.stack = s.stack[:len(s.stack)-1]
		if n.state != waiting {
			continue
		}
		n.state = reading
		s.mu.Unlock()
		s.read(n)
		s.mu.Lock()
	}
}

func (s *scan) stop() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.cond.Broadcast()
}

// read fills n.dir and n.children and makes n ready.
func (s *scan) read(n *scanNode) {
	d := &Dir{Stat: n.stat, node: n}
	var children []*scanNode
	if n.whole {
		children = s.readWhole(n, d)
	} else {
		children = s.readPartial(n, d)
	}
	s.mu.Lock()
	for _, c := range children {
		s.number++
		c.number = s.number
	}
	if n.number == 0 { // the top
		s.number++
		n.number = s.number
	}
	d.Number = n.number
	next := 0
	for i := range d.Entries {
		e := &d.Entries[i]
		if next < len(children) && children[next].name == e.Name {
			e.Dir = children[next].number
			next++
		}
	}
	for _, c := range slices.Backward(children) {
		s.stack = append(s.stack, c)
	}
	n.dir, n.children, n.state = d, children, ready
	s.ahead += len(d.Entries)
	s.mu.Unlock()
	s.cond.Broadcast()
}

// readWhole reads a directory in a root.
func (s *scan) readWhole(n *scanNode, d *Dir) []*scanNode {
	b, rel := n.locate()
	if s.o.OneFileSystem && n.stat.Device != n.device {
		return nil
	}
	list, errs, err := b.readDir(rel, &n.stat)
	for _, e := range errs {
		d.Errors = append(d.Errors, &fs.PathError{Op: "lstat", Path: joinOS(n.path(), e.name), Err: e.err})
	}
	if err != nil {
		d.Incomplete = true
		d.Errors = append(d.Errors, &fs.PathError{Op: "read directory", Path: n.path(), Err: err})
	}
	if s.o.ExcludeCaches {
		if _, ok := findEntry(list, cacheTag); ok && b.hasCacheTag(joinRel(rel, cacheTag)) {
			list = slices.DeleteFunc(list, func(e Entry) bool { return e.Name != cacheTag && n.root.child(e.Name) == nil })
		}
	}
	var relPrefix, absPrefix string
	if n.match != nil {
		relPrefix, absPrefix = n.patternPrefixes()
	}
	var children []*scanNode
	keep := list[:0]
	for i := range list {
		e := list[i]
		asked := n.root.child(e.Name)
		whole := true
		if asked == nil || !asked.isRoot {
			if s.skips(&e.Stat) || n.match != nil && n.match.match(relPrefix+e.Name, absPrefix+e.Name, e.Kind == Directory) {
				if asked == nil {
					continue
				}
				whole = false // left out, but for what was asked for in it
			}
		}
		switch {
		case e.Kind == Directory:
			c := &scanNode{scan: s, parent: n, name: e.Name, stat: e.Stat, root: asked, whole: whole, match: n.match, device: n.device}
			if asked != nil && asked.isRoot {
				c.device, c.match = e.Device, s.o.Exclude.forRoot(asked.slashPath())
			}
			children = append(children, c)
		case asked != nil && len(asked.children) > 0:
			d.Errors = append(d.Errors, fmt.Errorf("fstree: %s is no directory, so nothing below it is taken", joinOS(n.path(), e.Name)))
		}
		keep = append(keep, e)
	}
	clear(list[len(keep):])
	d.Entries = keep
	return children
}

// readPartial looks only at what was asked for by name, and follows links on
// the way to it.
func (s *scan) readPartial(n *scanNode, d *Dir) []*scanNode {
	d.Partial = true
	path := n.root.path
	if n.parent == nil {
		path = topPath
		if st, err := statPath(topPath, true); err == nil {
			n.stat, d.Stat = st, st
		}
		if n.root.isRoot {
			d.Partial, n.whole, n.device = false, true, n.stat.Device
			n.match = s.o.Exclude.forRoot("")
		}
	}
	if err := s.openBase(n, path); err != nil {
		d.Incomplete = true
		d.Errors = append(d.Errors, &fs.PathError{Op: "open", Path: path, Err: err})
		return nil
	}
	if n.whole {
		return s.readWhole(n, d)
	}
	var children []*scanNode
	for _, c := range n.root.sorted() {
		follow := !c.isRoot || c.slash
		st, err := statPath(c.path, follow)
		if err == nil && follow && st.Kind != Directory {
			err = errNotDirectory
		}
		if err != nil {
			d.Errors = append(d.Errors, &fs.PathError{Op: "lstat", Path: c.path, Err: err})
			continue
		}
		d.Entries = append(d.Entries, Entry{Name: c.name, Stat: st})
		if st.Kind != Directory {
			continue
		}
		sub := &scanNode{scan: s, parent: n, name: c.name, stat: st, root: c}
		if c.isRoot {
			sub.whole, sub.device, sub.match = true, st.Device, s.o.Exclude.forRoot(c.slashPath())
			if c.slash {
				if err := s.openBase(sub, c.path); err != nil {
					d.Errors = append(d.Errors, &fs.PathError{Op: "open", Path: c.path, Err: err})
				}
			}
		}
		children = append(children, sub)
	}
	return children
}

// openBase gives n a handle of its own, reached by a path that may contain
// links. If that fails n has none that works, and says so when it is used.
func (s *scan) openBase(n *scanNode, path string) error {
	b, err := openBase(path)
	n.base = b
	s.mu.Lock()
	s.bases = append(s.bases, b)
	s.mu.Unlock()
	return err
}

func (s *scan) skips(st *Stat) bool {
	for i := range s.skip {
		if s.skip[i].SameFile(st) {
			return true
		}
	}
	return false
}

func (s *scan) closeBases() {
	for _, b := range s.bases {
		b.close()
	}
}

// locate returns the handle from which n is reached and the path from there,
// empty for the handle itself.
func (n *scanNode) locate() (*base, string) {
	var names []string
	for ; n.base == nil; n = n.parent {
		names = append(names, n.name)
	}
	slices.Reverse(names)
	return n.base, strings.Join(names, "/")
}

func (n *scanNode) path() string {
	var names []string
	for ; n.parent != nil && (n.root == nil || n.root.path == ""); n = n.parent {
		names = append(names, n.name)
	}
	p := topPath
	if n.root != nil && n.root.path != "" {
		p = n.root.path
	}
	slices.Reverse(names)
	return joinOS(p, names...)
}

// patternPrefixes returns what stands before the name of an entry of n in a
// path relative to the root, and in the absolute one without its first slash.
func (n *scanNode) patternPrefixes() (rel, abs string) {
	var names []string
	for ; n.root == nil || !n.root.isRoot; n = n.parent {
		names = append(names, n.name)
	}
	slices.Reverse(names)
	for _, name := range names {
		rel += name + "/"
	}
	abs = rel
	if p := n.root.slashPath(); p != "" {
		abs = p + "/" + rel
	}
	return rel, abs
}

func findEntry(list []Entry, name string) (int, bool) {
	return slices.BinarySearchFunc(list, name, func(e Entry, s string) int { return strings.Compare(e.Name, s) })
}

func joinRel(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

func joinOS(dir string, names ...string) string {
	var b strings.Builder
	b.WriteString(dir)
	for i, n := range names {
		if i > 0 || !strings.HasSuffix(dir, string(os.PathSeparator)) {
			b.WriteByte(os.PathSeparator)
		}
		b.WriteString(n)
	}
	return b.String()
}

const cacheTag = "CACHEDIR.TAG"

// cacheSignature begins a valid tag, as the specification of the tag says.
const cacheSignature = "Signature: 8a477f597d28d172789f06886806bc55"

var errNotDirectory = errors.New("not a directory")
