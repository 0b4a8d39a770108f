package archive

import (
	"math/bits"
	"sync"
)

// index knows where chunks lie. It is an open-addressing table of about 21
// bytes a slot, between 45 and 75 % full, plus 16 bytes for each group.
//
// A backup claims a chunk that is not there before it stores it, so that two
// workers never store one chunk twice; the claim is turned into a place when
// its group has been packed.
type index struct {
	mu     sync.RWMutex
	keys   []chunkPrefix
	groups []uint32 // per slot: freeSlot, claimed, or a number into places
	pos    []uint8  // per slot: position of the chunk in its group
	used   int
	places []place
}

// place is where a group lies.
type place struct {
	loc    location
	log    uint16 // number of the log in the archive
	length uint32 // of the record's contents
}

const (
	freeSlot = 1<<32 - 1
	claimed  = 1<<32 - 2
)

func newIndex(chunks int) *index {
	x := &index{}
	x.resize(chunks*3/2 + 64)
	return x
}

func (x *index) resize(slots int) {
	keys, groups, pos := x.keys, x.groups, x.pos
	x.keys, x.groups, x.pos = make([]chunkPrefix, slots), make([]uint32, slots), make([]uint8, slots)
	for i := range x.groups {
		x.groups[i] = freeSlot
	}
	for i, g := range groups {
		if g != freeSlot {
			at, _ := x.slot(keys[i])
			x.keys[at], x.groups[at], x.pos[at] = keys[i], g, pos[i]
		}
	}
}

// slot finds the slot of a chunk, or the free one where it belongs. The ids
// are keyed hashes, so their own bits spread them.
func (x *index) slot(k chunkPrefix) (at int, found bool) {
	hi, _ := bits.Mul64(be.Uint64(k[:8]), uint64(len(x.groups)))
	for at = int(hi); x.groups[at] != freeSlot; {
		if x.keys[at] == k {
			return at, true
		}
		if at++; at == len(x.groups) {
			at = 0
		}
	}
	return at, false
}

// insertLocked returns the slot of k, made if it was not there.
func (x *index) insertLocked(k chunkPrefix) (at int, found bool) {
	if x.used >= len(x.groups)/4*3 {
		x.resize(len(x.groups)*5/3 + 64)
	}
	at, found = x.slot(k)
	if !found {
		x.keys[at] = k
		x.used++
	}
	return at, found
}

// claim reports whether the caller must store the chunk: it was neither in
// the index nor claimed before.
func (x *index) claim(k chunkPrefix) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	at, found := x.insertLocked(k)
	if !found {
		x.groups[at] = claimed
	}
	return !found
}

// add records a group and its chunks. Of two copies the one added later
// counts: it was stored because the one before it was lost.
func (x *index) add(p place, chunks []chunkPrefix) {
	x.mu.Lock()
	defer x.mu.Unlock()
	g := uint32(len(x.places))
	x.places = append(x.places, p)
	for i, k := range chunks {
		at, _ := x.insertLocked(k)
		x.groups[at], x.pos[at] = g, uint8(i)
	}
}

// find returns where a chunk lies: the number of its group for placeOf, and
// its position in it.
func (x *index) find(k chunkPrefix) (group uint32, pos uint8, ok bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	at, found := x.slot(k)
	if !found || x.groups[at] == claimed {
		return 0, 0, false
	}
	return x.groups[at], x.pos[at], true
}

func (x *index) placeOf(group uint32) place {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.places[group]
}

func (x *index) len() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.used
}
