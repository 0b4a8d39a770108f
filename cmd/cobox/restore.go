package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cobox/cmd/cobox/ui"
	"cobox/storage/archive"
)

type restoreSummary struct {
	Snapshot  string   `json:"snapshot"`
	Space     string   `json:"space"`
	Target    *ui.Name `json:"target,omitempty"` // absent: in place
	DryRun    bool     `json:"dry_run"`
	Files     uint64   `json:"files"`
	Dirs      uint64   `json:"dirs"`
	Others    uint64   `json:"others"`
	Bytes     uint64   `json:"bytes"`
	Unchanged uint64   `json:"unchanged"`
	Deleted   uint64   `json:"deleted"`
	Errors    uint64   `json:"errors"`
	Blocks    uint64   `json:"blocks"`
	Seconds   float64  `json:"seconds"`
}

func (restoreSummary) Type() string { return "summary" }
func (e restoreSummary) Text() string {
	verb := "Restored"
	if e.DryRun {
		verb = "Would restore"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s and %s, %s, from snapshot %.8s", verb, ui.Count(e.Files, "file", "files"),
		ui.Count(e.Dirs, "folder", "folders"), ui.Bytes(e.Bytes), e.Snapshot)
	if e.Target != nil {
		fmt.Fprintf(&b, " to %s", ui.Printable(e.Target.Text))
	}
	if e.Unchanged > 0 {
		fmt.Fprintf(&b, "; %s left as they were", ui.Count(e.Unchanged, "file was", "files were"))
	}
	if e.Deleted > 0 {
		fmt.Fprintf(&b, "; %s deleted", ui.Number(e.Deleted))
	}
	b.WriteByte('.')
	if e.Errors > 0 {
		fmt.Fprintf(&b, "\n%s could not be restored; they are named above.", ui.Count(e.Errors, "file", "files"))
	}
	return b.String()
}

type restoreFlags struct {
	selection
	target, overwrite string
	inPlace           bool
	delete, dryRun    bool
	include, exclude  []string
}

func (a *app) restoreCommand() *cobra.Command {
	var f restoreFlags
	c := &cobra.Command{
		Use:   "restore (--target DIR | --in-place) [PATH…]",
		Short: "Bring files back",
		Long: `Brings back a whole snapshot, or only the PATHs given and what lies below them.

Below --target lie the paths as they were, absolute, without the leading slash.
A file is written beside its place and renamed, so that it is the old one or
the complete new one. Nothing is deleted without --delete. An interrupted
restore goes on when the same command is given again.`,
		Example: `  cobox restore --target /tmp/back
  cobox restore --target /tmp/back --snapshot 2026-05-01 /home/ana/Documents
  cobox restore --in-place --overwrite if-changed /home/ana/thesis.odt`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.restore(cmd.Context(), &f, args) },
	}
	f.selection.flags(c)
	c.Flags().StringVar(&f.target, "target", "", "folder to restore below; made if it is not there")
	c.Flags().BoolVar(&f.inPlace, "in-place", false, "restore to where the files were")
	c.Flags().StringVar(&f.overwrite, "overwrite", "", "what to do with files that are there: always, if-changed (default with --in-place) or never")
	c.Flags().BoolVar(&f.delete, "delete", false, "delete what the snapshot does not have, in the restored folders")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "tell what would be done and write nothing")
	c.Flags().StringArrayVar(&f.include, "include", nil, "only what matches this gitignore-style pattern (repeatable)")
	c.Flags().StringArrayVar(&f.exclude, "exclude", nil, "not what matches this gitignore-style pattern (repeatable)")
	return c
}

func (a *app) restore(ctx context.Context, f *restoreFlags, paths []string) error {
	if (f.target == "") == !f.inPlace {
		return ui.Usagef("Give --target DIR, or --in-place to write to where the files were.", "restore needs to know where to")
	}
	o := archive.RestoreOptions{
		Target: f.target, InPlace: f.inPlace, Delete: f.delete, DryRun: f.dryRun,
		Paths: paths, Include: f.include, Exclude: f.exclude,
	}
	switch f.overwrite {
	case "":
		if f.inPlace {
			o.Overwrite = archive.OverwriteIfChanged
		}
	case "always":
		o.Overwrite = archive.OverwriteAlways
	case "if-changed":
		o.Overwrite = archive.OverwriteIfChanged
	case "never":
		o.Overwrite = archive.OverwriteNever
	default:
		return ui.Usagef("Give always, if-changed or never.", "--overwrite does not know %q", f.overwrite)
	}
	r, err := a.openSpace(ctx, f.space)
	if err != nil {
		return err
	}
	defer r.close()
	if o.Snapshot, err = f.find(ctx, a, r.archive); err != nil {
		return err
	}
	for i := range o.Paths {
		if o.Paths[i], err = f.path(ctx, r.archive, o.Snapshot, o.Paths[i]); err != nil {
			return err
		}
	}
	hooks, done := a.hooks("Restoring")
	o.Hooks = hooks
	sum, err := r.archive.Restore(ctx, o)
	done()
	if err != nil {
		return err
	}
	if sum.OwnersSkipped > 0 {
		a.ui.Warnf("owners were not restored: that needs an administrator's rights")
	}
	e := restoreSummary{
		Snapshot: o.Snapshot.ID.String(), Space: f.space, DryRun: f.dryRun,
		Files: sum.Files, Dirs: sum.Dirs, Others: sum.Others, Bytes: sum.Bytes, Unchanged: sum.Unchanged,
		Deleted: sum.Deleted, Errors: sum.Failed, Blocks: sum.Blocks, Seconds: sum.Duration.Seconds(),
	}
	if !f.inPlace {
		n := ui.NameOf(f.target)
		e.Target = &n
	}
	a.ui.Emit(e)
	if sum.Failed > 0 {
		a.exit = ui.ExitPartial
	}
	return nil
}
