package spool_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"cobox/storage/archive/spool"
	"cobox/storage/merklelog"
)

// witness signs like the device's key, and checks at every signature what the
// package promises: all leaves below it are durable, and no size is signed twice
// with different roots and then shown to anybody.
type witness struct {
	ed25519.PrivateKey
	t  testing.TB
	fs *memFS
}

func (w *witness) Sign(r io.Reader, message []byte, o crypto.SignerOpts) ([]byte, error) {
	if rest, ok := bytes.CutPrefix(message, []byte("cobox/v1/log/")); ok && w.fs != nil {
		size, err := strconv.Atoi(string(bytes.Split(rest, []byte("\n"))[1]))
		if err != nil {
			w.t.Fatal(err)
		}
		if have := len(w.fs.durableBytes("leaves")); have < size*merklelog.LeafSize {
			w.t.Errorf("checkpoint of size %d signed with %d bytes of durable leaves", size, have)
		}
	}
	return w.PrivateKey.Sign(r, message, o)
}

func newKey() ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	seed[3] = 7
	return ed25519.NewKeyFromSeed(seed)
}

func newManifest(t testing.TB) *merklelog.Manifest {
	key := newKey()
	m := &merklelog.Manifest{Writer: merklelog.WriterKey(key.Public().(ed25519.PublicKey)), Certificate: []byte("x")}
	if err := merklelog.SignManifest(m, key); err != nil {
		t.Fatal(err)
	}
	return m
}

// newBlock returns a block that is like no other of another index or story.
func newBlock(story, index uint64) []byte {
	b := make([]byte, merklelog.BlockSize)
	b[0] = byte(merklelog.Data)
	for off := 16; off < len(b); off += 4096 { // every page differs
		binary.BigEndian.PutUint64(b[off:], story)
		binary.BigEndian.PutUint64(b[off+8:], index)
	}
	return b
}

// history drives a spool through a random but repeatable life and keeps what the
// rest of the world knows about it.
type history struct {
	t       testing.TB
	rng     *rand.Rand
	fs      *memFS
	s       *spool.Spool
	story   uint64
	seen    []merklelog.Checkpoint             // shown to somebody
	stored  uint64                             // size of the newest commit that promised durable blocks
	boxes   map[spool.BoxKey][]merklelog.Range // what each box has said it has, ever
	now     map[spool.BoxKey][]merklelog.Range // what each box said last, and Receipted took in
	inReach bool
}

var boxA, boxB = spool.BoxKey{0xa}, spool.BoxKey{0xb}

func (h *history) options() spool.Options {
	return spool.Options{
		Signer: &witness{newKey(), h.t, h.fs}, FS: h.fs, SegmentBlocks: 4, Window: 1 << 30,
		CheckpointBlocks: 1 << 20, CheckpointAfter: 24 * time.Hour, // only commits sign, so that operations can be counted
	}
}

// step does one thing and returns the first error.
func (h *history) step() error {
	if h.s == nil {
		var err error
		if h.s, err = spool.Open("", h.options()); err != nil {
			return err
		}
		h.inReach = false
	}
	h.look()
	switch h.rng.IntN(9) {
	case 0, 1, 2:
		for range 1 + h.rng.IntN(6) {
			h.story++
			if _, err := h.s.Append(context.Background(), newBlock(h.story, h.s.Size())); err != nil {
				return err
			}
		}
	case 3, 4, 5:
		if h.s.Size() == 0 {
			return nil
		}
		live := h.inReach
		cp, err := h.s.Commit(context.Background())
		if err != nil {
			return err
		}
		if !live {
			h.stored = cp.Size
		}
		h.look()
	case 6:
		h.inReach = !h.inReach
		if h.inReach {
			h.s.SetReach(boxA)
		} else {
			h.s.SetReach()
		}
	case 7:
		cp := h.s.Checkpoint()
		if cp.Size == 0 {
			return nil
		}
		r := spool.Receipt{Box: boxA, Size: cp.Size, Root: cp.Root, Signed: []byte("signed")}
		if h.rng.IntN(3) == 0 {
			r.Box = boxB
		}
		if h.rng.IntN(3) == 0 {
			r.Holes = []merklelog.Range{{First: h.rng.Uint64N(cp.Size), Count: 1}}
		}
		held := merklelog.SubtractRange(merklelog.AddRange(nil, merklelog.Range{Count: cp.Size}), merklelog.Range{})
		for _, hole := range r.Holes {
			held = merklelog.SubtractRange(held, hole)
		}
		for _, x := range held {
			h.boxes[r.Box] = merklelog.AddRange(h.boxes[r.Box], x)
		}
		delete(h.now, r.Box) // if it fails, either may hold
		if err := h.s.Receipted(r); err != nil {
			return err
		}
		h.now[r.Box] = held
		return nil
	case 8:
		s := h.s
		h.s = nil
		return s.Close()
	}
	return nil
}

