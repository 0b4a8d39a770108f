package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
)

// fetchAtOnce bounds the contents of records that are asked for together.
const fetchAtOnce = 16 << 20

// footers loads the latest footer of every log, in parallel.
func (a *Archive) footers(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, v := range a.logs {
		g.Go(func() error { return a.loadFooter(ctx, v) })
	}
	return g.Wait()
}

func (a *Archive) loadFooter(ctx context.Context, v *logView) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.loaded {
		return nil
	}
	last, ok := v.blocks.dataBefore(v.blocks.size)
	if ok {
		if f := a.cache.getFooter(v, last); f != nil {
			v.foot, v.footAt, v.loaded = f, last, true
			return nil
		}
	}
	f, at, unsure, err := a.latestFooter(ctx, v, v.blocks.size)
	if err != nil {
		return fmt.Errorf("archive: finding the newest commit of log %s: %w", v.id, err)
	}
	v.foot, v.footAt, v.unsure, v.loaded = f, at, unsure, true
	if f != nil && at == last {
		a.cacheError(a.cache.putFooter(v, at, f))
	}
	return nil
}

// cacheError logs an error of the cache, which never stops anything.
func (a *Archive) cacheError(err error) {
	if err != nil {
		a.log.Warn("cache not written", "err", err)
	}
}

// segments hands the contents of segments of one log to fn, in order, from
// the cache or from the log. Those that cannot be read are returned.
func (a *Archive) segments(ctx context.Context, v *logView, typ byte, refs []segmentRef, fn func(s segmentRef, contents []byte) error) (missing []segmentRef, err error) {
	for len(refs) > 0 {
		n, size := 0, 0
		for n < len(refs) && (n == 0 || size+int(refs[n].length) <= fetchAtOnce) {
			size += int(refs[n].length)
			n++
		}
		got := make([][]byte, n)
		var ask []recordRef
		var which []int
		for i, s := range refs[:n] {
			if b := a.cache.get(segmentName(v, &s)); len(b) == int(s.length) {
				got[i] = b
				continue
			}
			ask = append(ask, recordRef{s.loc, s.length, typ})
			which = append(which, i)
		}
		if len(ask) > 0 {
			lost, cause, err := a.readRecords(ctx, v, ask, func(k int, contents []byte) error {
				got[which[k]] = contents
				a.cacheError(a.cache.put(segmentName(v, &refs[which[k]]), contents))
				return nil
			})
			if err != nil {
				return nil, err
			}
			for _, k := range lost {
				a.log.Warn("segment cannot be read; looking for what it was made of",
					"log", v.id, "block", ask[k].loc.block, "err", cause)
			}
		}
		for i, b := range got {
			if b == nil {
				missing = append(missing, refs[i])
			} else if err := fn(refs[i], b); errors.Is(err, errFormat) {
				missing = append(missing, refs[i])
			} else if err != nil {
				return nil, err
			}
		}
		refs = refs[n:]
	}
	return missing, nil
}

// recoverSegment hands out what a lost segment said: from the segments of
// which it was merged, which the footer before it lists, and where those are
// lost too from the data blocks themselves. The parts handed to fn cover what
// they say they do; scan is called for runs of blocks that no part covers.
func (a *Archive) recoverSegment(ctx context.Context, v *logView, typ byte, s segmentRef, fn func(segmentRef, []byte) error, scan func(first, end uint64) error) error {
	next := s.first
	if s.generation > 0 {
		f, _, _, err := a.latestFooter(ctx, v, uint64(s.loc.block))
		if err != nil {
			return err
		}
		if f != nil {
			list := f.index
			if typ == typeSnapshots {
				list = f.snapshots
			}
			for _, part := range list {
				if part.first < next || part.end > s.end || part.loc == s.loc {
					continue
				}
				if part.first > next {
					if err := scan(uint64(next), uint64(part.first)); err != nil {
						return err
					}
				}
				next = part.end
				missing, err := a.segments(ctx, v, typ, []segmentRef{part}, fn)
				if err != nil {
					return err
				}
				for _, m := range missing {
					if err := a.recoverSegment(ctx, v, typ, m, fn, scan); err != nil {
						return err
					}
				}
			}
		}
	}
	if next < s.end {
		return scan(uint64(next), uint64(s.end))
	}
	return nil
}

