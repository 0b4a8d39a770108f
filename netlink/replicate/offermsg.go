package replicate

import (
	"encoding/binary"

	"cobox/storage/merklelog"
)

const (
	maxManifest = merklelog.MaxManifest
	// maxWantLeaves is the largest number of leaves asked for in one message.
	maxWantLeaves = 16 * merklelog.MaxBatch
	// maxWantRuns is the largest number of runs of blocks in one want.
	maxWantRuns = 64
	// maxWantBlocks is the largest number of blocks in one want: the credit of a member.
	maxWantBlocks = 64
	// maxHoles is the largest number of holes listed with a receipt.
	maxHoles = 512
)

// offer begins an offer under a new id.
//
//	offset  bytes
//	     0    136  the newest checkpoint
//	   136         manifest
type offer struct {
	checkpoint merklelog.Checkpoint
	manifest   *merklelog.Manifest
}

func appendOffer(dst []byte, o *offer) []byte {
	return merklelog.AppendManifest(merklelog.AppendCheckpoint(dst, o.checkpoint), o.manifest)
}

func parseOffer(b []byte) (*offer, error) {
	s := scanner{what: "offer", b: b}
	o := &offer{checkpoint: s.checkpoint()}
	if len(s.b) > maxManifest {
		s.fail("manifest of %d bytes", len(s.b))
	}
	m := s.rest()
	if s.err == nil {
		var err error
		o.manifest, err = merklelog.ParseManifest(m)
		s.check(err)
	}
	if err := s.done(); err != nil {
		return nil, err
	}
	return o, nil
}

// known answers an offer or an advance: where the receiver stands.
//
//	offset  bytes
//	     0    136  the newest checkpoint that the receiver holds
//	   136      8  number of leaves it has, from the first on
//	   144      8  number of blocks it has
type known struct {
	checkpoint merklelog.Checkpoint
	leaves     uint64
	held       uint64
}

func appendKnown(dst []byte, k *known) []byte {
	dst = merklelog.AppendCheckpoint(dst, k.checkpoint)
	dst = binary.BigEndian.AppendUint64(dst, k.leaves)
	return binary.BigEndian.AppendUint64(dst, k.held)
}

func parseKnown(b []byte) (*known, error) {
	s := scanner{what: "known", b: b}
	k := &known{checkpoint: s.checkpoint(), leaves: s.u64(), held: s.u64()}
	if s.err == nil && (k.leaves > k.checkpoint.Size || k.held > k.leaves) {
		s.fail("%d blocks and %d leaves of %d", k.held, k.leaves, k.checkpoint.Size)
	}
	if err := s.done(); err != nil {
		return nil, err
	}
	return k, nil
}

// advance states a newer checkpoint.
//
//	offset  bytes
//	     0    136  checkpoint
//	   136      8  from: the size that the proof begins at, that of the last known
//	   144         consistency proof from there to the checkpoint
type advance struct {
	checkpoint merklelog.Checkpoint
	from       uint64
	proof      merklelog.Proof
}

func appendAdvance(dst []byte, a *advance) []byte {
	dst = merklelog.AppendCheckpoint(dst, a.checkpoint)
	dst = binary.BigEndian.AppendUint64(dst, a.from)
	return merklelog.AppendProof(dst, a.proof)
}

func parseAdvance(b []byte) (*advance, error) {
	s := scanner{what: "advance", b: b}
	a := &advance{checkpoint: s.checkpoint(), from: s.size(), proof: s.proof()}
	if s.err == nil && a.from > a.checkpoint.Size {
		s.fail("from %d to %d", a.from, a.checkpoint.Size)
	}
	if err := s.done(); err != nil {
		return nil, err
	}
	return a, nil
}

// wantLeaves asks for leaves; they come in messages that end at multiples of
// 256 and at the last.
//
//	offset  bytes
//	     0      8  first
//	     8      4  number, 1 to 4,096
//	    12      8  size of the checkpoint that they are to be proven against
type wantLeaves struct {
	first uint64
	count uint32
	size  uint64
}

func (w *wantLeaves) end() uint64 { return w.first + uint64(w.count) }

func appendWantLeaves(dst []byte, w *wantLeaves) []byte {
	dst = binary.BigEndian.AppendUint64(dst, w.first)
	dst = binary.BigEndian.AppendUint32(dst, w.count)
	return binary.BigEndian.AppendUint64(dst, w.size)
}

func parseWantLeaves(b []byte) (*wantLeaves, error) {
	s := scanner{what: "want-leaves", b: b}
	w := &wantLeaves{first: s.index(), count: s.u32(), size: s.size()}
	if s.err == nil && (w.count == 0 || w.count > maxWantLeaves || w.end() > w.size) {
		s.fail("%d leaves at %d of %d", w.count, w.first, w.size)
	}
	if err := s.done(); err != nil {
		return nil, err
	}
	return w, nil
}

