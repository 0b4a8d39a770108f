package disk_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"cobox/image/disk"
	"cobox/image/layout"
)

// packed makes an image whose first partition does not compress, and the same
// packed.
func packed(t *testing.T) (plain, zst string, b []byte) {
	t.Helper()
	plain, _ = image(t)
	noise := make([]byte, 9<<20)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	f, err := os.OpenFile(plain, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(noise, layout.BootselStart)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	b = z.EncodeAll(content, nil)
	zst = put(t, b)
	return plain, zst, b
}

// put makes a file in a directory of its own. Its name does not tell what it is.
func put(t *testing.T, b []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestFlashToFile(t *testing.T) {
	plain, zst, _ := packed(t)
	content, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	longer := filepath.Join(t.TempDir(), "longer")
	if err := os.WriteFile(longer, append(content[:len(content):len(content)], "behind"...), 0o600); err != nil {
		t.Fatal(err)
	}
	card := put(t, nil)
	if err := os.Truncate(card, layout.ImageSize+1<<20); err != nil {
		t.Fatal(err)
	}
	for _, image := range []string{plain, zst, longer} {
		last := map[string]int64{}
		n, err := disk.Flash(t.Context(), disk.FlashConfig{Image: image, Device: card, Progress: func(stage string, done, total int64) {
			if done <= last[stage] || total != layout.ImageSize {
				t.Errorf("%s: %d of %d after %d", stage, done, total, last[stage])
			}
			last[stage] = done
		}})
		if err != nil || n != int64(len(content)) {
			t.Fatal(n, err)
		}
		if last[disk.StageWrite] != n || last[disk.StageVerify] != n {
			t.Errorf("progress ends at %v", last)
		}
		got, err := os.ReadFile(card)
		if err != nil || !bytes.Equal(got[:n], content) || !bytes.Equal(got[n:], make([]byte, 1<<20)) {
			t.Errorf("the card holds something else (%v)", err)
		}
		if err := errors.Join(os.Truncate(card, 0), os.Truncate(card, int64(len(got)))); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSourceCut: an image that was cut off anywhere is never read to its end.
func TestSourceCut(t *testing.T) {
	plain, _, b := packed(t)
	for _, size := range []int{4, 5, 20, 300, 1 << 20, 5 << 20, len(b) / 2, len(b) - 1000, len(b) - 5, len(b) - 4, len(b) - 1} {
		if err := readAll(put(t, b[:size])); !errors.Is(err, disk.ErrDamaged) {
			t.Errorf("packed, cut to %d of %d bytes: %v", size, len(b), err)
		}
	}
	// Two frames are one stream, so a cut between them shows only in the length.
	content, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	const half = layout.ImageSize / 2
	first := z.EncodeAll(content[:half], nil)
	if err := readAll(put(t, first)); !errors.Is(err, disk.ErrDamaged) {
		t.Error("the first of two frames:", err)
	}
	if err := readAll(put(t, z.EncodeAll(content[half:], first))); err != nil {
		t.Error("two frames:", err)
	}
	flipped := bytes.Clone(b)
	flipped[len(b)-1] ^= 1 // of the checksum
	if err := readAll(put(t, flipped)); !errors.Is(err, disk.ErrDamaged) {
		t.Error("another checksum:", err)
	}
	for _, size := range []int64{layout.ImageSize - 1, layout.ImageSize - 512, layout.DataStart, 1 << 20, 512} {
		if err := os.Truncate(plain, size); err != nil {
			t.Fatal(err)
		}
		if err := readAll(plain); !errors.Is(err, disk.ErrDamaged) {
			t.Errorf("cut to %d bytes: %v", size, err)
		}
	}
}

func readAll(name string) error {
	s, err := disk.OpenSource(name)
	if err != nil {
		return err
	}
	defer s.Close()
	n, err := io.Copy(io.Discard, s)
	if err == nil && n != s.Size {
		return errors.New("the end came too early")
	}
	return err
}

func TestFlashRefuses(t *testing.T) {
	image, _, b := packed(t)
	dir := t.TempDir()
	card := filepath.Join(dir, "card")
	if err := os.WriteFile(card, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := put(t, nil)
	var refused *disk.RefusedError
	isRefused := func(err error) bool { return errors.As(err, &refused) && !refused.Overridable }
	is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
	zst, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		image, device string
		good          func(error) bool
	}{
		"a disk that is not there": {image, filepath.Join(dir, "missing"), is(disk.ErrNoTarget)},
		"a directory":              {image, dir, isRefused},
		"somebody's file":          {image, card, isRefused},
		"the image itself":         {image, image, isRefused},
		"no image":                 {filepath.Join(dir, "none"), empty, is(os.ErrNotExist)},
		"an empty image":           {empty, empty, is(disk.ErrNotImage)},
		"an image that is a text":  {put(t, []byte("text")), empty, is(disk.ErrNotImage)},
		"an image of others":       {put(t, make([]byte, 1<<20)), empty, is(disk.ErrNotImage)},
		"a packed one of others":   {put(t, zst.EncodeAll(make([]byte, 1<<20), nil)), empty, is(disk.ErrNotImage)},
		"an image in a directory":  {dir, empty, is(disk.ErrNotImage)},
		"a packed one that is cut": {put(t, b[:len(b)-1]), empty, is(disk.ErrDamaged)},
	} {
		n, err := disk.Flash(t.Context(), disk.FlashConfig{Image: c.image, Device: c.device, Force: true})
		if n != 0 || err == nil || !c.good(err) {
			t.Errorf("%s: %d bytes, %v", what, n, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := disk.Flash(ctx, disk.FlashConfig{Image: image, Device: empty}); n != 0 || !errors.Is(err, context.Canceled) {
		t.Error("cancelled:", n, err)
	}
	if got, _ := os.ReadFile(card); string(got) != "old" {
		t.Errorf("the card holds %q", got)
	}
	if info, err := os.Stat(empty); err != nil || info.Size() != 0 {
		t.Error("the file is not empty any more", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a file was made", err)
	}
}

func TestInspect(t *testing.T) {
	image, _, _ := packed(t)
	card := put(t, nil)
	c := disk.FlashConfig{Image: image, Device: card}
	got, err := disk.Inspect(c)
	if err != nil || *got != (disk.Target{Device: card, File: true}) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := disk.Flash(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if got, err = disk.Inspect(c); err != nil || got.Holds != "a CoBox that a box can start from" {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestFlashInterrupted: what was written in part is told apart.
func TestFlashInterrupted(t *testing.T) {
	image, _, _ := packed(t)
	card := put(t, nil)
	for _, stage := range []string{disk.StageWrite, disk.StageVerify} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n, err := disk.Flash(ctx, disk.FlashConfig{Image: image, Device: card, Progress: func(now string, done, _ int64) {
			if now == stage {
				cancel()
			}
		}})
		var unfinished *disk.UnfinishedError
		if n == 0 || !errors.As(err, &unfinished) || !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %d, %v", stage, n, err)
		}
	}
}

// TestFlashFindsALyingDisk: a file that changes behind the writer's back plays a
// disk that does not keep what it was given.
func TestFlashFindsALyingDisk(t *testing.T) {
	image, _, _ := packed(t)
	card := put(t, nil)
	_, err := disk.Flash(t.Context(), disk.FlashConfig{Image: image, Device: card, Progress: func(stage string, _, _ int64) {
		if stage == disk.StageWrite {
			f, err := os.OpenFile(card, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte{2}, 1<<19); err != nil {
				t.Fatal(err)
			}
		}
	}})
	if !errors.Is(err, disk.ErrReadBack) {
		t.Error(err)
	}
}
