//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of what init lists of coboxd's directory. coboxd's own stays far below
// them; somebody who has taken it over could make what fills all memory.
const (
	maxDepth   = 16
	maxEntries = 200_000
	maxPaths   = 16 << 20 // bytes of all of their paths
	// namesAtOnce are read of a directory in one go.
	namesAtOnce = 256
)

// entry is a file or directory of a tree.
type entry struct {
	name     string // "." is the root
	mode     os.FileMode
	size     int64
	modified time.Time
	uid, gid uint32
}

// walker lists what is below a root, directories before what is in them, in the
// order of their names.
type walker struct {
	root    *os.Root
	leave   func(name string, mode os.FileMode) bool // what is left out, with all that is in it
	entries int                                      // that may come yet
	paths   int                                      // bytes of paths that may come yet
	all     []entry
}

func newWalker(root *os.Root, leave func(name string, mode os.FileMode) bool) *walker {
	return &walker{root: root, leave: leave, entries: maxEntries, paths: maxPaths}
}

// errTooMuch says that there is more than coboxd ever makes.
var errTooMuch = errors.New("it has more files and directories than a box has, or they lie deeper")

func (w *walker) walk(name string, depth int) error {
	info, err := w.root.Lstat(name)
	if err != nil {
		return err
	}
	if w.leave(name, info.Mode()) {
		return nil
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: its owner is unknown", name)
	}
	w.all = append(w.all, entry{name, info.Mode(), info.Size(), info.ModTime(), stat.Uid, stat.Gid})
	if !info.IsDir() {
		return nil
	}
	if depth == maxDepth {
		return errTooMuch
	}
	names, err := w.names(name)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := w.walk(n, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// names returns the paths of what is in a directory. It is closed again before
// one in it is opened.
func (w *walker) names(name string) ([]string, error) {
	dir, err := w.root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var all []string
	for {
		some, err := dir.Readdirnames(namesAtOnce)
		for _, n := range some {
			p := path.Join(name, n)
			w.entries--
			w.paths -= len(p)
			if w.entries < 0 || w.paths < 0 {
				return nil, errTooMuch
			}
			all = append(all, p)
		}
		if errors.Is(err, io.EOF) {
			slices.SortFunc(all, strings.Compare)
			return all, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
