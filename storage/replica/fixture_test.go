package replica

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/mlkem"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// must is for what cannot fail in a test's preparations.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// fixtureWriter is a device of an account.
type fixtureWriter struct {
	account account.ID
	key     ed25519.PrivateKey
	cert    []byte
}

func seed(parts ...any) []byte {
	sum := sha256.Sum256([]byte(fmt.Sprintln(parts...)))
	return sum[:]
}

func newWriter(accountName, deviceName string) *fixtureWriter {
	acct := ed25519.NewKeyFromSeed(seed("account", accountName))
	dev := ed25519.NewKeyFromSeed(seed("device", accountName, deviceName))
	x := must(ecdh.X25519().NewPrivateKey(seed("noise", accountName, deviceName))).PublicKey().Bytes()
	kem := must(mlkem.NewDecapsulationKey768(append(seed("kem"), seed("kem")...)))
	cert := &account.Certificate{
		Account: account.ID(acct.Public().(ed25519.PublicKey)),
		Device:  account.DeviceKey(dev.Public().(ed25519.PublicKey)),
		Noise:   account.NoiseKey(x),
		KEM:     account.KEMKey(append(kem.EncapsulationKey().Bytes(), x...)),
	}
	if err := account.SignCertificate(cert, acct); err != nil {
		panic(err)
	}
	return &fixtureWriter{cert.Account, dev, account.AppendCertificate(nil, cert)}
}

// fixtureLog is a log of which every block, leaf, proof and checkpoint can be
// made. Its blocks differ in their first bytes only, so that they cost little.
type fixtureLog struct {
	w        *fixtureWriter
	manifest *merklelog.Manifest
	id       merklelog.LogID
	leaves   []merklelog.Leaf
	tree     *merklelog.Tree

	mu          sync.Mutex
	checkpoints map[uint64]merklelog.Checkpoint
}

func newLog(w *fixtureWriter, name string, size int) *fixtureLog {
	m := &merklelog.Manifest{Writer: merklelog.WriterKey(w.key.Public().(ed25519.PublicKey)), Certificate: w.cert}
	copy(m.Nonce[:], seed("nonce", name))
	if err := merklelog.SignManifest(m, w.key); err != nil {
		panic(err)
	}
	l := &fixtureLog{w: w, manifest: m, id: m.ID(), checkpoints: make(map[uint64]merklelog.Checkpoint)}
	block := make([]byte, merklelog.BlockSize)
	for i := range size {
		l.leaves = append(l.leaves, must(merklelog.LeafOf(l.fill(block, uint64(i)))))
	}
	l.tree = merklelog.NewTree(merklelog.NewLeafTiles(func(first uint64, dst []merklelog.Leaf) error {
		copy(dst, l.leaves[first:])
		return nil
	}))
	return l
}

// fill makes block i in b.
func (l *fixtureLog) fill(b []byte, i uint64) []byte {
	b[0] = byte(merklelog.Data)
	if i == 0 {
		b[0] = byte(merklelog.Envelope)
	}
	copy(b[1:], l.id[:])
	binary.BigEndian.PutUint64(b[33:], i)
	return b
}

func (l *fixtureLog) block(i uint64) []byte { return l.fill(make([]byte, merklelog.BlockSize), i) }

func (l *fixtureLog) checkpoint(size uint64) merklelog.Checkpoint {
	l.mu.Lock()
	defer l.mu.Unlock()
	cp, ok := l.checkpoints[size]
	if !ok {
		cp = must(merklelog.SignCheckpoint(l.w.key, l.id, size, must(l.tree.Root(size))))
		l.checkpoints[size] = cp
	}
	return cp
}

// offer brings the log's checkpoint at a size.
func (l *fixtureLog) offer(s *Store, size uint64) error {
	var proof merklelog.Proof
	if info, err := s.Log(l.id); err == nil {
		a, b := info.Checkpoint.Size, size
		proof = must(l.tree.Consistency(min(a, b), max(a, b)))
	}
	return s.OfferCheckpoint(l.manifest, l.checkpoint(size), proof)
}

// appendLeaves brings leaves until the store has n of them, for a checkpoint of
// the given size.
func (l *fixtureLog) appendLeaves(s *Store, n, size uint64) error {
	info, err := s.Log(l.id)
	if err != nil {
		return err
	}
	for first := info.Leaves; first < n; {
		batch := must(l.tree.Batch(first, size))
		if end := first + uint64(len(batch.Leaves)); end > n {
			batch.Leaves = batch.Leaves[:n-first]
			batch.Proof = must(l.tree.Consistency(n, size))
		}
		if err := s.AppendLeaves(l.id, batch); err != nil {
			return err
		}
		first += uint64(len(batch.Leaves))
	}
	return nil
}

// bring offers the checkpoint, the leaves and then the blocks from first to
// size, without a Commit.
func (l *fixtureLog) bring(s *Store, first, size uint64) error {
	if err := l.offer(s, size); err != nil {
		return err
	}
	if err := l.appendLeaves(s, size, size); err != nil {
		return err
	}
	return l.put(s, first, size)
}

func (l *fixtureLog) put(s *Store, first, end uint64) error {
	b := l.block(0)
	for i := first; i < end; i++ {
		if err := s.PutBlock(context.Background(), l.id, i, l.fill(b, i)); err != nil {
			return err
		}
	}
	return nil
}

// checkRead reads a block and compares it.
func (l *fixtureLog) checkRead(s *Store, i uint64) error {
	got, leaf, err := s.ReadBlock(l.id, i, nil)
	if err != nil {
		return err
	}
	if leaf != l.leaves[i] || !bytes.Equal(got, l.block(i)) {
		return fmt.Errorf("block %d of log %v is not what was stored", i, l.id)
	}
	return nil
}

// testOptions makes tables of a few blocks.
func testOptions(fs vfs.FS) Options {
	return Options{
		FS:        fs,
		NoBallast: true,
		Fatal:     func(err error) { panic(err) },
		tune:      tuning{smallRun: 2, tableSize: 8 * merklelog.BlockSize, quiet: 1},
	}
}

func openTest(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open("box", o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}
