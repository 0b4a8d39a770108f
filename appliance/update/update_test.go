package update_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

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

// TestReceive takes an update in: the slot has every byte of it, and then the
// box is asked to restart.
func TestReceive(t *testing.T) {
	b := newBox(t, t.TempDir())
	s := newSystem(4)
	data := s.bundle(t, 0, 2)
	var steps []admin.UpdateProgress
	got, err := b.Receive(t.Context(), update.Bundle{Size: int64(len(data)), Reader: iotest.HalfReader(bytes.NewReader(data))},
		func(p admin.UpdateProgress) { steps = append(steps, p) })
	if err != nil || got.Number != 4 || got.Version != "1.4.0" {
		t.Fatalf("%+v, %v", got, err)
	}
	answered := time.Now()
	b.wantClean(true)
	if len(steps) < 2 || steps[0].Step != admin.UpdateReceiving || steps[0].Total != int64(len(data)) || steps[len(steps)-1].Step != admin.UpdateWriting {
		t.Errorf("progress %+v", steps)
	}
	// While it waits to be tried, and once it was, another one is too late.
	for range 2 {
		if code, _ := codeOf(second(b, t.Context(), data)); code != replicate.CodeBusy {
			t.Errorf("another one: code %v", code)
		}
		select {
		case at := <-b.tried:
			if d := at.Sub(answered); d < 900*time.Millisecond {
				t.Errorf("tried %v after the answer", d)
			}
			b.tried <- at
		case <-time.After(10 * time.Second):
			t.Fatal("it is not tried")
		}
	}
	dev, err := os.Open(b.slot)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	sigs, err := bundletest.Sign(s.manifest, private[0], private[2])
	if err != nil {
		t.Fatal(err)
	}
	if err := slot.Check(dev, layout.SlotB, s.manifest, sigs); err != nil {
		t.Error(err)
	}
}

func second(b *box, ctx context.Context, data []byte) error {
	_, err := b.send(ctx, data)
	return err
}

