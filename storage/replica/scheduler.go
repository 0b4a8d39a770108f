package replica

import (
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// scheduler lets Pebble run one compaction at a time, and none before the
// database is open. Pebble's own begins them while Open is still at work, and
// if Open then fails they go on in a database that was taken apart; it also
// wakes up ten times a second for ever.
type scheduler struct {
	db pebble.DBForCompaction // set by Register, before all other calls

	mu       sync.Mutex
	cond     sync.Cond // granting became false
	open     bool
	closed   bool
	running  bool
	granting bool
	refused  bool // the database was told to wait while granting
}

func newScheduler() *scheduler {
	c := new(scheduler)
	c.cond.L = &c.mu
	return c
}

// start opens the gate.
func (c *scheduler) start() {
	c.mu.Lock()
	c.open = true
	c.mu.Unlock()
	c.grant()
}

// Register implements pebble.CompactionScheduler, as do the methods up to Done.
func (c *scheduler) Register(_ int, db pebble.DBForCompaction) { c.db = db }

// Unregister waits for a grant under way, for the database goes away.
func (c *scheduler) Unregister() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for c.granting {
		c.cond.Wait()
	}
}

// TrySchedule is called with the database's lock held. If it refuses, the
// database waits for Schedule.
func (c *scheduler) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.open || c.closed || c.running {
		c.refused = true
		return false, nil
	}
	c.running = true
	return true, c
}

// UpdateGetAllowedWithoutPermission has nothing to do: it is always one.
func (c *scheduler) UpdateGetAllowedWithoutPermission() {}

// Started, MeasureCPU and CumulativeStats implement pebble.CompactionGrantHandle.
func (c *scheduler) Started()                                          {}
func (c *scheduler) MeasureCPU(pebble.CompactionGoroutineKind)         {}
func (c *scheduler) CumulativeStats(pebble.CompactionGrantHandleStats) {}

// Done ends a compaction and lets the next begin.
func (c *scheduler) Done() {
	c.mu.Lock()
	c.running = false
	c.mu.Unlock()
	c.grant()
}

// grant starts a compaction if one waits. The database takes its own locks, so
// none of ours is held meanwhile.
func (c *scheduler) grant() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.granting {
		c.cond.Wait()
	}
	if c.db == nil || !c.open || c.closed || c.running {
		return
	}
	c.granting, c.running = true, true
	accepted := false
	// A database that was refused between its answer and now does not try again:
	// if it were not asked once more, it would never compact.
	for again := true; again && !c.closed; again = !accepted && c.refused {
		c.refused = false
		c.mu.Unlock()
		waiting, _ := c.db.GetWaitingCompaction()
		accepted = waiting && c.db.Schedule(c)
		c.mu.Lock()
	}
	if !accepted {
		c.running = false
	}
	c.granting = false
	c.cond.Broadcast()
}
