package main

import (
	"context"
	"errors"

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

func (s *selection) find(ctx context.Context, a *archive.Archive) (archive.Snapshot, error) {
	snap, err := a.Find(ctx, archive.Selector{ID: s.snapshot, Host: s.host, Tags: s.tags})
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
