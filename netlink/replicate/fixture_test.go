package replicate

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/mlkem"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// seed makes 64 fixed bytes for a name: the tests are the same every time.
func seed(name string) [64]byte { return sha512.Sum512([]byte(name)) }

func edKey(name string) ed25519.PrivateKey {
	s := seed(name)
	return ed25519.NewKeyFromSeed(s[:32])
}

func dhKey(name string) []byte {
	s := seed(name)
	k, err := ecdh.X25519().NewPrivateKey(s[:32])
	if err != nil {
		panic(err)
	}
	return k.PublicKey().Bytes()
}

func testAccount(name string) account.ID {
	return account.ID(edKey(name).Public().(ed25519.PublicKey))
}

// testCertificate is the certificate of a device of an account.
func testCertificate(acct, device string) *account.Certificate {
	s := seed(device + " kem")
	pq, err := mlkem.NewDecapsulationKey768(s[:])
	if err != nil {
		panic(err)
	}
	c := &account.Certificate{
		Account: testAccount(acct), Device: account.DeviceKey(edKey(device).Public().(ed25519.PublicKey)),
		Noise: account.NoiseKey(dhKey(device + " noise")),
		KEM:   account.KEMKey(append(pq.EncapsulationKey().Bytes(), dhKey(device+" kem x")...)),
	}
	if err := account.SignCertificate(c, edKey(acct)); err != nil {
		panic(err)
	}
	return c
}

// TestLog is a log whose blocks are made from their index when they are read.
type TestLog struct {
	name     string
	key      ed25519.PrivateKey
	manifest *merklelog.Manifest

	mu       sync.Mutex
	leaves   []merklelog.Leaf
	frontier merklelog.Frontier
	tree     *merklelog.Tree
	cp       merklelog.Checkpoint
	changed  chan struct{}
	gone     []merklelog.Range
	lie      map[uint64]bool // blocks that are not what their leaf says
	fail     error           // what Block returns
}

// NewTestLog begins a log of a device.
func NewTestLog(acct, device, name string) *TestLog {
	n := seed(name)
	l := &TestLog{name: name, key: edKey(device), changed: make(chan struct{}), lie: make(map[uint64]bool)}
	l.manifest = &merklelog.Manifest{
		Nonce: [16]byte(n[:16]), Writer: merklelog.WriterKey(l.key.Public().(ed25519.PublicKey)),
		Certificate: account.AppendCertificate(nil, testCertificate(acct, device)), Space: merklelog.Tag(n[16:32]),
	}
	if err := merklelog.SignManifest(l.manifest, l.key); err != nil {
		panic(err)
	}
	l.tree = merklelog.NewTree(merklelog.NewLeafTiles(func(first uint64, dst []merklelog.Leaf) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if first+uint64(len(dst)) > uint64(len(l.leaves)) {
			return errors.New("beyond the log")
		}
		copy(dst, l.leaves[first:])
		return nil
	}))
	return l
}

// fill makes block i.
func (l *TestLog) fill(i uint64, dst []byte) {
	s := seed(l.name)
	for k := 0; k < len(dst); k += len(s) {
		copy(dst[k:], s[:])
	}
	dst[0] = byte(merklelog.Data)
	binary.BigEndian.PutUint64(dst[1:], i)
}

// Add appends blocks and signs a checkpoint.
func (l *TestLog) Add(n int) *TestLog {
	buf := make([]byte, merklelog.BlockSize)
	for range n {
		l.fill(uint64(len(l.leaves)), buf)
		leaf, err := merklelog.LeafOf(buf)
		if err != nil {
			panic(err)
		}
		l.mu.Lock()
		l.leaves = append(l.leaves, leaf)
		l.frontier.Append(leaf)
		l.mu.Unlock()
	}
	l.sign()
	return l
}

func (l *TestLog) sign() {
	l.mu.Lock()
	defer l.mu.Unlock()
	cp, err := merklelog.SignCheckpoint(l.key, l.manifest.ID(), l.frontier.Size(), l.frontier.Root())
	if err != nil {
		panic(err)
	}
	l.cp = cp
	close(l.changed)
	l.changed = make(chan struct{})
}

// Fork returns a log of the same identity with n blocks of another history.
func (l *TestLog) Fork(n int) *TestLog {
	f := NewTestLog("", "", "x")
	f.name, f.key, f.manifest = l.name+" forked", l.key, l.manifest
	return f.Add(n)
}

