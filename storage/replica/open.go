package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

const (
	bytesPerSync = 512 << 10
	maxOpenFiles = 256
)

// Open opens the store in a directory, which is created if need be. Whatever a
// crash left behind is put in order; no repair is ever asked for.
//
// If nothing can be written there, a store that exists is opened for reading
// only, and [Store.ReadOnly] says so. Other errors are ErrInUse,
// ErrNewerFormat, and damage to files without which nothing can be read.
func Open(dir string, o Options) (*Store, error) {
	s, err := open(dir, o)
	if err == nil || o.ReadOnly || errors.Is(err, ErrInUse) || errors.Is(err, ErrNewerFormat) || pebble.IsCorruptionError(err) {
		return s, err
	}
	ro := o
	ro.ReadOnly = true
	s, roErr := open(dir, ro)
	if roErr != nil {
		return nil, err // why it cannot be written tells more
	}
	s.opts.Logger.Error("the store cannot be written and serves what it holds", "error", err)
	return s, nil
}

func open(dir string, o Options) (_ *Store, err error) {
	o = o.withDefaults()
	ctx, cancel := context.WithCancel(context.Background())
	s := &Store{
		opts:     o,
		dir:      dir,
		readOnly: o.ReadOnly,
		failed:   make(chan struct{}),
		accounts: make(map[account.ID]*accountUsage),
		room:     make(chan struct{}),
		kick:     make(chan struct{}, 1),
		reclaim:  make(chan struct{}, 1),
		flushed:  make(chan struct{}),
		ctx:      ctx,
		cancel:   cancel,
	}
	s.logs.init()
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("replica: opening %s: %w", dir, err), s.closeFiles())
			cancel()
		}
	}()
	var guard *guardFS
	if s.readOnly {
		s.opts.FS = readOnlyFS{o.FS}
	} else {
		// A write that finds the disk full releases the reserve and tries again.
		full := vfs.OnDiskFull(o.FS, func() {
			if o.FS.Remove(o.FS.PathJoin(dir, ballastName)) == nil {
				s.opts.Logger.Error("the disk is full; the reserve was released")
			}
		})
		guard = &guardFS{FS: full, fatal: s.fatal}
		s.opts.FS = guard
	}
	if err := s.prepareDir(); err != nil {
		return nil, err
	}
	if guard != nil {
		guard.dirs.Store(true)
	}
	if !s.readOnly {
		if err := s.markDatabase(); err != nil {
			return nil, fmt.Errorf("beginning the database: %w", err)
		}
	}
	if s.db, err = pebble.Open(dir, s.pebbleOptions()); err != nil {
		return nil, err
	}
	if guard != nil {
		guard.logs.Store(true)
	}
	s.scheduler.start()
	if err := s.recover(); err != nil {
		return nil, err
	}
	if !s.readOnly {
		s.space.mu.Lock()
		s.space.lookLocked(s, time.Now())
		s.space.mu.Unlock()
		s.workers.Go(s.flusher)
		s.workers.Go(s.reclaimer)
	}
	return s, nil
}

// prepareDir creates and locks the directory and checks or writes its format
// number, before anything else is looked at or written.
func (s *Store) prepareDir() error {
	fsys := s.opts.FS
	if !s.readOnly {
		if err := mkdirSync(fsys, s.dir); err != nil {
			return err
		}
	}
	lock, err := pebble.LockDirectory(s.dir, fsys)
	if err != nil {
		var pathErr *fs.PathError
		if errors.As(err, &pathErr) {
			return err // the file could not be made
		}
		return fmt.Errorf("%w: %w", ErrInUse, err)
	}
	s.lock = lock
	if err := s.checkFormat(); err != nil {
		return err
	}
	if s.readOnly {
		return nil
	}
	incoming := fsys.PathJoin(s.dir, incomingDir)
	if err := fsys.MkdirAll(incoming, 0o700); err != nil {
		return err
	}
	names, err := fsys.List(incoming)
	if err != nil {
		return err
	}
	for _, name := range names { // tables that were not finished, or not ingested
		if err := fsys.Remove(fsys.PathJoin(incoming, name)); err != nil {
			return err
		}
	}
	return s.probe(fsys.PathJoin(incoming, "probe"))
}

