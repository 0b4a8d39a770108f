package boottest

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"cobox/image/layout"
)

const (
	cutBoots = 50 // at least so many starts after a power cut
	cutRuns  = 2  // machines at a time
)

// TestUpdateCuts cuts the power at every write of an update: from the first
// start of a new card over the upload, the install and the trial until the new
// system has been the one that starts for a while. After each write the disk has
// to start a whole system, the old one or the new one. That is checked on the
// bytes for all of them, and by really starting for some.
func TestUpdateCuts(t *testing.T) {
	t.Parallel()
	u := newUpdated(t)
	u.record = true
	base := copySparse(t, u.computer.disk, 1<<30)
	next := release{"new", 11}
	file := u.bundle(t, next, nil)
	u.claim(t)
	said := u.send(t, file)
	u.answers(layout.SlotB)
	u.wait(`cobox-init: the system has proved itself`, 2*time.Minute)
	u.runs(t, layout.SlotB, next)
	<-said
	u.powerButton(time.Minute)
	u.sound()

	writes := readWrites(t, u.writes)
	h, err := newHistory(t, base, writes)
	if err != nil {
		t.Fatal(err)
	}
	sameDisk(t, h.end, u.computer.disk)
	if first, last := h.starts[0], h.starts[len(writes)]; first != (verdict{layout.SlotA, old.version}) || last != (verdict{layout.SlotB, next.version}) {
		t.Fatalf("the update began with %v and ended with %v", first, last)
	}
	// The check sees what it is there for: a choice that a disk keeps before what
	// it chooses, as if nothing had been flushed since the slot was erased.
	if _, err := newHistory(t, base, hasty(writes)); err == nil {
		t.Error("an update that flushes nothing would pass")
	} else {
		t.Log("if nothing were flushed:", err)
	}

	points := h.points(cutBoots)
	if len(points) < cutBoots {
		t.Fatalf("only %d points for %d writes", len(points), len(writes))
	}
	t.Logf("%d of %d power cuts are followed by a start", len(points), len(writes))
	began := time.Now()
	t.Run("starts", func(t *testing.T) {
		for i := range cutRuns {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				var mine []int
				for n := i; n < len(points); n += cutRuns {
					mine = append(mine, points[n])
				}
				h.boot(t, mine)
			})
		}
	})
	t.Logf("%d starts took %v", len(points), time.Since(began).Round(time.Second))
}

// hasty leaves out what was flushed since slot B was erased.
func hasty(writes []write) []write {
	b, _ := new(layout.Table).Partition(layout.SlotB.Partition())
	erase := slices.IndexFunc(writes, func(w write) bool { return w.touches(b.Start, b.Start+layout.SectorSize) })
	var left []write
	for n, w := range writes {
		if !w.flush || n <= erase+1 {
			left = append(left, w)
		}
	}
	return left
}

// points chooses after how many writes the box is started: all around those that
// could decide which system starts and those of a slot's first sector, and evenly
// in between. The first are about a new card.
func (h *history) points(atLeast int) []int {
	states := []int{0} // a flush makes no other disk
	for n, w := range h.writes {
		if !w.flush {
			states = append(states, n+1)
		}
	}
	chosen := map[int]bool{}
	for k := 1; k < len(states); k++ {
		w := h.writes[states[k]-1]
		decides := h.starts[states[k]-1].changedBy(w)
		for _, s := range []layout.Slot{layout.SlotA, layout.SlotB} {
			p, _ := new(layout.Table).Partition(s.Partition())
			decides = decides || w.touches(p.Start, p.Start+layout.SectorSize)
		}
		for i := max(0, k-2); decides && i <= min(k+2, len(states)-1); i++ {
			chosen[states[i]] = true
		}
	}
	for even := 2; len(chosen) < atLeast && even < len(states); even++ {
		more := maps.Clone(chosen)
		for i := range even {
			more[states[i*(len(states)-1)/(even-1)]] = true
		}
		if len(more) >= atLeast {
			chosen = more
		}
	}
	return slices.Sorted(maps.Keys(chosen))
}

// boot starts the disk as it was after so many writes, for each number of
// points. What a start writes is forgotten.
func (h *history) boot(t *testing.T, points []int) {
	disk := openCopy(t, h.base)
	done := 0
	for _, n := range points {
		apply(t, disk, h.writes[done:n])
		done = n
		want := h.starts[n]
		b := newBox(t, disk.Name(), watchdog...)
		b.computer.forget = true
		b.start(t)
		b.answers(want.slot)
		if v := b.wait(`cobox-init: CoBox starts version=(\S+)`, time.Second)[1]; v != want.version {
			t.Errorf("after write %d of %d the system %s runs, and %s should", n, len(h.writes), v, want.version)
		}
		b.sound()
		b.kill()
		t.Logf("after write %d of %d: %s in slot %v answers %v after power-on", n, len(h.writes), want.version, want.slot, time.Since(b.started).Round(100*time.Millisecond))
	}
}
