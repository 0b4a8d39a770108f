package replica

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// makeDurable puts an intake's blocks on the disk. What a crash leaves behind:
//
//   - while the table is written or synced: a file that the next start deletes;
//   - after the table was ingested: blocks that no run covers, orphans, which
//     the next start removes;
//   - after the index batch was applied and before it is synced: the same, or
//     everything;
//   - after that, everything.
//
// A small run is one batch with its index: it is there or it is not.
func (s *Store) makeDurable(in *intake) error {
	if in.table == nil {
		s.counts.smallRuns.Add(1)
		return s.writeIndex(in)
	}
	s.counts.tables.Add(1)
	if err := in.table.finish(); err != nil {
		return err
	}
	if s.opts.tune.plantIndexBeforeIngest {
		if err := s.writeIndex(in); err != nil {
			return err
		}
		return s.ingest(in.table.path)
	}
	if err := s.ingest(in.table.path); err != nil {
		return err
	}
	return s.writeIndex(in)
}

// writeIndex writes extents, run and usage of an intake in one synced batch,
// and then lets everybody see them.
func (s *Store) writeIndex(in *intake) error {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	b := s.db.NewBatch()
	defer b.Close()

	r := run{count: uint32(len(in.entries))}
	if in.table != nil {
		r.first = in.table.first
		b.Set(nextKey(nextBulk), appendNumber(nil, r.end()), nil)
	} else {
		r.first = s.nextSml
		b.Set(nextKey(nextSmall), appendNumber(nil, r.end()), nil)
		var k []byte
		for i, e := range in.entries {
			k = appendBlockKey(k[:0], r.first+uint64(i), e.log.num, e.index)
			b.Set(k, in.small[i], nil)
		}
		s.nextSml = r.end()
	}

	parts := splitByLog(in.entries)
	c := newChange(s)
	c.came = in.entries
	for _, p := range parts {
		p.addTo(b, c, r.first)
		r.live += uint32(p.count)
	}
	b.Set(arrivalKey(prefixRun, r.first), appendRun(nil, r), nil)
	if err := s.commitChange(b, c); err != nil {
		return err
	}

	for _, p := range parts {
		ls := p.log
		ls.mu.Lock()
		for _, x := range p.held {
			ls.held = merklelog.AddRange(ls.held, x)
		}
		for _, i := range p.order {
			delete(ls.pending, in.entries[i].index)
		}
		ls.setSyncedLocked(p.progress)
		ls.mu.Unlock()
	}
	in.entries = nil
	return nil
}

// part is what an intake holds of one log.
type part struct {
	log      *logState
	entries  []intakeEntry // of the intake
	order    []int         // which of them are this log's, by index
	held     []merklelog.Range
	count    uint64   // blocks that extents refer to
	progress progress // of the log when the batch was made
}

func splitByLog(entries []intakeEntry) []*part {
	order := make([]int, len(entries))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int {
		a, b := entries[i], entries[j]
		return cmp.Or(cmp.Compare(a.log.num, b.log.num), cmp.Compare(a.index, b.index))
	})
	var parts []*part
	for start, i := 0, 0; i < len(order); i++ {
		if i+1 == len(order) || entries[order[i+1]].log != entries[order[i]].log {
			parts = append(parts, &part{log: entries[order[i]].log, entries: entries, order: order[start : i+1]})
			start = i + 1
		}
	}
	return parts
}

// addTo adds the part's extents to the batch. Blocks of a log that was removed
// or of a range that was dropped since they came in become garbage at once.
func (p *part) addTo(b *pebble.Batch, c *change, first uint64) {
	ls := p.log
	ls.mu.Lock()
	defer ls.mu.Unlock()
	p.progress = ls.progressLocked()
	var e extent
	close := func() {
		if e.count == 0 {
			return
		}
		if ls.removed || merklelog.RangesContain(ls.dropped, e.first) {
			c.addGarbage(b, garbage{first: e.arrival, count: e.count, account: ls.account})
		} else {
			b.Set(indexKey(prefixExtent, ls.num, e.first), appendExtent(nil, e), nil)
			p.held = append(p.held, merklelog.Range{First: e.first, Count: uint64(e.count)})
			p.count += uint64(e.count)
		}
		e.count = 0
	}
	dropped := false
	for _, i := range p.order {
		index, arrival := p.entries[i].index, first+uint64(i)
		d := merklelog.RangesContain(ls.dropped, index)
		if e.count == 0 || d != dropped || e.end() != index || e.arrival+uint64(e.count) != arrival {
			close()
			e = extent{first: index, arrival: arrival}
			dropped = d
		}
		e.count++
	}
	close()
	if p.count > 0 {
		b.Set(logKey(prefixHeld, ls.num), appendNumber(nil, merklelog.CountRanges(ls.held)+p.count), nil)
		c.usage(ls.account).blocks += p.count
	}
}

