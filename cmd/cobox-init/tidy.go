//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path"
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
	names, err := namesIn(root, ".")
	if err != nil {
		return fmt.Errorf("data: removing what was moved: %w", err)
	}
	for _, name := range names {
		if slices.Contains(stays, name) {
			continue
		}
		if err := removeAll(ctx, root, name); err != nil {
			return fmt.Errorf("data: removing what was moved: %w", err)
		}
	}
	return syncDir(card)
}

// removeAll removes a file or directory. It ends early when ctx does: there may be
// much.
func removeAll(ctx context.Context, root *os.Root, name string) error {
	info, err := root.Lstat(name)
	if err != nil {
		return err
	}
	if info.IsDir() {
		inside, err := namesIn(root, name)
		if err != nil {
			return err
		}
		for _, n := range inside {
			if err := removeAll(ctx, root, path.Join(name, n)); err != nil {
				return err
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return root.Remove(name)
}

func namesIn(root *os.Root, name string) ([]string, error) {
	dir, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}
