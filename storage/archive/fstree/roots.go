package fstree

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// A rootTree is the tree of the roots that were asked for and of the
// directories above them. A nil *rootTree asks for nothing.
type rootTree struct {
	name     string
	path     string // absolute, in the system's form; "" above Windows volumes
	isRoot   bool
	slash    bool // a root given with a slash at its end: a link is followed
	above    *rootTree
	children map[string]*rootTree
}

// topPath is the path of the directory above all others.
const topPath = "/"

func newRootTree(roots []string) (*rootTree, error) {
	top := &rootTree{path: topPath}
	if runtime.GOOS == "windows" {
		top.path = ""
	}
	for _, r := range roots {
		abs, err := filepath.Abs(r)
		if err != nil {
			return nil, fmt.Errorf("fstree: root %q: %w", r, err)
		}
		names, paths := splitAbs(abs)
		t := top
		for i, name := range names {
			c := t.children[name]
			if c == nil {
				c = &rootTree{name: name, path: paths[i], above: t}
				if t.children == nil {
					t.children = make(map[string]*rootTree)
				}
				t.children[name] = c
			}
			t = c
		}
		t.isRoot = true
		if s := string(os.PathSeparator); len(names) > 0 && (strings.HasSuffix(r, s) || strings.HasSuffix(r, s+".")) {
			t.slash = true
		}
	}
	if len(roots) == 0 {
		return nil, ErrNoRoot
	}
	return top, nil
}

// splitAbs returns the components of a clean absolute path and the path up to
// each of them. A Windows volume is a component without its colon.
func splitAbs(abs string) (names, paths []string) {
	sep := string(os.PathSeparator)
	at := sep
	rest := abs
	if v := filepath.VolumeName(abs); v != "" {
		rest = abs[len(v):]
		at = v + sep
		names = append(names, strings.Map(func(r rune) rune {
			if strings.ContainsRune(`\/:?`, r) {
				return -1
			}
			return r
		}, v))
		paths = append(paths, at)
	}
	for name := range strings.SplitSeq(rest, sep) {
		if name == "" {
			continue
		}
		at = joinOS(at, name)
		names = append(names, name)
		paths = append(paths, at)
	}
	return names, paths
}

// check returns ErrNoRoot, with the reasons, if no root is there.
func (t *rootTree) check() error {
	errs := []error{ErrNoRoot}
	var visit func(*rootTree) bool
	visit = func(t *rootTree) bool {
		if t.isRoot {
			if _, err := statPath(cmp.Or(t.path, topPath), t.slash); err == nil {
				return true
			} else {
				errs = append(errs, &fs.PathError{Op: "lstat", Path: t.path, Err: err})
			}
		}
		return slices.ContainsFunc(t.sorted(), visit)
	}
	if visit(t) {
		return nil
	}
	return errors.Join(errs...)
}

func (t *rootTree) child(name string) *rootTree {
	if t == nil {
		return nil
	}
	return t.children[name]
}

func (t *rootTree) sorted() []*rootTree {
	var all []*rootTree
	for _, c := range t.children {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *rootTree) int { return strings.Compare(a.name, b.name) })
	return all
}

// slashPath returns the components joined by "/", for the exclusion rules.
func (t *rootTree) slashPath() string {
	var names []string
	for ; t.above != nil; t = t.above {
		names = append(names, t.name)
	}
	slices.Reverse(names)
	return strings.Join(names, "/")
}