func (l *TestLog) ID() merklelog.LogID           { return l.manifest.ID() }
func (l *TestLog) Manifest() *merklelog.Manifest { return l.manifest }

func (l *TestLog) Checkpoint() merklelog.Checkpoint {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cp
}

func (l *TestLog) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *TestLog) Leaves(first uint64, n int) ([]merklelog.Leaf, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.leaves[first : first+uint64(n)]), nil
}

func (l *TestLog) Consistency(m, n uint64) (merklelog.Proof, error) { return l.tree.Consistency(m, n) }

func (l *TestLog) Block(i uint64, dst []byte) error {
	l.mu.Lock()
	gone, lie, fail := merklelog.RangesContain(l.gone, i), l.lie[i], l.fail
	l.mu.Unlock()
	switch {
	case fail != nil:
		return fail
	case gone:
		return fmt.Errorf("block %d: %w", i, ErrNotHere)
	}
	l.fill(i, dst)
	if lie {
		dst[len(dst)-1] ^= 1
	}
	return nil
}

func (l *TestLog) Next(from uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	for from < l.cp.Size && merklelog.RangesContain(l.gone, from) {
		from++
	}
	return from
}

// Lose makes blocks go away.
func (l *TestLog) Lose(r merklelog.Range) *TestLog {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone = merklelog.AddRange(l.gone, r)
	return l
}

var (
	errUnknown = errors.New("memstore: no such log")
	errNotHeld = errors.New("memstore: not held")
	errQuota   = errors.New("memstore: quota is full")
	errDamaged = errors.New("memstore: damaged")
)

// memStore is an honest store in memory. What was not committed is lost by crash.
type memStore struct {
	put   func(log merklelog.LogID, index uint64) error // called without the lock before a block is put
	offer func(cp merklelog.Checkpoint)                 // called without the lock before a checkpoint is taken
	look  func()                                        // called without the lock after a log was looked at
	note  func(string)

	mu      sync.Mutex
	logs    map[merklelog.LogID]*memLog
	puts    int // blocks that came, counted each time
	commits int
}

type memLog struct {
	manifest *merklelog.Manifest
	cp       merklelog.Checkpoint
	frontier merklelog.Frontier
	leaves   []merklelog.Leaf
	tree     *merklelog.Tree
	blocks   map[uint64][]byte
	durable  map[uint64]bool
	damaged  map[uint64]bool
	bad      uint64 // index of a block that the disk cannot read; 0: none
	fork     *merklelog.Fork
}

func newMemStore() *memStore { return &memStore{logs: make(map[merklelog.LogID]*memLog)} }

func (s *memStore) Log(id merklelog.LogID) (LogState, error) {
	if s.look != nil {
		defer s.look()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.logs[id]
	if l == nil {
		return LogState{}, errUnknown
	}
	return LogState{Manifest: l.manifest, Checkpoint: l.cp, Leaves: l.frontier.Size(), Held: uint64(len(l.blocks))}, nil
}

// size returns the size of a log's newest checkpoint.
func (s *memStore) size(id merklelog.LogID) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logs[id].cp.Size
}

func (s *memStore) OfferCheckpoint(m *merklelog.Manifest, cp merklelog.Checkpoint, proof merklelog.Proof) error {
	if s.offer != nil {
		s.offer(cp)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := account.VerifyManifest(m); err != nil {
		return err
	}
	if err := cp.Verify(m.Writer); err != nil {
		return err
	}
	l := s.logs[cp.Log]
	if l == nil {
		l = &memLog{manifest: m, cp: cp, blocks: make(map[uint64][]byte), durable: make(map[uint64]bool), damaged: make(map[uint64]bool)}
		l.tree = merklelog.NewTree(merklelog.NewLeafTiles(func(first uint64, dst []merklelog.Leaf) error {
			copy(dst, l.leaves[first:])
			return nil
		}))
		s.logs[cp.Log] = l
		return nil
	}
	if l.fork != nil {
		return &merklelog.ForkError{Fork: *l.fork}
	}
	if cp.Size < l.cp.Size && proof == nil {
		if l.frontier.Size() < l.cp.Size {
			return nil
		}
		var err error
		if proof, err = l.tree.Consistency(cp.Size, l.cp.Size); err != nil {
			return err
		}
	}
	err := merklelog.Compare(l.cp, cp, proof)
	var fork *merklelog.ForkError
	if errors.As(err, &fork) {
		l.fork = &fork.Fork
	}
	if err == nil && cp.Size > l.cp.Size {
		l.cp = cp
	}
	return err
}

func (s *memStore) AppendLeaves(id merklelog.LogID, b merklelog.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.logs[id]
	if err := l.frontier.Accept(b, l.cp); err != nil {
		return err
	}
	l.leaves = append(l.leaves, b.Leaves...)
	return nil
}

func (s *memStore) Leaves(id merklelog.LogID, first uint64, n int) ([]merklelog.Leaf, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.logs[id].leaves[first : first+uint64(n)]), nil
}

