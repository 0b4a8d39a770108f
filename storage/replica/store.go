package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// Errors that a caller tells apart.
var (
	// ErrNewerFormat says that a newer version wrote the store.
	ErrNewerFormat = errors.New("replica: the store has a newer format than this version knows")
	// ErrInUse says that another process, or another Store, has it open.
	ErrInUse = errors.New("replica: the store is in use")
	// ErrReadOnly says that the store was opened for reading only, because it
	// was asked for or because nothing can be written.
	ErrReadOnly = errors.New("replica: the store is open for reading only")
	// ErrClosed says that the store is closed or closing.
	ErrClosed = errors.New("replica: the store is closed")
	// ErrUnknownLog says that no such log is here.
	ErrUnknownLog = errors.New("replica: no such log")
	// ErrNoLeaf says that the leaf of that index has not been verified yet.
	ErrNoLeaf = errors.New("replica: no verified leaf for this index")
	// ErrNotHeld says that the block is not here, or not yet durable.
	ErrNotHeld = errors.New("replica: block is not held")
	// ErrDropped says that the block was deleted on purpose and is not wanted.
	ErrDropped = errors.New("replica: block was dropped")
	// ErrQuota says that the account has no quota left.
	ErrQuota = errors.New("replica: the account's quota is used up")
	// ErrNotAdmitted says that the account may store nothing here.
	ErrNotAdmitted = errors.New("replica: the account is no member")
	// ErrTooManyLogs says that the account has as many logs as it may.
	ErrTooManyLogs = errors.New("replica: the account has too many logs")
	// ErrScattered says that the block lies apart from those held and that the
	// log has as many gaps as are allowed.
	ErrScattered = errors.New("replica: the log has too many gaps")
	// ErrNoSpace says that the disk is too full for new data.
	ErrNoSpace = errors.New("replica: too little free disk space for new data")

	// errUnknown says that Fatal is called, or is about to be.
	errUnknown = errors.New("replica: state of the disk unknown")
)

// DamagedError says that something stored is not what was stored.
type DamagedError struct {
	Log   merklelog.LogID
	Index uint64 // of the block, or the first block concerned
	What  string // "block", "leaves", "tree", "index" …
	Err   error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("replica: damaged %s of log %v at block %d: %v", e.What, e.Log, e.Index, e.Err)
}

func (e *DamagedError) Unwrap() error { return e.Err }

// Limits.
const (
	// MaxLogs is how many logs one account may have in a store. It is above what
	// a roster allows, which makes exceptions for an account's new device.
	MaxLogs = 16384
	// MaxGaps is how many separate stretches of blocks a log may be held in
	// before a block that begins another one is refused.
	MaxGaps = 16384
	// MaxTableName is the longest name of a table in bytes.
	MaxTableName = 32
)

// Options are what a Store needs from outside. The zero value is usable.
type Options struct {
	// FS is the file system; nil means that of the operating system.
	FS vfs.FS
	// Logger gets what an administrator should know; nil discards it.
	Logger *slog.Logger
	// Quota returns how many bytes an account may occupy, and whether it may
	// store anything at all. Nil admits everybody without limit. It is called
	// for every block: it must be quick.
	Quota func(account.ID) (limit uint64, ok bool)
	// Now is the time at which logs arrive; nil means time.Now.
	Now func() time.Time
	// FreeSpace returns the free and the total bytes of the disk; nil asks FS.
	FreeSpace func() (free, total uint64, err error)
	// ReadOnly opens the store without writing a byte.
	ReadOnly bool
	// Fatal is called once when a write-ahead log or manifest could not be
	// synced, after which nobody can say what is on the disk; it must end the
	// process. Nil logs the error and exits with code 1.
	Fatal func(error)
	// CacheBytes is for the block cache; 0 means 8 MiB.
	CacheBytes int64
	// MemTableBytes is for one memtable, of which two may exist; 0 means 4 MiB.
	MemTableBytes uint64
	// CommitDelay is how long a Commit waits at most for a table to fill up
	// while blocks keep coming in; 0 means 2 s.
	CommitDelay time.Duration
	// NoBallast leaves out the 64 MiB that are kept in reserve for a full disk.
	NoBallast bool

	tune tuning // for tests
}

// tuning is what only tests change: sizes that make histories short, and
// mistakes that the crash tests must find.
type tuning struct {
	smallRun  int           // blocks up to which a run goes through the WAL
	tableSize int           // bytes of blocks in a table
	quiet     time.Duration // without a block, after which waiting Commits go ahead
	idle      time.Duration // without a block, after which a table is closed
	idleLogs  int           // states of logs kept in memory without a user

	plantReceiptBeforeSync   bool // Commit answers before its batch is synced
	plantReceiptBeforeIngest bool // Commit answers before its table is ingested
	plantIndexBeforeIngest   bool // extents are written before the table is ingested
	plantKeepOrphans         bool // the start leaves blocks without an extent
	plantUsageApart          bool // usage is written in a batch of its own
}

func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Quota == nil {
		o.Quota = func(account.ID) (uint64, bool) { return 1<<63 - 1, true }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 8 << 20
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = 4 << 20
	}
	if o.CommitDelay == 0 {
		o.CommitDelay = 2 * time.Second
	}
	if o.Fatal == nil {
		logger := o.Logger
		o.Fatal = func(err error) {
			logger.Error("the store cannot know what is on the disk and stops the process; "+
				"the next start verifies what is there", "error", err)
			os.Exit(1)
		}
	}
	t := &o.tune
	if t.smallRun == 0 {
		t.smallRun = 16
	}
	if t.tableSize == 0 {
		t.tableSize = 64 << 20
	}
	if t.quiet == 0 {
		t.quiet = 20 * time.Millisecond
	}
	if t.idle == 0 {
		t.idle = 2 * time.Second
	}
	if t.idleLogs == 0 {
		t.idleLogs = 16
	}
	return o
}

