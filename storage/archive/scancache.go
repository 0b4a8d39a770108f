package archive

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"sync"
)

// The scan cache remembers, for one set of backup roots, what every directory
// looked like and where its listing lies. It is two files:
//
//	scan-ROOTS       of the last finished backup: header, frames, table, trailer
//	scan-ROOTS.part  of one that is running or was interrupted: header, frames
//	                 and a mark after each commit. Frames after the last mark
//	                 count for nothing: their chunks may not be in the log.
//
// ROOTS is a digest of the roots. Of a finished one only the table is read at
// the start, 45 bytes a directory; a frame when its directory has changed.
//
//	header   version 1; number of logs u16; each: LogID 32, size u64; number of
//	         the log that the backup went to u16; digest of lost blocks 16; sum
//	frame    length u32 of the record; record; sum
//	mark     0xFFFFFFFF; size u64 that the log must have; sum
//	table    ascending by key: key 16, digest 16, flags 1, offset of the frame
//	         u64, length of the record u32
//	trailer  number of directories u32; sum of header, table and trailer
//
// A sum is 16 bytes, keyed. A cache counts for nothing if one of its logs is
// no longer there, or is shorter, or if other blocks are lost than were then.
type scanCache struct {
	a     *Archive
	roots string // digest
	name  string

	full  *os.File // nil: none
	table []byte   // of full, encoded

	mu     sync.Mutex
	part   *os.File // nil: not begun, or not writable
	out    *bufio.Writer
	pos    int64 // in part, counting what out holds
	recent map[dirKey]scanEntry
	own    *logView // the log of part; nil: write nothing
}

// scanEntry says where the frame of a directory is, and what it was like.
type scanEntry struct {
	digest [16]byte
	flags  byte
	recent bool // in part
	offset int64
	length uint32
}

const (
	scanMark    = 1<<32 - 1
	scanRow     = 16 + 16 + 1 + 8 + 4
	scanTrailer = 4 + cacheSum
	maxScan     = 256 << 20 // bytes of a record
)

// openScanCache loads what is there for these roots. It never fails: without
// a usable cache everything is read again.
func (a *Archive) openScanCache(roots []string, own *logView) *scanCache {
	s := &scanCache{a: a, own: own, recent: map[dirKey]scanEntry{}}
	if a.cache == nil {
		return s
	}
	h := a.hash.h.Clone()
	h.WriteString("cobox/v1/scan-roots\x00")
	for _, r := range roots {
		h.WriteString(r + "\x00")
	}
	var name [8]byte
	h.Digest().Read(name[:])
	s.roots = fmt.Sprintf("%x", name)
	s.name = "scan-" + s.roots
	s.openFull()
	if own != nil {
		s.openPart()
	}
	return s
}

// key returns the key of a directory.
func (s *scanCache) key(path string) (k dirKey) {
	h := s.a.hash.h.Clone()
	h.WriteString("cobox/v1/scan-dir\x00")
	h.WriteString(path)
	h.Digest().Read(k[:])
	return k
}

func (s *scanCache) sum(parts ...[]byte) (sum [cacheSum]byte) { return s.a.cache.sum(s.name, parts...) }

func (s *scanCache) appendHeader(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, formatVersion)
	dst = be.AppendUint16(dst, uint16(len(s.a.logs)))
	own := uint16(noRecord)
	for i, v := range s.a.logs {
		dst = append(dst, v.id[:]...)
		dst = be.AppendUint64(dst, v.blocks.size)
		if v == s.own {
			own = uint16(i)
		}
	}
	dst = be.AppendUint16(dst, own)
	lost := s.a.lostDigest()
	dst = append(dst, lost[:]...)
	sum := s.sum(dst[start:])
	return append(dst, sum[:]...)
}

// lostDigest digests which blocks of which logs are lost.
func (a *Archive) lostDigest() (d [16]byte) {
	h := a.hash.h.Clone()
	h.WriteString("cobox/v1/lost\x00")
	logs := slices.Clone(a.logs)
	slices.SortFunc(logs, func(v, w *logView) int { return bytes.Compare(v.id[:], w.id[:]) })
	for _, v := range logs {
		for _, r := range v.blocks.lost {
			h.Write(v.id[:])
			h.Write(binary.BigEndian.AppendUint64(be.AppendUint64(nil, r.First), r.Count))
		}
	}
	h.Digest().Read(d[:])
	return d
}