// probe writes a little and removes it. Pebble, when it opens a database on a
// disk that takes nothing more, tries to write for ever; what fails here makes
// the store open read-only instead. A crash leaves a file that the next start
// removes.
func (s *Store) probe(path string) error {
	f, err := s.opts.FS.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("trying whether the disk takes anything: %w", err)
	}
	_, err = f.Write(make([]byte, 256<<10))
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close(), s.opts.FS.Remove(path)); err != nil {
		return fmt.Errorf("trying whether the disk takes anything: %w", err)
	}
	return nil
}

// setLevels sets how tables are written: blocks do not compress, each is one
// table block, and leaves and hashes do not compress either.
func setLevels(o *pebble.Options) {
	o.Levels[0].BlockSize = 64 << 10
	o.Levels[0].Compression = func() *sstable.CompressionProfile { return sstable.NoCompression }
	o.EnsureDefaults()
}

func (s *Store) pebbleOptions() *pebble.Options {
	s.cache = pebble.NewCache(s.opts.CacheBytes)
	o := &pebble.Options{
		FS:                          s.opts.FS,
		Lock:                        s.lock,
		ReadOnly:                    s.readOnly,
		ErrorIfNotExists:            s.readOnly,
		FormatMajorVersion:          pebbleFormat,
		Cache:                       s.cache,
		MemTableSize:                s.opts.MemTableBytes,
		MemTableStopWritesThreshold: 2,
		BytesPerSync:                bytesPerSync,
		MaxOpenFiles:                maxOpenFiles,
		Logger:                      pebbleLogger{s},
		// Statistics of every table would be read at every start, to find those
		// worth deleting; what is worth deleting is known here.
		DisableTableStats: true,
	}
	// Compacting because of reads would rewrite blocks.
	o.Experimental.ReadSamplingMultiplier = -1
	s.scheduler = newScheduler()
	o.Experimental.CompactionScheduler = s.scheduler
	events := s.events()
	o.EventListener = &events
	setLevels(o)
	return o
}

// events replaces Pebble's own listener, which ends the process on the first
// corrupt block.
func (s *Store) events() pebble.EventListener {
	return pebble.EventListener{
		DataCorruption: func(i pebble.DataCorruptionInfo) {
			s.counts.corruptions.Add(1)
			s.opts.Logger.Error("a file of the database is damaged", "file", i.Path, "error", i.Details)
		},
		BackgroundError: func(err error) {
			s.counts.backgroundErrors.Add(1)
			s.opts.Logger.Error("work on the database failed and will be tried again", "error", err)
		},
		WriteStallBegin: func(i pebble.WriteStallBeginInfo) { s.counts.stalls.Add(1) },
	}
}

// pebbleLogger passes on what Pebble has to say.
type pebbleLogger struct{ s *Store }

func (l pebbleLogger) Infof(format string, args ...any) {}

func (l pebbleLogger) Errorf(format string, args ...any) {
	l.s.opts.Logger.Error("database", "error", fmt.Sprintf(format, args...))
}

// Fatalf is called when the write-ahead log or a manifest could not be written,
// and is not expected to return.
func (l pebbleLogger) Fatalf(format string, args ...any) {
	l.s.fatal(fmt.Errorf(format, args...))
}

// recover reads the counters, and makes garbage of the blocks that a crash left
// without an index.
func (s *Store) recover() error {
	for k, err := range s.scan([]byte{prefixUsage}, []byte{prefixUsage + 1}) {
		if err != nil {
			return err
		}
		u, err := parseUsage(k.value)
		if err != nil || len(k.key) != len(usageKey(account.ID{})) {
			return fmt.Errorf("usage of an account: %w", errors.Join(err, pebble.ErrCorruption))
		}
		s.accountLocked(account.ID(k.key[1:])).usage = u
	}
	for k, err := range s.scan([]byte{prefixAccountLog}, []byte{prefixAccountLog + 1}) {
		if err != nil {
			return err
		}
		id, num, ok := parseAccountLogKey(k.key)
		if !ok {
			return fmt.Errorf("list of logs: malformed key %x: %w", k.key, pebble.ErrCorruption)
		}
		u := s.accountLocked(id)
		u.logs++
		var f merklelog.Frontier
		if err := s.readFrontier(num, &f); err != nil {
			s.counts.damaged.Add(1)
			s.opts.Logger.Error("a log's leaves cannot be counted", "account", id, "error", err)
		}
		u.leaves += f.Size()
	}
	return s.adoptOrphans()
}

