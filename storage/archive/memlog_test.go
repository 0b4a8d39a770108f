package archive

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"cobox/storage/merklelog"
	"cobox/storage/seal"
)

// memSpace is an account's logs in memory, with some blocks that nobody
// holds. It is Blocks for them.
type memSpace struct {
	t       testing.TB
	chunkID [32]byte
	chunker [32]byte

	mu      sync.Mutex
	logs    map[merklelog.LogID]*memLog
	fetches int
	blocks  int // handed out
	reverse bool
}

type memLog struct {
	space     *memSpace
	id        merklelog.LogID
	keys      seal.KeyRing
	blocks    [][]byte
	envelopes []Envelope
	committed uint64
	commits   int
	lost      map[uint64]bool
	known     []merklelog.Range
	discard   bool // count blocks, do not keep them
	size      uint64

	before func(index uint64) error // called by Append
}

func newMemSpace(t testing.TB) *memSpace {
	s := &memSpace{t: t, logs: map[merklelog.LogID]*memLog{}}
	for i := range s.chunkID {
		s.chunkID[i], s.chunker[i] = byte(i), byte(2*i)
	}
	return s
}

func (s *memSpace) newLog(name string) *memLog {
	l := &memLog{space: s, lost: map[uint64]bool{}}
	copy(l.id[:], name)
	l.envelope()
	s.logs[l.id] = l
	return l
}

// envelope starts a new epoch with a block of type 2, whose contents no
// archive ever looks at.
func (l *memLog) envelope() {
	var k seal.LogKey
	copy(k[:], fmt.Sprintf("%s epoch %d", l.id[:8], len(l.keys)))
	l.keys = append(l.keys, k)
	parts := 1 + len(l.keys)%3
	l.envelopes = append(l.envelopes, Envelope{l.size, uint32(parts)})
	for range parts {
		b := make([]byte, merklelog.BlockSize)
		b[0] = byte(merklelog.Envelope)
		l.blocks = append(l.blocks, b)
		l.size++
	}
	l.committed = l.size
}

func (l *memLog) ID() merklelog.LogID { return l.id }
func (l *memLog) Size() uint64        { return l.size }

func (l *memLog) Append(block []byte) (uint64, error) {
	if l.before != nil {
		if err := l.before(l.size); err != nil {
			return 0, err
		}
	}
	if len(block) != merklelog.BlockSize {
		return 0, errors.New("block of a wrong size")
	}
	l.space.mu.Lock()
	defer l.space.mu.Unlock()
	if !l.discard {
		l.blocks = append(l.blocks, append([]byte(nil), block...))
	}
	l.size++
	return l.size - 1, nil
}

func (l *memLog) Commit(ctx context.Context) (merklelog.Checkpoint, error) {
	if err := ctx.Err(); err != nil {
		return merklelog.Checkpoint{}, err
	}
	l.committed = l.size
	l.commits++
	return merklelog.Checkpoint{Log: l.id, Size: l.size}, nil
}

func (l *memLog) sealer() *seal.Sealer {
	e := len(l.keys) - 1
	return seal.NewSealer(l.id, uint32(e), l.keys[e])
}

func (l *memLog) state(size uint64) LogState {
	s := LogState{ID: l.id, Size: size, Opener: seal.NewOpener(l.id, l.keys), Lost: l.known}
	for _, e := range l.envelopes {
		if e.Index < size {
			s.Envelopes = append(s.Envelopes, e)
		}
	}
	return s
}

func (s *memSpace) Fetch(ctx context.Context, log merklelog.LogID, indexes []uint64, fn func(uint64, []byte) error) error {
	s.mu.Lock()
	s.fetches++
	l := s.logs[log]
	s.mu.Unlock()
	if l == nil {
		return errors.New("no such log")
	}
	var lost error
	for k := range indexes {
		if s.reverse {
			k = len(indexes) - 1 - k
		}
		i := indexes[k]
		s.mu.Lock()
		var b []byte
		if i < uint64(len(l.blocks)) && !l.lost[i] {
			b = l.blocks[i]
			s.blocks++
		}
		s.mu.Unlock()
		if b == nil {
			lost = fmt.Errorf("block %d is not held", i)
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(i, append([]byte(nil), b...)); err != nil {
			return err
		}
	}
	return lost
}

// open opens the archive of all logs as they are.
func (s *memSpace) open(cache string) *Archive {
	c := Config{ChunkID: s.chunkID, Chunker: s.chunker, Blocks: s, Cache: cache}
	for _, l := range s.logs {
		c.Logs = append(c.Logs, l.state(l.size))
	}
	a, err := Open(context.Background(), c)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

func (s *memSpace) backup(l *memLog, cache string, paths ...string) BackupSummary {
	s.t.Helper()
	sum, err := s.open(cache).Backup(context.Background(), BackupOptions{Log: l, Sealer: l.sealer(), Paths: paths, Program: "test"})
	if err != nil {
		s.t.Fatal(err)
	}
	return sum
}
