package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cobox/cmd/cobox/device"
	"cobox/cmd/cobox/ui"
	"cobox/netlink/replicate"
	"cobox/storage/archive"
	"cobox/storage/archive/spool"
	"cobox/storage/merklelog"
	"cobox/storage/seal"
)

type backupBox struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Size uint64 `json:"size"` // blocks of the log that the box has receipted
	Root string `json:"root"`
}

type backupSummary struct {
	Snapshot string      `json:"snapshot"` // empty in a dry run
	Space    string      `json:"space"`
	DryRun   bool        `json:"dry_run"`
	Files    uint64      `json:"files"`
	Dirs     uint64      `json:"dirs"`
	Others   uint64      `json:"others"`
	Bytes    uint64      `json:"bytes"`
	BytesNew uint64      `json:"bytes_new"`
	Blocks   uint64      `json:"blocks"` // appended, with padding
	Padding  uint64      `json:"blocks_padding"`
	Errors   uint64      `json:"errors"`
	Waiting  uint64      `json:"bytes_waiting"` // in the spool
	Seconds  float64     `json:"seconds"`
	Boxes    []backupBox `json:"boxes"`
}

func (backupSummary) Type() string { return "summary" }
func (e backupSummary) Text() string {
	var b strings.Builder
	if e.DryRun {
		fmt.Fprintf(&b, "Would back up %s in %s, %s; %s of it is new.", ui.Count(e.Files, "file", "files"),
			ui.Count(e.Dirs, "folder", "folders"), ui.Bytes(e.Bytes), ui.Bytes(e.BytesNew))
		return b.String()
	}
	fmt.Fprintf(&b, "Snapshot %.8s of %s in %s, %s; %s of it was new.", e.Snapshot, ui.Count(e.Files, "file", "files"),
		ui.Count(e.Dirs, "folder", "folders"), ui.Bytes(e.Bytes), ui.Bytes(e.BytesNew))
	if len(e.Boxes) > 0 {
		var names []string
		for _, x := range e.Boxes {
			names = append(names, ui.Printable(x.Name))
		}
		fmt.Fprintf(&b, "\nDurable on %s: %s.", ui.Count(uint64(len(names)), "box", "boxes"), strings.Join(names, ", "))
	}
	if e.Errors > 0 {
		fmt.Fprintf(&b, "\n%s could not be read and are not in it; they are named above.", ui.Count(e.Errors, "file", "files"))
	}
	return b.String()
}

type backupFlags struct {
	space, host            string
	exclude, excludeFiles  []string
	tags                   []string
	excludeCaches, oneFile bool
	dryRun, force          bool
}

func (a *app) backupCommand() *cobra.Command {
	var f backupFlags
	c := &cobra.Command{
		Use:   "backup PATH…",
		Short: "Back up files and folders",
		Long: `Backs up the PATHs into a space, as one snapshot. Only what is new is read and
sent. It ends with code 0 only when at least one box has signed a receipt for
everything. With no box in reach the backup is kept here, code 4, and sent with
the next one. An interrupted backup goes on when it is run again.`,
		Example: `  cobox backup ~/Documents
  cobox backup ~ --exclude .cache --exclude '*.iso' --exclude-caches --one-file-system
  cobox backup /srv/projects --space projects --tag weekly`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return ui.Usagef("For example: cobox backup ~/Documents", "backup needs at least one path")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.backup(cmd.Context(), &f, args) },
	}
	c.Flags().StringVar(&f.space, "space", defaultSpace, "space to back up into; made if it is not there")
	c.Flags().StringArrayVar(&f.exclude, "exclude", nil, "leave out what matches this gitignore-style pattern (repeatable)")
	c.Flags().StringArrayVar(&f.excludeFiles, "exclude-file", nil, "leave out what matches the patterns in this file (repeatable)")
	c.Flags().BoolVar(&f.excludeCaches, "exclude-caches", false, "leave out folders with a CACHEDIR.TAG")
	c.Flags().BoolVar(&f.oneFile, "one-file-system", false, "do not go into other file systems")
	c.Flags().StringArrayVar(&f.tags, "tag", nil, "mark the snapshot with this tag (repeatable)")
	c.Flags().StringVar(&f.host, "host", "", "name of this computer in the snapshot")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "tell what would be backed up and store nothing")
	c.Flags().BoolVar(&f.force, "force", false, "read every file again, whatever its times say")
	return c
}