// readHeader reads a header, checks it against the archive as it is, and
// returns its bytes and the log that the backup went to.
func (s *scanCache) readHeader(r io.ReaderAt) (header []byte, own *logView, ok bool) {
	var fixed [3]byte
	if _, err := r.ReadAt(fixed[:], 0); err != nil || fixed[0] != formatVersion {
		return nil, nil, false
	}
	n := int(be.Uint16(fixed[1:]))
	header = make([]byte, 3+40*n+2+16+cacheSum)
	if _, err := r.ReadAt(header, 0); err != nil {
		return nil, nil, false
	}
	body := header[:len(header)-cacheSum]
	if sum := s.sum(body); !bytes.Equal(sum[:], header[len(body):]) {
		return nil, nil, false
	}
	c := cursor{b: body[3:]}
	var logs []*logView
	for range n {
		var id [32]byte
		copy(id[:], c.take(32))
		v, size := s.a.view(id), c.u64()
		if v == nil || v.blocks.size < size {
			return nil, nil, false
		}
		logs = append(logs, v)
	}
	if i := int(c.u16()); i < len(logs) {
		own = logs[i]
	}
	lost := s.a.lostDigest()
	return header, own, bytes.Equal(c.take(16), lost[:])
}

func (s *scanCache) openFull() {
	f, err := os.Open(s.a.cache.path(s.name))
	if err != nil {
		return
	}
	if s.readFull(f) {
		s.full = f
	} else {
		f.Close()
	}
}

func (s *scanCache) readFull(f *os.File) bool {
	st, err := f.Stat()
	if err != nil {
		return false
	}
	header, _, ok := s.readHeader(f)
	if !ok || st.Size() < int64(len(header)+scanTrailer) {
		return false
	}
	trailer := make([]byte, scanTrailer)
	if _, err := f.ReadAt(trailer, st.Size()-scanTrailer); err != nil {
		return false
	}
	n := int64(be.Uint32(trailer))
	start := st.Size() - scanTrailer - n*scanRow
	if start < int64(len(header)) {
		return false
	}
	table := make([]byte, n*scanRow)
	if _, err := f.ReadAt(table, start); err != nil {
		return false
	}
	if sum := s.sum(header, table, trailer[:4]); !bytes.Equal(sum[:], trailer[4:]) {
		return false
	}
	s.table = table
	return true
}

// openPart loads what an interrupted backup left, up to its last mark.
func (s *scanCache) openPart() {
	f, err := os.OpenFile(s.a.cache.path(s.name+".part"), os.O_RDWR, 0)
	if err != nil {
		return
	}
	header, own, ok := s.readHeader(f)
	if !ok || own != s.own {
		f.Close()
		return
	}
	s.part, s.pos = f, int64(len(header))
	pending := map[dirKey]scanEntry{}
	r := bufio.NewReaderSize(io.NewSectionReader(f, s.pos, 1<<62), 1<<16)
	var buf []byte
	for at := s.pos; ; {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			break
		}
		n := be.Uint32(head[:])
		if n == scanMark {
			var b [8 + cacheSum]byte
			if _, err := io.ReadFull(r, b[:]); err != nil {
				break
			}
			sum := s.sum(head[:], b[:8])
			if !bytes.Equal(sum[:], b[8:]) || be.Uint64(b[:]) > s.own.blocks.size {
				break
			}
			at += 4 + int64(len(b))
			s.pos = at
			for k, e := range pending {
				s.recent[k] = e
			}
			clear(pending)
			continue
		}
		if n > maxScan || n < 33 {
			break
		}
		buf = slices.Grow(buf[:0], int(n)+cacheSum)[:int(n)+cacheSum]
		if _, err := io.ReadFull(r, buf); err != nil {
			break
		}
		if sum := s.sum(buf[:n]); !bytes.Equal(sum[:], buf[n:]) {
			break
		}
		pending[dirKey(buf)] = scanEntry{digest: [16]byte(buf[16:]), flags: buf[32], recent: true, offset: at, length: n}
		at += 4 + int64(len(buf))
	}
	if f.Truncate(s.pos) != nil {
		s.dropPartLocked()
		return
	}
	s.out = bufio.NewWriterSize(io.NewOffsetWriter(f, s.pos), 1<<16)
}

func (s *scanCache) dropPartLocked() {
	if s.part != nil {
		s.part.Close()
		s.part, s.out = nil, nil
	}
	clear(s.recent)
}

// parent returns the newest snapshot of the same roots.
func (s *scanCache) parent() (id SnapshotID) {
	copy(id[:], s.a.cache.get("parent-"+s.roots))
	return id
}

// lookup returns what is known of a directory.
func (s *scanCache) lookup(k dirKey) (scanEntry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lookupLocked(k)
}

func (s *scanCache) lookupLocked(k dirKey) (scanEntry, bool) {
	if e, ok := s.recent[k]; ok {
		return e, true
	}
	n := len(s.table) / scanRow
	i := sort.Search(n, func(i int) bool { return bytes.Compare(s.table[i*scanRow:i*scanRow+16], k[:]) >= 0 })
	if i == n {
		return scanEntry{}, false
	}
	c := cursor{b: s.table[i*scanRow : (i+1)*scanRow]}
	if !bytes.Equal(c.take(16), k[:]) {
		return scanEntry{}, false
	}
	e := scanEntry{digest: [16]byte(c.take(16)), flags: c.u8()}
	e.offset, e.length = int64(c.u64()), c.u32()
	return e, true
}

