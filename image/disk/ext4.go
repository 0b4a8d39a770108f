package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"cobox/image/layout"
)

// ErrNoMke2fs says that the program that makes ext4 is not on this computer.
var ErrNoMke2fs = errors.New("the program mke2fs is not installed; it is in the package e2fsprogs")

// Every data partition begins with the same UUID and hash seed. A box gives each
// a UUID of its own when it takes it into use; the names that are hashed it
// chooses itself.
const (
	dataUUID = "c0b0c0b0-0000-4000-8000-000000000001"
	dataSeed = "c0b0c0b0-0000-4000-8000-000000000002"
)

// dataFeatures is all that the file system has: the defaults of mke2fs differ
// between versions. orphan_file, for one, came with 1.47. With metadata_csum_seed
// no checksum depends on the UUID, so that it can be changed.
const dataFeatures = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg," +
	"sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum,metadata_csum_seed"

// Data returns the file system that the data partition begins as,
// layout.TemplateSize bytes, empty. The kernel grows it on the first start, but
// not its journal and not the inodes of a group, so these are made for a disk of
// usual size: a box has few files and all of them are large.
func Data(ctx context.Context, made time.Time) ([]byte, error) {
	b, err := data(ctx, made)
	if err != nil {
		return nil, fmt.Errorf("disk: making ext4: %w", err)
	}
	return b, nil
}

func data(ctx context.Context, made time.Time) ([]byte, error) {
	mke2fs, err := findMke2fs()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "cobox-ext4-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "data")
	cmd := exec.CommandContext(ctx, mke2fs, "-q", "-F", "-t", "ext4",
		"-L", layout.DataLabel, "-U", dataUUID,
		"-O", dataFeatures,
		"-b", "4096", "-I", "256", "-i", "65536", "-m", "0", "-J", "size=32", "-e", "remount-ro",
		"-E", "hash_seed="+dataSeed+",root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard",
		name, strconv.Itoa(layout.TemplateSize>>10)+"k")
	cmd.Env = []string{
		"E2FSPROGS_FAKE_TIME=" + strconv.FormatInt(made.Unix(), 10),
		"MKE2FS_CONFIG=/dev/null", // whatever this computer's says
		"LC_ALL=C", "TZ=UTC",
	}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("mke2fs: %w: %s", err, bytes.TrimSpace(said.Bytes()))
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	if len(b) != layout.TemplateSize {
		return nil, fmt.Errorf("mke2fs made %d bytes, want %d", len(b), layout.TemplateSize)
	}
	return b, nil
}

// findMke2fs looks where distributions put it too: a plain user's PATH often
// lacks sbin.
func findMke2fs() (string, error) {
	for _, name := range []string{"mke2fs", "/usr/sbin/mke2fs", "/sbin/mke2fs"} {
		if found, err := exec.LookPath(name); err == nil {
			return found, nil
		}
	}
	return "", ErrNoMke2fs
}
