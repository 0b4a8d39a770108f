package archive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cobox/storage/archive/fstree"
	"cobox/storage/merklelog"
)

// Log is the log that a backup appends to: one device's own, of which it is
// the only writer. The implementation (the spool) decides how long Append may
// block for back-pressure.
type Log interface {
	ID() merklelog.LogID
	// Size is the number of blocks appended so far; the next Append returns it.
	Size() uint64
	// Append takes one sealed block of merklelog.BlockSize bytes and does not
	// keep the slice.
	Append(block []byte) (index uint64, err error)
	// Commit makes everything appended so far durable (leaves, then blocks,
	// then the signed checkpoint).
	Commit(ctx context.Context) (merklelog.Checkpoint, error)
}

// Blocks is where sealed blocks are read from: the spool, one box or many.
// Every block handed to fn was verified against a leaf by the implementation.
// Blocks may arrive in any order; those that nobody holds are left out, and
// Fetch then returns nil or an error that says why, and the reader names what
// is lost. An error that wraps ErrUnavailable says that the blocks could not be
// asked for now; it ends the operation. fn is not called concurrently within one Fetch and must not keep
// block; Fetch itself must be safe for concurrent use. An error of fn ends
// Fetch and is returned.
type Blocks interface {
	Fetch(ctx context.Context, log merklelog.LogID, indexes []uint64, fn func(index uint64, block []byte) error) error
}

// Sealer seals a payload of PayloadSize bytes into a block; *seal.Sealer is
// one. The caller passes one with the key of the log's newest epoch.
type Sealer interface {
	Seal(dst []byte, index uint64, payload []byte) []byte
}

// Opener opens the blocks of one log; *seal.Opener is one.
type Opener interface {
	Open(dst []byte, index uint64, epoch uint32, block []byte) ([]byte, error)
}

// Envelope says where in a log a key envelope lies: Blocks consecutive blocks
// of type 2 from Index on. The epoch of a data block is the number of
// envelopes before it, less one.
type Envelope struct {
	Index  uint64
	Blocks uint32
}

// LogState describes one log that belongs to the archive: all logs of one
// account in one space form one archive, whichever device wrote them.
type LogState struct {
	ID        merklelog.LogID
	Size      uint64     // blocks covered by the checkpoint to be read from
	Envelopes []Envelope // all envelopes below Size, ascending
	Opener    Opener
	// Lost are blocks known to be held by nobody. Chunks in them are
	// forgotten, so that the next backup stores them again.
	Lost []merklelog.Range
}

// Config is what Open needs.
type Config struct {
	ChunkID [32]byte   // the space's key of chunk ids
	Chunker [32]byte   // the space's key of chunk boundaries
	Blocks  Blocks     // where to read blocks
	Logs    []LogState // every log of the account in the space
	// Cache is a directory of this archive's own for the index and the scan
	// cache; empty: none. Deleting it costs time, never data.
	Cache  string
	Logger *slog.Logger // nil: silent
	// Workers is the number of goroutines that hash, compress and
	// decompress; 0: GOMAXPROCS.
	Workers int
}

// ErrUnavailable is for implementations of Blocks: nobody can be asked for the
// blocks now, which says nothing about whether they are lost.
var ErrUnavailable = errors.New("archive: blocks cannot be asked for now")

// ErrNewestCommit is returned by Backup when the newest commit of the log that
// it should append to cannot be read and is not known to be lost. What is
// appended without it would hide what it lists. Reach a box that holds the
// block, or give it in LogState.Lost, or begin a new log.
var ErrNewestCommit = errors.New("archive: the newest commit of the log cannot be read")

// ErrNoSnapshot is returned when no snapshot matches a Selector.
var ErrNoSnapshot = errors.New("archive: no such snapshot")

// ErrAmbiguous is returned when a snapshot id prefix matches several.
var ErrAmbiguous = errors.New("archive: snapshot id is ambiguous")

// SnapshotID names a snapshot. It is a keyed hash of the snapshot's record.
type SnapshotID [16]byte

// String returns the id in hexadecimal; Short its first eight digits.
func (id SnapshotID) String() string { return fmt.Sprintf("%x", id[:]) }

// Short returns the first eight hexadecimal digits.
func (id SnapshotID) Short() string { return fmt.Sprintf("%x", id[:4]) }

// Snapshot is one finished backup.
type Snapshot struct {
	ID       SnapshotID
	Parent   SnapshotID // zero: none
	Time     time.Time  // when the scan began, by the device's clock
	Duration time.Duration
	Host     string
	User     string
	Program  string   // program and version that wrote it
	Paths    []string // absolute paths as they were given
	Tags     []string
	Stats    Stats

	// Log and End tell where it lies: it is durable where a box holds the
	// first End blocks of Log.
	Log merklelog.LogID
	End uint64

	root fstree.Node
}

// Stats counts what a snapshot holds and what it added.
type Stats struct {
	Files  uint64 // regular files
	Dirs   uint64
	Others uint64 // symlinks, device nodes, FIFOs, sockets
	Bytes  uint64 // sizes of the regular files
	New    uint64 // bytes of files and listings not found in the archive before
	Errors uint64 // files that could not be read
}

