package replicate

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync/atomic"

	"cobox/storage/merklelog"
)

const (
	// readWindow is how many blocks of one Read are asked for at a time: 8 MiB.
	readWindow = 128
	// fewLeaves is up to how many wanted blocks in a tile are proven each by
	// itself. More share a path with all the leaves of the smallest subtree
	// that holds them, 33 bytes each.
	fewLeaves = 2
	// keptTiles is how many tiles' verified leaves a Read remembers.
	keptTiles = 16
)

var errBadAnswer = errors.New("replicate: the peer's answer does not verify")

// readCall is one read message. The fields after out are the reader's.
type readCall struct {
	s   *Session
	id  uint32
	ask *read
	out chan readAnswer // has room for every answer of the window
	off *atomic.Bool    // nobody wants the answers any more

	paths  int // answered
	blocks int
}

type readAnswer struct {
	call  *readCall
	path  *path
	index uint64
	buf   *buffer
	code  Code   // of an absent block
	err   *Error // the last answer, if the read was refused
	last  bool
}

func (c *readCall) deliver(a readAnswer) {
	a.call = c
	a.last = a.err != nil || (c.paths == len(c.ask.paths) && c.blocks == len(c.ask.indexes))
	if a.last {
		c.s.end(c.id)
		<-c.s.ownReads
	}
	c.out <- a
}

func (c *readCall) answer(k kind, body []byte) error {
	switch k {
	case kindPath:
		p, err := parsePath(body)
		if err != nil {
			return violation("receiving a path", err)
		}
		if c.paths == len(c.ask.paths) {
			return violationf("receiving a path", "more than were asked for")
		}
		t := c.ask.paths[c.paths]
		if p.first != t.first || len(p.leaves) != t.count(c.ask.size) {
			return violationf("receiving a path", "not that which was asked for")
		}
		c.paths++
		c.deliver(readAnswer{path: p})
	case kindAbsent:
		a, err := parseAbsent(body)
		if err != nil {
			return violation("receiving a block", err)
		}
		if err := c.next(a.index); err != nil {
			return err
		}
		c.deliver(readAnswer{index: a.index, code: a.code})
	default:
		return violationf("receiving an answer", "%v to a read", k)
	}
	return nil
}

// next checks that the answer for this block is due and counts it.
func (c *readCall) next(index uint64) error {
	if c.paths != len(c.ask.paths) || c.blocks == len(c.ask.indexes) || c.ask.indexes[c.blocks] != index {
		return violationf("receiving a block", "block %d was not asked for or is out of turn", index)
	}
	c.blocks++
	return nil
}

func (c *readCall) refuse(e *Error) error {
	c.deliver(readAnswer{err: e})
	return nil
}

// data reads the block of an answer. No more of them are on their way than the
// window has, which bounds the buffers.
func (r *reader) data(id uint32, index uint64) error {
	s := r.s
	s.mu.Lock()
	c, _ := s.calls[id].(*readCall)
	s.mu.Unlock()
	if c == nil {
		return violationf("receiving a block", "there is no read %d", id)
	}
	if err := c.next(index); err != nil {
		return err
	}
	buf := s.cfg.Limits.get()
	if err := r.full(buf.block()); err != nil {
		s.free(buf)
		return err
	}
	if c.off.Load() {
		s.free(buf)
		buf = nil
	}
	c.deliver(readAnswer{index: index, buf: buf})
	return nil
}

// Read reads blocks of a log from the peer and calls fn for each, in the order
// given, one at a time. Every block has been verified: the writer's signature
// over the checkpoint, the path from the block to its root. The block is valid
// only until fn returns.
//
// Several messages are on their way at once, so a Read of many blocks is not
// slowed by a long way. If the peer lacks some blocks, the others are delivered
// all the same and the result is a *NotHeldError; if fn fails, so does Read. A
// peer whose answer does not verify loses the session.
func (s *Session) Read(ctx context.Context, m *merklelog.Manifest, cp merklelog.Checkpoint, indexes []uint64,
	fn func(index uint64, block []byte, leaf merklelog.Leaf) error) error {
	if m.ID() != cp.Log {
		return fmt.Errorf("replicate: read: checkpoint of log %v with the manifest of %v", cp.Log, m.ID())
	}
	if err := cp.Verify(m.Writer); err != nil {
		return fmt.Errorf("replicate: read: %w", err)
	}
	for _, i := range indexes {
		if i >= cp.Size {
			return fmt.Errorf("replicate: read: block %d of a log of %d", i, cp.Size)
		}
	}
	r := &blockReader{
		s: s, cp: cp, todo: indexes, fn: fn,
		answers: make(chan readAnswer, 2*readWindow+maxRequests),
		tiles:   make(map[uint64]*provenTile),
		open:    make(map[uint32]*readCall),
	}
	return r.run(ctx)
}

