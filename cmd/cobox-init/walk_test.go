//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cobox/image/layout"
)

// TestWalkBounds walks trees that no box makes: nothing is done with any.
func TestWalkBounds(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("giving a file to coboxd needs root")
	}
	deep := boxDir(t)
	if err := os.MkdirAll(filepath.Join(deep, "db", strings.Repeat("d/", maxDepth)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := copyTree(t.Context(), openTree(t, deep), openTree(t, t.TempDir()), untold); !errors.Is(err, errTooMuch) {
		t.Errorf("copying: %v", err)
	}
	if err := tidyCard(t.Context(), deep, layout.DataDiskID{1}); !errors.Is(err, errTooMuch) {
		t.Errorf("tidying: %v", err)
	}
	if _, err := os.Stat(filepath.Join(deep, "db/000001.sst")); err != nil {
		t.Errorf("something was removed: %v", err)
	}
	// As deep as may be.
	last := boxDir(t)
	if err := os.MkdirAll(filepath.Join(last, strings.Repeat("d/", maxDepth-1)), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := openTree(t, last).list(); err != nil {
		t.Error(err)
	}

	wide := t.TempDir()
	for i := range 3 * namesAtOnce {
		if err := os.WriteFile(filepath.Join(wide, fmt.Sprintf("%04d", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all := func(string, os.FileMode) bool { return false }
	for _, c := range []struct {
		entries, paths int
		want           error
	}{
		{3 * namesAtOnce, 4 * 3 * namesAtOnce, nil},
		{3*namesAtOnce - 1, maxPaths, errTooMuch},
		{maxEntries, 4*3*namesAtOnce - 1, errTooMuch},
	} {
		w := newWalker(openTree(t, wide).root, all)
		w.entries, w.paths = c.entries, c.paths
		if err := w.walk(".", 0); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v", c, err)
		} else if err == nil && (len(w.all) != 3*namesAtOnce+1 || w.all[1].name != "0000" || w.all[257].name != "0256") {
			t.Errorf("%d entries, %+v", len(w.all), w.all[:2])
		}
	}
	// What a directory has become since it was seen holds nothing up.
	swapped := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(swapped, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newWalker(openTree(t, swapped).root, all).names("fifo"); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a FIFO as a directory: %v", err)
	}
}

// TestShowReadOnly shows a waiting coboxd what it cannot change.
func TestShowReadOnly(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	for _, readOnly := range []bool{false, true} {
		if err := bind(from, to, readOnly); errors.Is(err, unix.EPERM) {
			t.Skip("mounting needs root")
		} else if err != nil {
			t.Fatal(err)
		}
		err := os.WriteFile(filepath.Join(to, "f"), nil, 0o600)
		if readOnly != errors.Is(err, unix.EROFS) || !readOnly && err != nil {
			t.Errorf("read-only %v: %v", readOnly, err)
		}
		if err := os.WriteFile(filepath.Join(from, "g"), nil, 0o600); err != nil {
			t.Errorf("init cannot write any more: %v", err)
		}
		if err := unix.Unmount(to, 0); err != nil {
			t.Fatal(err)
		}
	}
}