// Selector chooses a snapshot. The zero value is the latest of all.
type Selector struct {
	// ID is "", "latest", a prefix of a snapshot id in hexadecimal, or a time
	// (2006-01-02, 2006-01-02T15:04[:05] in local time, or RFC 3339): the
	// newest snapshot that is not younger than it.
	ID    string
	Host  string   // only of this host
	Tags  []string // only with all of these tags
	Paths []string // only with all of these among its paths
}

// FileError is one file that a backup, restore or verification could not
// deal with; the others go on.
type FileError struct {
	Path string // names are bytes, not necessarily UTF-8
	Op   Op
	Err  error
}

// Op says what failed.
type Op uint8

const (
	OpRead     Op = iota + 1 // unreadable
	OpChanged                // changed while it was read; stored as read
	OpVanished               // gone between listing and reading; not an error of the backup
	OpDamaged                // the archive no longer holds all of it
	OpWrite                  // could not be written
	OpMeta                   // written, but an attribute could not be set
)

func (e *FileError) Error() string { return fmt.Sprintf("archive: %s %q: %v", e.Op, e.Path, e.Err) }

// Unwrap returns the cause.
func (e *FileError) Unwrap() error { return e.Err }

// Progress is a running count; a display computes rates from differences.
type Progress struct {
	Files, Dirs uint64 // done
	Bytes       uint64 // done, including what was found unchanged
	TotalFiles  uint64 // known so far
	TotalBytes  uint64
	TotalKnown  bool   // the totals are final
	New         uint64 // bytes not in the archive before
	Blocks      uint64 // appended (backup) or fetched (restore, verify)
	Errors      uint64
	Current     string // a file being worked on
}

// Hooks are called from one goroutine at a time. Either may be nil.
type Hooks struct {
	Progress func(Progress)   // about ten times a second, and at the end
	Error    func(*FileError) // for each file as it is found
}

// BackupOptions say what to back up, and where to.
type BackupOptions struct {
	Log    Log    // nil is allowed with DryRun
	Sealer Sealer // of the log's newest epoch

	Paths         []string // files and directories; made absolute
	Exclude       []string // gitignore-style patterns
	ExcludeFiles  []string // files of such patterns
	ExcludeCaches bool     // directories with a CACHEDIR.TAG
	OneFileSystem bool
	Skip          []string // paths left out wherever met: the program's own state

	Tags    []string
	Host    string    // "": the machine's
	User    string    // "": the user's
	Program string    // program and version, for the record
	Time    time.Time // zero: now
	DryRun  bool      // read and count; append nothing
	Force   bool      // read every file, whatever the scan cache says

	Hooks Hooks
}

// BackupSummary tells what a backup did.
type BackupSummary struct {
	Snapshot *Snapshot // nil when interrupted or a dry run
	Stats    Stats
	Changed  uint64 // regular files that had to be read
	Blocks   uint64 // appended, without padding
	Padding  uint64 // blocks appended as padding
	Commits  int    // including the final one
	// Checkpoint is of the last commit.
	Checkpoint merklelog.Checkpoint
	Errors     []*FileError // at most MaxErrors; Stats.Errors counts all
	Duration   time.Duration
}

// Overwrite says what a restore does where a name is taken already.
type Overwrite = fstree.Overwrite

// The policies of Overwrite. The zero value wants a target that is new, empty
// or of an interrupted restore of the same snapshot, which it continues.
const (
	OverwriteRefuse    = fstree.OverwriteRefuse
	OverwriteAlways    = fstree.OverwriteAlways
	OverwriteIfChanged = fstree.OverwriteIfChanged
	OverwriteNever     = fstree.OverwriteNever
)

// RestoreOptions say what to restore, and where to.
type RestoreOptions struct {
	Snapshot  Snapshot
	Target    string // directory below which the absolute paths appear
	InPlace   bool   // instead of Target: where they were
	Overwrite Overwrite
	Delete    bool     // remove what the snapshot does not have
	Paths     []string // only these absolute paths and what lies below; empty: all
	Include   []string // gitignore-style; empty: all
	Exclude   []string
	DryRun    bool
	Hooks     Hooks
}

// RestoreSummary tells what a restore did, or would do in a dry run.
type RestoreSummary struct {
	fstree.TargetStats              // Failed counts what is not or not wholly restored
	Resumed            bool         // an interrupted restore was continued
	Errors             []*FileError // at most MaxErrors
	Blocks             uint64       // fetched
	Duration           time.Duration
}

// VerifySummary tells what a verification found.
type VerifySummary struct {
	Snapshots int
	Files     uint64
	Chunks    uint64
	Bytes     uint64
	Blocks    uint64
	Damaged   []*FileError // at most MaxErrors
	Failed    uint64
	Duration  time.Duration
}

// MaxErrors is how many file errors a summary lists.
const MaxErrors = 1000