// blockReader is the state of one Read, owned by its caller's goroutine.
type blockReader struct {
	s       *Session
	cp      merklelog.Checkpoint
	todo    []uint64
	fn      func(uint64, []byte, merklelog.Leaf) error
	answers chan readAnswer
	off     atomic.Bool

	open    map[uint32]*readCall
	flying  int // blocks asked for and not answered
	tiles   map[uint64]*provenTile
	clock   int // for the age of tiles
	absent  []uint64
	damaged int
}

// provenTile holds the leaves of one tile of 256 that were proven, or are asked
// to be.
type provenTile struct {
	asked  [4]uint64 // a bit for each leaf: a path for it was asked for
	have   [4]uint64
	leaves [256]merklelog.Leaf
	flying int // blocks of it that were asked for and not answered
	used   int
}

func (r *blockReader) run(ctx context.Context) (err error) {
	defer func() {
		if len(r.open) > 0 {
			r.abandon()
		}
	}()
	for len(r.todo) > 0 || r.flying > 0 || len(r.open) > 0 {
		for r.more() {
			if err := r.ask(ctx); err != nil {
				return err
			}
		}
		select {
		case a := <-r.answers:
			if err := r.take(a); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-r.s.ctx.Done():
			return r.s.closedError()
		}
	}
	if len(r.absent) > 0 {
		return &NotHeldError{Log: r.cp.Log, Indexes: r.absent, Damaged: r.damaged}
	}
	return nil
}

// more says whether another message should be sent: a full one, or the last.
func (r *blockReader) more() bool {
	n := min(len(r.todo), maxReadBlocks/2)
	return n > 0 && r.flying+n <= readWindow && len(r.open) < maxRequests/2
}

func (r *blockReader) ask(ctx context.Context) error {
	if err := r.s.readSlot(ctx); err != nil {
		return err
	}
	n := min(len(r.todo), maxReadBlocks/2)
	q := &read{log: r.cp.Log, size: r.cp.Size, indexes: r.todo[:n]}
	r.todo = r.todo[n:]
	q.paths = r.plan(q.indexes)
	c := &readCall{s: r.s, ask: q, out: r.answers, off: &r.off}
	r.flying += n
	return r.s.begin(c, func(id uint32) message {
		c.id = id
		r.open[id] = c
		return message(appendRead(newMessage(kindRead, id), q)).finish()
	})
}

// plan returns the paths needed for the blocks beyond those asked for before,
// and marks them.
func (r *blockReader) plan(indexes []uint64) []subtree {
	var paths []subtree
	var touched []uint64 // tiles, in order of appearance
	need := make(map[uint64][4]uint64)
	for _, i := range indexes {
		t := i / 256
		tile := r.tiles[t]
		if tile == nil {
			r.forget()
			tile = new(provenTile)
			r.tiles[t] = tile
		}
		r.clock++
		tile.used = r.clock
		tile.flying++
		if bit(&tile.asked, i) {
			continue
		}
		bitsOf, ok := need[t]
		if !ok {
			touched = append(touched, t)
		}
		setBit(&bitsOf, i)
		need[t] = bitsOf
	}
	for _, t := range touched {
		n := need[t]
		tile := r.tiles[t]
		for _, sub := range subtrees(t, n, r.rising(t, indexes)) {
			paths = append(paths, sub)
			for k := range uint64(sub.count(r.cp.Size)) {
				setBit(&tile.asked, sub.first+k)
			}
		}
	}
	return paths
}