// look notes the newest checkpoint as shown.
func (h *history) look() {
	if cp := h.s.Checkpoint(); cp.Size > 0 && (len(h.seen) == 0 || h.seen[len(h.seen)-1] != cp) {
		h.seen = append(h.seen, cp)
	}
}

// elsewhere reports whether some box has the block.
func (h *history) elsewhere(index uint64) bool {
	return merklelog.RangesContain(h.boxes[boxA], index) || merklelog.RangesContain(h.boxes[boxB], index)
}

// check opens what a crash has left and compares it with what the world knows.
// powerCut says that blocks not synced may be missing.
func (h *history) check(fs *memFS, powerCut bool) {
	h.t.Helper()
	t := h.t
	h.fs = fs
	s, err := spool.Open("", h.options())
	if err != nil {
		t.Errorf("open after a crash: %v", err)
		return
	}
	defer s.Close()
	newest := s.Checkpoint()
	for _, cp := range h.seen {
		if back, err := s.Regressed(cp); back || err != nil {
			t.Fatalf("checkpoint of %d was shown, the log is at %d after the crash: %v", cp.Size, newest.Size, err)
		}
	}
	if s.Size() != newest.Size {
		t.Fatalf("size %d above the newest checkpoint, %d", s.Size(), newest.Size)
	}
	holes := s.Holes()
	if err := merklelog.CheckRanges(holes, newest.Size); err != nil {
		t.Fatal(err)
	}
	for _, hole := range holes {
		for i := hole.First; !powerCut && i < hole.End(); i++ {
			if merklelog.RangesContain(h.now[boxA], i) || merklelog.RangesContain(h.now[boxB], i) {
				t.Fatalf("block %d was receipted, and is called a hole after the end of the process", i)
			}
		}
	}
	leaves, err := s.Leaves(0, int(newest.Size))
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, merklelog.BlockSize)
	for i, leaf := range leaves {
		index := uint64(i)
		err := s.Block(index, block)
		if err == nil {
			if leaf.Check(block) != nil {
				t.Fatalf("block %d does not match its leaf", index)
			}
			if merklelog.RangesContain(holes, index) {
				t.Fatalf("block %d is here and a hole", index)
			}
			continue
		}
		if !errors.Is(err, spool.ErrNotHere) {
			t.Fatalf("block %d: %v", index, err)
		}
		if h.elsewhere(index) {
			continue
		}
		if !merklelog.RangesContain(holes, index) {
			t.Fatalf("block %d is nowhere and no hole (%v of %d)", index, holes, newest.Size)
		}
		if !powerCut || index < h.stored {
			t.Fatalf("block %d is lost, %d were durable", index, h.stored)
		}
	}
	// The log goes on, and agrees with everything that was shown.
	for range 5 {
		h.story++
		if _, err := s.Append(context.Background(), newBlock(h.story, s.Size())); err != nil {
			t.Fatal(err)
		}
	}
	after, err := s.Commit(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, cp := range h.seen {
		p, err := s.Consistency(cp.Size, after.Size)
		if err != nil {
			t.Fatal(err)
		}
		if err := merklelog.Compare(cp, after, p); err != nil {
			t.Fatalf("the log forked: %v", err)
		}
	}
	for i := newest.Size; i < after.Size; i++ {
		if err := s.Block(i, block); err != nil {
			t.Fatalf("block %d appended after the crash: %v", i, err)
		}
	}
}

