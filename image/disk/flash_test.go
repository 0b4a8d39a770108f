package disk_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"cobox/image/disk"
)

func TestFlashToFile(t *testing.T) {
	dir := t.TempDir()
	content := make([]byte, 9<<20+512)
	for i := range content {
		content[i] = byte(rand.Uint32())
	}
	plain, packed := filepath.Join(dir, "x.img"), filepath.Join(dir, "x.img.zst")
	z, _ := zstd.NewWriter(nil)
	for name, b := range map[string][]byte{plain: content, packed: z.EncodeAll(content, nil)} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, image := range []string{plain, packed} {
		card := filepath.Join(dir, "card")
		old := bytes.Repeat([]byte("old"), 4<<20)
		if err := os.WriteFile(card, old, 0o600); err != nil {
			t.Fatal(err)
		}
		last := map[string]int64{}
		n, err := disk.Flash(t.Context(), disk.FlashConfig{Image: image, Device: card, Progress: func(stage string, done, total int64) {
			if done <= last[stage] {
				t.Errorf("%s: %d after %d", stage, done, last[stage])
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
		if err != nil || !bytes.Equal(got[:n], content) || !bytes.Equal(got[n:], old[n:]) {
			t.Errorf("the card holds something else (%v)", err)
		}
	}
}

func TestFlashRefuses(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "x.img")
	if err := os.WriteFile(image, []byte("image"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := disk.Flash(t.Context(), disk.FlashConfig{Image: image, Device: filepath.Join(dir, "missing")}); !errors.Is(err, os.ErrNotExist) {
		t.Error("a disk that is not there:", err)
	}
	var refused *disk.RefusedError
	if _, err := disk.Flash(t.Context(), disk.FlashConfig{Image: image, Device: dir, Force: true}); !errors.As(err, &refused) {
		t.Error("a directory:", err)
	}
	card := filepath.Join(dir, "card")
	if err := os.WriteFile(card, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := disk.Flash(t.Context(), disk.FlashConfig{Image: filepath.Join(dir, "none"), Device: card}); !errors.Is(err, os.ErrNotExist) {
		t.Error("no image:", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := disk.Flash(ctx, disk.FlashConfig{Image: image, Device: card}); !errors.Is(err, context.Canceled) {
		t.Error("cancelled:", err)
	}
	if got, _ := os.ReadFile(card); string(got) != "old" {
		t.Errorf("the card holds %q", got)
	}
}

// TestFlashFindsALyingDisk: a file that changes behind the writer's back plays a
// disk that does not keep what it was given.
func TestFlashFindsALyingDisk(t *testing.T) {
	dir := t.TempDir()
	image, card := filepath.Join(dir, "x.img"), filepath.Join(dir, "card")
	for _, name := range []string{image, card} {
		if err := os.WriteFile(name, bytes.Repeat([]byte{1}, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
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
