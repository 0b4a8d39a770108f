package main

import (
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"cobox/cmd/cobox/ui"
	"cobox/storage/archive"
	"cobox/storage/archive/fstree"
)

type entryEvent struct {
	ui.Name
	Kind   string   `json:"kind"` // file, dir, symlink, block, char, fifo, socket
	Mode   string   `json:"mode"` // octal
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	User   string   `json:"user,omitempty"`
	Group  string   `json:"group,omitempty"`
	Size   uint64   `json:"size"`
	Time   ui.Time  `json:"time"`
	Target *ui.Name `json:"target,omitempty"`

	text string
}

func (entryEvent) Type() string   { return "entry" }
func (e entryEvent) Text() string { return e.text }

type lsSummary struct {
	Snapshot string `json:"snapshot"`
	Entries  uint64 `json:"entries"`
	Bytes    uint64 `json:"bytes"`
}

func (lsSummary) Type() string { return "summary" }
func (lsSummary) Text() string { return "" }

// letters are the first column of a listing, as ls has it.
var letters = map[fstree.Kind]string{
	fstree.File: "-", fstree.Directory: "d", fstree.Symlink: "l", fstree.BlockDevice: "b",
	fstree.CharDevice: "c", fstree.FIFO: "p", fstree.Socket: "s",
}

func (a *app) lsCommand() *cobra.Command {
	var sel selection
	var recursive bool
	c := &cobra.Command{
		Use:     "ls [PATH]",
		Short:   "List what a backup holds",
		Example: "  cobox ls\n  cobox ls --snapshot 2026-05-01 /home/ana/Documents\n  cobox ls --recursive /home/ana",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.openSpace(cmd.Context(), sel.space)
			if err != nil {
				return err
			}
			defer r.close()
			snap, err := sel.find(cmd.Context(), a, r.archive)
			if err != nil {
				return err
			}
			path := "/"
			if len(args) == 1 {
				if path, err = sel.path(cmd.Context(), r.archive, snap, args[0]); err != nil {
					return err
				}
			}
			sum := lsSummary{Snapshot: snap.ID.String()}
			err = r.archive.Ls(cmd.Context(), snap, path, recursive, func(e archive.Entry) error {
				sum.Entries++
				sum.Bytes += e.Size
				a.ui.Emit(newEntryEvent(&e))
				return nil
			})
			if err != nil {
				return err
			}
			a.ui.Emit(sum)
			return nil
		},
	}
	sel.flags(c)
	c.Flags().BoolVarP(&recursive, "recursive", "r", false, "list what lies below, too")
	return c
}

// permissions are the nine letters of ls, with set-id and sticky bits.
func permissions(mode uint16) string {
	b := []byte(fs.FileMode(mode & 0o777).String()[1:])
	for _, x := range []struct {
		bit, at int
		with    byte // and execute permission
		without byte
	}{{0o4000, 2, 's', 'S'}, {0o2000, 5, 's', 'S'}, {0o1000, 8, 't', 'T'}} {
		switch {
		case int(mode)&x.bit == 0:
		case b[x.at] == 'x':
			b[x.at] = x.with
		default:
			b[x.at] = x.without
		}
	}
	return string(b)
}

func newEntryEvent(e *archive.Entry) entryEvent {
	ev := entryEvent{
		Name: ui.NameOf(e.Path), Kind: e.Kind.String(), Mode: fmt.Sprintf("%04o", e.Mode&0o7777),
		UID: e.UID, GID: e.GID, User: e.User, Group: e.Group, Size: e.Size, Time: ui.Time{Time: e.ModTime},
	}
	name := ui.Printable(e.Path)
	if e.Kind == fstree.Symlink {
		t := ui.NameOf(e.Target)
		ev.Target = &t
		name += " -> " + ui.Printable(e.Target)
	}
	owner := e.User
	if owner == "" {
		owner = fmt.Sprint(e.UID)
	}
	ev.text = fmt.Sprintf("%s%s %-8s %10s  %s  %s", letters[e.Kind], permissions(e.Mode), owner,
		ui.Bytes(e.Size), e.ModTime.Local().Format("2006-01-02 15:04:05"), name)
	return ev
}
