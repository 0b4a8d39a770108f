package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/spf13/cobra"

	"cobox/cmd/cobox/ui"
	"cobox/storage/archive"
)

const defaultSpace = "default"

// selection chooses one snapshot of a space.
type selection struct {
	space, snapshot, host string
	tags                  []string
}

func (s *selection) flags(c *cobra.Command) {
	c.Flags().StringVar(&s.space, "space", defaultSpace, "space to look into")
	c.Flags().StringVar(&s.snapshot, "snapshot", "latest", "snapshot: an id, latest, or a time such as 2026-05-01 or 2026-05-01T12:30")
	c.Flags().StringVar(&s.host, "host", "", "only snapshots of this computer")
	c.Flags().StringArrayVar(&s.tags, "tag", nil, "only snapshots with this tag (repeatable)")
}

// path finds what a path on the command line means in the snapshot: relative
// ones are relative to the current folder.
func (s *selection) path(ctx context.Context, a *archive.Archive, snap archive.Snapshot, p string) (string, error) {
	abs, err := filepath.Abs(p)
	if err != nil {
		return "", err
	}
	found := errors.New("found")
	err = a.Ls(ctx, snap, filepath.ToSlash(abs), false, func(archive.Entry) error { return found })
	if errors.Is(err, fs.ErrNotExist) {
		return "", &ui.Failure{Exit: ui.ExitFailed, Code: "no_path", What: fmt.Sprintf("snapshot %s has no %s", snap.ID.Short(), ui.Printable(abs)),
			Hint: "See 'cobox ls' for what it has."}
	}
	return abs, ctx.Err() // whoever uses the path says what else is wrong with it
}

func (s *selection) find(ctx context.Context, app *app, a *archive.Archive) (archive.Snapshot, error) {
	snap, err := a.Find(ctx, archive.Selector{ID: s.snapshot, Host: s.host, Tags: s.tags})
	app.warnUnread(a)
	switch {
	case errors.Is(err, archive.ErrNoSnapshot):
		return snap, &ui.Failure{Exit: ui.ExitFailed, Code: "no_snapshot", What: "no snapshot in space \"" + s.space + "\" matches " + s.snapshot,
			Hint: "See 'cobox snapshots' for those there are."}
	case errors.Is(err, archive.ErrAmbiguous):
		return snap, &ui.Failure{Exit: ui.ExitFailed, Code: "ambiguous_snapshot", What: "more than one snapshot begins with " + s.snapshot,
			Hint: "Give more of the id: see 'cobox snapshots --json'."}
	}
	return snap, err
}

// warnUnread says that the latest snapshot that was found may not be the latest.
func (a *app) warnUnread(r *archive.Archive) {
	if r.Unread() {
		a.ui.Warnf("some blocks cannot be read from what is in reach: there may be snapshots, also newer ones, that are not seen")
	}
}
