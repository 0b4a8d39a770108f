package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"cobox/storage/merklelog"
)

// logView is one log of the archive.
type logView struct {
	id     merklelog.LogID
	num    uint16
	blocks *blockMap
	opener Opener

	mu     sync.Mutex // guards what follows
	loaded bool
	foot   *footer // latest; nil if there is none
	footAt uint64  // block that it ends
	unsure bool    // blocks after it could not be read and are not known as lost
	unread bool    // neither could snapshots before it; set by logSnapshots
}

// recordRef is a record whose place and length are known from an index or a
// footer.
type recordRef struct {
	loc    location
	length uint32 // of the contents
	typ    byte
}

// payloads fetches and opens data blocks and hands out those that can be
// read, in any order. It returns why the first of the others could not, if
// that is known, apart from an error that ends the whole operation: one of fn
// or of the context.
func (a *Archive) payloads(ctx context.Context, v *logView, indexes []uint64, fn func(index uint64, payload []byte) error) (cause, err error) {
	buf := payloadPool.Get().(*[]byte)
	defer payloadPool.Put(buf)
	var fatal error
	fetchErr := a.cfg.Blocks.Fetch(ctx, v.id, indexes, func(i uint64, block []byte) error {
		a.fetched.Add(1)
		p, err := v.opener.Open((*buf)[:0], i, v.blocks.epoch(i), block)
		if err != nil {
			if cause == nil {
				cause = fmt.Errorf("block %d of log %s: %w", i, v.id, err)
			}
			return nil
		}
		if fatal = fn(i, p); fatal != nil {
			return fatal
		}
		return ctx.Err()
	})
	switch {
	case fatal != nil:
		return nil, fatal
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(fetchErr, ErrUnavailable):
		return nil, fetchErr
	}
	return errors.Join(fetchErr, cause), nil
}

var payloadPool = sync.Pool{New: func() any { b := make([]byte, 0, PayloadSize); return &b }}

// piece is a part of a record in one block.
type piece struct {
	ref      int
	at, from int // offset in the record with its header, in the block's body
	n        int
}

// recordPool holds buffers for the contents of records. A restore reads as many
// as there are groups, and making each one anew costs a twentieth of its time.
type recordPool struct{ pool sync.Pool }

const recordRounding = 64 << 10

// get returns a buffer of n bytes with any content.
func (p *recordPool) get(n int) []byte {
	if b, ok := p.pool.Get().(*[]byte); ok && cap(*b) >= n {
		return (*b)[:n]
	}
	return make([]byte, n, (n+recordRounding-1)/recordRounding*recordRounding)
}

// put takes back what get returned and nobody uses any more.
func (p *recordPool) put(b []byte) { p.pool.Put(&b) }

// readRecords fetches records of one log and hands the contents of those that
// are whole to fn, which may keep them, or give them back to a.records; it is
// called from one goroutine. It returns the numbers of the others and, if
// known, a cause.
func (a *Archive) readRecords(ctx context.Context, v *logView, refs []recordRef, fn func(i int, contents []byte) error) (missing []int, cause, err error) {
	pieces := map[uint64][]piece{}
	var indexes []uint64 // ascending when the refs are
	left := make([]int, len(refs))
	heads := make([][recordHeader]byte, len(refs))
	bufs := make([][]byte, len(refs))
	var span []uint64
	for r, ref := range refs {
		total := recordHeader + int(ref.length)
		span = v.blocks.span(span[:0], ref.loc, ref.length)
		at, from := 0, int(ref.loc.off)
		for _, i := range span {
			n := min(total-at, bodySize-from)
			if _, ok := pieces[i]; !ok {
				indexes = append(indexes, i)
			}
			pieces[i] = append(pieces[i], piece{r, at, from, n})
			at, from = at+n, 0
		}
		left[r] = len(span)
		if at < total {
			left[r] = -1 // reaches beyond the end of the log
		}
	}
	cause, err = a.payloads(ctx, v, indexes, func(i uint64, payload []byte) error {
		ps, ok := pieces[i]
		if !ok {
			return nil // not asked for, or a second time
		}
		delete(pieces, i)
		_, body, err := parsePayload(payload, i)
		if err != nil {
			return nil // sealed by the writer, but not in this format
		}
		for _, p := range ps {
			if left[p.ref] < 0 {
				continue
			}
			if bufs[p.ref] == nil {
				bufs[p.ref] = a.records.get(int(refs[p.ref].length))
			}
			part := body[p.from:][:p.n]
			if p.at < recordHeader {
				n := copy(heads[p.ref][p.at:], part)
				copy(bufs[p.ref], part[n:])
			} else {
				copy(bufs[p.ref][p.at-recordHeader:], part)
			}
			if left[p.ref]--; left[p.ref] > 0 {
				continue
			}
			contents := bufs[p.ref]
			bufs[p.ref] = nil
			typ, n, err := parseRecordHeader(heads[p.ref][:])
			if err != nil || typ != refs[p.ref].typ || n != int(refs[p.ref].length) {
				left[p.ref] = -1
				continue
			}
			if err := fn(p.ref, contents); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	for r, n := range left {
		if n != 0 {
			missing = append(missing, r)
		}
	}
	return missing, cause, nil
}

// latestFooter finds the newest footer that can be read in the data blocks
// below end, and the block that it ends. A log without one yields nil. In a
// log that is whole this takes one block, or two if it was cut off in the
// middle of a commit. unsure says that blocks were passed over which are not
// known to be lost, so that there may be a newer one.
func (a *Archive) latestFooter(ctx context.Context, v *logView, end uint64) (f *footer, at uint64, unsure bool, err error) {
	i, ok := v.blocks.dataBefore(end)
	for batch := 1; ok; {
		var run []uint64
		for j, more := i, true; more && len(run) < batch; j, more = v.blocks.dataBefore(j) {
			run = append(run, j)
		}
		// The last block of the run that can be read says where to go on.
		readable, distance := false, uint32(0)
		at = 0
		var foot *footer
		_, err = a.payloads(ctx, v, run, func(j uint64, payload []byte) error {
			h, body, err := parsePayload(payload, j)
			if err != nil || readable && j <= at {
				return nil
			}
			var f *footer
			if h.distance == 0 {
				if f, err = lastFooter(body, uint32(j)); err != nil {
					return nil
				}
			}
			readable, at, distance, foot = true, j, h.distance, f
			return nil
		})
		unsure = unsure || slices.ContainsFunc(run, func(j uint64) bool {
			return (!readable || j > at) && !v.blocks.lostBlock(j)
		})
		switch {
		case err != nil:
			return nil, 0, false, err
		case !readable:
			i, ok = v.blocks.dataBefore(run[len(run)-1])
			batch = min(batch*8, 64)
		case foot != nil:
			return foot, at, unsure, nil
		case distance == noFooter:
			return nil, 0, unsure, nil
		default:
			i, ok = v.blocks.dataBefore(at - uint64(distance) + 1)
			batch = 1
		}
	}
	return nil, 0, unsure, nil
}
