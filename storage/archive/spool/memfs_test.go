package spool_test

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"

	"cobox/storage/archive/spool"
)

// memFS is a directory in memory that knows what a power cut would leave: the
// contents of a file as last synced, and the names as of the last SyncDir. What
// came after may survive in part. Any operation can be made to fail.
type memFS struct {
	mu      sync.Mutex
	live    map[string]*node
	durable map[string]*node
	journal []map[string]*node // the names after each change since SyncDir
	ops     int
	fault   func(op int, kind string) fault
	before  func(kind string) // called ahead of an operation, without the lock
}

// fault is what happens to one operation.
type fault struct {
	err   error // nil: none
	after bool  // the operation takes effect, then fails
	half  bool  // a write takes effect for its first half
}

type node struct{ live, synced []byte }

func newMemFS() *memFS { return &memFS{live: map[string]*node{}, durable: map[string]*node{}} }

// do runs an operation under the fault chosen for it.
func (m *memFS) do(kind string, effect func(half bool) error) error {
	if m.before != nil {
		m.before(kind)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var f fault
	if m.fault != nil {
		f = m.fault(m.ops, kind)
	}
	m.ops++
	if f.err == nil {
		return effect(false)
	}
	if f.after {
		effect(false)
	} else if f.half && kind == "write" {
		effect(true)
	}
	return f.err
}

func (m *memFS) changed() { m.journal = append(m.journal, maps.Clone(m.live)) }

func (m *memFS) Open(name string, create bool) (spool.File, error) {
	var n *node
	kind := "open"
	if create {
		kind = "create"
	}
	err := m.do(kind, func(bool) error {
		n = m.live[name]
		if n == nil && !create {
			return &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		if n == nil {
			n = &node{}
			m.live[name] = n
			m.changed()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &memFile{m, n}, nil
}

func (m *memFS) Rename(from, to string) error {
	return m.do("rename", func(bool) error {
		n := m.live[from]
		if n == nil {
			return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
		}
		delete(m.live, from)
		m.live[to] = n
		m.changed()
		return nil
	})
}

func (m *memFS) Remove(name string) error {
	return m.do("remove", func(bool) error {
		delete(m.live, name)
		m.changed()
		return nil
	})
}

func (m *memFS) List() (names []string, err error) {
	err = m.do("list", func(bool) error {
		names = slices.Sorted(maps.Keys(m.live))
		return nil
	})
	return names, err
}

func (m *memFS) SyncDir() error {
	return m.do("syncdir", func(bool) error {
		m.durable, m.journal = maps.Clone(m.live), nil
		return nil
	})
}

func (m *memFS) Close() error { return nil }

type memFile struct {
	m *memFS
	n *node
}

func (f *memFile) ReadAt(b []byte, off int64) (n int, err error) {
	err = f.m.do("read", func(bool) error {
		if off < int64(len(f.n.live)) {
			n = copy(b, f.n.live[off:])
		}
		if n < len(b) {
			return io.EOF
		}
		return nil
	})
	return n, err
}

func (f *memFile) WriteAt(b []byte, off int64) (n int, err error) {
	err = f.m.do("write", func(half bool) error {
		n = len(b)
		if half {
			n /= 2
		}
		f.n.live = setSize(f.n.live, max(len(f.n.live), int(off)+n))
		copy(f.n.live[off:], b[:n])
		return nil
	})
	if err != nil {
		n = 0
	}
	return n, err
}

// setSize returns b cut or filled up with zeros, as truncate does.
func setSize(b []byte, size int) []byte {
	if size <= len(b) {
		return b[:size:size]
	}
	return append(b, make([]byte, size-len(b))...)
}

func (f *memFile) Size() (size int64, err error) {
	err = f.m.do("size", func(bool) error {
		size = int64(len(f.n.live))
		return nil
	})
	return size, err
}

func (f *memFile) Truncate(size int64) error {
	return f.m.do("truncate", func(bool) error {
		if size != int64(len(f.n.live)) {
			f.n.live = setSize(slices.Clone(f.n.live), int(size))
		}
		return nil
	})
}

func (f *memFile) Sync() error {
	return f.m.do("sync", func(bool) error {
		f.n.synced = slices.Clone(f.n.live)
		return nil
	})
}

func (f *memFile) Close() error { return nil }

// durableBytes returns what of a file a power cut cannot take.
func (m *memFS) durableBytes(name string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.durable[name]; n != nil {
		return n.synced
	}
	return nil
}

// afterKill returns the directory as the end of the process leaves it.
func (m *memFS) afterKill() *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := newMemFS()
	for name, n := range m.live {
		// What was not synced is not synced after the process either, but these
		// tests restart at most once.
		c.live[name] = &node{live: slices.Clone(n.live), synced: slices.Clone(n.live)}
	}
	c.durable = maps.Clone(c.live)
	return c
}

// afterPowerCut returns a directory that a power cut may leave: the names after
// some of the changes since SyncDir, and in each file some of the pages written
// since Sync. keep is the share that survives.
func (m *memFS) afterPowerCut(rng *rand.Rand, keep float64) *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := m.durable
	if n := len(m.journal); n > 0 {
		if k := int(keep * float64(n+1)); k > 0 {
			names = m.journal[min(k, n)-1]
		}
	}
	const page = 4096
	c := newMemFS()
	for name, n := range names {
		b := slices.Clone(n.synced)
		if rng.Float64() < keep {
			b = setSize(b, len(n.live)) // the size was written, the rest are zeros
		}
		for off := 0; off < len(b); off += page {
			if rng.Float64() < keep && off < len(n.live) {
				copy(b[off:min(off+page, len(b))], n.live[off:])
			}
		}
		c.live[name] = &node{live: b, synced: slices.Clone(b)}
	}
	c.durable = maps.Clone(c.live)
	return c
}

var errInjected = errors.New("input/output error (injected)")