// frameLocked returns the frame of a directory without its length field, or nil.
func (s *scanCache) frameLocked(e scanEntry) []byte {
	f := s.full
	if e.recent {
		if s.out != nil && s.out.Flush() != nil {
			return nil
		}
		f = s.part
	}
	if f == nil || e.length > maxScan {
		return nil
	}
	b := make([]byte, int(e.length)+cacheSum)
	if _, err := f.ReadAt(b, e.offset+4); err != nil {
		return nil
	}
	if sum := s.sum(b[:e.length]); !bytes.Equal(sum[:], b[e.length:]) {
		return nil
	}
	return b
}

// record reads what is known of a directory; nil if it cannot be read.
func (s *scanCache) record(e scanEntry) *scanRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.frameLocked(e)
	if b == nil {
		return nil
	}
	r, err := parseScanRecord(b[:e.length])
	if err != nil {
		return nil
	}
	return r
}

// add writes a directory that was finished, to be valid from the next mark on.
func (s *scanCache) add(r *scanRecord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.a.cache == nil || s.own == nil {
		return
	}
	if s.part == nil && !s.beginLocked() {
		return
	}
	b, err := appendScanRecord(make([]byte, 4, 4096), r)
	if err != nil || len(b)-4 > maxScan {
		return
	}
	n := len(b) - 4
	be.PutUint32(b, uint32(n))
	sum := s.sum(b[4:])
	b = append(b, sum[:]...)
	if _, err := s.out.Write(b); err != nil {
		s.a.cacheError(err)
		s.dropPartLocked()
		s.own = nil
		return
	}
	s.recent[r.key] = scanEntry{digest: r.digest, flags: r.flags, recent: true, offset: s.pos, length: uint32(n)}
	s.pos += int64(len(b))
}

func (s *scanCache) beginLocked() bool {
	f, err := os.OpenFile(s.a.cache.path(s.name+".part"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		h := s.appendHeader(nil)
		if _, err = f.Write(h); err == nil {
			s.part, s.pos = f, int64(len(h))
			s.out = bufio.NewWriterSize(io.NewOffsetWriter(f, s.pos), 1<<16)
			return true
		}
		f.Close()
	}
	s.a.cacheError(err)
	s.own = nil
	return false
}

// mark says that everything added so far is in the log, whose size is given.
func (s *scanCache) mark(size uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.part == nil {
		return
	}
	b := be.AppendUint64(be.AppendUint32(nil, scanMark), size)
	sum := s.sum(b)
	b = append(b, sum[:]...)
	s.pos += int64(len(b))
	_, err := s.out.Write(b)
	if err = errors.Join(err, s.out.Flush()); err != nil {
		s.a.cacheError(err)
		s.dropPartLocked()
		s.own = nil
	}
}

// finish replaces the cache by one of the directories given, after the final
// commit. If nothing was added and none has gone, there is nothing to do.
func (s *scanCache) finish(dirs []dirKey, snap SnapshotID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.a.cache == nil {
		return
	}
	s.a.cacheError(s.a.cache.put("parent-"+s.roots, snap[:]))
	if s.own == nil || len(s.recent) == 0 && len(dirs)*scanRow == len(s.table) {
		return
	}
	if err := s.rewrite(dirs); err != nil {
		s.a.cacheError(err)
		return
	}
	s.dropPartLocked()
	os.Remove(s.a.cache.path(s.name + ".part"))
}

func (s *scanCache) rewrite(dirs []dirKey) (err error) {
	f, err := os.CreateTemp(s.a.cache.dir, "tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	w := bufio.NewWriterSize(f, 1<<18)
	header := s.appendHeader(nil)
	w.Write(header)
	at := int64(len(header))
	slices.SortFunc(dirs, func(a, b dirKey) int { return bytes.Compare(a[:], b[:]) })
	var table []byte
	for _, k := range dirs {
		e, ok := s.lookupLocked(k)
		if !ok {
			continue
		}
		b := s.frameLocked(e)
		if b == nil {
			continue
		}
		w.Write(be.AppendUint32(nil, e.length))
		w.Write(b)
		table = append(append(append(table, k[:]...), e.digest[:]...), e.flags)
		table = be.AppendUint32(be.AppendUint64(table, uint64(at)), e.length)
		at += 4 + int64(len(b))
	}
	trailer := be.AppendUint32(nil, uint32(len(table)/scanRow))
	sum := s.sum(header, table, trailer)
	w.Write(table)
	w.Write(append(trailer, sum[:]...))
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), s.a.cache.path(s.name))
}

// close releases the files; what was marked stays for the next time.
func (s *scanCache) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full != nil {
		s.full.Close()
	}
	s.dropPartLocked()
}
