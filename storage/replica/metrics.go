package replica

import "sync/atomic"

type counters struct {
	blocksIn, blocksOut, blocksFreed, refused, commits atomic.Uint64
	tables, smallRuns, lostRuns, orphans, forks        atomic.Uint64
	damaged, corruptions, backgroundErrors, stalls     atomic.Uint64
}

// Metrics are a store's counters since it was opened, and what it holds now.
type Metrics struct {
	BlocksIn         uint64 // blocks taken in
	BlocksOut        uint64 // blocks read
	BlocksFreed      uint64 // dropped blocks whose bytes are gone
	Refused          uint64 // blocks refused, for whatever reason
	Commits          uint64
	Tables           uint64 // tables ingested
	SmallRuns        uint64 // runs that went through the write-ahead log
	LostRuns         uint64 // runs given up because they could not be written
	Orphans          uint64 // blocks without an index found at the start
	Forks            uint64 // logs frozen
	Damaged          uint64 // times that something stored was found damaged
	Corruptions      uint64 // damaged database files reported by Pebble
	BackgroundErrors uint64
	Stalls           uint64 // times that writers had to wait for compactions

	Held      uint64 // bytes of blocks held
	Garbage   uint64 // bytes of dropped blocks not yet gone
	Accounts  int
	Logs      int
	DiskBytes uint64 // bytes that the database occupies
	FreeBytes uint64 // of the disk; 0 if unknown
	Low       bool   // new data is refused for lack of space
	ReadOnly  bool
}

// Metrics returns the counters.
func (s *Store) Metrics() Metrics {
	c := &s.counts
	m := Metrics{
		BlocksIn: c.blocksIn.Load(), BlocksOut: c.blocksOut.Load(), BlocksFreed: c.blocksFreed.Load(),
		Refused: c.refused.Load(), Commits: c.commits.Load(), Tables: c.tables.Load(),
		SmallRuns: c.smallRuns.Load(), LostRuns: c.lostRuns.Load(), Orphans: c.orphans.Load(),
		Forks: c.forks.Load(), Damaged: c.damaged.Load(), Corruptions: c.corruptions.Load(),
		BackgroundErrors: c.backgroundErrors.Load(), Stalls: c.stalls.Load(), ReadOnly: s.readOnly,
	}
	s.mu.Lock()
	for _, u := range s.accounts {
		m.Held += u.blocks << 16
		m.Garbage += u.garbage << 16
		m.Logs += u.logs
		if u.logs > 0 {
			m.Accounts++
		}
	}
	s.mu.Unlock()
	s.space.mu.Lock()
	s.space.freshLocked(s)
	m.FreeBytes, m.Low = s.space.free, s.space.low
	s.space.mu.Unlock()
	if s.users.enter() == nil {
		m.DiskBytes = s.db.Metrics().DiskSpaceUsage()
		s.users.leave()
	}
	return m
}
