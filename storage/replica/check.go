package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// Progress says how far a Check is.
type Progress struct {
	Logs, Blocks           uint64 // done
	TotalLogs, TotalBlocks uint64
}

// MaxDamage is how many damages a Report lists.
const MaxDamage = 1024

// Report is what a Check found.
type Report struct {
	Logs, Leaves, Blocks uint64 // that were verified
	Damage               []*DamagedError
	DamageCount          uint64 // more than len(Damage) if there are too many
}

// OK reports whether nothing is damaged.
func (r *Report) OK() bool { return r.DamageCount == 0 }

func (r *Report) add(d *DamagedError) {
	r.DamageCount++
	if len(r.Damage) < MaxDamage {
		r.Damage = append(r.Damage, d)
	}
}

func (r *Report) addError(log merklelog.LogID, index uint64, what string, err error) {
	var d *DamagedError
	if !errors.As(err, &d) {
		d = &DamagedError{Log: log, Index: index, What: what, Err: err}
	}
	r.add(d)
}

// Check verifies every manifest, checkpoint, leaf, block and count. Damage goes
// into the report; a bad block becomes a hole, as when it is read. The error is
// that of ctx or of a store that cannot be used. progress may be nil; it is
// called about once for every 256 blocks.
//
// A Check may run while the store is in use. Writers wait for it while it
// counts, which takes about a microsecond for each run and extent.
func (s *Store) Check(ctx context.Context, progress func(Progress)) (*Report, error) {
	if err := s.enterRead(); err != nil {
		return nil, err
	}
	defer s.users.leave()
	c := &checker{s: s, ctx: ctx, report: new(Report), tell: progress}
	err := c.run()
	if err != nil {
		return c.report, fmt.Errorf("replica: check: %w", err)
	}
	return c.report, nil
}

type checker struct {
	s      *Store
	ctx    context.Context
	report *Report
	tell   func(Progress)
	done   Progress
	block  []byte
}

func (c *checker) run() error {
	c.counts()
	m := c.s.Metrics()
	c.done.TotalLogs, c.done.TotalBlocks = uint64(m.Logs), m.Held/merklelog.BlockSize
	var ids []merklelog.LogID
	for k, err := range c.s.scan([]byte{prefixIdentity}, []byte{prefixIdentity + 1}) {
		if err != nil {
			c.report.addError(merklelog.LogID{}, 0, "list of logs", err)
			break
		}
		if len(k.key) == 1+len(merklelog.LogID{}) {
			ids = append(ids, merklelog.LogID(k.key[1:]))
		}
	}
	for _, id := range ids {
		if err := errors.Join(c.ctx.Err(), c.s.usable()); err != nil {
			return err
		}
		if err := c.log(id); err != nil {
			return err
		}
		c.done.Logs++
		c.progress()
	}
	return nil
}

func (c *checker) progress() {
	if c.tell != nil {
		c.tell(c.done)
	}
}

// log verifies one log. The error is that of ctx.
func (c *checker) log(id merklelog.LogID) error {
	s := c.s
	ls, err := s.acquire(id)
	if errors.Is(err, ErrUnknownLog) {
		return nil // removed meanwhile
	}
	if err != nil {
		c.report.addError(id, 0, "log", err)
		return nil
	}
	defer s.release(ls)
	c.report.Logs++
	rec, _, err := s.readRecord(ls.num)
	if err == nil {
		_, err = account.VerifyManifest(rec.manifest)
	}
	if err == nil && rec.manifest.ID() != id {
		err = fmt.Errorf("it is that of log %v", rec.manifest.ID())
	}
	if err != nil {
		c.report.addError(id, 0, "manifest", err)
	}
	ls.mu.Lock()
	cp, frontier, fork := ls.cp, ls.frontier, ls.fork
	held := append([]merklelog.Range(nil), ls.held...)
	ls.mu.Unlock()
	if err := cp.Verify(ls.writer); err != nil {
		c.report.addError(id, 0, "checkpoint", err)
	}
	if fork != nil {
		if err := fork.Verify(ls.writer); err != nil {
			c.report.addError(id, 0, "fork evidence", err)
		}
	}
	if err := c.leaves(ls, frontier); err != nil {
		return err
	}
	for _, r := range held {
		for i := r.First; i < r.End(); i++ {
			if i%merklelog.TileWidth == 0 {
				if err := errors.Join(c.ctx.Err(), s.usable()); err != nil {
					return err
				}
				c.progress()
			}
			block, _, err := s.readBlock(ls, i, c.block)
			c.done.Blocks++
			if errors.Is(err, ErrNotHeld) {
				continue // dropped meanwhile
			}
			if err != nil {
				c.report.addError(id, i, "block", err)
				continue
			}
			c.block = block
			c.report.Blocks++
		}
	}
	return nil
}

