// Package archive is the member's backup engine: it keeps snapshots of files
// inside a log of sealed blocks of one fixed size, to which it can only
// append. It knows nothing of boxes or the network; it appends to a Log and
// reads from Blocks, both of which it declares. FORMAT.md beside this file
// has the bytes.
//
// Start with Open, which takes every log of one account in one space (one
// archive), and then
//
//	func (a *Archive) Backup(ctx, BackupOptions) (BackupSummary, error)
//	func (a *Archive) Snapshots(ctx) ([]Snapshot, error)
//	func (a *Archive) Find(ctx, Selector) (Snapshot, error)
//	func (a *Archive) Ls(ctx, Snapshot, path, recursive, func(Entry) error) error
//	func (a *Archive) Restore(ctx, RestoreOptions) (RestoreSummary, error)
//	func (a *Archive) Verify(ctx, []Snapshot, Hooks) (VerifySummary, error)
//
// How a backup goes: a scan compares each directory with the scan cache;
// files of changed directories are read, cut at content-defined boundaries
// (package chunker), named by a keyed hash, and what the index does not know
// is compressed in groups and packed into blocks. Directory listings are
// chunked and stored in the same way, so that an unchanged subtree costs
// nothing. A commit adds an index of what is new, a snapshot if the backup is
// complete, and a footer that lists where everything lies.
//
// What it promises. Whatever happens, a commit that the log has accepted can
// be read from the log alone: all caches are optional. An interrupted backup
// loses at most what it appended since its last commit (256 MiB or 30 s).
// A lost or damaged block costs only the chunks that lay in it; the errors
// name the files that they belonged to. Every chunk is checked against its id
// before it is written to a file. Bytes from a log never panic, and never take
// memory out of proportion to their number. An Archive is safe for concurrent
// reading; only one Backup may run at a time.
package archive