// run lives a history of some steps, or until an operation fails.
func run(t testing.TB, seed uint64, steps int, f func(op int, kind string) fault) (*history, error) {
	h := &history{t: t, rng: rand.New(rand.NewPCG(seed, 1)), fs: newMemFS(), boxes: map[spool.BoxKey][]merklelog.Range{}, now: map[spool.BoxKey][]merklelog.Range{}}
	s, err := spool.Create("", newManifest(t), h.options())
	if err != nil {
		t.Fatal(err)
	}
	h.s, h.fs.fault = s, f
	base := h.fs.ops
	if f != nil {
		h.fs.fault = func(op int, kind string) fault { return f(op-base, kind) }
	}
	h.fs.ops = base
	for range steps {
		if err = h.step(); err != nil {
			break
		}
	}
	if err == nil {
		h.fs.ops -= base
	}
	return h, err
}

const historySteps = 24

// operations returns how many operations a history has.
func operations(t *testing.T, seed uint64) int {
	h, err := run(t, seed, historySteps, nil)
	if err != nil {
		t.Fatal(err)
	}
	n := h.fs.ops
	h.end()
	return n
}

// end stops the spool's goroutine, whatever state it is in.
func (h *history) end() {
	if h.s != nil {
		h.s.Close()
	}
}

// seeds returns a few seeds, different ones for different tests.
func seeds(from uint64) []uint64 {
	if testing.Short() {
		return []uint64{from}
	}
	return []uint64{from, from + 1}
}

// Invariant 2 on the device: SIGKILL at every single operation, in the middle of
// a write too, leaves a log that goes on where it was, without a hole.
func TestKillAtEveryOperation(t *testing.T) {
	for _, seed := range seeds(0) {
		for at := range operations(t, seed) {
			half := at%2 == 0
			dead := errors.New("killed")
			h, err := run(t, seed, historySteps, func(op int, kind string) fault {
				return fault{err: map[bool]error{true: dead}[op >= at], half: half && op == at}
			})
			left := h.fs.afterKill()
			h.end() // only to end its goroutine: every operation fails
			if err == nil {
				continue // what failed was not waited for
			}
			h.s = nil
			t.Run(fmt.Sprintf("seed=%d/op=%d", seed, at), func(t *testing.T) {
				h.t = t
				h.check(left, false)
			})
		}
	}
}

// A power cut at every operation: what was durable stays, what was not is named
// as a hole, and the log goes on.
func TestPowerCutAtEveryOperation(t *testing.T) {
	keeps := []float64{0, 0.3, 0.7, 1}
	for _, seed := range seeds(10) {
		for at := range operations(t, seed) {
			dead := errors.New("power cut")
			h, err := run(t, seed, historySteps, func(op int, kind string) fault {
				return fault{err: map[bool]error{true: dead}[op >= at], half: op == at}
			})
			keep := keeps[at%len(keeps)]
			left := h.fs.afterPowerCut(rand.New(rand.NewPCG(seed, uint64(at))), keep)
			h.end()
			if err == nil {
				continue
			}
			h.s = nil
			t.Run(fmt.Sprintf("seed=%d/op=%d/keep=%v", seed, at, keep), func(t *testing.T) {
				h.t = t
				h.check(left, true)
			})
		}
	}
}

// EIO or a full disk at every operation, with and without effect: a clear error,
// no false promise, and after starting anew the log goes on.
func TestErrorAtEveryOperation(t *testing.T) {
	for _, seed := range seeds(20) {
		for at := range operations(t, seed) {
			injected := error(errInjected)
			if at%3 == 0 {
				injected = syscall.ENOSPC
			}
			h, err := run(t, seed, historySteps, func(op int, kind string) fault {
				if op != at {
					return fault{}
				}
				return fault{err: injected, after: at%2 == 0, half: true}
			})
			if err != nil && !errors.Is(err, injected) && !errors.Is(err, spool.ErrClosed) {
				t.Errorf("seed %d, op %d: the error does not say what failed: %v", seed, at, err)
			}
			h.fs.fault = nil
			left := h.fs.afterKill()
			h.end()
			h.s = nil
			t.Run(fmt.Sprintf("seed=%d/op=%d", seed, at), func(t *testing.T) {
				h.t = t
				// A damaged segment may be a hole where reading it failed.
				h.check(left, false)
			})
		}
	}
}

