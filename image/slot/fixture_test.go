package slot_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"testing"

	"cobox/image/bundle"
	"cobox/image/bundle/bundletest"
	"cobox/image/layout"
)

var private, public = bundletest.Keys()

// system returns the files of a small system and what signs for them.
func system(number uint32) (bundletest.Files, *bundle.Manifest, []bundle.Signature) {
	noise := make([]byte, 5_000)
	r := rand.New(rand.NewPCG(1, uint64(number)))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	f := bundletest.Files{
		"bcm2710-rpi-3-b.dtb":      noise[:1024],
		"bcm2710-rpi-3-b-plus.dtb": noise[1:1024],
		"cmdline.txt":              fmt.Appendf(nil, "rdinit=/init number=%d\n", number),
		"empty":                    nil,
		"initrd.gz":                noise[:1025],
		"kernel8.img":              noise,
		"overlays/README":          []byte("overlays\n"),
		"overlays/deep/a+b.c.dtbo": []byte("deep\n"),
		"overlays/vc4-kms-v3d-pi4-with-a-rather-long-name.dtbo": noise[:77],
	}
	m := manifest(f)
	m.Version, m.Number = fmt.Sprint(number), number
	sigs, err := bundletest.Sign(m, private[0], private[1])
	if err != nil {
		panic(err)
	}
	return f, m, sigs
}

// update returns a system as a bundle that a box has opened.
func update(t testing.TB, f bundletest.Files, m *bundle.Manifest, sigs []bundle.Signature, change func([]byte) []byte) *bundle.Reader {
	t.Helper()
	var b bytes.Buffer
	if err := bundle.Write(&b, m, sigs, f.Open); err != nil {
		t.Fatal(err)
	}
	data := b.Bytes()
	if change != nil {
		data = change(data)
	}
	r, err := bundle.Open(bytes.NewReader(data), public, bundle.State{Board: bundle.BoardRPi})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

const sectorSize = layout.SectorSize

type sector = [sectorSize]byte

var (
	errPower = errors.New("the power is gone")
	errFile  = errors.New("the file is gone")
)

// disk is a medium with a cache: a sector that was written is there for sure
// only after Sync. Power goes, or the disk fails, at a chosen sector or Sync.
type disk struct {
	durable map[int64]sector
	cache   map[int64]sector
	steps   int // sectors written and syncs done
	dieAt   int // the step that does not happen any more; 0 for never
	dead    error
	lie     func(at int64, s *sector) // changes what is stored
}

func newDisk() *disk { return &disk{durable: map[int64]sector{}, cache: map[int64]sector{}} }

func (d *disk) step() error {
	if d.steps++; d.dieAt > 0 && d.steps >= d.dieAt && d.dead == nil {
		d.dead = errPower
	}
	return d.dead
}

func (d *disk) WriteAt(b []byte, offset int64) (int, error) {
	if offset%sectorSize != 0 || len(b)%sectorSize != 0 || offset < 0 || offset+int64(len(b)) > layout.SlotSize {
		return 0, fmt.Errorf("a write of %d bytes at %d", len(b), offset)
	}
	for n := 0; n < len(b); n += sectorSize {
		if err := d.step(); err != nil {
			return n, err
		}
		at, s := offset/sectorSize+int64(n/sectorSize), sector(b[n:])
		if d.lie != nil {
			d.lie(at, &s)
		}
		d.cache[at] = s
	}
	return len(b), nil
}

func (d *disk) ReadAt(b []byte, offset int64) (int, error) {
	for n := 0; n < len(b); {
		at := offset + int64(n)
		if at >= layout.SlotSize {
			return n, io.EOF
		}
		s, ok := d.cache[at/sectorSize]
		if !ok {
			s = d.durable[at/sectorSize]
		}
		n += copy(b[n:], s[at%sectorSize:])
	}
	return len(b), nil
}

func (d *disk) Sync() error {
	if err := d.step(); err != nil {
		return err
	}
	maps.Copy(d.durable, d.cache)
	clear(d.cache)
	return nil
}

// restart returns the disk after a power cut: of the cache, some sectors made it.
func (d *disk) restart(r *rand.Rand, kept float64) *disk {
	after := newDisk()
	maps.Copy(after.durable, d.durable)
	for at, s := range d.cache {
		if r.Float64() < kept {
			after.durable[at] = s
		}
	}
	return after
}

// boots says whether the firmware would find a file system.
func (d *disk) boots() bool {
	var s sector
	d.ReadAt(s[:], 0)
	return s != sector{}
}

// manifest describes files, unsigned.
func manifest(f bundletest.Files) *bundle.Manifest {
	return &bundle.Manifest{Version: "1", Number: 1, Floor: 1, Board: bundle.BoardRPi, Files: f.Describe()}
}
