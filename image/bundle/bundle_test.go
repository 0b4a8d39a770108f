package bundle_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"cobox/image/bundle"
	"cobox/image/bundle/bundletest"
)

func TestRoundTrip(t *testing.T) {
	f := files()
	b := small(t)
	for name, r := range map[string]io.Reader{
		"whole":         bytes.NewReader(b),
		"byte by byte":  iotest.OneByteReader(bytes.NewReader(b)),
		"error at once": iotest.DataErrReader(bytes.NewReader(b)),
	} {
		got, err := read(r, public, state)
		if err != nil || !equal(got, f) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !bytes.Equal(b, small(t)) {
		t.Error("written twice, it differs")
	}
}

func TestReader(t *testing.T) {
	r, err := bundle.Open(bytes.NewReader(small(t)), public, state)
	if err != nil {
		t.Fatal(err)
	}
	if m := r.Manifest(); m.Version != "1.4.0" || m.Number != 17 || len(m.Files) != 5 {
		t.Errorf("manifest %+v", m)
	}
	if s := r.Signers(); len(s) != 2 || s[0] != private[0].ID || s[1] != private[1].ID {
		t.Errorf("signers %v", s)
	}
	if _, err := public.Verify(r.ManifestText(), r.Signatures()); err != nil {
		t.Error(err)
	}
	// Files that nobody reads are checked all the same.
	_, first, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	n := 1
	for ; err == nil; n++ {
		_, _, err = r.Next()
	}
	if err != io.EOF || n != 6 {
		t.Errorf("after %d files: %v", n, err)
	}
	if _, err := first.Read(make([]byte, 1)); err == nil {
		t.Error("the reader of an earlier file still reads")
	}
	r.Close()

	if r, err = bundle.Open(bytes.NewReader(small(t)), public, state); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if _, _, err := r.Next(); err == nil || err == io.EOF {
		t.Errorf("after Close: %v", err)
	}
}

func TestRefused(t *testing.T) {
	f := files()
	with := func(change func(*bundle.Manifest)) []byte {
		m := manifest(f)
		change(m)
		return build(t, m, f, private[0], private[1])
	}
	good := small(t)
	patched := func(offset int, b ...byte) []byte {
		p := bytes.Clone(good)
		copy(p[offset:], b)
		return p
	}
	for name, tc := range map[string]struct {
		b    []byte
		want error
	}{
		"nothing":            {nil, bundle.ErrNotBundle},
		"a picture":          {[]byte("\x89PNG\r\n\x1a\n and what follows it"), bundle.ErrNotBundle},
		"version 0":          {patched(12, 0, 0, 0, 0), bundle.ErrNotBundle},
		"version 2":          {patched(12, 0, 0, 0, 2), bundle.ErrNewer},
		"long manifest":      {patched(16, 0x7f, 0xff, 0xff, 0xff), bundle.ErrDamaged},
		"long signatures":    {patched(20, 0x7f, 0xff, 0xff, 0xff), bundle.ErrDamaged},
		"no signature":       {build(t, manifest(f), f), bundle.ErrSignature},
		"one signature":      {build(t, manifest(f), f, private[2]), bundle.ErrSignature},
		"one key twice":      {build(t, manifest(f), f, private[0], private[0]), bundle.ErrSignature},
		"two strangers":      {build(t, manifest(f), f, bundletest.NewKey(4), bundletest.NewKey(5)), bundle.ErrSignature},
		"one and a stranger": {build(t, manifest(f), f, private[0], bundletest.NewKey(4)), bundle.ErrSignature},
		"another board":      {with(func(m *bundle.Manifest) { m.Board = "amd64" }), bundle.ErrBoard},
		"below the floor":    {with(func(m *bundle.Manifest) { m.Number, m.Floor = 14, 1 }), bundle.ErrTooOld},
		"something behind":   {append(bytes.Clone(good), 0), bundle.ErrDamaged},
		"twice":              {append(bytes.Clone(good), good...), bundle.ErrDamaged},
	} {
		_, err := read(bytes.NewReader(tc.b), public, state)
		if !errors.Is(err, tc.want) || !oneSentinel(err) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	for name, b := range map[string][]byte{
		"at the floor":     with(func(m *bundle.Manifest) { m.Number, m.Floor = 15, 1 }),
		"all three keys":   build(t, manifest(f), f, private[2], private[1], private[0]),
		"and a stranger's": build(t, manifest(f), f, private[2], bundletest.NewKey(4), private[0]),
	} {
		if _, err := read(bytes.NewReader(b), public, state); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Board and number do not matter to somebody who only looks.
	r, err := bundle.Inspect(bytes.NewReader(with(func(m *bundle.Manifest) { m.Board = "amd64" })), public)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
}

// TestDamage flips bits of every byte and cuts at every byte.
func TestDamage(t *testing.T) {
	good := small(t)
	for i := range good {
		for _, bit := range []byte{0x01, 0x80} {
			bad := bytes.Clone(good)
			bad[i] ^= bit
			if _, err := read(bytes.NewReader(bad), public, state); !oneSentinel(err) {
				t.Errorf("byte %d of %d, bit %#x: %v", i, len(good), bit, err)
			}
		}
		_, err := read(bytes.NewReader(good[:i]), public, state)
		want := bundle.ErrDamaged
		if i < 12 {
			want = bundle.ErrNotBundle
		}
		if !errors.Is(err, want) || !oneSentinel(err) {
			t.Errorf("cut to %d bytes: %v, want %v", i, err, want)
		}
	}
}

// A bundle whose manifest and files belong to two releases, with the checksum of
// a whole one: only the hash of a file gives it away, and it does so even to
// somebody who reads exactly as many bytes as the file has.
func TestOtherFiles(t *testing.T) {
	f := files()
	other := files()
	other["kernel8.img"] = bytes.Repeat([]byte("evil"), len(f["kernel8.img"])/4)
	m, otherManifest := manifest(f), manifest(other)
	sigs, err := bundletest.Sign(m, private[0], private[1])
	if err != nil {
		t.Fatal(err)
	}
	b := transplant(t, write(t, otherManifest, sigs, other), m)
	got, err := read(bytes.NewReader(b), public, state)
	if !errors.Is(err, bundle.ErrDamaged) || !strings.Contains(err.Error(), "kernel8.img") {
		t.Errorf("got %v", err)
	}
	if len(got["kernel8.img"]) == len(f["kernel8.img"]) {
		t.Error("the last bytes of a wrong file were given out")
	}
	r, err := bundle.Open(bytes.NewReader(b), public, state)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for {
		file, content, err := r.Next()
		if err != nil {
			t.Fatal("not noticed:", err)
		}
		if _, err := io.ReadFull(content, make([]byte, file.Size)); errors.Is(err, bundle.ErrDamaged) {
			break
		}
	}

	// One file more, and one file fewer, than the manifest says.
	more := files()
	more["zzz"] = []byte("more")
	if _, err := read(bytes.NewReader(transplant(t, write(t, manifest(more), sigs, more), m)), public, state); !errors.Is(err, bundle.ErrDamaged) {
		t.Errorf("a file more: %v", err)
	}
	fewer := files()
	delete(fewer, "overlays/w1-gpio.dtb")
	if _, err := read(bytes.NewReader(transplant(t, write(t, manifest(fewer), sigs, fewer), m)), public, state); !errors.Is(err, bundle.ErrDamaged) {
		t.Errorf("a file fewer: %v", err)
	}
}

// transplant gives a bundle another manifest, and a checksum that is right.
func transplant(t *testing.T, b []byte, m *bundle.Manifest) []byte {
	t.Helper()
	text, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	old := binary.BigEndian.Uint32(b[16:])
	out := append([]byte(nil), b[:16]...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(text)))
	out = append(out, b[20:24]...)
	out = append(out, text...)
	out = append(out, b[24+old:len(b)-32]...)
	return sum(out)
}

// TestChunks: the compressed files can be cut into chunks in one way only, and
// do not go on for ever.
func TestChunks(t *testing.T) {
	good := small(t)
	at := 24 + int(binary.BigEndian.Uint32(good[16:])) + int(binary.BigEndian.Uint32(good[20:]))
	head, stream := good[:at:at], good[at+4:len(good)-32-4]
	chunked := func(pieces ...[]byte) []byte {
		b := head
		for _, p := range pieces {
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(p))), p...)
		}
		return sum(b)
	}
	if !bytes.Equal(chunked(stream, nil), good) {
		t.Fatal("the test does not know the format")
	}
	// A skippable frame, which decompression passes over.
	skipped := append([]byte{0x50, 0x2a, 0x4d, 0x18, 0xf8, 0xff, 0, 0}, make([]byte, 65536-8)...)
	for name, b := range map[string][]byte{
		"a short chunk first": chunked(stream[:10], stream[10:], nil),
		"an end too many":     chunked(stream, nil, nil),
		"no end":              chunked(stream),
		"a long chunk":        chunked(append(bytes.Clone(skipped), stream...), nil),
	} {
		if _, err := read(bytes.NewReader(b), public, state); !errors.Is(err, bundle.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	endless := io.MultiReader(bytes.NewReader(head), &repeated{b: append([]byte{0, 1, 0, 0}, skipped...)})
	if _, err := read(endless, public, state); !errors.Is(err, bundle.ErrDamaged) || !strings.Contains(err.Error(), "longer than any bundle") {
		t.Errorf("a stream without end: %v", err)
	}
}

// repeated gives the same bytes again and again, some 200 MB of them.
type repeated struct {
	b     []byte
	at, n int
}

func (r *repeated) Read(p []byte) (int, error) {
	if r.n > 200<<20 {
		return 0, io.EOF
	}
	n := copy(p, r.b[r.at:])
	r.at, r.n = (r.at+n)%len(r.b), r.n+n
	return n, nil
}

// A disk or network that fails is no damage: trying again may help.
func TestReadErrors(t *testing.T) {
	good := small(t)
	broken := errors.New("the cable is out")
	for i := range good {
		r := io.MultiReader(bytes.NewReader(good[:i]), iotest.ErrReader(broken))
		_, err := read(r, public, state)
		if !errors.Is(err, broken) || oneSentinel(err) {
			t.Fatalf("after %d bytes: %v", i, err)
		}
	}
	if _, err := read(io.MultiReader(bytes.NewReader(good), iotest.ErrReader(broken)), public, state); !errors.Is(err, broken) {
		t.Errorf("at the end: %v", err)
	}
}

func TestWriteRefuses(t *testing.T) {
	f := files()
	for name, change := range map[string]func(bundletest.Files){
		"a file is missing": func(f bundletest.Files) { delete(f, "config.txt") },
		"a file is longer":  func(f bundletest.Files) { f["config.txt"] = []byte("x") },
		"a file is shorter": func(f bundletest.Files) { f["kernel8.img"] = nil },
		"a file is another": func(f bundletest.Files) { f["overlays/w1-gpio.dtb"] = []byte{1, 2, 4} },
	} {
		now := files()
		change(now)
		if err := bundle.Write(io.Discard, manifest(f), nil, now.Open); err == nil {
			t.Errorf("%s, and a bundle was written", name)
		}
	}
	m := manifest(f)
	m.Number = 0
	if err := bundle.Write(io.Discard, m, nil, f.Open); err == nil {
		t.Error("a manifest that is none was written")
	}
	good := small(t)
	for n := 0; n < len(good); n += 97 { // each makes an encoder, which is large
		w := &shortWriter{left: n}
		sigs, _ := bundletest.Sign(manifest(f), private[0], private[1])
		if err := bundle.Write(w, manifest(f), sigs, f.Open); !errors.Is(err, errFull) {
			t.Fatalf("room for %d of %d bytes: %v", n, len(good), err)
		}
	}
}

var errFull = errors.New("no room")

type shortWriter struct{ left int }

func (w *shortWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		return 0, errFull
	}
	w.left -= len(p)
	return len(p), nil
}

