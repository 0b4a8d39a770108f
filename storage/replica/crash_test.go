package replica

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

const crashLogSize = 40

// crashLogs are the logs of all histories: two accounts with three each.
var crashLogs = sync.OnceValue(func() []*fixtureLog {
	var logs []*fixtureLog
	for i := range 6 {
		w := newWriter(fmt.Sprint("account", i%2), fmt.Sprint("device", i))
		logs = append(logs, newLog(w, fmt.Sprint("crash", i), crashLogSize))
	}
	return logs
})

// promise is what a store owes to those who saw its answers.
type promise struct {
	size    uint64              // a Durable named a checkpoint of this size
	leaves  uint64              // and so many leaves
	held    map[uint64]struct{} // and these blocks
	dropped map[uint64]struct{} // Drop returned for these
}

func (p *promise) clone() *promise {
	return &promise{p.size, p.leaves, maps.Clone(p.held), maps.Clone(p.dropped)}
}

// owed is everything that is owed at one moment.
type owed struct {
	logs  map[int]*promise // by the log's place in crashLogs
	table map[string]string
}

func (o *owed) clone() *owed {
	c := &owed{logs: make(map[int]*promise), table: maps.Clone(o.table)}
	for i, p := range o.logs {
		c.logs[i] = p.clone()
	}
	return c
}

// powerCut is a file system as a power cut left it, and what was owed then.
type powerCut struct {
	fs      crashFS
	owed    *owed
	unsyncd int
}

// history is one seeded life of a store.
type history struct {
	rng  *rand.Rand
	tune tuning
	logs []*fixtureLog

	mu   sync.Mutex // what is owed changes, and power cuts happen, under it
	owed *owed
	cuts []*powerCut

	hookRng *rand.Rand // under mu
	every   int        // one power cut in so many file operations
	cache   int64
	stride  uint64 // how much a log grows at most at a time
	mem     crashFS
	s       *Store
}

func newHistory(seed uint64, tune tuning) *history {
	h := &history{
		rng:     rand.New(rand.NewPCG(seed, 1)),
		hookRng: rand.New(rand.NewPCG(seed, 2)),
		tune:    tune,
		logs:    crashLogs(),
		owed:    &owed{logs: make(map[int]*promise), table: make(map[string]string)},
		mem:     newCrashFS(),
		every:   52,
		stride:  12,
		cache:   1 << 20,
	}
	h.tune.smallRun = 1 + h.rng.IntN(3)
	h.tune.tableSize = (3 + h.rng.IntN(6)) * merklelog.BlockSize
	h.tune.quiet = 1
	h.tune.idle = time.Duration(1 + h.rng.IntN(20)*int(time.Millisecond))
	h.tune.idleLogs = 1 + h.rng.IntN(3)
	return h
}

func (h *history) options(fs vfs.FS) Options {
	o := Options{
		FS:        fs,
		NoBallast: true,
		Fatal:     func(err error) { panic(err) },
		// Small, so that flushes and compactions happen too.
		MemTableBytes: 256 << 10,
		CacheBytes:    h.cache,
		tune:          h.tune,
	}
	return o
}

// open opens the store on a file system that cuts the power now and then.
func (h *history) open() error {
	fs := errorfs.Wrap(h.mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			h.mu.Lock()
			if h.hookRng.IntN(h.every) == 0 {
				h.cutLocked()
			}
			h.mu.Unlock()
		}
		return nil
	}))
	s, err := Open("box", h.options(fs))
	h.s = s
	return err
}

func (h *history) cutLocked() *powerCut {
	percent := []int{0, 1, 10, 30, 50, 70, 90, 99, 100}[h.hookRng.IntN(9)]
	c := &powerCut{
		fs:      h.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: h.hookRng}),
		owed:    h.owed.clone(),
		unsyncd: percent,
	}
	h.cuts = append(h.cuts, c)
	return c
}

func (h *history) promiseLocked(i int) *promise {
	p := h.owed.logs[i]
	if p == nil {
		p = &promise{held: make(map[uint64]struct{}), dropped: make(map[uint64]struct{})}
		h.owed.logs[i] = p
	}
	return p
}

func (h *history) pick() (int, *fixtureLog) {
	i := h.rng.IntN(len(h.logs))
	return i, h.logs[i]
}

