package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cobox/cmd/cobox/ui"
	"cobox/storage/archive"
)

type snapshotEvent struct {
	ID       string    `json:"id"`
	Time     ui.Time   `json:"time"`
	Host     string    `json:"host"`
	User     string    `json:"user"`
	Paths    []ui.Name `json:"paths"`
	Tags     []string  `json:"tags"`
	Files    uint64    `json:"files"`
	Dirs     uint64    `json:"dirs"`
	Bytes    uint64    `json:"bytes"`
	BytesNew uint64    `json:"bytes_new"`
	Errors   uint64    `json:"errors"`
}

func (snapshotEvent) Type() string { return "snapshot" }
func (snapshotEvent) Text() string { return "" } // listed in a table

func newSnapshotEvent(s *archive.Snapshot) snapshotEvent {
	e := snapshotEvent{
		ID: s.ID.String(), Time: ui.Time{Time: s.Time}, Host: s.Host, User: s.User, Paths: []ui.Name{}, Tags: []string{},
		Files: s.Stats.Files, Dirs: s.Stats.Dirs, Bytes: s.Stats.Bytes, BytesNew: s.Stats.New, Errors: s.Stats.Errors,
	}
	for _, p := range s.Paths {
		e.Paths = append(e.Paths, ui.NameOf(p))
	}
	e.Tags = append(e.Tags, s.Tags...)
	return e
}

type snapshotsSummary struct {
	Space     string `json:"space"`
	Snapshots int    `json:"snapshots"`
}

func (snapshotsSummary) Type() string { return "summary" }
func (e snapshotsSummary) Text() string {
	if e.Snapshots == 0 {
		return fmt.Sprintf("Space %q has no snapshot yet. Make one with 'cobox backup PATH'.", e.Space)
	}
	return ""
}

func (a *app) snapshotsCommand() *cobra.Command {
	var space, host string
	var tags []string
	c := &cobra.Command{
		Use:     "snapshots",
		Short:   "List the backups that were made",
		Example: "  cobox snapshots\n  cobox snapshots --host laptop --json",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.openSpace(cmd.Context(), space)
			if err != nil {
				return err
			}
			defer r.close()
			list, err := r.archive.Snapshots(cmd.Context())
			if err != nil {
				return err
			}
			a.warnUnread(r.archive)
			rows := [][]string{{"ID", "Time", "Host", "Files", "Size", "Added", "Tags", "Paths"}}
			n := 0
			for i := range list {
				s := &list[i]
				if host != "" && s.Host != host || !hasAll(s.Tags, tags) {
					continue
				}
				n++
				if a.ui.JSON() {
					a.ui.Emit(newSnapshotEvent(s))
					continue
				}
				paths := make([]string, len(s.Paths))
				for i, p := range s.Paths {
					paths[i] = ui.Printable(p)
				}
				rows = append(rows, []string{s.ID.Short(), s.Time.Local().Format("2006-01-02 15:04:05"), ui.Printable(s.Host),
					ui.Number(s.Stats.Files), ui.Bytes(s.Stats.Bytes), ui.Bytes(s.Stats.New), ui.Printable(strings.Join(s.Tags, ",")), strings.Join(paths, " ")})
			}
			if n > 0 {
				a.ui.Table(rows)
			}
			a.ui.Emit(snapshotsSummary{space, n})
			return nil
		},
	}
	c.Flags().StringVar(&space, "space", defaultSpace, "space to list")
	c.Flags().StringVar(&host, "host", "", "only backups of this computer")
	c.Flags().StringArrayVar(&tags, "tag", nil, "only backups with this tag (repeatable)")
	return c
}

func hasAll(have, want []string) bool {
	for _, w := range want {
		found := false
		for _, h := range have {
			found = found || h == w
		}
		if !found {
			return false
		}
	}
	return true
}
