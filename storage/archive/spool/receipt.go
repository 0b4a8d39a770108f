package spool

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"cobox/storage/merklelog"

	"github.com/zeebo/blake3"
)

// BoxKey is the Ed25519 key with which a box signs receipts. Its text form is
// "box:" and 64 lower-case hexadecimal digits.
type BoxKey [32]byte

func (k BoxKey) String() string { return "box:" + hex.EncodeToString(k[:]) }

// Receipt is what a box has stated about the log: the first Size blocks, but for
// the holes, are durable there.
type Receipt struct {
	Box  BoxKey
	Size uint64
	Root merklelog.Hash
	// Holes is the complete list. Where a box names only its first holes, the
	// rest of the log counts as one.
	Holes []merklelog.Range
	// Signed is the receipt as the box signed it, at most 1,024 bytes; opaque
	// here.
	Signed []byte
}

const (
	receiptsVersion = 1
	receiptsContext = "cobox/v1/spool-receipts\x00"

	maxReceipts    = 256
	maxSigned      = 1024
	maxReceiptHole = merklelog.MaxRanges
	maxReceiptSize = 32 + 8 + 32 + 2 + 16*maxReceiptHole + 2 + maxSigned
	maxReceiptFile = 1 + 32 + 2 + maxReceipts*maxReceiptSize + 32
)

// covers reports whether all blocks of a range are durable at the box, but for
// those that are bad here.
func (r *Receipt) covers(first, end uint64, bad []merklelog.Range) bool {
	if end > r.Size {
		return false
	}
	for _, h := range r.Holes {
		if h.First >= end || h.End() <= first {
			continue
		}
		// A block that is bad here need not wait for anybody: it cannot be sent.
		from, to := max(h.First, first), min(h.End(), end)
		left := []merklelog.Range{{First: from, Count: to - from}}
		for _, b := range bad {
			left = merklelog.SubtractRange(left, b)
		}
		if len(left) > 0 {
			return false
		}
	}
	return true
}

// check refuses what the file cannot carry.
func (r *Receipt) check() error {
	if r.Size == 0 || r.Size > merklelog.MaxSize {
		return fmt.Errorf("spool: receipt for %d blocks", r.Size)
	}
	if len(r.Holes) > maxReceiptHole || len(r.Signed) > maxSigned {
		return fmt.Errorf("spool: receipt with %d holes and %d bytes", len(r.Holes), len(r.Signed))
	}
	return merklelog.CheckRanges(r.Holes, r.Size)
}

// Receipted takes in a receipt whose signature the caller has verified, and
// frees the segments that it allows to free. It must name a root that the log
// has had. One that is older than what the box stated before is left aside.
func (s *Spool) Receipted(r Receipt) error {
	if err := r.check(); err != nil {
		return err
	}
	if size := s.Checkpoint().Size; r.Size > size {
		return fmt.Errorf("spool: %v receipted %d blocks, the newest checkpoint has %d", r.Box, r.Size, size)
	}
	root, err := s.tree.Root(r.Size)
	if err != nil {
		return fmt.Errorf("spool: receipt of %v: %w", r.Box, err)
	}
	if root != r.Root {
		return fmt.Errorf("spool: %v receipted another root at %d", r.Box, r.Size)
	}
	r.Holes, r.Signed = slices.Clone(r.Holes), bytes.Clone(r.Signed)

	s.receiptFile.Lock()
	defer s.receiptFile.Unlock()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	old, known := s.receipts[r.Box]
	if known && old.Size > r.Size || !known && len(s.receipts) == maxReceipts {
		s.mu.Unlock()
		if known {
			return nil
		}
		return fmt.Errorf("spool: receipts of more than %d boxes", maxReceipts)
	}
	next := maps.Clone(s.receipts)
	next[r.Box] = r
	complete := r.Size == s.newest.Size && len(r.Holes) == 0
	s.mu.Unlock()
	// First the knowledge, then the removal, whoever removes: after the end of the
	// process no block is missing that is not known to be elsewhere. After a power
	// cut the file may be older than the removals unless it was synced, which is
	// done where a backup ends; Holes then names the blocks until the boxes are asked.
	if err := s.saveReceipts(next, complete); err != nil {
		return fmt.Errorf("spool: receipt of %v: %w", r.Box, err)
	}
	s.mu.Lock()
	s.receipts = next
	free := s.releaseLocked()
	s.broadcastLocked()
	s.mu.Unlock()
	s.remove(free)
	return nil
}

