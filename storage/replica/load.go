package replica

import (
	"errors"
	"fmt"
	"iter"

	"github.com/cockroachdb/pebble/v2"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// entry is a key and its value, both valid until the scan goes on.
type entry struct{ key, value []byte }

// scan yields what lies between two keys. An error ends it.
func (s *Store) scan(lower, upper []byte) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
		if err != nil {
			yield(entry{}, err)
			return
		}
		for ok := it.First(); ok; ok = it.Next() {
			v, err := it.ValueAndErr()
			if err != nil {
				yield(entry{}, errors.Join(err, it.Close()))
				return
			}
			if !yield(entry{it.Key(), v}, nil) {
				it.Close() // the caller has all it wanted
				return
			}
		}
		if err := errors.Join(it.Error(), it.Close()); err != nil {
			yield(entry{}, err)
		}
	}
}

// extents yields a log's extents that end after an index.
func (s *Store) extents(log uint32, from uint64) iter.Seq2[extent, error] {
	return func(yield func(extent, error) bool) {
		it, err := s.db.NewIter(&pebble.IterOptions{
			LowerBound: logKey(prefixExtent, log), UpperBound: logEnd(prefixExtent, log)})
		if err != nil {
			yield(extent{first: from}, err)
			return
		}
		defer it.Close() // its errors are those of the steps
		ok := it.SeekLT(indexKey(prefixExtent, log, from+1))
		if !ok && it.Error() == nil {
			ok = it.First()
		}
		next := uint64(0)
		for ; ok; ok = it.Next() {
			e, err := decodeExtent(it)
			if err == nil && e.first < next {
				err = fmt.Errorf("replica: extents overlap at index %d", e.first)
			}
			next = e.end()
			if err == nil && next <= from {
				continue
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
		if err := it.Error(); err != nil {
			yield(extent{first: max(next, from)}, err)
		}
	}
}

func decodeExtent(it *pebble.Iterator) (extent, error) {
	_, first, ok := parseIndexKey(prefixExtent, it.Key())
	if !ok {
		return extent{}, fmt.Errorf("replica: malformed key %x", it.Key())
	}
	v, err := it.ValueAndErr()
	if err != nil {
		return extent{first: first}, err
	}
	return parseExtent(first, v)
}

// findExtent returns the extent that covers an index, or ErrNotHeld.
func (s *Store) findExtent(log uint32, index uint64) (extent, error) {
	for e, err := range s.extents(log, index) {
		if err != nil {
			return extent{}, err
		}
		if e.first > index {
			break
		}
		return e, nil
	}
	return extent{}, ErrNotHeld
}

func (s *Store) droppedRanges(log uint32) iter.Seq2[merklelog.Range, error] {
	return func(yield func(merklelog.Range, error) bool) {
		for k, err := range s.scan(logKey(prefixDropped, log), logEnd(prefixDropped, log)) {
			var r merklelog.Range
			if err == nil {
				_, first, ok := parseIndexKey(prefixDropped, k.key)
				if !ok {
					err = fmt.Errorf("replica: malformed key %x", k.key)
				} else {
					r, err = parseDropped(first, k.value)
				}
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}

// runAt returns the run that an arrival number belongs to.
func (s *Store) runAt(arrival uint64) (run, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: []byte{prefixRun}, UpperBound: []byte{prefixRun + 1}})
	if err != nil {
		return run{}, err
	}
	defer it.Close() // its errors are those of the steps
	// The key of an arrival is the least that is not below it.
	if !it.SeekLT(append(arrivalKey(prefixRun, arrival), 0)) {
		return run{}, errors.Join(fmt.Errorf("replica: no run at arrival %d", arrival), it.Error())
	}
	r, err := decodeRun(it.Key(), it.ValueAndErr)
	if err == nil && r.end() <= arrival {
		err = fmt.Errorf("replica: no run at arrival %d", arrival)
	}
	return r, err
}

func decodeRun(key []byte, value func() ([]byte, error)) (run, error) {
	first, ok := parseArrivalKey(prefixRun, key)
	if !ok {
		return run{}, fmt.Errorf("replica: malformed key %x", key)
	}
	v, err := value()
	if err != nil {
		return run{}, err
	}
	return parseRun(first, v)
}

// runs yields all runs in the order of their arrivals.
func (s *Store) runs() iter.Seq2[run, error] {
	return func(yield func(run, error) bool) {
		for k, err := range s.scan([]byte{prefixRun}, []byte{prefixRun + 1}) {
			var r run
			if err == nil {
				r, err = decodeRun(k.key, func() ([]byte, error) { return k.value, nil })
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}

// garbageIn yields the garbage between two arrivals.
func (s *Store) garbageIn(first, end uint64) iter.Seq2[garbage, error] {
	upper := []byte{prefixGarbage + 1}
	if end != 0 {
		upper = arrivalKey(prefixGarbage, end)
	}
	return func(yield func(garbage, error) bool) {
		for k, err := range s.scan(arrivalKey(prefixGarbage, first), upper) {
			var g garbage
			if err == nil {
				at, ok := parseArrivalKey(prefixGarbage, k.key)
				if !ok {
					err = fmt.Errorf("replica: malformed key %x", k.key)
				} else {
					g, err = parseGarbage(at, k.value)
				}
			}
			if !yield(g, err) || err != nil {
				return
			}
		}
	}
}

func (s *Store) readRecord(log uint32) (rec logRecord, cert *account.Certificate, err error) {
	err = s.get(logKey(prefixManifest, log), func(v []byte) (err error) {
		if rec, err = parseLogRecord(v); err != nil {
			return err
		}
		cert, err = account.ParseCertificate(rec.manifest.Certificate)
		return err
	})
	return rec, cert, err
}

func (s *Store) readCheckpoint(log uint32) (cp merklelog.Checkpoint, err error) {
	err = s.get(logKey(prefixCheckpoint, log), func(v []byte) (err error) {
		cp, err = merklelog.ParseCheckpoint(v)
		return err
	})
	return cp, err
}

func (s *Store) readFrontier(log uint32, f *merklelog.Frontier) error {
	return s.get(logKey(prefixFrontier, log), func(v []byte) error {
		got, err := merklelog.ParseFrontier(v)
		if err == nil {
			*f = *got
		}
		return err
	})
}

// readFork returns the evidence against a log, or nil.
func (s *Store) readFork(log uint32) (*merklelog.Fork, error) {
	var f merklelog.Fork
	err := s.get(logKey(prefixFork, log), func(v []byte) (err error) {
		f, err = merklelog.ParseFork(v)
		return err
	})
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &f, nil
}

// readNumber reads a number that is 0 if it is not there.
func (s *Store) readNumber(key []byte) (n uint64, err error) {
	err = s.get(key, func(v []byte) (err error) {
		n, err = parseNumber(v)
		return err
	})
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	return n, err
}

// readTile returns the first n leaves of a tile.
func (s *Store) readTile(log uint32, tile uint64, n int) (leaves []merklelog.Leaf, err error) {
	err = s.get(leavesKey(log, tile), func(v []byte) (err error) {
		leaves, err = parseTile(v)
		return err
	})
	if err == nil && len(leaves) < n {
		err = fmt.Errorf("replica: leaf tile %d has %d leaves, want %d", tile, len(leaves), n)
	}
	if err != nil {
		return nil, err
	}
	return leaves[:n], nil
}

// readHashes returns the first n hashes of a tree tile.
func (s *Store) readHashes(log uint32, level int, tile uint64, n int) (hashes []merklelog.Hash, err error) {
	err = s.get(treeKey(log, level, tile), func(v []byte) (err error) {
		hashes, err = parseHashes(v)
		return err
	})
	if err == nil && len(hashes) < n {
		err = fmt.Errorf("replica: tree tile %d of level %d has %d hashes, want %d", tile, level, len(hashes), n)
	}
	if err != nil {
		return nil, err
	}
	return hashes[:n], nil
}

// storedTiles lets a merklelog.Tree read a log's tiles.
type storedTiles struct {
	s   *Store
	log uint32
}

func (t storedTiles) Leaves(tile uint64, n int) ([]merklelog.Leaf, error) {
	return t.s.readTile(t.log, tile, n)
}

func (t storedTiles) Hashes(level int, tile uint64, n int) ([]merklelog.Hash, error) {
	return t.s.readHashes(t.log, level, tile, n)
}