// Store is a box's replicas. All methods are safe for concurrent use.
//
// Locks are taken in this order: indexMu, logState.mu, mu.
type Store struct {
	opts      Options
	dir       string
	db        *pebble.DB
	lock      *pebble.Lock
	cache     *pebble.Cache
	scheduler *scheduler
	space     space
	counts    counters
	users     users

	readOnly bool
	failed   chan struct{} // closed by fatal
	failErr  error         // set before failed is closed
	failOnce sync.Once

	// indexMu is held by whoever changes extents, runs, garbage or usage, from
	// reading what is there until the change is in the database.
	indexMu  sync.Mutex
	nextBulk atomic.Uint64 // changed by whoever begins a table
	nextSml  uint64        // by the flusher alone

	reclaimMu sync.Mutex // held while garbage is freed; taken before indexMu

	logs logTable

	mu       sync.Mutex
	accounts map[account.ID]*accountUsage
	open     *intake       // takes blocks; nil before the first
	sealed   *intake       // full or closed, waits for the flusher or is with it
	room     chan struct{} // closed and replaced when sealed becomes nil
	closing  bool

	kick    chan struct{} // tells the flusher that something changed
	flushed chan struct{} // closed by the flusher when it ends
	reclaim chan struct{} // tells the reclaimer that there is more garbage
	workers sync.WaitGroup
	ctx     context.Context // of the workers
	cancel  context.CancelFunc
}

// accountUsage is what an account occupies; guarded by Store.mu.
type accountUsage struct {
	usage
	pending uint64 // blocks taken in and not yet indexed
	leaves  uint64
	logs    int
}

func (u *accountUsage) bytes() uint64 {
	return (u.blocks+u.garbage+u.pending)*merklelog.BlockSize + u.leaves*merklelog.LeafSize
}

// accountLocked returns the counters of an account, which begin at zero.
func (s *Store) accountLocked(id account.ID) *accountUsage {
	u := s.accounts[id]
	if u == nil {
		u = new(accountUsage)
		s.accounts[id] = u
	}
	return u
}

// Usage is what an account occupies in a store.
type Usage struct {
	Blocks  uint64 // bytes of blocks held or coming in
	Garbage uint64 // bytes of blocks dropped and not yet gone from the disk
	Leaves  uint64 // bytes of leaves
	Logs    int
}

// Total returns the bytes that count against the quota.
func (u Usage) Total() uint64 { return u.Blocks + u.Garbage + u.Leaves }

// Usage returns what the account occupies.
func (s *Store) Usage(id account.ID) Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.accounts[id]
	if u == nil {
		return Usage{}
	}
	return Usage{
		Blocks:  (u.blocks + u.pending) * merklelog.BlockSize,
		Garbage: u.garbage * merklelog.BlockSize,
		Leaves:  u.leaves * merklelog.LeafSize,
		Logs:    u.logs,
	}
}

// ReadOnly reports whether the store takes in nothing, either because it was
// asked not to or because nothing could be written when it was opened.
func (s *Store) ReadOnly() bool { return s.readOnly }

// usable returns an error once the store cannot be relied on any more.
func (s *Store) usable() error {
	select {
	case <-s.failed:
		return s.failErr
	default:
		return nil
	}
}

// writable is usable for those who want to write.
func (s *Store) writable() error {
	if s.readOnly {
		return ErrReadOnly
	}
	return s.usable()
}

// fatal is called when it is unknown what is on the disk. It does not return:
// the goroutine may hold any lock, and nothing that it would go on to do can be
// right.
func (s *Store) fatal(err error) {
	s.failOnce.Do(func() {
		s.failErr = fmt.Errorf("%w: %w", errUnknown, err)
		close(s.failed)
		s.opts.Fatal(s.failErr)
	})
	select {}
}

// apply commits a batch. With sync it and all batches before it are on the
// disk when it returns; without, a crash may lose it, but never without all
// that was applied after it. A failing write ends the process: Pebble's write
// path cannot say what is on the disk then, and a failed sync must never be
// tried again, for the kernel may report success for pages that it dropped.
func (s *Store) apply(b *pebble.Batch, sync bool) error {
	if err := s.writable(); err != nil {
		return err
	}
	defer func() {
		if r := recover(); r != nil {
			s.fatal(fmt.Errorf("writing: %v", r))
		}
	}()
	o := pebble.NoSync
	if sync {
		o = pebble.Sync
	}
	return b.Commit(o)
}

// syncWAL makes everything applied so far durable.
func (s *Store) syncWAL() error {
	b := s.db.NewBatch()
	defer b.Close()
	if err := b.LogData(nil, nil); err != nil {
		return err
	}
	return s.apply(b, true)
}

// get reads a value and hands it to fn, which must not keep it. It returns
// pebble.ErrNotFound if there is none.
func (s *Store) get(key []byte, fn func(value []byte) error) error {
	v, closer, err := s.db.Get(key)
	if err != nil {
		return err
	}
	err = fn(v)
	return errors.Join(err, closer.Close())
}