// loadIndex returns the index of all logs, loaded once.
func (a *Archive) loadIndex(ctx context.Context) (*index, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.index != nil {
		return a.index, nil
	}
	if err := a.footers(ctx); err != nil {
		return nil, err
	}
	size := 0
	for _, v := range a.logs {
		if v.foot != nil {
			for _, s := range v.foot.index {
				size += int(s.length)
			}
		}
	}
	x := newIndex(min(size/17, 1<<22)) // a guess; it grows as it must
	live := map[string]bool{}
	for _, v := range a.logs {
		if v.foot == nil {
			continue
		}
		for _, s := range v.foot.index {
			live[segmentName(v, &s)] = true
		}
		for _, s := range v.foot.snapshots {
			live[segmentName(v, &s)] = true
		}
		if err := a.eachGroup(ctx, v, v.foot.index, func(g indexGroup) error {
			if !v.blocks.isLost(g.loc, g.length) {
				x.add(place{g.loc, v.num, g.length}, g.chunks)
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	a.cache.keep("segment-", live)
	a.index = x
	return x, nil
}

// dropIndex has the index loaded anew. A backup that did not come to its end may
// have claimed chunks in it that it never stored, and no later one would.
func (a *Archive) dropIndex() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.index = nil
}

// eachGroup hands out every group that index segments of one log name.
func (a *Archive) eachGroup(ctx context.Context, v *logView, refs []segmentRef, fn func(indexGroup) error) error {
	use := func(_ segmentRef, contents []byte) error {
		// A segment that is malformed in the middle is not used in part.
		if err := eachIndexGroup(contents, func(indexGroup) error { return nil }); err != nil {
			return err
		}
		return eachIndexGroup(contents, fn)
	}
	missing, err := a.segments(ctx, v, typeIndex, refs, use)
	if err != nil {
		return err
	}
	for _, s := range missing {
		err := a.recoverSegment(ctx, v, typeIndex, s, use, func(first, end uint64) error {
			return a.indexBlocks(ctx, v, first, end, fn)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// indexBlocks makes index entries from the groups themselves.
func (a *Archive) indexBlocks(ctx context.Context, v *logView, first, end uint64, fn func(indexGroup) error) error {
	d, err := newDecoder()
	if err != nil {
		return err
	}
	defer d.close()
	h := a.hash.hasher()
	return a.scanRecords(ctx, v, first, end, func(l location, typ byte, contents []byte) error {
		if typ != typeGroup {
			return nil
		}
		chunks, err := d.decode(contents)
		if err != nil {
			return nil // what cannot be decoded has no chunks
		}
		g := indexGroup{loc: l, length: uint32(len(contents))}
		for _, c := range chunks {
			id := h.chunkID(c)
			g.chunks = append(g.chunks, chunkPrefix(id[:16]))
		}
		return fn(g)
	})
}

// scanRecords reads the records that start in the data blocks from first up
// to end, and goes on after lost blocks with the next record that starts.
func (a *Archive) scanRecords(ctx context.Context, v *logView, first, end uint64, fn func(l location, typ byte, contents []byte) error) error {
	const batch = 64
	var rec []byte // the record that has begun, with its header
	var at location
	began := false
	for i := v.blocks.data(first); i < v.blocks.size && (i < end || began); {
		var ask []uint64
		for j := i; len(ask) < batch && j < v.blocks.size && (j < end || len(ask) == 0); j = v.blocks.data(j + 1) {
			ask = append(ask, j)
		}
		got := map[uint64][]byte{}
		if _, err := a.payloads(ctx, v, ask, func(j uint64, payload []byte) error {
			got[j] = slices.Clone(payload)
			return nil
		}); err != nil {
			return err
		}
		for _, j := range ask {
			if j >= end && !began {
				return nil
			}
			h, body, err := payloadHeader{}, []byte(nil), error(nil)
			if p := got[j]; p != nil {
				h, body, err = parsePayload(p, j)
			}
			if body == nil || err != nil {
				rec, began = rec[:0], false
				continue
			}
			// A record that goes on ends before the next begins. If it does not, its
			// writer was interrupted, and another one began anew here.
			pos, limit := 0, min(int(h.first), len(body))
			if !began {
				if h.first == noRecord {
					continue
				}
				pos = limit
			}
			for pos < len(body) {
				if !began {
					limit = len(body)
					if body[pos] == 0 {
						pos++
						continue
					}
					if j >= end {
						return nil
					}
					rec, began, at = rec[:0], true, location{uint32(j), uint16(pos)}
				}
				if need := recordHeader - len(rec); need > 0 {
					n := min(need, limit-pos)
					rec = append(rec, body[pos:pos+n]...)
					if pos += n; len(rec) < recordHeader {
						began = limit == len(body)
						continue
					}
				}
				typ, length, err := parseRecordHeader(rec)
				if err != nil {
					rec, began = rec[:0], false
					break // the rest of this payload has no boundaries
				}
				need := recordHeader + length - len(rec)
				if need > limit-pos && limit < len(body) {
					pos, began = limit, false
					continue
				}
				n := min(need, limit-pos)
				rec = append(rec, body[pos:pos+n]...)
				if pos += n; len(rec) == recordHeader+length {
					began = false
					if err := fn(at, typ, rec[recordHeader:]); err != nil {
						return err
					}
				}
			}
		}
		i = v.blocks.data(ask[len(ask)-1] + 1)
	}
	return nil
}
