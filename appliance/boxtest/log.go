package boxtest

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	mathrand "math/rand/v2"
	"sync"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// Log is a log of random blocks. It keeps no block: each can be made again. It
// implements replicate.Source.
type Log struct {
	d        *Device
	manifest *merklelog.Manifest
	id       merklelog.LogID
	seed     [32]byte

	mu       sync.Mutex
	leaves   []merklelog.Leaf
	frontier merklelog.Frontier
	cp       merklelog.Checkpoint
	changed  chan struct{}
}

// NewLog begins a log of a device in a space.
func NewLog(d *Device, space merklelog.Tag) (*Log, error) {
	m := &merklelog.Manifest{Writer: merklelog.WriterKey(d.Certificate.Device), Space: space,
		Certificate: account.AppendCertificate(nil, d.Certificate)}
	rand.Read(m.Nonce[:])
	if err := merklelog.SignManifest(m, d.key); err != nil {
		return nil, fmt.Errorf("boxtest: %w", err)
	}
	l := &Log{d: d, manifest: m, id: m.ID(), changed: make(chan struct{})}
	rand.Read(l.seed[:])
	return l, nil
}

// ID returns the log's identity.
func (l *Log) ID() merklelog.LogID { return l.id }

// Append adds n random blocks and a checkpoint.
func (l *Log) Append(n int) error {
	block := make([]byte, merklelog.BlockSize)
	for range n {
		l.mu.Lock()
		index := uint64(len(l.leaves))
		l.mu.Unlock()
		if err := l.Block(index, block); err != nil {
			return err
		}
		leaf, err := merklelog.LeafOf(block)
		if err != nil {
			return fmt.Errorf("boxtest: %w", err)
		}
		l.mu.Lock()
		l.leaves = append(l.leaves, leaf)
		l.frontier.Append(leaf)
		l.mu.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	cp, err := merklelog.SignCheckpoint(l.d.key, l.id, l.frontier.Size(), l.frontier.Root())
	if err != nil {
		return fmt.Errorf("boxtest: %w", err)
	}
	l.cp = cp
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

// Manifest implements replicate.Source.
func (l *Log) Manifest() *merklelog.Manifest { return l.manifest }

// Checkpoint implements replicate.Source.
func (l *Log) Checkpoint() merklelog.Checkpoint {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cp
}

// Changed implements replicate.Source.
func (l *Log) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Leaves implements replicate.Source.
func (l *Log) Leaves(first uint64, n int) ([]merklelog.Leaf, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if first+uint64(n) > uint64(len(l.leaves)) {
		return nil, fmt.Errorf("boxtest: %d leaves from %d on, of %d", n, first, len(l.leaves))
	}
	return append([]merklelog.Leaf(nil), l.leaves[first:first+uint64(n)]...), nil
}

// Consistency implements replicate.Source.
func (l *Log) Consistency(m, n uint64) (merklelog.Proof, error) {
	return merklelog.NewTree(merklelog.NewLeafTiles(func(first uint64, dst []merklelog.Leaf) error {
		leaves, err := l.Leaves(first, len(dst))
		copy(dst, leaves)
		return err
	})).Consistency(m, n)
}

// Block implements replicate.Source.
func (l *Log) Block(index uint64, dst []byte) error {
	seed := l.seed
	binary.BigEndian.PutUint64(seed[24:], index)
	mathrand.NewChaCha8(seed).Read(dst)
	dst[0] = byte(merklelog.Data)
	return nil
}

// Next implements replicate.Source.
func (l *Log) Next(from uint64) uint64 { return from }

// Account returns whose log it is.
func (l *Log) Account() account.ID { return l.d.Certificate.Account }
