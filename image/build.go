package image

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"cobox/image/bundle"
	"cobox/image/disk"
	"cobox/image/fat32"
	"cobox/image/layout"
	"cobox/image/slot"
)

// Artifact is a file that Build has made.
type Artifact struct {
	Path   string
	Size   int64
	SHA256 string // in hexadecimal
}

// Result is what Build has made.
type Result struct {
	Image    Artifact // the disk, for a card
	Packed   Artifact // the same, compressed
	Map      Artifact // which blocks of it matter, for bmaptool
	Bill     Artifact // what it consists of, as CycloneDX
	Imager   Artifact // an entry for Raspberry Pi Imager
	Manifest Artifact // of both slots, for the holders of the release keys
	Sums     Artifact // hashes of the above, as sha256sum takes them
}

// bootselConfig is config.txt of the boot selection. A Raspberry Pi 3 wants one
// beside its boot code; the system has its own.
const bootselConfig = "# CoBox. Which slot starts is in autoboot.txt.\narm_64bit=1\nenable_uart=1\n"

// bootcodeFile is what a Raspberry Pi 3 or Zero 2 W loads before it can read
// autoboot.txt; later models have it in the board.
const bootcodeFile = "bootcode.bin"

// Build makes the image and the files beside it. What was there under their names
// is replaced.
func Build(ctx context.Context, c Config) (*Result, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	system, err := newSystem(ctx, c)
	if err != nil {
		return nil, err
	}
	manifest, sigs, err := signed(c, system.Manifest)
	if err != nil {
		return nil, err
	}
	c.Progress("making the disk")
	contents, err := contents(c, system, sigs)
	if err != nil {
		return nil, err
	}
	base := filepath.Join(c.Out, c.Name)
	r := &Result{
		Image: Artifact{Path: base + ".img"}, Packed: Artifact{Path: base + ".img.zst"}, Map: Artifact{Path: base + ".bmap"},
		Bill: Artifact{Path: base + ".cdx.json"}, Imager: Artifact{Path: base + ".rpi-imager.json"},
		Manifest: Artifact{Path: base + ".manifest.txt"}, Sums: Artifact{Path: filepath.Join(c.Out, "SHA256SUMS")},
	}
	if err := disk.Write(r.Image.Path, 0o644, contents); err != nil {
		return nil, err
	}
	c.Progress("compressing the image")
	if err := compress(ctx, r.Packed.Path, r.Image.Path); err != nil {
		return nil, fmt.Errorf("image: compressing: %w", err)
	}
	for _, a := range []*Artifact{&r.Image, &r.Packed} {
		if err := a.measure(); err != nil {
			return nil, err
		}
	}
	blockMap, err := newBlockMap(r.Image.Path, contents)
	if err != nil {
		return nil, fmt.Errorf("image: mapping blocks: %w", err)
	}
	bill, err := newBill(c, system)
	if err != nil {
		return nil, fmt.Errorf("image: listing the software: %w", err)
	}
	imager, err := newImagerList(c, r)
	if err != nil {
		return nil, fmt.Errorf("image: describing the image: %w", err)
	}
	for _, w := range []struct {
		artifact *Artifact
		content  []byte
	}{{&r.Map, blockMap}, {&r.Bill, bill}, {&r.Imager, imager}, {&r.Manifest, manifest}} {
		if err := w.artifact.write(w.content); err != nil {
			return nil, err
		}
	}
	return r, r.Sums.write(r.sums())
}

// signed returns the text of the manifest and its signatures. An image that bears
// some has enough of them: else its slots would seem to be released.
func signed(c Config, m *bundle.Manifest) ([]byte, []bundle.Signature, error) {
	text, err := m.Append(nil)
	if err != nil {
		return nil, nil, fmt.Errorf("image: describing a slot: %w", err)
	}
	sigs, err := bundle.ParseSignatures(c.Signatures)
	if err != nil || len(sigs) == 0 {
		return text, nil, err
	}
	// Whoever puts a release together may name the signatures in any order.
	slices.SortFunc(sigs, func(a, b bundle.Signature) int { return bytes.Compare(a.KeyID[:], b.KeyID[:]) })
	keys, err := c.keys()
	if err != nil {
		return nil, nil, err
	}
	if _, err := keys.Verify(text, sigs); err != nil {
		return nil, nil, fmt.Errorf("image: the signatures are not those of this system: %w", err)
	}
	return text, sigs, nil
}

// contents makes the four partitions. Both slots hold the same system, so a box
// whose first slot becomes unreadable has another. They are written as a box
// writes an update, so the same release has the same bytes in both.
func contents(c Config, s *System, sigs []bundle.Signature) (*disk.Contents, error) {
	bootcode, err := read(s.Modules[1].Dir, bootcodeFile, "")
	if err != nil {
		return nil, err
	}
	bootsel := append(bootcode,
		fat32.File{Path: layout.AutobootFile, Data: layout.Autoboot{Slot: layout.SlotA}.Append(nil)},
		fat32.File{Path: layout.ConfigFile, Data: []byte(bootselConfig)})
	d := &disk.Contents{Data: s.data}
	if d.Bootsel, err = fat32.Make(layout.BootselSize, layout.BootselLabel, c.Time, bootsel); err != nil {
		return nil, err
	}
	if d.SlotA, err = slot.Image(layout.SlotA, slot.NewFiles(s.Manifest, sigs, s.Files.Open)); err != nil {
		return nil, err
	}
	if d.SlotB, err = slot.Image(layout.SlotB, slot.NewFiles(s.Manifest, sigs, s.Files.Open)); err != nil {
		return nil, err
	}
	return d, nil
}

// packWindow is how far back a repetition is found: the second slot is found in
// the first. It is the largest that the zstd program unpacks without being told.
const packWindow = 128 << 20

func compress(ctx context.Context, to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	// One thread: how the work is divided among several would be in the result.
	z, err := zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithWindowSize(packWindow), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	if _, err := io.Copy(z, contextReader{ctx, bufio.NewReaderSize(in, 1<<20)}); err != nil {
		z.Close()
		return err
	}
	return z.Close()
}

// contextReader ends a copy when the context ends.
type contextReader struct {
	ctx context.Context
	io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// measure reads size and hash of a file.
func (a *Artifact) measure() error {
	f, err := os.Open(a.Path)
	if err != nil {
		return fmt.Errorf("image: hashing: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if a.Size, err = io.Copy(h, f); err != nil {
		return fmt.Errorf("image: hashing %s: %w", a.Path, err)
	}
	a.SHA256 = hex.EncodeToString(h.Sum(nil))
	return nil
}

// write makes a small file.
func (a *Artifact) write(b []byte) error {
	if err := os.WriteFile(a.Path, b, 0o644); err != nil {
		return fmt.Errorf("image: writing what belongs to the image: %w", err)
	}
	sum := sha256.Sum256(b)
	a.Size, a.SHA256 = int64(len(b)), hex.EncodeToString(sum[:])
	return nil
}

// Artifacts are all files but the sums, in the order of their names.
func (r *Result) artifacts() []Artifact {
	list := []Artifact{r.Image, r.Packed, r.Map, r.Bill, r.Imager, r.Manifest}
	slices.SortFunc(list, func(a, b Artifact) int { return strings.Compare(a.Path, b.Path) })
	return list
}

func (r *Result) sums() []byte {
	var b []byte
	for _, a := range r.artifacts() {
		b = fmt.Appendf(b, "%s  %s\n", a.SHA256, filepath.Base(a.Path))
	}
	return b
}