func (l *memLog) missing(size uint64) (holes []merklelog.Range) {
	for i := range size {
		if l.blocks[i] == nil {
			holes = merklelog.AddRange(holes, merklelog.Range{First: i, Count: 1})
		}
	}
	return holes
}

func (s *memStore) Missing(id merklelog.LogID, from uint64, max int) ([]merklelog.Range, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.logs[id]
	m := merklelog.SubtractRange(l.missing(l.frontier.Size()), merklelog.Range{Count: from})
	return m[:min(max, len(m))], nil
}

func (s *memStore) PutBlock(ctx context.Context, id merklelog.LogID, index uint64, block []byte) error {
	if s.put != nil {
		if err := s.put(id, index); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.logs[id]
	if err := l.leaves[index].Check(block); err != nil {
		return err
	}
	s.puts++
	l.blocks[index] = bytes.Clone(block)
	return nil
}

func (s *memStore) Commit(ctx context.Context, id merklelog.LogID) (merklelog.Durable, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commits++
	l := s.logs[id]
	for i := range l.blocks {
		l.durable[i] = true
	}
	holes := l.missing(l.cp.Size)
	return merklelog.Durable{
		Checkpoint: l.cp, Leaves: l.frontier.Size(), Held: uint64(len(l.blocks)),
		Holes: holes[:min(len(holes), merklelog.MaxRanges)], HolesTruncated: len(holes) > merklelog.MaxRanges,
		HolesDigest: merklelog.DigestRanges(holes),
	}, nil
}

func (s *memStore) ReadBlock(id merklelog.LogID, index uint64, dst []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.logs[id]
	switch {
	case l == nil:
		return errUnknown
	case l.damaged[index]:
		return errDamaged
	case l.bad != 0 && l.bad == index:
		return &fs.PathError{Op: "read", Path: "000007.sst", Err: syscall.EIO}
	case l.blocks[index] == nil:
		return errNotHeld
	}
	copy(dst, l.blocks[index])
	return nil
}

func (s *memStore) Inclusion(id merklelog.LogID, index, size uint64) (merklelog.Proof, error) {
	s.mu.Lock()
	l := s.logs[id]
	s.mu.Unlock()
	return l.tree.Inclusion(index, size)
}

// crash forgets what was not made durable.
func (s *memStore) crash() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.logs {
		for i := range l.blocks {
			if !l.durable[i] {
				delete(l.blocks, i)
			}
		}
	}
}

func (s *memStore) held(id merklelog.LogID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.logs[id]; l != nil {
		return len(l.blocks)
	}
	return 0
}

func (s *memStore) committed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.commits
}

// testBox is a box that lets the members of one account in.
type testBox struct {
	store  *memStore
	member account.ID
	key    ed25519.PrivateKey

	mu       sync.Mutex
	sequence uint64
	refuse   error // what MayDeliver returns
	serve    func(ctx context.Context, r *Request) ([]byte, error)
}

func newTestBox(store *memStore, member string) *testBox {
	return &testBox{store: store, member: testAccount(member), key: edKey("box")}
}

func testCode(err error) Code {
	switch {
	case errors.Is(err, errUnknown):
		return CodeUnknownLog
	case errors.Is(err, errNotHeld):
		return CodeNotHeld
	case errors.Is(err, errQuota):
		return CodeQuota
	case errors.Is(err, errDamaged):
		return CodeDamaged
	}
	return CodeInternal
}

func (b *testBox) MayDeliver(ctx context.Context, p Peer, log merklelog.LogID, m *merklelog.Manifest, cert *account.Certificate, fresh bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if cert.Account != b.member {
		return &Error{Code: CodeNotAllowed, Message: "the log's account is no member of this box"}
	}
	return b.refuse
}

