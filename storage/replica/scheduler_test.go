package replica

import (
	"testing"

	"github.com/cockroachdb/pebble/v2"
)

// lateDB has nothing to compact when it is asked, and then at once something. As
// Pebble does, it asks for leave once and waits if it gets none.
type lateDB struct {
	pebble.DBForCompaction
	c                    *scheduler
	asked, scheduled     int
	waiting, mayNotStart bool
}

func (d *lateDB) GetWaitingCompaction() (bool, pebble.WaitingCompaction) {
	d.asked++
	if d.asked == 1 {
		ok, _ := d.c.TrySchedule()
		d.waiting, d.mayNotStart = !ok, !ok
		return false, pebble.WaitingCompaction{}
	}
	return d.waiting, pebble.WaitingCompaction{}
}

func (d *lateDB) Schedule(pebble.CompactionGrantHandle) bool {
	d.waiting = false
	d.scheduled++
	return true
}

// A compaction that the database wants while it is being asked is not forgotten.
func TestSchedulerForgetsNothing(t *testing.T) {
	c := newScheduler()
	d := &lateDB{c: c}
	c.Register(1, d)
	c.start()
	if !d.mayNotStart {
		t.Fatal("the compaction was not refused: the test tests nothing")
	}
	if d.scheduled != 1 {
		t.Errorf("the compaction was started %d times", d.scheduled)
	}
	if ok, _ := c.TrySchedule(); ok {
		t.Error("two compactions run")
	}
	c.Done()
	if ok, _ := c.TrySchedule(); !ok {
		t.Error("none may run after the end of the first")
	}
	c.Done()
	c.Unregister()
	if ok, _ := c.TrySchedule(); ok {
		t.Error("a compaction may run in a database that is closing")
	}
}