func TestState(t *testing.T) {
	s := state.After(&bundle.Manifest{Floor: 17})
	if s.Floor != 17 || s.Board != state.Board {
		t.Errorf("%+v", s)
	}
	if s = s.After(&bundle.Manifest{Floor: 3}); s.Floor != 17 {
		t.Error("the floor has sunk")
	}
}

// The box that reads has 64 MB for everything.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("compresses 90 MiB")
	}
	noise := make([]byte, 60<<20)
	for r, i := rand.New(rand.NewPCG(1, 2)), 0; i < len(noise); i += 8 {
		binary.LittleEndian.PutUint64(noise[i:], r.Uint64())
	}
	f := bundletest.Files{"initrd.zst": noise, "kernel8.img": bytes.Repeat(noise[:1<<20], 30)}
	name := filepath.Join(t.TempDir(), "large.cobox")
	if err := os.WriteFile(name, build(t, manifest(f), f, private[0], private[1]), 0o644); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, most := heap(), uint64(0)
	r, err := bundle.Open(file, public, state)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for {
		_, content, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = io.CopyN(io.Discard, content, 4<<20)
			most = max(most, heap()-before)
		}
		if err != io.EOF {
			t.Fatal(err)
		}
	}
	if most > 24<<20 {
		t.Errorf("reading takes %d MiB", most>>20)
	}
	t.Logf("reading takes %.1f MiB", float64(most)/(1<<20))
	runtime.KeepAlive(noise)
}

func FuzzOpen(f *testing.F) {
	good := small(f)
	f.Add(good)
	f.Add(good[:100])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		got, err := read(bytes.NewReader(b), public, state)
		if err == nil && !equal(got, files()) {
			t.Error("other files")
		} else if err != nil && !oneSentinel(err) {
			t.Error(err)
		}
	})
}

// FuzzFiles changes what follows the signatures, with a checksum that is right,
// which random bytes do not get to.
func FuzzFiles(f *testing.F) {
	good := small(f)
	head := 24 + int(binary.BigEndian.Uint32(good[16:])) + int(binary.BigEndian.Uint32(good[20:]))
	f.Add(good[head : len(good)-32])
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		got, err := read(bytes.NewReader(sum(append(good[:head:head], b...))), public, state)
		if err == nil && !equal(got, files()) {
			t.Error("other files")
		} else if err != nil && !errors.Is(err, bundle.ErrDamaged) {
			t.Error(err)
		}
	})
}
