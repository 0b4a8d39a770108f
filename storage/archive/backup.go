package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cobox/storage/archive/fstree"
	"cobox/storage/merklelog"

	"golang.org/x/sync/errgroup"
)

// When a backup commits on the way: what an interruption costs at most.
const (
	commitBlocks = 256 << 20 / merklelog.BlockSize
	commitIndex  = 4 << 20 // bytes of index
	commitEvery  = 30 * time.Second
)

// A backup is one run of Backup. The scan hands out directories in one
// goroutine, each after those in it; workers read files and store chunks; the
// worker that finishes the last entry of a directory stores its listing.
type backup struct {
	a    *Archive
	o    *BackupOptions
	w    *writer // nil in a dry run
	scan *scanCache
	from time.Time // when the scan began
	meter

	jobs    chan job
	workers []*worker
	changed atomic.Uint64
	missed  atomic.Uint64 // files that could not be read, or have gone

	missedBytes atomic.Uint64

	dirs  map[uint64]*dirState // handed out, and their parent not yet
	keys  []dirKey             // of all directories
	root  *dirState
	stats Stats // but New and Errors; of the scan goroutine

	// gate is held for reading while a worker stores something, and for
	// writing during a commit, which flushes the packers of all workers.
	gate       sync.RWMutex
	lastCommit atomic.Int64 // unix nanoseconds
	checkpoint merklelog.Checkpoint

	mu    sync.Mutex // guards pending, parent and done of all dirStates
	links map[fstree.LinkID]linked
}

// linked is what was read under one name of a file that has several.
type linked struct {
	stat fstree.Stat
	node fstree.Node
}

// Backup stores the trees below the paths and returns what it did. Files that
// could not be read are listed in the summary and are no error; when it
// returns an error, what was committed stays and the next backup goes on from
// there.
func (a *Archive) Backup(ctx context.Context, o BackupOptions) (BackupSummary, error) {
	sum, err := a.backup(ctx, o)
	if errors.Is(err, errScanCache) {
		a.log.Warn("the scan cache is damaged; reading everything")
		o.Force = true
		sum, err = a.backup(ctx, o)
	}
	return sum, err
}

// errScanCache means that a frame of the scan cache could not be read when it
// was needed.
var errScanCache = errors.New("archive: scan cache is damaged")

func (a *Archive) backup(ctx context.Context, o BackupOptions) (BackupSummary, error) {
	began := a.now()
	b := &backup{a: a, o: &o, from: began, dirs: map[uint64]*dirState{}, links: map[fstree.LinkID]linked{}}
	b.meter.hooks = o.Hooks
	so, paths, err := b.scanOptions()
	if err != nil {
		return BackupSummary{}, err
	}
	if err := b.open(ctx, paths); err != nil {
		return BackupSummary{}, err
	}
	defer b.scan.close()
	b.lastCommit.Store(time.Now().UnixNano())
	stop := b.meter.run(b.blocks)
	err = b.run(ctx, paths, so)
	var snap *Snapshot
	switch {
	case err != nil && b.w != nil:
		b.rescue(ctx)
	case err == nil && b.w != nil:
		snap, err = b.finish(ctx, paths, began)
	}
	b.flushWorkers(true)
	if snap == nil {
		a.dropIndex()
	}
	stop()
	sum := BackupSummary{
		Snapshot: snap, Stats: b.total(), Changed: b.changed.Load(),
		Checkpoint: b.checkpoint, Errors: b.meter.list(), Duration: time.Since(began),
	}
	if b.w != nil {
		sum.Blocks, sum.Padding = b.w.appended()
		sum.Blocks -= sum.Padding
		sum.Commits = b.w.commits
	}
	return sum, err
}

func (b *backup) scanOptions() (so fstree.ScanOptions, paths []string, err error) {
	so = fstree.ScanOptions{ExcludeCaches: b.o.ExcludeCaches, OneFileSystem: b.o.OneFileSystem, Skip: b.o.Skip}
	if b.a.cache != nil {
		so.Skip = append(slices.Clone(so.Skip), b.a.cache.dir)
	}
	if so.Exclude, err = fstree.ParsePatterns(b.o.Exclude); err != nil {
		return so, nil, fmt.Errorf("archive: exclude: %w", err)
	}
	for _, name := range b.o.ExcludeFiles {
		f, err := os.Open(name)
		if err != nil {
			return so, nil, fmt.Errorf("archive: exclude file: %w", err)
		}
		p, err := fstree.ReadPatterns(f)
		f.Close()
		if err != nil {
			return so, nil, fmt.Errorf("archive: exclude file %s: %w", name, err)
		}
		so.Exclude = so.Exclude.Append(p)
	}
	for _, p := range b.o.Paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return so, nil, fmt.Errorf("archive: path %q: %w", p, err)
		}
		paths = append(paths, abs)
	}
	slices.Sort(paths)
	return so, slices.Compact(paths), nil
}