// commit asks what is durable, and notes that it is owed from now on.
func (h *history) commit(i int) error {
	l := h.logs[i]
	d, err := h.s.Commit(context.Background(), l.id)
	if errors.Is(err, ErrUnknownLog) {
		return nil
	}
	if err != nil {
		return err
	}
	if d.Checkpoint != l.checkpoint(d.Checkpoint.Size) {
		return fmt.Errorf("receipt for a checkpoint that was never offered: %+v", d.Checkpoint)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.promiseLocked(i)
	if d.Checkpoint.Size < p.size || d.Leaves < p.leaves {
		return fmt.Errorf("a receipt went back: %+v after size %d and %d leaves", d, p.size, p.leaves)
	}
	p.size, p.leaves = d.Checkpoint.Size, d.Leaves
	n := uint64(0)
	for x := range p.size {
		if !merklelog.RangesContain(d.Holes, x) {
			n++
			if _, ok := p.dropped[x]; ok {
				return fmt.Errorf("dropped block %d is receipted", x)
			}
			p.held[x] = struct{}{}
		} else if _, ok := p.held[x]; ok {
			return fmt.Errorf("receipted block %d has become a hole", x)
		}
	}
	if n != d.Held || d.HolesDigest != merklelog.DigestRanges(d.Holes) {
		return fmt.Errorf("receipt does not add up: %+v", d)
	}
	return nil
}

// extend brings a longer checkpoint, leaves and some blocks of a log.
func (h *history) extend(rng *rand.Rand, i int) error {
	l := h.logs[i]
	size, have := uint64(0), uint64(0)
	info, err := h.s.Log(l.id)
	if err == nil {
		size, have = info.Checkpoint.Size, info.Leaves
	} else if !errors.Is(err, ErrUnknownLog) {
		return err
	}
	size = min(size+1+rng.Uint64N(h.stride), crashLogSize)
	if err := l.offer(h.s, size); err != nil {
		return err
	}
	n := size
	if rng.IntN(4) == 0 {
		n = have + rng.Uint64N(size-have+1)
	}
	if n > have {
		if err := l.appendLeaves(h.s, n, size); err != nil {
			return err
		}
	}
	missing, err := h.s.Missing(l.id, 0, 100)
	if err != nil {
		return err
	}
	var want []uint64
	for _, r := range missing {
		for x := r.First; x < r.End(); x++ {
			if rng.IntN(8) > 0 {
				want = append(want, x)
			}
		}
	}
	if rng.IntN(3) == 0 {
		rng.Shuffle(len(want), func(i, j int) { want[i], want[j] = want[j], want[i] })
	}
	if len(want) > 0 && rng.IntN(2) == 0 {
		want = want[:1+rng.IntN(len(want))]
	}
	for _, x := range want {
		for range 1 + rng.IntN(8)/7 { // some twice
			if err := h.s.PutBlock(context.Background(), l.id, x, l.block(x)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h *history) step() error {
	switch k := h.rng.IntN(100); {
	case k < 40:
		i, _ := h.pick()
		if err := h.extend(h.rng, i); err != nil {
			return err
		}
		if h.rng.IntN(3) > 0 {
			return h.commit(i)
		}
	case k < 55: // several sessions at once
		logs := h.rng.Perm(len(h.logs))[:2+h.rng.IntN(2)]
		errs := make([]error, len(logs))
		var wg sync.WaitGroup
		for n, i := range logs {
			rng := rand.New(rand.NewPCG(h.rng.Uint64(), 3))
			wg.Go(func() {
				if errs[n] = h.extend(rng, i); errs[n] == nil {
					errs[n] = h.commit(i)
				}
			})
		}
		wg.Wait()
		return errors.Join(errs...)
	case k < 65:
		i, _ := h.pick()
		return h.commit(i)
	case k < 75:
		return h.drop()
	case k < 77:
		i, l := h.pick()
		h.mu.Lock()
		delete(h.owed.logs, i)
		h.mu.Unlock()
		if err := h.s.RemoveLog(l.id); err != nil && !errors.Is(err, ErrUnknownLog) {
			return err
		}
	case k < 82:
		key, value := fmt.Sprint("key", h.rng.IntN(5)), fmt.Sprint(h.rng.Uint64())
		h.mu.Lock()
		delete(h.owed.table, key) // either value may survive from here on
		h.mu.Unlock()
		if err := h.s.Table("t").Put([]byte(key), []byte(value)); err != nil {
			return err
		}
		h.mu.Lock()
		h.owed.table[key] = value
		h.mu.Unlock()
	case k < 88:
		if err := h.s.Close(); err != nil {
			return err
		}
		return h.open()
	case k < 94: // power cut, and on from what it left
		h.mu.Lock()
		c := h.cutLocked()
		again := c.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: h.hookRng})
		h.mem = again
		h.mu.Unlock()
		h.s.Close() // on the file system that nobody looks at any more
		return h.open()
	case k < 97:
		return h.s.reclaimAll(context.Background())
	default:
		i, l := h.pick()
		h.mu.Lock()
		p := h.promiseLocked(i).clone()
		h.mu.Unlock()
		for x := range p.held {
			if err := l.checkRead(h.s, x); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h *history) drop() error {
	i, l := h.pick()
	first := h.rng.Uint64N(crashLogSize)
	r := merklelog.Range{First: first, Count: 1 + h.rng.Uint64N(min(10, crashLogSize-first))}
	h.mu.Lock()
	p := h.promiseLocked(i)
	for x := r.First; x < r.End(); x++ {
		delete(p.held, x) // may be gone from now on
	}
	h.mu.Unlock()
	err := h.s.Drop(l.id, []merklelog.Range{r})
	if errors.Is(err, ErrUnknownLog) {
		return nil
	}
	if err != nil {
		return err
	}
	h.mu.Lock()
	for x := r.First; x < r.End(); x++ {
		p.dropped[x] = struct{}{}
	}
	h.mu.Unlock()
	return nil
}

// live runs the history. It returns the power cuts, to be looked at.
func (h *history) live(steps int) ([]*powerCut, error) {
	if err := h.open(); err != nil {
		return nil, err
	}
	for n := range steps {
		if err := h.step(); err != nil {
			return h.cuts, fmt.Errorf("step %d: %w", n, err)
		}
	}
	h.mu.Lock()
	h.cutLocked()
	h.mu.Unlock()
	if err := h.s.Close(); err != nil {
		return h.cuts, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cutLocked()
	return h.cuts, nil
}

// verify opens the store as a power cut left it, without repairing anything,
// and compares it with what is owed.
func (h *history) verify(c *powerCut, on bool) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("with %d %% of unsynced data: %w", c.unsyncd, err)
		}
	}()
	o := h.options(c.fs)
	s, err := Open("box", o)
	if err != nil {
		return err
	}
	defer s.Close()
	s.reclaimMu.Lock() // garbage is freed from the start on, with tables of its own
	names, err := c.fs.List("box/" + incomingDir)
	s.reclaimMu.Unlock()
	if err != nil || len(names) > 0 {
		return fmt.Errorf("unfinished tables %v are left (%v)", names, err)
	}
	if err := recount(s); err != nil {
		return err
	}
	if err := compare(s, h.logs, c.owed); err != nil {
		return err
	}
	if !on {
		return nil
	}
	// It must also be able to go on.
	if err := s.reclaimAll(context.Background()); err != nil {
		return err
	}
	h.s, h.owed = s, c.owed
	for i := range h.logs {
		if err := h.extend(h.rng, i); err != nil {
			return err
		}
		if err := h.commit(i); err != nil {
			return err
		}
	}
	if err := recount(s); err != nil {
		return err
	}
	report, err := s.Check(context.Background(), nil)
	if err != nil || !report.OK() {
		return fmt.Errorf("check: %v, %v", report.Damage, err)
	}
	return compare(s, h.logs, h.owed)
}

func compare(s *Store, logs []*fixtureLog, o *owed) error {
	for i, p := range o.logs {
		l := logs[i]
		info, err := s.Log(l.id)
		if errors.Is(err, ErrUnknownLog) && p.size == 0 {
			continue
		}
		if err != nil {
			return fmt.Errorf("log %d: %w", i, err)
		}
		if info.Checkpoint.Size < p.size || info.Leaves < p.leaves {
			return fmt.Errorf("log %d went back from size %d to %d, from %d leaves to %d",
				i, p.size, info.Checkpoint.Size, p.leaves, info.Leaves)
		}
		if info.Checkpoint != l.checkpoint(info.Checkpoint.Size) {
			return fmt.Errorf("log %d has a wrong checkpoint", i)
		}
		for x := range p.held {
			if err := l.checkRead(s, x); err != nil {
				return fmt.Errorf("receipted block: %w", err)
			}
		}
		for x := range p.dropped {
			if _, _, err := s.ReadBlock(l.id, x, nil); !errors.Is(err, ErrNotHeld) {
				return fmt.Errorf("dropped block %d of log %d: %v", x, i, err)
			}
		}
		for x := range info.Leaves {
			leaf, err := s.Leaves(l.id, x, 1)
			if err != nil || leaf[0] != l.leaves[x] {
				return fmt.Errorf("leaf %d of log %d is wrong (%v)", x, i, err)
			}
		}
	}
	for k, v := range o.table {
		if got, err := s.Table("t").Get([]byte(k)); err != nil || string(got) != v {
			return fmt.Errorf("table has %q (%v) under %q, put was %q", got, err, k, v)
		}
	}
	return nil
}

// recount derives every count and the index from the blocks alone, by reading
// the database from end to end, and compares them with what is stored.
func recount(s *Store) error {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	type place struct {
		log   uint32
		index uint64
	}
	blocks := make(map[uint64]place)  // by arrival
	extents := make(map[uint64]place) // by arrival
	held := make(map[uint32]uint64)
	dead := make(map[uint64]account.ID) // by arrival
	users := make(map[account.ID]usage)
	stored := make(map[account.ID]usage)
	owner := make(map[uint32]account.ID)
	count := make(map[uint32]uint64)
	var runs []run
	it, err := s.db.NewIter(&pebble.IterOptions{})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		k := slices.Clone(it.Key())
		v, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		switch k[0] {
		case prefixBlock:
			a, log, index, ok := parseBlockKey(k)
			if !ok || len(v) != merklelog.BlockSize {
				return fmt.Errorf("malformed block %x", k)
			}
			blocks[a] = place{log, index}
		case prefixExtent:
			log, first, _ := parseIndexKey(prefixExtent, k)
			e, err := parseExtent(first, v)
			if err != nil {
				return err
			}
			for i := range uint64(e.count) {
				if _, twice := extents[e.arrival+i]; twice {
					return fmt.Errorf("two extents use arrival %d", e.arrival+i)
				}
				extents[e.arrival+i] = place{log, first + i}
			}
			held[log] += uint64(e.count)
		case prefixGarbage:
			a, _ := parseArrivalKey(prefixGarbage, k)
			g, err := parseGarbage(a, v)
			if err != nil {
				return err
			}
			for i := range uint64(g.count) {
				dead[g.first+i] = g.account
			}
		case prefixRun:
			a, _ := parseArrivalKey(prefixRun, k)
			r, err := parseRun(a, v)
			if err != nil {
				return err
			}
			runs = append(runs, r)
		case prefixUsage:
			u, err := parseUsage(v)
			if err != nil {
				return err
			}
			stored[account.ID(k[1:])] = u
		case prefixAccountLog:
			id, log, _ := parseAccountLogKey(k)
			owner[log] = id
		case prefixHeld:
			log := uint32(k[1])<<24 | uint32(k[2])<<16 | uint32(k[3])<<8 | uint32(k[4])
			count[log], _ = parseNumber(v)
		}
	}
	if err := it.Error(); err != nil {
		return err
	}
	for a, p := range extents {
		if blocks[a] != p {
			return fmt.Errorf("the extent of block %d of log %d refers to arrival %d, which is not it", p.index, p.log, a)
		}
		if _, ok := dead[a]; ok {
			return fmt.Errorf("arrival %d is both alive and garbage", a)
		}
		u := users[owner[p.log]]
		u.blocks++
		users[owner[p.log]] = u
	}
	for a := range blocks {
		_, alive := extents[a]
		_, garbage := dead[a]
		if !alive && !garbage {
			return fmt.Errorf("the block at arrival %d is an orphan", a)
		}
	}
	for _, id := range dead {
		u := users[id]
		u.garbage++
		users[id] = u
	}
	for id := range stored {
		if users[id] != stored[id] {
			return fmt.Errorf("usage of an account is %+v, recounted %+v", stored[id], users[id])
		}
		delete(users, id)
	}
	for id, u := range users {
		return fmt.Errorf("usage of account %v is missing, recounted %+v", id, u)
	}
	for log, n := range held {
		if count[log] != n {
			return fmt.Errorf("log %d holds %d blocks, recounted %d", log, count[log], n)
		}
	}
	for _, r := range runs {
		live := uint32(0)
		for a := r.first; a < r.end(); a++ {
			if _, ok := extents[a]; ok {
				live++
			}
		}
		if live != r.live {
			return fmt.Errorf("the run at %d has %d live blocks, recounted %d", r.first, r.live, live)
		}
	}
	if end := s.nextBulk.Load(); len(runs) > 0 {
		for _, r := range runs {
			if r.first < firstSmall && r.end() > end || r.end() > s.nextSml && r.first >= firstSmall {
				return fmt.Errorf("numbers of the run at %d will be used again", r.first)
			}
		}
	}
	return nil
}

// runHistories lives histories with seeds from first on and verifies all their
// power cuts, until enough were seen or one was not survived.
func runHistories(t *testing.T, tune tuning, first uint64, histories int) (cuts int, failure error) {
	crashLogs()
	var next, seen atomic.Int64
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				n := next.Add(1) - 1
				mu.Lock()
				stop := failure != nil
				mu.Unlock()
				if stop || n >= int64(histories) {
					return
				}
				seed := first + uint64(n)
				h := newHistory(seed, tune)
				found, err := h.live(10 + h.rng.IntN(12))
				for i, c := range found {
					if err != nil {
						break
					}
					seen.Add(1)
					if err = h.verify(c, i%4 == 0); err != nil {
						err = fmt.Errorf("power cut %d: %w", i, err)
					}
				}
				if err != nil {
					mu.Lock()
					if failure == nil {
						failure = fmt.Errorf("history %d: %w", seed, err)
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return int(seen.Load()), failure
}

// TestPowerCuts defends the invariants that a receipt implies readable data
// after any crash and that a known size never decreases.
func TestPowerCuts(t *testing.T) {
	histories := 520
	switch {
	case testing.Short():
		histories = 8
	case raceEnabled:
		histories = 40
	}
	start := time.Now()
	cuts, err := runHistories(t, tuning{}, 1, histories)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d histories with %d power cuts in %v", histories, cuts, time.Since(start).Round(time.Millisecond))
	if histories >= 500 && cuts < 5000 {
		t.Errorf("%d power cuts, want at least 5,000", cuts)
	}
}

// TestPlantedBugs makes sure that the histories would find mistakes in the
// order of things.
func TestPlantedBugs(t *testing.T) {
	for name, tune := range map[string]tuning{
		"receipt before sync":     {plantReceiptBeforeSync: true},
		"receipt before ingest":   {plantReceiptBeforeIngest: true},
		"index before ingest":     {plantIndexBeforeIngest: true},
		"orphan kept":             {plantKeepOrphans: true},
		"quota outside the batch": {plantUsageApart: true},
	} {
		t.Run(name, func(t *testing.T) {
			cuts, err := runHistories(t, tune, 1, 200)
			if err == nil {
				t.Fatalf("%d power cuts did not find it", cuts)
			}
			t.Log(err)
		})
	}
}

// TestFreeingWaitsForTheDrop: a drop can be seen before it is synced. Freeing
// its blocks then, by a table that is durable at once, and losing power before
// the sync would leave an index of blocks that are gone.
func TestFreeingWaitsForTheDrop(t *testing.T) {
	mem := newCrashFS()
	o := testOptions(mem)
	o.tune.plantReceiptBeforeSync = true // so that the drop stays unsynced
	s, l := committed(t, o, 8)
	if err := s.syncWAL(); err != nil {
		t.Fatal(err)
	}
	if err := s.Drop(l.id, []merklelog.Range{{First: 0, Count: 6}}); err != nil {
		t.Fatal(err)
	}
	if err := s.reclaimAll(context.Background()); err != nil {
		t.Fatal(err)
	}
	after := mem.CrashClone(vfs.CrashCloneCfg{})
	closeTest(t, s)
	s = openTest(t, testOptions(after))
	if err := recount(s); err != nil {
		t.Fatal(err)
	}
	for i := uint64(6); i < 8; i++ {
		if err := l.checkRead(s, i); err != nil {
			t.Fatal(err)
		}
	}
	closeTest(t, s)
}
