package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"cobox/storage/archive/fstree"
)

// Entry is one file of a snapshot as Ls reports it.
type Entry struct {
	Path    string // absolute, with "/"; names are bytes, not necessarily UTF-8
	Kind    fstree.Kind
	Mode    uint16 // permission, set-id and sticky bits
	UID     uint32
	GID     uint32
	User    string
	Group   string
	Size    uint64 // of a regular file
	ModTime time.Time
	Target  string // of a symlink
}

// Ls reports what lies at an absolute path of a snapshot and, of a directory,
// what lies in it, or if recursive, below it. Directories of which something
// is lost are reported as far as they are there; the error, returned at the
// end, names the first.
func (a *Archive) Ls(ctx context.Context, s Snapshot, at string, recursive bool, fn func(Entry) error) error {
	r, err := a.newChunkReader(ctx)
	if err != nil {
		return err
	}
	defer r.close()
	at = path.Clean("/" + at)
	node := s.root
	here := "/"
	for name := range strings.SplitSeq(strings.Trim(at, "/"), "/") {
		if name == "" {
			break
		}
		var list []fstree.Node
		if node.Kind == fstree.Directory {
			list, err = r.read(ctx, &node)
		}
		found := false
		for i := range list {
			if list[i].Name == name {
				node, found = list[i], true
			}
		}
		here = path.Join(here, name)
		if !found {
			if err != nil {
				return fmt.Errorf("archive: %s: %w", here, err)
			}
			return &fs.PathError{Op: "ls", Path: here, Err: fs.ErrNotExist}
		}
	}
	if err := fn(entryOf(here, &node)); err != nil {
		return err
	}
	if node.Kind != fstree.Directory {
		return nil
	}
	var bad error
	var walk func(dir string, n *fstree.Node) error
	walk = func(dir string, n *fstree.Node) error {
		list, err := r.read(ctx, n)
		if errors.Is(err, errDamaged) {
			if bad == nil {
				bad = fmt.Errorf("archive: %s: %w", dir, err)
			}
		} else if err != nil {
			return err
		}
		if recursive {
			if err := r.prefetch(ctx, list); err != nil {
				return err
			}
		}
		for i := range list {
			p := path.Join(dir, list[i].Name)
			if err := fn(entryOf(p, &list[i])); err != nil {
				return err
			}
			if recursive && list[i].Kind == fstree.Directory {
				if err := walk(p, &list[i]); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := walk(here, &node); err != nil {
		return err
	}
	return bad
}

func entryOf(p string, n *fstree.Node) Entry {
	e := Entry{
		Path: p, Kind: n.Kind, Mode: n.Mode, UID: n.UID, GID: n.GID,
		User: n.User, Group: n.Group, ModTime: n.ModTime.Time(), Target: n.Target,
	}
	if n.Kind == fstree.File {
		e.Size = n.Size
	}
	return e
}