// rising says whether the blocks of a tile look like a part of a longer run,
// for which the whole tile's leaves will be needed.
func (r *blockReader) rising(t uint64, indexes []uint64) bool {
	if len(r.todo) == 0 {
		return false
	}
	return r.todo[0]/256 == t && indexes[len(indexes)-1]/256 == t
}

// subtrees returns what to ask for so that the marked leaves of a tile are proven.
func subtrees(tile uint64, need [4]uint64, whole bool) []subtree {
	count, first, last := 0, uint64(255), uint64(0)
	var each []subtree
	for w, word := range need {
		for ; word != 0; word &= word - 1 {
			i := uint64(w*64 + bits.TrailingZeros64(word))
			first, last = min(first, i), max(last, i)
			count++
			each = append(each, subtree{first: tile*256 + i})
		}
	}
	switch {
	case whole:
		return []subtree{{first: tile * 256, level: maxLevel}}
	case count <= fewLeaves:
		return each
	}
	level := uint8(bits.Len64(first ^ last))
	return []subtree{{first: tile*256 + first>>level<<level, level: level}}
}

func bit(set *[4]uint64, i uint64) bool { return set[i%256/64]>>(i%64)&1 == 1 }
func setBit(set *[4]uint64, i uint64)   { set[i%256/64] |= 1 << (i % 64) }

// forget makes room for another tile.
func (r *blockReader) forget() {
	if len(r.tiles) < keptTiles {
		return
	}
	oldest, found := uint64(0), false
	for t, tile := range r.tiles {
		if tile.flying == 0 && (!found || tile.used < r.tiles[oldest].used) {
			oldest, found = t, true
		}
	}
	if found {
		delete(r.tiles, oldest)
	}
}

// take handles one answer.
func (r *blockReader) take(a readAnswer) error {
	if a.last {
		delete(r.open, a.call.id)
	}
	if a.err != nil {
		return a.err
	}
	if a.path != nil {
		if err := verifyPath(a.path, r.cp); err != nil {
			return r.lied(err)
		}
		tile := r.tiles[a.path.first/256]
		for k, leaf := range a.path.leaves {
			i := a.path.first + uint64(k)
			tile.leaves[i%256] = leaf
			setBit(&tile.have, i)
		}
		return nil
	}
	r.flying--
	tile := r.tiles[a.index/256]
	tile.flying--
	if a.code != CodeNone {
		r.absent = append(r.absent, a.index)
		if a.code == CodeDamaged {
			r.damaged++
		}
		return nil
	}
	defer r.s.free(a.buf)
	if !bit(&tile.have, a.index) {
		return r.lied(fmt.Errorf("no path for block %d", a.index))
	}
	leaf := tile.leaves[a.index%256]
	if err := leaf.Check(a.buf.block()); err != nil {
		return r.lied(fmt.Errorf("block %d: %w", a.index, err))
	}
	return r.fn(a.index, a.buf.block(), leaf)
}

func (r *blockReader) lied(err error) error {
	err = violation("reading blocks", fmt.Errorf("%w: %w", errBadAnswer, err))
	r.s.fail(err)
	return err
}

// abandon cancels what is under way. The answers that still come are dropped by
// a goroutine, as the reader must never wait for nobody.
func (r *blockReader) abandon() {
	r.off.Store(true)
	for id := range r.open {
		r.s.send(newMessage(kindCancel, id).finish())
	}
	// There is room in the channel for every answer, so nobody need take them;
	// only the buffers of those that came before are given back.
	for {
		select {
		case a := <-r.answers:
			r.s.free(a.buf)
		default:
			return
		}
	}
}

// verifyPath checks that the leaves are those of the checkpoint's tree. They
// are hashed to the siblings of the first leaf's path within the subtree; with
// the path above they must lead to the root, which they cannot if any is wrong.
func verifyPath(p *path, cp merklelog.Checkpoint) error {
	n := len(p.leaves)
	proof := make(merklelog.Proof, 0, 8+len(p.proof))
	for w := 1; w < n; w *= 2 {
		var f merklelog.Frontier
		for _, leaf := range p.leaves[w:min(2*w, n)] {
			f.Append(leaf)
		}
		proof = append(proof, f.Root())
	}
	return merklelog.VerifyInclusion(p.leaves[0], p.first, cp.Size, cp.Root, append(proof, p.proof...))
}