func (b *testBox) MayRead(ctx context.Context, p Peer, log merklelog.LogID, m *merklelog.Manifest) error {
	cert, err := account.ParseCertificate(m.Certificate)
	if err != nil || cert.Account != p.Account {
		return &Error{Code: CodeNotAllowed, Message: "the log is another account's"}
	}
	return nil
}

func (b *testBox) MayList(ctx context.Context, p Peer, who account.ID) error {
	if p.Account != who {
		return &Error{Code: CodeNotAllowed, Message: "the logs are another account's"}
	}
	return nil
}

func (b *testBox) receipt(ctx context.Context, d *merklelog.Durable) (*Receipt, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sequence++
	r := NewReceipt(d)
	r.Boot, r.Sequence, r.Elapsed, r.Wall = BootID{1}, b.sequence, b.sequence*10, 1_700_000_000_000
	return &r, SignReceipt(&r, b.key)
}

func (b *testBox) logs(ctx context.Context, who account.ID) iter.Seq2[*LogEntry, error] {
	return func(yield func(*LogEntry, error) bool) {
		b.store.mu.Lock()
		var list []*LogEntry
		for _, l := range b.store.logs {
			cert, _ := account.ParseCertificate(l.manifest.Certificate)
			if cert.Account != who {
				continue
			}
			e := &LogEntry{Manifest: l.manifest, Checkpoint: l.cp, Leaves: l.frontier.Size(), Held: uint64(len(l.blocks)),
				HolesDigest: merklelog.DigestRanges(l.missing(l.cp.Size)), Frozen: l.fork != nil}
			if l.frontier.Size() == l.cp.Size {
				e.Readable = &l.cp
			}
			list = append(list, e)
		}
		b.store.mu.Unlock()
		for _, e := range list {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (b *testBox) Serve(ctx context.Context, p Peer, r *Request) ([]byte, error) {
	if b.serve == nil {
		return nil, &Error{Code: CodeUnsupported, Message: r.Method}
	}
	return b.serve(ctx, r)
}

// config is that of the box for a session with a device of the account.
func (b *testBox) config(acct string) Config {
	return Config{
		Hello: Hello{Name: "box", Boot: BootID{1}, Addresses: []string{"127.0.0.1:26269"}},
		Peer:  Peer{Account: testAccount(acct)},
		Box: &Box{
			Store: b.store, Authorizer: b, Admin: b, Receipt: b.receipt, Logs: b.logs, Code: testCode,
		},
	}
}

func deviceConfig() Config {
	return Config{
		Hello:  Hello{Name: "laptop", Boot: BootID{2}},
		BoxKey: BoxKey(edKey("box").Public().(ed25519.PublicKey)),
	}
}

// BufferedConn makes a session's connection of any net.Conn.
type BufferedConn struct {
	net.Conn
	r *bufio.Reader
	w *bufio.Writer
}

func NewBufferedConn(c net.Conn) *BufferedConn {
	return &BufferedConn{c, bufio.NewReaderSize(c, 32<<10), bufio.NewWriterSize(c, 32<<10)}
}

func (c *BufferedConn) Read(p []byte) (int, error)  { return c.r.Read(p) }
func (c *BufferedConn) Write(p []byte) (int, error) { return c.w.Write(p) }
func (c *BufferedConn) Flush() error                { return c.w.Flush() }

// running is a session whose Run is under way.
type running struct {
	*Session
	t   testing.TB
	end chan error
}

func startSession(t testing.TB, conn net.Conn, cfg Config) *running {
	t.Helper()
	if testing.Verbose() {
		cfg.Logger = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	s, err := NewSession(NewBufferedConn(conn), cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{s, t, make(chan error, 1)}
	go func() { r.end <- s.Run(context.Background()) }()
	return r
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(p)))
	return len(p), nil
}

// stop closes the session and fails the test unless it ends in order.
func (r *running) stop() {
	r.t.Helper()
	r.Close()
	if err := <-r.end; err != nil {
		r.t.Errorf("Run: %v", err)
	}
}

// pair returns two sessions that talk to each other over a pipe.
func startPair(t testing.TB, device, box Config) (*running, *running) {
	a, b := net.Pipe()
	return startSession(t, a, device), startSession(t, b, box)
}

// stopPair ends the session of the first, after which the second ends too.
func stopPair(t testing.TB, a, b *running) {
	t.Helper()
	a.stop()
	if err := <-b.end; err != nil {
		t.Errorf("Run of the other side: %v", err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var _ io.Writer = testWriter{}
