package fstree_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"cobox/storage/archive/fstree"
)

// A saved is a node with what is below it, or its data: what a backup keeps.
type saved struct {
	node fstree.Node
	dirs []*saved
	data []run
}

type run struct {
	off int64
	b   []byte
}

// save scans the roots and takes everything in. Listings go through their
// encoding.
func save(t testing.TB, roots []string, o fstree.ScanOptions) *saved {
	t.Helper()
	dirs := make(map[uint64]*saved)
	var top *saved
	err := fstree.Scan(context.Background(), roots, o, func(d *fstree.Dir) error {
		s := new(saved)
		for _, err := range d.Errors {
			t.Logf("scan: %v", err)
		}
		for i := range d.Entries {
			e := &d.Entries[i]
			if e.Kind == fstree.File {
				f, err := saveFile(d, e)
				if err != nil {
					t.Logf("left out: %v", err)
					continue
				}
				s.dirs = append(s.dirs, f)
				continue
			}
			n, err := d.Node(e)
			if err != nil {
				t.Errorf("node: %v", err)
			}
			c := &saved{node: n}
			if e.Dir != 0 {
				c.dirs = dirs[e.Dir].dirs
				c.node.Partial = dirs[e.Dir].node.Partial
			}
			s.dirs = append(s.dirs, c)
		}
		s.node.Partial = d.Partial
		nodes := make([]fstree.Node, len(s.dirs))
		for i, c := range s.dirs {
			nodes[i] = c.node
		}
		b, err := fstree.AppendListing(nil, nodes)
		if err != nil {
			return err
		}
		if nodes, err = fstree.ParseListing(b); err != nil {
			return err
		}
		for i, c := range s.dirs {
			c.node = nodes[i]
		}
		dirs[d.Number], top = s, s
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return top
}

func saveFile(d *fstree.Dir, e *fstree.Entry) (*saved, error) {
	f, err := d.Open(e)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := new(saved)
	if s.node, err = f.Node(); err != nil {
		return nil, err
	}
	for {
		r, err := f.NextRun()
		if err == io.EOF {
			return s, nil
		}
		if err != nil {
			return nil, err
		}
		x := fstree.Extent{Hole: r.Hole, Length: r.Length}
		if !r.Hole {
			b, err := io.ReadAll(f)
			if err != nil {
				return nil, err
			}
			x.ID, x.Length = sha256.Sum256(b), uint64(len(b))
			s.data = append(s.data, run{int64(r.Offset), b})
		}
		s.node.Size += x.Length
		s.node.Content = append(s.node.Content, x)
	}
}

// put restores what is in s into d: small files whole, others by pieces in a
// random order from several goroutines.
func put(d *fstree.TargetDir, s *saved) error {
	var errs []error
	for _, c := range s.dirs {
		errs = append(errs, putOne(d, c))
	}
	return errors.Join(append(errs, d.Close())...)
}

func putOne(d *fstree.TargetDir, c *saved) error {
	n := &c.node
	switch {
	case n.Kind == fstree.Directory:
		sub, err := d.Enter(n)
		if err != nil {
			return err
		}
		return put(sub, c)
	case n.Kind != fstree.File:
		return d.Make(n)
	case len(c.data) == 1 && uint64(len(c.data[0].b)) == n.Size && n.Size < 4096:
		return d.WriteFile(n, c.data[0].b)
	}
	f, err := d.Create(n)
	if err != nil || f == nil {
		return err
	}
	const piece = 3000
	var pieces []run
	for _, r := range c.data {
		for off := 0; off < len(r.b); off += piece {
			pieces = append(pieces, run{r.off + int64(off), r.b[off:min(off+piece, len(r.b))]})
		}
	}
	rand.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
	var wg sync.WaitGroup
	var failed error
	var mu sync.Mutex
	for w := range 3 {
		wg.Go(func() {
			for i := w; i < len(pieces); i += 3 {
				if _, err := f.WriteAt(pieces[i].b, pieces[i].off); err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	if failed != nil {
		f.Abort(failed)
		return failed
	}
	return f.Commit()
}

// restore puts s into dir and returns the statistics. Notes of failures fail
// the test.
func restore(t testing.TB, dir string, s *saved, o fstree.TargetOptions) fstree.TargetStats {
	t.Helper()
	st, err := tryRestore(t, dir, s, o)
	if err != nil {
		t.Fatal(err)
	}
	if st.Failed > 0 {
		t.Fatalf("%d failed", st.Failed)
	}
	return st
}

func tryRestore(t testing.TB, dir string, s *saved, o fstree.TargetOptions) (fstree.TargetStats, error) {
	t.Helper()
	if o.Note == nil {
		o.Note = func(n fstree.Note) { t.Logf("note %d: %s: %v", n.Kind, n.Path, n.Err) }
	}
	if o.MaxOpen == 0 {
		o.MaxOpen = 8
	}
	target, err := fstree.OpenTarget(dir, o)
	if err != nil {
		return fstree.TargetStats{}, err
	}
	defer target.Close()
	putErr := put(target.Root(), s)
	st, err := target.Finish()
	return st, errors.Join(putErr, err)
}

// same fails the test unless the trees at a and b are the same.
func same(t testing.TB, a, b string, o fstree.DiffOptions) {
	t.Helper()
	diffs, err := fstree.Diff(context.Background(), a, b, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range diffs {
		t.Error(d)
	}
}

// randomTree makes directories, files, links and further names, many of each.
func randomTree(t testing.TB, root string, r *rand.Rand, name string, entries int) {
	t.Helper()
	dirs := []string{root}
	var files []string
	for i := range entries {
		p := filepath.Join(dirs[r.IntN(len(dirs))], fmt.Sprintf("entry \xff %s%d", name, i))
		var err error
		switch k := r.IntN(10); {
		case k < 2:
			err = os.Mkdir(p, 0o755)
			dirs = append(dirs, p)
		case k == 2:
			err = os.Symlink(filepath.Base(dirs[r.IntN(len(dirs))]), p)
		case k == 3 && len(files) > 0:
			err = os.Link(files[r.IntN(len(files))], p)
		default:
			b := make([]byte, r.IntN(1<<r.IntN(17)))
			for j := range b {
				b[j] = byte(r.Uint32())
			}
			err = os.WriteFile(p, b, 0o600|os.FileMode(r.IntN(64)))
			files = append(files, p)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestRandomTrees(t *testing.T) {
	for seed := range uint64(6) {
		r := rand.New(rand.NewPCG(seed, 1))
		src := filepath.Join(t.TempDir(), "src")
		if err := os.Mkdir(src, 0o755); err != nil {
			t.Fatal(err)
		}
		randomTree(t, src, r, "", 300)
		dst := filepath.Join(t.TempDir(), "dst")
		s := save(t, []string{src}, fstree.ScanOptions{})
		restore(t, dst, s, fstree.TargetOptions{})
		same(t, src, filepath.Join(dst, src), fstree.DiffOptions{})
		nothingExtra(t, dst, src)

		// Again over itself changes nothing, and changes are taken back.
		st := restore(t, dst, s, fstree.TargetOptions{Overwrite: fstree.OverwriteIfChanged})
		if st.Files+st.Links+st.Others+st.Dirs > 0 {
			t.Errorf("seed %d: second restore: %+v", seed, st)
		}
		randomTree(t, filepath.Join(dst, src), r, "more", 40)
		for _, p := range []fstree.Overwrite{fstree.OverwriteIfChanged, fstree.OverwriteAlways} {
			restore(t, dst, s, fstree.TargetOptions{Overwrite: p, Delete: true})
			same(t, src, filepath.Join(dst, src), fstree.DiffOptions{})
		}
		nothingExtra(t, dst, src)
	}
}

// nothingExtra checks that in dst there is nothing but the way to path.
func nothingExtra(t testing.TB, dst, path string) {
	t.Helper()
	for p := filepath.Dir(path); ; p = filepath.Dir(p) {
		list, err := os.ReadDir(filepath.Join(dst, p))
		if err != nil {
			t.Fatal(err)
		}
		if len(list) != 1 {
			t.Errorf("%s: %v", filepath.Join(dst, p), list)
		}
		if p == string(filepath.Separator) {
			return
		}
	}
}