// Errors while opening are errors, and opening again succeeds.
func TestErrorWhileOpening(t *testing.T) {
	h, err := run(t, 3, historySteps, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.fs.fault = nil
	left := h.fs.afterKill()
	h.end()
	for at := range 200 {
		again := left.afterKill()
		again.fault = func(op int, kind string) fault {
			if op == at {
				return fault{err: errInjected}
			}
			return fault{}
		}
		h.fs = again
		s, err := spool.Open("", h.options())
		if err == nil {
			s.Close()
		} else if !errors.Is(err, errInjected) {
			t.Errorf("op %d: %v", at, err)
		}
		again.fault = nil
		h.check(again.afterKill(), false)
	}
}

// A segment all of whose counted blocks are receipted must not be removed while
// the next block is being written to it.
func TestReceiptDuringAWrite(t *testing.T) {
	fs := newMemFS()
	s := create(t, "", small(fs))
	fill(t, s, 2)
	fs.before = func(string) {
		fs.before = nil
		receipted(t, s, receipt(boxA, commit(t, s)))
	}
	fill(t, s, 1)
	commit(t, s)
	block := make([]byte, merklelog.BlockSize)
	if err := s.Block(2, block); err != nil || !bytes.Equal(block, newBlock(1, 2)) {
		t.Errorf("the block written during a receipt: %v", err)
	}
}

// Blocks that were dropped after a kill do not come back with a power cut as
// blocks of the log as it went on since.
func TestDroppedBlocksStayDropped(t *testing.T) {
	fs := newMemFS()
	s := create(t, "", small(fs))
	fill(t, s, 5)
	commit(t, s)
	fill(t, s, 8) // closes the segment of 4 to 7, above the checkpoint of 5
	fs.fault = func(int, string) fault { return fault{err: errInjected} }
	s.Close() // killed
	fs.fault = nil

	s = reopen(t, "", small(fs))
	if s.Size() != 5 {
		t.Fatalf("size %d after the kill", s.Size())
	}
	s.SetReach(boxA) // so nothing but leaves is synced
	for range 5 {
		if _, err := s.Append(t.Context(), newBlock(2, s.Size())); err != nil {
			t.Fatal(err)
		}
	}
	commit(t, s)
	left := fs.afterPowerCut(rand.New(rand.NewPCG(1, 1)), 0)
	s = reopen(t, "", small(left))
	if h := s.Holes(); len(h) != 1 || h[0] != (merklelog.Range{First: 5, Count: 5}) {
		t.Errorf("holes %v, want the five blocks that were never synced", h)
	}
	if s.Next(0) != 0 || s.Next(5) != 10 {
		t.Errorf("next %d and %d", s.Next(0), s.Next(5))
	}
}

// A block that a power cut has taken stays a hole after the next commit, however
// often the log is opened: its segment is never taken for one that was checked.
func TestHolesStayHoles(t *testing.T) {
	fs := newMemFS()
	s := create(t, "", small(fs))
	s.SetReach(boxA) // so the blocks are not synced
	fill(t, s, 6)
	commit(t, s)
	fs = fs.afterPowerCut(rand.New(rand.NewPCG(1, 1)), 0.97)
	s = reopen(t, "", small(fs))
	lost := s.Holes()
	if n := merklelog.CountRanges(lost); n == 0 || n == 6 {
		t.Fatalf("the power cut took %v", lost)
	}
	fill(t, s, 1)
	commit(t, s) // with no box in reach: everything is synced
	for _, closed := range []bool{false, true} {
		if closed {
			s.Close()
		}
		fs = fs.afterKill()
		s = reopen(t, "", small(fs))
		if now := s.Holes(); !slices.Equal(now, lost) {
			t.Errorf("closed %v: holes %v, want %v", closed, now, lost)
		}
		fill(t, s, 1)
		commit(t, s)
	}
}

// While a receipt is being written down, nothing else that happens removes what it
// is of: killed then, the log has no hole.
func TestKilledBeforeTheReceiptIsStored(t *testing.T) {
	fs := newMemFS()
	s := create(t, "", small(fs))
	fill(t, s, 6)
	cp := commit(t, s)
	var left *memFS
	fs.before = func(kind string) {
		if kind != "rename" {
			return
		}
		fs.before = nil
		s.SetReach(boxA) // another box has just come or gone
		left = fs.afterKill()
	}
	receipted(t, s, receipt(boxA, cp))
	if s.Waiting() != 0 {
		t.Errorf("%d bytes wait after the receipt", s.Waiting())
	}
	s = reopen(t, "", small(left))
	if h := s.Holes(); len(h) != 0 {
		t.Errorf("holes %v", h)
	}
}