// saveReceipts needs receiptFile held.
func (s *Spool) saveReceipts(receipts map[BoxKey]Receipt, durable bool) error {
	return replaceFile(s.fs, receiptsName, appendReceipts(nil, s.id, sorted(receipts)), durable)
}

// Forget drops what a box has stated: it was removed, and its receipts count no
// longer.
func (s *Spool) Forget(box BoxKey) error {
	s.receiptFile.Lock()
	defer s.receiptFile.Unlock()
	s.mu.Lock()
	_, ok := s.receipts[box]
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	left := maps.Clone(s.receipts)
	delete(left, box)
	s.receipts = left
	s.mu.Unlock()
	if !ok {
		return nil
	}
	if err := s.saveReceipts(left, true); err != nil {
		return fmt.Errorf("spool: forget %v: %w", box, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broadcastLocked()
	return nil
}

// Receipts returns the newest receipt of each box, in the order of their keys.
func (s *Spool) Receipts() []Receipt {
	s.mu.Lock()
	defer s.mu.Unlock()
	return sorted(s.receipts)
}

func sorted(receipts map[BoxKey]Receipt) []Receipt {
	list := make([]Receipt, 0, len(receipts))
	for _, r := range receipts {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b Receipt) int { return bytes.Compare(a.Box[:], b.Box[:]) })
	return list
}

// SetReach says which boxes are connected and take blocks now. A box that cannot
// take any (over its quota, say) must not be among them, or appending waits for
// it. With at least one, blocks are not synced and appending is held back by the
// window; with none, the limit holds and the next Commit syncs all blocks.
func (s *Spool) SetReach(boxes ...BoxKey) {
	reach := make(map[BoxKey]bool, len(boxes))
	for _, b := range boxes {
		reach[b] = true
	}
	s.mu.Lock()
	s.reach = reach
	free := s.releaseLocked()
	s.broadcastLocked()
	s.mu.Unlock()
	s.remove(free)
	s.wake()
}

// releaseLocked takes out the segments that are needed no more: those of which
// some box has every block, and every box in reach too. The caller removes them
// once it has let go of the lock: giving back 16 MiB of page cache takes longer
// than anything else that is done under it.
func (s *Spool) releaseLocked() (free []*segment) {
	keep := s.segments[:0:0]
	for _, g := range s.segments {
		end := g.first + g.count
		if g.busy || g.count == 0 || end > s.newest.Size || !s.elsewhereLocked(g) {
			keep = append(keep, g)
			continue
		}
		s.waiting -= g.count * merklelog.BlockSize
		g.released = true
		free = append(free, g)
	}
	s.segments = keep
	return free
}

// remove removes the files of released segments.
func (s *Spool) remove(free []*segment) {
	for _, g := range free {
		if err := g.remove(); err != nil {
			// The next Open finds the file and releases it again.
			s.o.Logger.Warn("segment could not be removed", "log", s.id, "first", g.first, "err", err)
		}
	}
}

func (s *Spool) elsewhereLocked(g *segment) bool {
	for box := range s.reach {
		if r, ok := s.receipts[box]; !ok || !r.covers(g.first, g.first+g.count, g.bad) {
			return false
		}
	}
	for _, r := range s.receipts {
		if r.covers(g.first, g.first+g.count, g.bad) {
			return true
		}
	}
	return false
}

// Holes returns the blocks below the newest checkpoint that are neither here nor
// covered by a receipt that is known here. After a power cut these may be lost;
// a box that is asked may still have them.
func (s *Spool) Holes() []merklelog.Range {
	s.mu.Lock()
	defer s.mu.Unlock()
	holes := merklelog.AddRange(nil, merklelog.Range{First: 0, Count: s.newest.Size})
	for _, g := range s.segments {
		holes = merklelog.SubtractRange(holes, merklelog.Range{First: g.first, Count: g.count})
		for _, b := range g.bad {
			b.Count = min(b.End(), s.newest.Size) - min(b.First, s.newest.Size)
			holes = merklelog.AddRange(holes, b)
		}
	}
	for _, r := range s.receipts {
		next := uint64(0)
		for _, h := range append(slices.Clone(r.Holes), merklelog.Range{First: r.Size}) {
			holes = merklelog.SubtractRange(holes, merklelog.Range{First: next, Count: h.First - next})
			next = h.End()
		}
	}
	return holes
}

// appendReceipts appends the receipts file to dst:
//
//	offset  bytes
//	     0      1  version, 1
//	     1     32  log
//	    33      2  number of boxes, at most 256
//	               for each box, in ascending order of their keys:
//	            32   key
//	             8   size
//	            32   root
//	               holes, as merklelog.AppendRanges writes them
//	             2   length of the signed receipt, at most 1,024
//	               signed receipt
//	            32  BLAKE3-256 of "cobox/v1/spool-receipts\0" and all before
func appendReceipts(dst []byte, log merklelog.LogID, list []Receipt) []byte {
	start := len(dst)
	dst = append(dst, receiptsVersion)
	dst = append(dst, log[:]...)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(list)))
	for _, r := range list {
		dst = append(dst, r.Box[:]...)
		dst = binary.BigEndian.AppendUint64(dst, r.Size)
		dst = append(dst, r.Root[:]...)
		dst = merklelog.AppendRanges(dst, r.Holes)
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(r.Signed)))
		dst = append(dst, r.Signed...)
	}
	sum := receiptsSum(dst[start:])
	return append(dst, sum[:]...)
}

