package update_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"cobox/appliance/admin"
	"cobox/appliance/machine"
	"cobox/appliance/update"
	"cobox/image/bundle"
	"cobox/image/bundle/bundletest"
	"cobox/image/layout"
	"cobox/image/slot"
	"cobox/netlink/replicate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var private, public = bundletest.Keys()

// system is a small release and its files.
type system struct {
	files    bundletest.Files
	manifest *bundle.Manifest
}

func newSystem(number uint32) *system {
	noise := make([]byte, 300_000)
	rand.NewChaCha8([32]byte{byte(number)}).Read(noise)
	s := &system{files: bundletest.Files{
		"cmdline.txt":     fmt.Appendf(nil, "rdinit=/init number=%d\n", number),
		"kernel8.img":     noise,
		"overlays/README": []byte("overlays\n"),
	}}
	s.manifest = &bundle.Manifest{Version: fmt.Sprintf("1.%d.0", number), Number: number, Floor: 1, Board: bundle.BoardRPi}
	for _, path := range slices.Sorted(maps.Keys(s.files)) {
		b := s.files[path]
		s.manifest.Files = append(s.manifest.Files, bundle.File{Path: path, Size: int64(len(b)), SHA256: sha256.Sum256(b)})
	}
	return s
}

// bundle returns the release, signed by some of the keys 0 to 2.
func (s *system) bundle(t testing.TB, signers ...int) []byte {
	t.Helper()
	var keys []*bundletest.Key
	for _, i := range signers {
		keys = append(keys, private[i])
	}
	sigs, err := bundletest.Sign(s.manifest, keys...)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := bundle.Write(&b, s.manifest, sigs, s.files.Open); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// box is a receiver and the first process that it asks, which writes to a slot
// in a file.
type box struct {
	*update.Receiver
	t    *testing.T
	dir  string
	slot string // a file

	mu       sync.Mutex
	state    machine.State
	install  func(context.Context) error // before the bundle is opened; nil for nothing
	try      func() error
	tried    chan time.Time
	installs int
}

func newBox(t *testing.T, dir string) *box {
	t.Helper()
	b := &box{t: t, dir: dir, slot: filepath.Join(t.TempDir(), "slot"), tried: make(chan time.Time, 4),
		state: machine.State{Slot: "a", Board: bundle.BoardRPi, Floor: 3, Release: machine.Release{Version: "1.3.0", Number: 3}}}
	f, err := os.Create(b.slot)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(layout.SlotSize), f.Close()); err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(t.TempDir(), "release.pub")
	var text []byte
	for _, k := range public.Public() {
		text = k.Append(text)
	}
	if err := os.WriteFile(keys, text, 0o644); err != nil {
		t.Fatal(err)
	}
	client := b.serve()
	b.Receiver = update.New(update.Config{Machine: client, Dir: dir, Keys: keys, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	return b
}

// serve connects the first process by a socket.
func (b *box) serve() *machine.Client {
	b.t.Helper()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	var conns []net.Conn
	for _, fd := range pair {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		if err != nil {
			b.t.Fatal(err)
		}
		f.Close()
		conns = append(conns, c)
	}
	served := make(chan error, 1)
	go func() { served <- machine.Serve(context.Background(), conns[1], b.handle) }()
	client := machine.NewClient(conns[0])
	b.t.Cleanup(func() {
		client.Close()
		if err := <-served; err != nil {
			b.t.Errorf("Serve: %v", err)
		}
	})
	return client
}

func (b *box) handle(ctx context.Context, q *machine.Question) (any, error) {
	b.mu.Lock()
	state, install, try := b.state, b.install, b.try
	b.mu.Unlock()
	switch q.Method {
	case machine.MethodState:
		return state, nil
	case machine.MethodInstall:
		if install != nil {
			if err := install(ctx); err != nil {
				return nil, err
			}
		}
		return b.write(ctx, q)
	case machine.MethodTry:
		b.tried <- time.Now()
		if try != nil {
			return machine.Empty{}, try()
		}
		return machine.Empty{}, nil
	}
	return nil, machine.Errorf(machine.CodeUnknown, "no method %s", q.Method)
}

// write does what the first process does, as far as it is of interest here.
func (b *box) write(ctx context.Context, q *machine.Question) (any, error) {
	f, err := os.OpenFile(filepath.Join(b.dir, machine.UpdateFile), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode() != 0o600 {
		b.t.Errorf("the bundle has mode %v", info.Mode())
	}
	r, err := bundle.Open(f, public, bundle.State{Board: b.state.Board, Floor: b.state.Floor})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	dev, err := os.OpenFile(b.slot, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	q.Progress(machine.InstallProgress{Done: 1, Total: info.Size()})
	if err := slot.Write(dev, layout.SlotB, r); err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.installs++
	b.mu.Unlock()
	return machine.Release{Version: r.Manifest().Version, Number: r.Manifest().Number}, nil
}

// send sends a bundle as a link does.
func (b *box) send(ctx context.Context, data []byte) (*machine.Release, error) {
	return b.Receive(ctx, update.Bundle{Size: int64(len(data)), Reader: bytes.NewReader(data)}, func(admin.UpdateProgress) {})
}

// wantClean fails the test if anything is left of an update, or the slot was
// written to.
func (b *box) wantClean(written bool) {
	b.t.Helper()
	if _, err := os.Lstat(filepath.Join(b.dir, machine.UpdateFile)); !errors.Is(err, fs.ErrNotExist) {
		b.t.Errorf("the bundle was not removed: %v", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if (b.installs > 0) != written {
		b.t.Errorf("%d updates were written", b.installs)
	}
}

func codeOf(err error) (replicate.Code, string) {
	var e *replicate.Error
	if errors.As(err, &e) {
		return e.Code, e.Message
	}
	return replicate.CodeNone, ""
}