func (b *backup) open(ctx context.Context, paths []string) error {
	var own *logView
	if !b.o.DryRun {
		if b.o.Log == nil || b.o.Sealer == nil {
			return errors.New("archive: BackupOptions.Log or Sealer is missing")
		}
		own = b.a.view(b.o.Log.ID())
		switch {
		case own == nil:
			return fmt.Errorf("archive: log %s is not among Config.Logs", b.o.Log.ID())
		case own.blocks.size != b.o.Log.Size():
			return fmt.Errorf("archive: log %s has %d blocks, not %d", own.id, b.o.Log.Size(), own.blocks.size)
		}
		if err := b.a.loadFooter(ctx, own); err != nil {
			return err
		}
		if own.unsure {
			return fmt.Errorf("%w: log %s", ErrNewestCommit, own.id)
		}
		b.w = newWriter(b.a, own, b.o.Log, b.o.Sealer)
	}
	b.scan = b.a.openScanCache(paths, own)
	return nil
}

func (b *backup) blocks() uint64 {
	if b.w == nil {
		return 0
	}
	n, _ := b.w.appended()
	return n
}

func (b *backup) run(ctx context.Context, paths []string, so fstree.ScanOptions) error {
	g, ctx := errgroup.WithContext(ctx)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b.jobs = make(chan job, 2*b.a.workers)
	for range b.a.workers {
		b.workers = append(b.workers, &worker{b: b})
	}
	var working sync.WaitGroup
	for _, w := range b.workers {
		working.Add(1)
		g.Go(func() error {
			defer working.Done()
			return w.run(ctx)
		})
	}
	// The directories that the scan hands out are usable only until it
	// returns. So when something fails it must not end before the workers.
	scanning, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var failed error // of the scan's callback; the workers only follow it
	ended := make(chan struct{})
	g.Go(func() error {
		select {
		case <-ctx.Done():
			working.Wait()
			stop()
		case <-ended:
		}
		return nil
	})
	g.Go(func() error {
		defer close(b.jobs)
		defer close(ended)
		// The paths as given: a slash at the end of a link follows it.
		err := fstree.Scan(scanning, b.o.Paths, so, func(d *fstree.Dir) error {
			err := b.directory(ctx, d)
			if err != nil {
				failed = err
				cancel()
				working.Wait()
			}
			return err
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	})
	err := g.Wait()
	if err != nil && failed != nil && !errors.Is(failed, context.Canceled) {
		return failed
	}
	return err
}

func (b *backup) total() Stats {
	s := b.stats
	s.Files -= b.missed.Load()
	s.Bytes -= b.missedBytes.Load()
	s.New, s.Errors = b.meter.added.Load(), b.meter.errors.Load()
	return s
}

// finish makes the final commit.
func (b *backup) finish(ctx context.Context, paths []string, began time.Time) (*Snapshot, error) {
	if err := b.flushWorkers(false); err != nil {
		return nil, err
	}
	s := &Snapshot{
		Parent: b.scan.parent(), Time: b.o.Time, Duration: time.Since(began),
		Host: b.o.Host, User: b.o.User, Program: b.o.Program,
		Paths: paths, Tags: b.o.Tags, Stats: b.total(), root: b.root.self,
	}
	if s.Time.IsZero() {
		s.Time = b.from
	}
	if s.Host == "" {
		s.Host, _ = os.Hostname()
	}
	if s.User == "" {
		if u, err := user.Current(); err == nil {
			s.User = u.Username
		}
	}
	cp, err := b.w.commit(ctx, s)
	if err != nil {
		return nil, err
	}
	b.checkpoint = cp
	b.scan.mark(b.w.index)
	b.scan.finish(b.keys, s.ID)
	return s, nil
}

// rescue commits what an interrupted backup has stored, so that the next one
// goes on from here. It is not tried after an error of the log itself.
func (b *backup) rescue(ctx context.Context) {
	if n, index := b.w.pending(); n == 0 && index == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := b.flushWorkers(false); err != nil {
		return
	}
	if cp, err := b.w.commit(ctx, nil); err == nil {
		b.checkpoint = cp
		b.scan.mark(b.w.index)
	}
}

func (b *backup) flushWorkers(end bool) error {
	var errs []error
	for _, w := range b.workers {
		if w.pack == nil {
			continue
		}
		if end {
			w.pack.close()
		} else {
			errs = append(errs, w.pack.flush())
		}
	}
	return errors.Join(errs...)
}

// commitIfDue makes a commit on the way when enough has come together. The
// caller must not hold the gate.
func (b *backup) commitIfDue(ctx context.Context) error {
	if b.w == nil || !b.due() {
		return nil
	}
	b.gate.Lock()
	defer b.gate.Unlock()
	if !b.due() { // another worker was faster
		return nil
	}
	if err := b.flushWorkers(false); err != nil {
		return err
	}
	cp, err := b.w.commit(ctx, nil)
	if err != nil {
		return err
	}
	b.checkpoint = cp
	b.scan.mark(b.w.index)
	b.lastCommit.Store(time.Now().UnixNano())
	return nil
}

func (b *backup) due() bool {
	n, index := b.w.pending()
	return n >= b.a.commitBlocks || index >= commitIndex ||
		n > 0 && time.Since(time.Unix(0, b.lastCommit.Load())) >= b.a.commitEvery
}

// join makes a path for people to read.
func join(dir, name string) string {
	if strings.HasSuffix(dir, string(os.PathSeparator)) {
		return dir + name
	}
	return dir + string(os.PathSeparator) + name
}