func receiptsSum(b []byte) [32]byte {
	h := blake3.New()
	h.WriteString(receiptsContext)
	h.Write(b)
	var sum [32]byte
	h.Sum(sum[:0])
	return sum
}

// parseReceipts reads what appendReceipts wrote for the log.
func parseReceipts(b []byte, log merklelog.LogID) ([]Receipt, error) {
	malformed := errors.New("spool: malformed receipts")
	if len(b) < 1+32+2+32 || len(b) > maxReceiptFile {
		return nil, malformed
	}
	body, sum := b[:len(b)-32], [32]byte(b[len(b)-32:])
	if receiptsSum(body) != sum || body[0] != receiptsVersion || merklelog.LogID(body[1:33]) != log {
		return nil, malformed
	}
	n := int(binary.BigEndian.Uint16(body[33:]))
	body = body[35:]
	if n > maxReceipts {
		return nil, malformed
	}
	var list []Receipt
	for range n {
		if len(body) < 72 {
			return nil, malformed
		}
		r := Receipt{Box: BoxKey(body[:32]), Size: binary.BigEndian.Uint64(body[32:]), Root: merklelog.Hash(body[40:72])}
		var err error
		if r.Holes, body, err = merklelog.CutRanges(body[72:]); err != nil {
			return nil, err
		}
		if len(body) < 2 {
			return nil, malformed
		}
		k := int(binary.BigEndian.Uint16(body))
		if body = body[2:]; k > len(body) {
			return nil, malformed
		}
		r.Signed, body = bytes.Clone(body[:k]), body[k:]
		if err := r.check(); err != nil {
			return nil, err
		}
		if i := len(list); i > 0 && bytes.Compare(list[i-1].Box[:], r.Box[:]) >= 0 {
			return nil, malformed
		}
		list = append(list, r)
	}
	if len(body) != 0 {
		return nil, malformed
	}
	return list, nil
}