// change collects what a batch does to runs and usage, so that each is written
// once. indexMu is held from its making to its end.
type change struct {
	s     *Store
	runs  map[uint64]run
	users map[account.ID]*usage // the values to be written
	came  []intakeEntry         // blocks that are indexed, and pending until then
}

func newChange(s *Store) *change {
	return &change{s: s, runs: make(map[uint64]run), users: make(map[account.ID]*usage)}
}

// usage returns the usage to be written for an account.
func (c *change) usage(id account.ID) *usage {
	u := c.users[id]
	if u == nil {
		c.s.mu.Lock()
		now := c.s.accountLocked(id).usage
		c.s.mu.Unlock()
		u = &now
		c.users[id] = u
	}
	return u
}

// addGarbage notes that the blocks are garbage from now on.
func (c *change) addGarbage(b *pebble.Batch, g garbage) {
	b.Set(arrivalKey(prefixGarbage, g.first), appendGarbage(nil, g), nil)
	c.usage(g.account).garbage += uint64(g.count)
}

// unlink takes ranges, which must be canonical, out of a log's extents. The
// blocks become garbage. It returns how many there were.
func (c *change) unlink(b *pebble.Batch, ls *logState, ranges []merklelog.Range) (n uint64, err error) {
	if len(ranges) == 0 {
		return 0, nil
	}
	for e, err := range c.s.extents(ls.num, ranges[0].First) {
		if err != nil {
			return n, c.s.damaged(ls.id, e.first, "index", err)
		}
		for len(ranges) > 0 && ranges[0].End() <= e.first {
			ranges = ranges[1:]
		}
		if len(ranges) == 0 {
			break
		}
		keep := []merklelog.Range{{First: e.first, Count: uint64(e.count)}}
		gone := keep
		for _, r := range ranges {
			if r.First >= e.end() {
				break
			}
			keep = merklelog.SubtractRange(append([]merklelog.Range(nil), keep...), r)
		}
		for _, r := range keep {
			gone = merklelog.SubtractRange(append([]merklelog.Range(nil), gone...), r)
		}
		if len(gone) == 0 {
			continue
		}
		b.Delete(indexKey(prefixExtent, ls.num, e.first), nil)
		for _, r := range keep {
			left := extent{first: r.First, count: uint32(r.Count), arrival: e.arrival + (r.First - e.first)}
			b.Set(indexKey(prefixExtent, ls.num, left.first), appendExtent(nil, left), nil)
		}
		for _, r := range gone {
			g := garbage{first: e.arrival + (r.First - e.first), count: uint32(r.Count), account: ls.account}
			if err := c.kill(g); err != nil {
				return n, c.s.damaged(ls.id, r.First, "index", err)
			}
			c.addGarbage(b, g)
			n += r.Count
		}
	}
	c.usage(ls.account).blocks -= n
	return n, nil
}

// kill lowers the live count of the run that the garbage is in.
func (c *change) kill(g garbage) error {
	for _, r := range c.runs {
		if r.first <= g.first && g.first < r.end() {
			return c.lower(r, g)
		}
	}
	r, err := c.s.runAt(g.first)
	if err != nil {
		return err
	}
	return c.lower(r, g)
}

func (c *change) lower(r run, g garbage) error {
	if g.end() > r.end() || r.live < g.count {
		return fmt.Errorf("replica: run at arrival %d has %d live blocks and is to lose %d", r.first, r.live, g.count)
	}
	r.live -= g.count
	c.runs[r.first] = r
	return nil
}

// commitChange writes what was collected, with the batch, and syncs it. Only
// then does anybody see the new usage, in which each block counts once: a quota
// that is nearly used up must not refuse what fits.
func (s *Store) commitChange(b *pebble.Batch, c *change) error {
	for _, r := range c.runs {
		b.Set(arrivalKey(prefixRun, r.first), appendRun(nil, r), nil)
	}
	apart := b
	if s.opts.tune.plantUsageApart {
		apart = s.db.NewBatch()
		defer apart.Close()
	}
	for id, u := range c.users {
		apart.Set(usageKey(id), appendUsage(nil, *u), nil)
	}
	if err := s.apply(b, !s.opts.tune.plantReceiptBeforeSync); err != nil {
		return err
	}
	if apart != b {
		if err := s.apply(apart, false); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, u := range c.users {
		s.accountLocked(id).usage = *u
	}
	for _, e := range c.came {
		s.accountLocked(e.log.account).pending--
	}
	return nil
}
