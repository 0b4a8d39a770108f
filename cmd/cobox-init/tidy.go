//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"cobox/appliance/datadir"
	"cobox/image/layout"
)

// tidyCard marks the card's directory as one whose data was moved, and then
// removes the data there. What a crash leaves is removed the next time.
func tidyCard(ctx context.Context, card string, id layout.DataDiskID) error {
	mark := filepath.Join(card, datadir.MovedFile)
	want := datadir.AppendMoved(nil, id)
	if have, err := readSmall(mark); err != nil || !bytes.Equal(have, want) {
		if err := writeDurably(mark, want, 0o600, daemonUID); err != nil {
			return fmt.Errorf("data: marking what was moved: %w", err)
		}
	}
	root, err := os.OpenRoot(card)
	if err != nil {
		return fmt.Errorf("data: removing what was moved: %w", err)
	}
	defer root.Close()
	// All is listed before anything is removed: of a tree that is no box's nothing is.
	w := newWalker(root, func(name string, _ os.FileMode) bool { return slices.Contains(stays, name) })
	if err := w.walk(".", 0); err != nil {
		return fmt.Errorf("data: removing what was moved: %w", err)
	}
	for _, e := range slices.Backward(w.all[1:]) {
		// There may be much.
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("data: removing what was moved: %w", err)
		}
		if err := root.Remove(e.name); err != nil {
			return fmt.Errorf("data: removing what was moved: %w", err)
		}
	}
	return syncDir(card)
}