// adoptOrphans looks for blocks in the gaps between runs and makes each stretch
// of them a run that is dead, whose garbage is nobody's and is freed like any
// other. Then numbers go on behind all that were ever used.
func (s *Store) adoptOrphans() error {
	bulk, err := s.readNumber(nextKey(nextBulk))
	if err != nil {
		return err
	}
	small, err := s.readNumber(nextKey(nextSmall))
	if err != nil {
		return err
	}
	small = max(small, firstSmall)
	var gaps []run
	gap := func(first, end uint64) error {
		r, err := s.orphans(first, end)
		if err == nil && r.count > 0 {
			gaps = append(gaps, r)
		}
		return err
	}
	next := uint64(0)
	for r, err := range s.runs() {
		if err != nil {
			return err
		}
		if r.first > next {
			if err := gap(next, r.first); err != nil {
				return err
			}
		}
		next = r.end()
	}
	if err := gap(next, 1<<64-1); err != nil {
		return err
	}
	b := s.db.NewBatch()
	defer b.Close()
	c := newChange(s)
	for _, r := range gaps {
		c.runs[r.first] = r
		c.addGarbage(b, garbage{first: r.first, count: r.count})
		if r.first < firstSmall {
			bulk = max(bulk, r.end())
		} else {
			small = max(small, r.end())
		}
		s.counts.orphans.Add(uint64(r.count))
		s.opts.Logger.Info("blocks without an index are removed", "blocks", r.count)
	}
	s.nextBulk.Store(bulk)
	s.nextSml = small
	if len(gaps) == 0 || s.readOnly || s.opts.tune.plantKeepOrphans {
		return nil
	}
	b.Set(nextKey(nextBulk), appendNumber(nil, bulk), nil)
	b.Set(nextKey(nextSmall), appendNumber(nil, small), nil)
	return s.commitChange(b, c)
}

// orphans returns the stretch of block numbers in use between two arrivals.
func (s *Store) orphans(first, end uint64) (run, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: arrivalKey(prefixBlock, first), UpperBound: arrivalKey(prefixBlock, end)})
	if err != nil {
		return run{}, err
	}
	defer it.Close() // its errors are those of the steps
	if !it.First() {
		return run{}, it.Error()
	}
	from, _, _, ok := parseBlockKey(it.Key())
	if !ok || !it.Last() {
		return run{}, errors.Join(errors.New("malformed key of a block"), it.Error())
	}
	to, _, _, ok := parseBlockKey(it.Key())
	if !ok || to-from >= 1<<31 {
		return run{}, fmt.Errorf("blocks without an index from arrival %d to %d: %w", from, to, pebble.ErrCorruption)
	}
	return run{first: from, count: uint32(to - from + 1)}, nil
}

// Close makes durable what has come in, waits for calls that are under way, and
// closes the store. Calls that come later return ErrClosed.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return ErrClosed
	}
	s.closing = true
	s.mu.Unlock()
	s.wakeFlusher()
	s.cancelWhenFlushed()
	select {
	case <-s.failed:
		return s.failErr // locks may be held for ever
	default:
	}
	s.users.close()
	var err error
	if !s.readOnly {
		// Nothing rests on the write-ahead log then, whose last 32 KiB Pebble
		// takes for torn by a crash if a bit of them changes.
		err = s.db.Flush()
	}
	return errors.Join(err, s.closeFiles())
}

// cancelWhenFlushed waits for the workers. The flusher ends by itself.
func (s *Store) cancelWhenFlushed() {
	if !s.readOnly {
		select {
		case <-s.flushed:
		case <-s.failed:
		}
	}
	s.cancel()
	select {
	case <-s.failed:
	default:
		s.workers.Wait()
	}
}

func (s *Store) closeFiles() error {
	var err error
	if s.db != nil {
		err = s.db.Close()
		s.db = nil
	}
	if s.cache != nil {
		s.cache.Unref()
		s.cache = nil
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
		s.lock = nil
	}
	if err != nil {
		return fmt.Errorf("replica: closing %s: %w", s.dir, err)
	}
	return nil
}