// leaves verifies that the stored leaves and tree tiles are those that the
// frontier, whose root the writer signed, was made of.
func (c *checker) leaves(ls *logState, want merklelog.Frontier) error {
	s := c.s
	levels := [][]merklelog.Hash{nil, nil} // hashes of the last tile of each level from 1 on
	var got merklelog.Frontier
	bad := false
	note := func(index uint64, what string, err error) {
		bad = true
		c.report.addError(ls.id, index, what, err)
	}
	// grow adds the n'th hash of a level and compares every tile that it fills.
	var grow func(level int, h merklelog.Hash, n uint64)
	grow = func(level int, h merklelog.Hash, n uint64) {
		if level == len(levels) {
			levels = append(levels, nil)
		}
		levels[level] = append(levels[level], h)
		if len(levels[level]) == merklelog.TileWidth {
			c.treeTile(ls, level, n/merklelog.TileWidth, levels[level], note)
			root := merklelog.HashTileRoot(levels[level])
			levels[level] = levels[level][:0]
			grow(level+1, root, n/merklelog.TileWidth)
		}
	}
	size := want.Size()
	for first := uint64(0); first < size; first += merklelog.TileWidth {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		n := int(min(size-first, merklelog.TileWidth))
		leaves, err := s.readTile(ls.num, first/merklelog.TileWidth, n)
		if err != nil {
			note(first, "leaves", err)
			continue
		}
		c.report.Leaves += uint64(n)
		if n < merklelog.TileWidth {
			if !bad {
				for _, l := range leaves {
					got.Append(l)
				}
			}
			continue
		}
		root := merklelog.TileRoot(leaves)
		if bad {
			continue // what follows cannot be placed in the tree
		}
		got.AppendTile(root)
		grow(1, root, first/merklelog.TileWidth)
	}
	if bad {
		return nil
	}
	for level := 1; level < len(levels); level++ {
		if len(levels[level]) > 0 {
			n := size >> (8 * level)
			c.treeTile(ls, level, n/merklelog.TileWidth, levels[level], note)
		}
	}
	if got.Root() != want.Root() {
		note(0, "leaves", errors.New("they do not yield the root that was verified when they came in"))
	}
	return nil
}

func (c *checker) treeTile(ls *logState, level int, tile uint64, want []merklelog.Hash, note func(uint64, string, error)) {
	got, err := c.s.readHashes(ls.num, level, tile, len(want))
	if err == nil && !slices.Equal(got, want) {
		err = fmt.Errorf("tile %d of level %d does not match the leaves", tile, level)
	}
	if err != nil {
		note(tile<<(8*(level+1)), "tree", err)
	}
}

// counts verifies that extents lie in runs, that runs are as alive as they say,
// and that logs and accounts hold as much as they say.
func (c *checker) counts() {
	s := c.s
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	note := func(err error) { c.report.addError(merklelog.LogID{}, 0, "index", err) }

	var runs []run
	for r, err := range s.runs() {
		if err != nil {
			note(err)
			return
		}
		runs = append(runs, r)
	}
	live := make([]uint32, len(runs))
	dead := make([]uint32, len(runs))
	place := func(arrival uint64, count uint32, into []uint32) error {
		i, _ := slices.BinarySearchFunc(runs, arrival, func(r run, a uint64) int {
			if r.first <= a {
				return -1
			}
			return 1
		})
		if i--; i < 0 || arrival+uint64(count) > runs[i].end() {
			return fmt.Errorf("no run has the %d blocks at arrival %d", count, arrival)
		}
		into[i] += count
		return nil
	}
	users := make(map[account.ID]*usage)
	user := func(id account.ID) *usage {
		if users[id] == nil {
			users[id] = new(usage)
		}
		return users[id]
	}
	for k, err := range s.scan([]byte{prefixAccountLog}, []byte{prefixAccountLog + 1}) {
		if err != nil {
			note(err)
			return
		}
		id, num, ok := parseAccountLogKey(k.key)
		if !ok {
			note(fmt.Errorf("malformed key %x", k.key))
			continue
		}
		held := uint64(0)
		for e, err := range s.extents(num, 0) {
			if err == nil {
				err = place(e.arrival, e.count, live)
			}
			if err != nil {
				c.report.addError(c.nameOf(num), e.first, "index", err)
				break
			}
			held += uint64(e.count)
		}
		if n, err := s.readNumber(logKey(prefixHeld, num)); err != nil || n != held {
			c.report.addError(c.nameOf(num), 0, "index", errors.Join(fmt.Errorf("%d blocks held, counted as %d", held, n), err))
		}
		user(id).blocks += held
	}
	for g, err := range s.garbageIn(0, 0) {
		if err == nil {
			err = place(g.first, g.count, dead)
		}
		if err != nil {
			note(err)
			break
		}
		user(g.account).garbage += uint64(g.count)
	}
	for i, r := range runs {
		if live[i] != r.live || live[i]+dead[i] > r.count {
			note(fmt.Errorf("the run at arrival %d has %d live blocks and %d dead, of %d, and is said to have %d live",
				r.first, live[i], dead[i], r.count, r.live))
		}
	}
	s.mu.Lock()
	for id := range s.accounts {
		user(id)
	}
	s.mu.Unlock()
	for id, want := range users {
		var got usage
		err := s.get(usageKey(id), func(v []byte) (err error) {
			got, err = parseUsage(v)
			return err
		})
		if got != *want {
			note(errors.Join(fmt.Errorf("usage of account %v is %d blocks and %d dead, counted as %d and %d",
				id, want.blocks, want.garbage, got.blocks, got.garbage), err))
		}
	}
}

// nameOf returns the identity of a log, as far as it can be read.
func (c *checker) nameOf(num uint32) merklelog.LogID {
	rec, _, err := c.s.readRecord(num)
	if err != nil {
		return merklelog.LogID{}
	}
	return rec.manifest.ID()
}
