package fstree_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cobox/storage/archive/fstree"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// build makes a tree from lines: "dir/", "file=content", "link->target".
func build(t testing.TB, root string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		var err error
		if name, target, ok := strings.Cut(l, "->"); ok {
			p := filepath.Join(root, name)
			if err = os.MkdirAll(filepath.Dir(p), 0o755); err == nil {
				err = os.Symlink(target, p)
			}
		} else if strings.HasSuffix(l, "/") {
			err = os.MkdirAll(filepath.Join(root, l), 0o755)
		} else {
			name, content, _ := strings.Cut(l, "=")
			p := filepath.Join(root, name)
			if err = os.MkdirAll(filepath.Dir(p), 0o755); err == nil {
				err = os.WriteFile(p, []byte(content), 0o644)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// scanned runs a scan and returns the paths below root in the order in which
// they were handed out, directories with a slash after what is in them, and
// the errors.
func scanned(t testing.TB, root string, roots []string, o fstree.ScanOptions) (paths []string, errs []error) {
	t.Helper()
	seen := make(map[uint64]bool)
	err := fstree.Scan(context.Background(), roots, o, func(d *fstree.Dir) error {
		if !slices.IsSortedFunc(d.Entries, func(a, b fstree.Entry) int { return strings.Compare(a.Name, b.Name) }) {
			t.Errorf("%s: entries not in order", d.Path())
		}
		for _, e := range d.Entries {
			if e.Dir != 0 && !seen[e.Dir] {
				t.Errorf("%s: child %s not handed out before", d.Path(), e.Name)
			}
			if p, err := filepath.Rel(root, filepath.Join(d.Path(), e.Name)); err == nil && e.Kind != fstree.Directory && !strings.HasPrefix(p, "..") {
				paths = append(paths, p)
			}
		}
		if p, err := filepath.Rel(root, d.Path()); err == nil && !strings.HasPrefix(p, "..") {
			paths = append(paths, p+"/")
		}
		seen[d.Number] = true
		errs = append(errs, d.Errors...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths, errs
}

func TestScanOrder(t *testing.T) {
	root := t.TempDir()
	build(t, root, "b/x=1", "b/sub/y=2", "a=3", "c/", "b/sub/deep/z=4", "l->b", "loop->loop", "b/up->..")
	want := strings.Fields("b/sub/deep/z b/sub/deep/ b/sub/y b/sub/ b/up b/x b/ c/ a l loop ./")
	for _, workers := range []int{1, 2, 8} {
		got, errs := scanned(t, root, []string{root}, fstree.ScanOptions{Workers: workers})
		if !slices.Equal(got, want) || len(errs) > 0 {
			t.Errorf("%d workers: %q, %v\nwant %q", workers, got, errs, want)
		}
	}
}

func TestScanRoots(t *testing.T) {
	root := t.TempDir()
	build(t, root, "a/f=1", "a/g=2", "b/c/f=1", "b/d/f=1", "file=1", "link->a", "b/skipped/in/f=1")
	at := func(names ...string) []string {
		for i := range names {
			names[i] = root + "/" + names[i]
		}
		return names
	}
	nothing, err := fstree.ParsePatterns([]string{"skipped", "file"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		roots []string
		want  string
	}{
		{"parts of a directory", at("b/c", "a/f"), "a/f a/ b/c/f b/c/ b/ ./"},
		{"a link is a link", at("link"), "link ./"},
		{"a link with a slash is its directory", at("link/"), "link/f link/g link/ ./"},
		{"what lies behind a link above the root", at("link/f"), "link/f link/ ./"},
		{"a root in a root", at("b", "b/c"), "b/c/f b/c/ b/d/f b/d/ b/ ./"},
		{"a root that the rules would leave out", at("file", "b/skipped/in", "b"), "b/c/f b/c/ b/d/f b/d/ b/skipped/in/f b/skipped/in/ b/skipped/ b/ file ./"},
		{"one of two is not there", at("a", "none"), "a/f a/g a/ ./"},
	} {
		got, errs := scanned(t, root, c.roots, fstree.ScanOptions{Exclude: nothing})
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%s: %s\nwant %s", c.name, g, c.want)
		}
		if missing := strings.Contains(c.name, "not there"); missing != (len(errs) == 1) {
			t.Errorf("%s: errors %v", c.name, errs)
		}
	}
	err = fstree.Scan(context.Background(), at("none", "nor/this"), fstree.ScanOptions{}, func(*fstree.Dir) error { return nil })
	if !errors.Is(err, fstree.ErrNoRoot) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no root: %v", err)
	}
}

func TestScanOptions(t *testing.T) {
	root := t.TempDir()
	const tag = "Signature: 8a477f597d28d172789f06886806bc55\n# more"
	build(t, root, "cache/CACHEDIR.TAG="+tag, "cache/big=1", "cache/sub/big=1", "fake/CACHEDIR.TAG=Signature", "fake/kept=1", "state/db=1", "f=1")
	got, _ := scanned(t, root, []string{root}, fstree.ScanOptions{ExcludeCaches: true, Skip: []string{filepath.Join(root, "state"), filepath.Join(root, "none")}})
	if g, want := strings.Join(got, " "), "cache/CACHEDIR.TAG cache/ fake/CACHEDIR.TAG fake/kept fake/ f ./"; g != want {
		t.Errorf("got  %s\nwant %s", g, want)
	}
}

func TestScanEnds(t *testing.T) {
	root := t.TempDir()
	for i := range 200 {
		build(t, root, fmt.Sprintf("d%d/e/f=1", i))
	}
	stop := errors.New("stop")
	if err := fstree.Scan(context.Background(), []string{root}, fstree.ScanOptions{}, func(*fstree.Dir) error { return stop }); err != stop {
		t.Errorf("error of fn: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	calls := 0
	err := fstree.Scan(ctx, []string{root}, fstree.ScanOptions{}, func(*fstree.Dir) error {
		if calls++; calls == 10 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || calls != 10 {
		t.Errorf("cancelled: %v after %d calls", err, calls)
	}
}

func BenchmarkScan(b *testing.B) {
	for _, size := range []struct{ dirs, files int }{{625, 32}, {3125, 32}} {
		b.Run(fmt.Sprint(size.dirs*size.files), func(b *testing.B) {
			root := b.TempDir()
			for i := range size.dirs {
				dir := filepath.Join(root, fmt.Sprintf("%02d/%03d", i%25, i/25))
				if err := os.MkdirAll(dir, 0o755); err != nil {
					b.Fatal(err)
				}
				for j := range size.files {
					if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("document %d.txt", j)), nil, 0o644); err != nil {
						b.Fatal(err)
					}
				}
			}
			for b.Loop() {
				files := 0
				err := fstree.Scan(context.Background(), []string{root}, fstree.ScanOptions{}, func(d *fstree.Dir) error {
					d.Fingerprint()
					files += len(d.Entries)
					return nil
				})
				if err != nil || files < size.dirs*size.files {
					b.Fatal(files, err)
				}
			}
		})
	}
}