// appendWant appends the body of a want: the runs of blocks that the receiver
// has credit for. They are sent in this order.
//
//	offset  bytes
//	     0      2  number of runs, 1 to 64
//	     2   16·n  runs, as merklelog.AppendRanges has them; 64 blocks at most
func appendWant(dst []byte, runs []merklelog.Range) []byte { return merklelog.AppendRanges(dst, runs) }

func parseWant(b []byte) ([]merklelog.Range, error) {
	s := scanner{what: "want", b: b}
	if len(b) > 2+16*maxWantRuns {
		s.fail("%d bytes", len(b))
		return nil, s.err
	}
	runs, err := merklelog.ParseRanges(s.rest())
	s.check(err)
	if n := merklelog.CountRanges(runs); s.err == nil && (n == 0 || n > maxWantBlocks) {
		s.fail("%d blocks", n)
	}
	if err := s.done(); err != nil {
		return nil, err
	}
	return runs, nil
}

// appendHole appends the body of a hole: blocks that the sender does not have.
//
//	offset  bytes
//	     0      8  first: the block that is next to be sent
//	     8      8  number, at least 1; it may reach beyond what was asked for
func appendHole(dst []byte, r merklelog.Range) []byte {
	dst = binary.BigEndian.AppendUint64(dst, r.First)
	return binary.BigEndian.AppendUint64(dst, r.Count)
}

func parseHole(b []byte) (merklelog.Range, error) {
	s := scanner{what: "hole", b: b}
	r := merklelog.Range{First: s.index(), Count: s.u64()}
	if s.err == nil && (r.Count == 0 || r.Count > merklelog.MaxSize-r.First) {
		s.fail("%d blocks at %d", r.Count, r.First)
	}
	return r, s.done()
}

// appendAsk appends the body of an ask: a receipt is wanted as soon as all that
// can be had below this size is durable.
//
//	offset  bytes
//	     0      8  size
func appendAsk(dst []byte, size uint64) []byte { return binary.BigEndian.AppendUint64(dst, size) }

func parseAsk(b []byte) (uint64, error) {
	s := scanner{what: "ask", b: b}
	n := s.size()
	return n, s.done()
}

// receipted carries a receipt, with what its digest of holes stands for.
//
//	offset  bytes
//	     0    249  receipt
//	   249      8  settled: below this size the receiver has all that the offer
//	               has to give, or refused it
//	   257      1  1 if there are more holes than listed, else 0
//	   258         the first holes, at most 512, as merklelog.AppendRanges has them
type receipted struct {
	receipt   *Receipt
	settled   uint64
	truncated bool
	holes     []merklelog.Range
}

func appendReceipted(dst []byte, r *receipted) []byte {
	dst = AppendReceipt(dst, r.receipt)
	dst = binary.BigEndian.AppendUint64(dst, r.settled)
	return merklelog.AppendRanges(appendFlag(dst, r.truncated), r.holes)
}

func parseReceipted(b []byte) (*receipted, error) {
	s := scanner{what: "receipt", b: b}
	r := new(receipted)
	body := s.take(ReceiptSize)
	if s.err == nil {
		var err error
		r.receipt, err = ParseReceipt(body)
		s.check(err)
	}
	r.settled = s.u64()
	r.truncated = s.flag()
	if len(s.b) > 2+16*maxHoles {
		s.fail("%d bytes of holes", len(s.b))
	}
	list := s.rest()
	if s.err == nil {
		var err error
		r.holes, err = merklelog.ParseRanges(list)
		s.check(err)
	}
	if err := s.done(); err != nil {
		return nil, err
	}
	if err := r.consistent(); err != "" {
		s.fail("%s", err)
		return nil, s.err
	}
	return r, nil
}

// consistent says where the list of holes contradicts the receipt.
func (r *receipted) consistent() string {
	if n := len(r.holes); n > 0 && r.holes[n-1].End() > r.receipt.Size {
		return "a hole reaches beyond the size"
	}
	if r.settled > r.receipt.Size {
		return "settled beyond the size"
	}
	missing := r.receipt.Size - r.receipt.Held
	listed := merklelog.CountRanges(r.holes)
	switch {
	case r.truncated:
		if listed >= missing {
			return "the list of holes claims to be cut short but is not"
		}
	case listed != missing:
		return "the holes listed are not those that the number of blocks held leaves"
	case merklelog.DigestRanges(r.holes) != r.receipt.HolesDigest:
		return "the holes listed are not those of the digest"
	}
	return ""
}