// TestTryFails: a box that does not restart takes another update.
func TestTryFails(t *testing.T) {
	b := newBox(t, t.TempDir())
	b.try = func() error { return machine.Errorf(machine.CodeFailed, "not now") }
	data := newSystem(4).bundle(t, 0, 1)
	if _, err := b.send(t.Context(), data); err != nil {
		t.Fatal(err)
	}
	<-b.tried
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, err := b.send(t.Context(), data)
		if err == nil {
			return
		}
		if code, _ := codeOf(err); code != replicate.CodeBusy || time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// TestRefused sends what a box does not take, and what it is told then. Nothing
// is left, nothing was written, and the box takes a good one afterwards.
func TestRefused(t *testing.T) {
	good := newSystem(4)
	data := good.bundle(t, 0, 1)
	changed := func(change func(b []byte)) []byte {
		b := bytes.Clone(data)
		change(b)
		return b
	}
	older := newSystem(2)
	board := newSystem(4)
	board.manifest.Board = "toaster"
	newer := changed(func(b []byte) { binary.BigEndian.PutUint32(b[12:], 2) })
	stranger := bundletest.NewKey(9)
	sigs, err := bundletest.Sign(good.manifest, private[0], stranger)
	if err != nil {
		t.Fatal(err)
	}
	var strange bytes.Buffer
	if err := bundle.Write(&strange, good.manifest, sigs, good.files.Open); err != nil {
		t.Fatal(err)
	}
	sigsAt := signaturesAt(data)
	for name, tc := range map[string]struct {
		data []byte
		want string // in the message
	}{
		"nothing signed":              {good.bundle(t), "not signed by enough"},
		"one signature":               {good.bundle(t, 1), "not signed by enough"},
		"one signature of a stranger": {strange.Bytes(), "not signed by enough"},
		"a signature that is wrong":   {changed(func(b []byte) { b[sigsAt+200] ^= 1 }), "not signed by enough"},
		"a manifest that was changed": {changed(func(b []byte) { b[24+20] ^= 1 }), "not signed by enough"},
		"older":                       {older.bundle(t, 0, 1), "older than what this box takes: its number must be 3"},
		"of another board":            {board.bundle(t, 0, 1), "another kind of board than this box has (rpi-arm64)"},
		"of a newer kind":             {newer, "newer kind"},
		"a picture":                   {append([]byte("\x89PNG\r\n\x1a\n"), make([]byte, 5000)...), "no update of CoBox"},
		"a few letters":               {[]byte("hello"), "no update of CoBox"},
		"cut in the header":           {data[:20], "cut short"},
		"cut in the manifest":         {data[:24+100], "cut short"},
		"cut in the signatures":       {data[:sigsAt+10], "cut short"},
		"cut in the files":            {data[:len(data)/2], "cut short"},
		"cut before the checksum":     {data[:len(data)-32], "cut short"},
		"cut by a byte":               {data[:len(data)-1], "cut short"},
		"with a byte more":            {append(bytes.Clone(data), 0), "damaged"},
		"a bit flipped in the files":  {changed(func(b []byte) { b[len(b)/2] ^= 8 }), "damaged"},
		"a bit flipped in the end":    {changed(func(b []byte) { b[len(b)-1] ^= 1 }), "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, t.TempDir())
			_, err := b.send(t.Context(), tc.data)
			if code, message := codeOf(err); code != replicate.CodeInvalid || !strings.Contains(message, tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			b.wantClean(false)
			if _, err := b.send(t.Context(), data); err != nil {
				t.Errorf("a good one afterwards: %v", err)
			}
			b.wantClean(true)
		})
	}
}

// signaturesAt finds the signatures of a bundle.
func signaturesAt(b []byte) int { return 24 + int(binary.BigEndian.Uint32(b[16:])) }

// TestEarlyRefusal reads no more of a bundle than its head to see that it is not
// signed, or is older.
func TestEarlyRefusal(t *testing.T) {
	for _, data := range [][]byte{newSystem(4).bundle(t, 0), newSystem(1).bundle(t, 0, 1)} {
		b := newBox(t, t.TempDir())
		src := bytes.NewReader(data)
		_, err := b.Receive(t.Context(), update.Bundle{Size: int64(len(data)), Reader: src}, func(admin.UpdateProgress) {})
		if err == nil {
			t.Error("it was taken")
		}
		if read := len(data) - src.Len(); read > 70_000 {
			t.Errorf("%d of %d bytes were read first", read, len(data))
		}
	}
}

// TestSizes announces what is not so.
func TestSizes(t *testing.T) {
	data := newSystem(4).bundle(t, 0, 1)
	b := newBox(t, t.TempDir())
	for _, tc := range []struct {
		size int64
		code replicate.Code
	}{
		{0, replicate.CodeInvalid}, {-1, replicate.CodeInvalid}, {bundle.MaxSize + 1, replicate.CodeTooLarge},
		{int64(len(data)) - 1, replicate.CodeInvalid}, {int64(len(data)) + 1, replicate.CodeInvalid}, {10, replicate.CodeInvalid},
	} {
		_, err := b.Receive(t.Context(), update.Bundle{Size: tc.size, Reader: bytes.NewReader(data)}, func(admin.UpdateProgress) {})
		if code, _ := codeOf(err); code != tc.code {
			t.Errorf("%d bytes announced: %v, want %v", tc.size, err, tc.code)
		}
		b.wantClean(false)
	}
	// However much comes, no more is stored than was announced.
	src := &counted{r: io.MultiReader(bytes.NewReader(data[:len(data)-40]), zeros{})}
	b.Receive(t.Context(), update.Bundle{Size: int64(len(data)), Reader: src}, func(admin.UpdateProgress) {})
	if src.n > int64(len(data))+100_000 {
		t.Errorf("%d bytes were read of an endless one", src.n)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// TestDisconnected: the member goes in the middle.
func TestDisconnected(t *testing.T) {
	data := newSystem(4).bundle(t, 0, 1)
	b := newBox(t, t.TempDir())
	gone := errors.New("the link has ended")
	for _, n := range []int{0, 10, 5000, len(data) / 2, len(data) - 1} {
		src := io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(gone))
		_, err := b.Receive(t.Context(), update.Bundle{Size: int64(len(data)), Reader: src}, func(admin.UpdateProgress) {})
		if !errors.Is(err, gone) {
			t.Errorf("after %d bytes: %v", n, err)
		}
		b.wantClean(false)
	}
	ctx, cancel := context.WithCancel(t.Context())
	src := io.MultiReader(bytes.NewReader(data[:5000]), readFunc(func([]byte) (int, error) { cancel(); return 1, nil }))
	if _, err := b.Receive(ctx, update.Bundle{Size: int64(len(data)), Reader: src}, func(admin.UpdateProgress) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	b.wantClean(false)

	// While the slot is written: it may be, but nobody restarts the box.
	ctx, cancel = context.WithCancel(t.Context())
	b.install = func(ctx context.Context) error { cancel(); <-ctx.Done(); return ctx.Err() }
	if _, err := b.send(ctx, data); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled while writing: %v", err)
	}
	b.wantClean(false)
	ctx, cancel = context.WithCancel(t.Context())
	b.install = func(ctx context.Context) error { cancel(); <-ctx.Done(); return nil }
	if _, err := b.send(ctx, data); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled just before the end: %v", err)
	}
	b.wantClean(true)
	time.Sleep(1500 * time.Millisecond) // more than until it would be tried
	if len(b.tried) != 0 {
		t.Error("the box restarts for somebody who has gone")
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// TestOneAtATime sends a second update while the first is coming.
func TestOneAtATime(t *testing.T) {
	data := newSystem(4).bundle(t, 0, 1)
	b := newBox(t, t.TempDir())
	r, w := io.Pipe()
	first := make(chan error, 1)
	go func() {
		_, err := b.Receive(t.Context(), update.Bundle{Size: int64(len(data)), Reader: r}, func(admin.UpdateProgress) {})
		first <- err
	}()
	if _, err := w.Write(data[:1000]); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if code, message := codeOf(second(b, t.Context(), data)); code != replicate.CodeBusy || !strings.Contains(message, "under way") {
			t.Errorf("the second: %v %q", code, message)
		}
	}
	if _, err := w.Write(data[1000:]); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := <-first; err != nil {
		t.Errorf("the first: %v", err)
	}
}

// TestOnTrial: a box that is trying an update takes no other.
func TestOnTrial(t *testing.T) {
	b := newBox(t, t.TempDir())
	b.state.Trying = true
	code, message := codeOf(second(b, t.Context(), newSystem(4).bundle(t, 0, 1)))
	if code != replicate.CodeBusy || !strings.Contains(message, "trying CoBox 1.3.0") {
		t.Errorf("%v %q", code, message)
	}
	b.wantClean(false)
}

// TestFirstProcessRefuses: its reasons reach the administrator.
func TestFirstProcessRefuses(t *testing.T) {
	data := newSystem(4).bundle(t, 0, 1)
	for code, want := range map[machine.Code]replicate.Code{
		machine.CodeBusy: replicate.CodeBusy, machine.CodeRefused: replicate.CodeInvalid, machine.CodeFailed: replicate.CodeInternal,
	} {
		b := newBox(t, t.TempDir())
		b.install = func(context.Context) error { return machine.Errorf(code, "the card is broken") }
		if got, message := codeOf(second(b, t.Context(), data)); got != want || message != "the card is broken" {
			t.Errorf("%v: %v %q", code, got, message)
		}
		b.wantClean(false)
	}
}

// TestNoKeys: a box without its keys takes nothing, and says that it is at fault.
func TestNoKeys(t *testing.T) {
	b := newBox(t, t.TempDir())
	for name, text := range map[string]string{"missing": "", "garbage": "x\ny\n", "one": keyText(0)} {
		path := filepath.Join(t.TempDir(), name)
		if text != "" {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r := update.New(update.Config{Machine: b.serve(), Dir: b.dir, Keys: path})
		data := newSystem(4).bundle(t, 0, 1)
		_, err := r.Receive(t.Context(), update.Bundle{Size: int64(len(data)), Reader: bytes.NewReader(data)}, func(admin.UpdateProgress) {})
		if code, message := codeOf(err); code != replicate.CodeInternal || !strings.Contains(message, "cannot read the keys") {
			t.Errorf("%s: %v", name, err)
		}
		b.wantClean(false)
	}
}

func keyText(i int) string {
	k := private[i].Public()
	return string(k.Append(nil))
}

// TestLeftOver: what a crash has left goes at the next start, and what lies
// under the name is replaced, not followed.
func TestLeftOver(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, machine.UpdateFile)
	if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBox(t, dir)
	b.wantClean(false)
	precious := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(precious, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(precious, path); err != nil {
		t.Fatal(err)
	}
	if _, err := b.send(t.Context(), newSystem(4).bundle(t, 0, 1)); err != nil {
		t.Error(err)
	}
	b.wantClean(true)
	if got, err := os.ReadFile(precious); err != nil || string(got) != "data" {
		t.Errorf("what a link named is now %q, %v", got, err)
	}
}

// TestDiskFull has too little room from the start, and later.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=20m,mode=0700"); err != nil {
		t.Skipf("nothing can be mounted here: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	b := newBox(t, dir)
	data := newSystem(4).bundle(t, 0, 1)
	fill := filepath.Join(dir, "fill")
	src := io.MultiReader(bytes.NewReader(data[:100_000]), readFunc(func([]byte) (int, error) {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(fill, make([]byte, int64(st.Bavail)*st.Bsize), 0o600); err != nil {
			t.Error(err)
		}
		return 0, io.EOF
	}), bytes.NewReader(data[100_000:]))
	_, err := b.Receive(t.Context(), update.Bundle{Size: int64(len(data)), Reader: src}, func(admin.UpdateProgress) {})
	if code, message := codeOf(err); code != replicate.CodeNoSpace || !strings.Contains(message, "no room") {
		t.Errorf("the disk fills meanwhile: %v", err)
	}
	b.wantClean(false)
	_, err = b.send(t.Context(), data)
	if code, message := codeOf(err); code != replicate.CodeNoSpace || !strings.Contains(message, "bytes more would be needed") {
		t.Errorf("the disk is full: %v", err)
	}
	b.wantClean(false)
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	if _, err := b.send(t.Context(), data); err != nil {
		t.Errorf("with room again: %v", err)
	}
	b.wantClean(true)
}
