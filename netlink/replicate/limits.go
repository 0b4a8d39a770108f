package replicate

import (
	"sync"

	"cobox/storage/merklelog"
)

const (
	// DefaultCredit is what all sessions together may have asked for and not
	// yet handed to the store, in blocks: 32 MiB.
	DefaultCredit = 512
	// sessionCredit is the same for one session: 4 MiB.
	sessionCredit = 64
	// leastCredit is what a session may have whatever the others do.
	leastCredit = 4
)

// Limits bounds what the sessions of one process ask for together, and shares
// their buffers. It is safe for concurrent use.
//
// Credit is divided evenly among the sessions that are taking something in, so
// a session that comes later finds its share as soon as the others have used up
// what they asked for before. A session always gets leastCredit, and one whose
// peer has stalled gives up what it holds: so nobody can hold up anybody else.
type Limits struct {
	total   int // blocks
	buffers sync.Pool

	mu     sync.Mutex
	used   int
	active int // sessions that hold some
}

// NewLimits returns limits with a credit of so many blocks for all sessions
// together; 0 means DefaultCredit.
func NewLimits(blocks int) *Limits {
	if blocks <= 0 {
		blocks = DefaultCredit
	}
	l := &Limits{total: blocks}
	l.buffers.New = func() any { return new(buffer) }
	return l
}

// InUse returns the credit that is taken now, in blocks, and by how many sessions.
func (l *Limits) InUse() (blocks, sessions int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.used, l.active
}

// buffer holds one message with a block, so that it is read and written without
// a copy.
type buffer struct {
	b [headerSize + blockBody]byte
}

// block returns the place of the block.
func (b *buffer) block() []byte { return b.b[headerSize+8:] }

func (l *Limits) get() *buffer  { return l.buffers.Get().(*buffer) }
func (l *Limits) put(b *buffer) { l.buffers.Put(b) }

// credit is one session's part of the limits.
type credit struct {
	l *Limits

	// under l.mu
	held   int // counted in l.used
	parked int // asked for, but given up because nothing came
}

// take grants up to want blocks and returns how many.
func (c *credit) take(want int) int {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	active := c.l.active
	if c.held == 0 {
		active++
	}
	share := min(sessionCredit, max(leastCredit, c.l.total/active))
	out := c.held + c.parked
	n := min(want, share-out, c.l.total-c.l.used)
	if n < leastCredit-out {
		n = min(want, leastCredit-out)
	}
	if n <= 0 {
		return 0
	}
	if c.held == 0 {
		c.l.active++
	}
	c.held += n
	c.l.used += n
	return n
}

// give returns n blocks that were taken.
func (c *credit) give(n int) {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	parked := min(n, c.parked)
	c.parked -= parked
	c.dropLocked(n - parked)
}

// park lends what is held to the others until it is given back.
func (c *credit) park() {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	n := c.held
	c.dropLocked(n)
	c.parked += n
}

func (c *credit) dropLocked(n int) {
	if n == 0 {
		return
	}
	if n > c.held {
		panic("replicate: more credit was given back than taken")
	}
	c.held -= n
	c.l.used -= n
	if c.held == 0 {
		c.l.active--
	}
}

// close gives everything back.
func (c *credit) close() {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.dropLocked(c.held)
	c.parked = 0
}

// runBlocks cuts up to n blocks, in at most maxWantRuns runs, off the front of
// the ranges.
func runBlocks(ranges []merklelog.Range, n int) (head, rest []merklelog.Range) {
	left := uint64(n)
	for left > 0 && len(ranges) > 0 && len(head) < maxWantRuns {
		r := ranges[0]
		k := min(left, r.Count)
		head = append(head, merklelog.Range{First: r.First, Count: k})
		left -= k
		if k == r.Count {
			ranges = ranges[1:]
		} else {
			ranges[0] = merklelog.Range{First: r.First + k, Count: r.Count - k}
		}
	}
	return head, ranges
}