func (a *app) backup(ctx context.Context, f *backupFlags, paths []string) error {
	if _, err := seal.NewSpace(f.space); err != nil {
		return ui.Usagef("A name has 1 to 255 bytes of UTF-8 without control characters.", "--space: no space can be called %q", f.space)
	}
	for _, p := range paths {
		if _, err := os.Lstat(p); err != nil {
			return ui.Fail(err, "no_path", "cannot back up "+ui.Printable(p), "Nothing was backed up. Check the path.")
		}
	}
	st, unlock, err := a.openLocked("backup")
	if err != nil {
		return err
	}
	defer unlock()
	s, log, err := a.openForWriting(ctx, st, f.space)
	if err != nil {
		return err
	}
	defer s.close()
	own := s.spools[log.ID()]
	d := s.deliver(ctx)
	defer d.end()

	var e backupSummary
	var receipts []boxReceipt
	var failed map[*link]error
	for again := false; ; again = true {
		o := archive.BackupOptions{
			Log: own.Writer(ctx), Sealer: s.sealer(log),
			Paths: paths, Skip: st.Home.Dirs(), Exclude: f.exclude, ExcludeFiles: f.excludeFiles,
			ExcludeCaches: f.excludeCaches, OneFileSystem: f.oneFile,
			Tags: f.tags, Host: f.host, Time: a.now(), Program: "cobox " + version, DryRun: f.dryRun, Force: f.force,
		}
		sum, err := a.runBackup(ctx, s, o)
		if err != nil {
			return explainBackup(err, d)
		}
		if !again {
			e = newBackupSummary(f, &sum)
		}
		if f.dryRun {
			a.ui.Emit(e)
			return nil
		}
		e.Snapshot = sum.Snapshot.ID.String()
		lost := s.gone[log.ID()]
		receipts, failed = a.awaitReceipts(ctx, d, own, sum.Checkpoint.Size, lost)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if len(receipts) > 0 {
			if !slices.Equal(log.Lost, lost) {
				log.Lost = lost
				if err := st.Save(); err != nil {
					return err
				}
			}
			break
		}
		// A box said meanwhile that it has lost blocks. If nobody else has them,
		// what lay in them is stored again, by a backup that knows it.
		if again || len(own.Holes()) == 0 {
			break
		}
		now, err := s.lost(ctx, log, own)
		if err != nil {
			return err
		}
		if within(now, lost) {
			break
		}
		a.ui.Warnf("a box has lost %s of earlier backups; what lay there is stored again", ui.Bytes(merklelog.CountRanges(now)*merklelog.BlockSize))
		if log, err = s.prepare(ctx); err != nil {
			return err
		}
	}
	if d.forked() {
		d.end() // it reads what is changed here
		if err := s.leave(log, "a box knows another version of this device's log (was its state copied or restored?)"); err != nil {
			return err
		}
		return &ui.Failure{Exit: ui.ExitFailed, Code: "forked", What: "this backup is on no box: it was appended to a log that can no longer be used",
			Hint: "Run the backup again: it begins a new log and stores everything that no box holds."}
	}
	if len(receipts) == 0 {
		// The last commit ran with a box in reach and was not synced then.
		d.end()
		own.SetReach()
		if _, err := own.Commit(ctx); err != nil {
			return ui.Fail(err, "spool", "the backup is on no box and could not be made safe on this computer either", "See whether the disk is full or failing, and run the backup again.")
		}
		return notDelivered(failed, own.Waiting())
	}
	e.Waiting = own.Waiting()
	for _, r := range receipts {
		e.Boxes = append(e.Boxes, backupBox{boxID(r.Box), r.Box.Name, r.Size, r.Root.String()})
	}
	for l, err := range failed {
		a.ui.Warnf("box %q does not hold this backup: %v", l.box.Name, err)
	}
	s.removeLeft()
	a.ui.Emit(e)
	if e.Errors > 0 {
		a.exit = ui.ExitPartial
	}
	return nil
}

func (a *app) runBackup(ctx context.Context, s *space, o archive.BackupOptions) (archive.BackupSummary, error) {
	hooks, done := a.hooks("Backing up")
	defer done()
	o.Hooks = hooks
	return s.archive.Backup(ctx, o)
}

func newBackupSummary(f *backupFlags, sum *archive.BackupSummary) backupSummary {
	return backupSummary{
		Space: f.space, DryRun: f.dryRun, Files: sum.Stats.Files, Dirs: sum.Stats.Dirs, Others: sum.Stats.Others,
		Bytes: sum.Stats.Bytes, BytesNew: sum.Stats.New, Blocks: sum.Blocks + sum.Padding, Padding: sum.Padding,
		Errors: sum.Stats.Errors, Seconds: sum.Duration.Seconds(), Boxes: []backupBox{},
	}
}

// awaitReceipts shows the progress of what d.wait waits for.
func (a *app) awaitReceipts(ctx context.Context, d *delivery, own *spool.Spool, size uint64, lost []merklelog.Range) ([]boxReceipt, map[*link]error) {
	meter := a.ui.Meter("Waiting for receipts")
	defer meter.Done()
	total := own.Waiting()
	return d.wait(ctx, own, size, lost, func() {
		left := min(own.Waiting(), total)
		meter.Update(ui.Progress{Bytes: total - left, TotalBytes: total, Final: true})
	})
}

// removeLeft removes what is on this device of logs that it has left: what no
// box held of them was stored again by now.
func (s *space) removeLeft() {
	for _, l := range s.sp.Logs {
		if l.Own && l.Left {
			if err := os.RemoveAll(s.st.Home.LogDir(l.ID())); err != nil {
				s.a.log.Warn("an old log was not removed", "log", l.ID(), "error", err)
			}
		}
	}
}

// boxID is how a box is named to programs: its static key in hexadecimal.
func boxID(b *device.Box) string { return b.Static.String()[len("noise:"):] }

// explainBackup adds what became of the backup to an error that ended it.
func explainBackup(err error, d *delivery) error {
	var refused *replicate.Error
	if errors.Is(err, spool.ErrSpoolFull) {
		d.mu.Lock()
		defer d.mu.Unlock()
		for l, b := range d.boxes {
			if errors.As(b.err, &refused) {
				return refusal(l.box.Name, refused)
			}
		}
	}
	return err
}
