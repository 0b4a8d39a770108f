//go:build linux

package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"cobox/image/bundle"
	"cobox/image/bundle/bundletest"
	"cobox/image/fat32"
	"cobox/image/layout"
	"cobox/image/slot"
)

// fakeCard is the disk that a box starts from, its partitions in files. What
// lies in a slot is read by a driver that is not ours.
type fakeCard struct {
	t       testing.TB
	dir     string
	missing error // of the partition with autoboot.txt
	mounted int

	addresses atomic.Int32 // of the box that starts from it
}

// autobootAt is where autoboot.txt lies in its partition.
const autobootAt = 7 * layout.SectorSize

func newFakeCard(t testing.TB, chosen layout.Slot) *fakeCard {
	t.Helper()
	c := &fakeCard{t: t, dir: t.TempDir()}
	c.addresses.Store(1)
	sectors := make([]byte, 64<<10)
	for i := range sectors {
		sectors[i] = byte(i * 7)
	}
	copy(sectors[autobootAt:], layout.Autoboot{Slot: chosen}.Append(nil))
	c.write("bootsel", sectors)
	for _, s := range []layout.Slot{layout.SlotA, layout.SlotB} {
		c.write(s.Label(), nil)
		if err := os.Truncate(c.slotDevice(s), layout.SlotSize); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *fakeCard) write(name string, b []byte) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), b, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func (c *fakeCard) slotDevice(s layout.Slot) string { return filepath.Join(c.dir, s.Label()) }

func (c *fakeCard) mountSlot(s layout.Slot) (fs.FS, func() error, error) {
	f, err := os.Open(c.slotDevice(s))
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	files, err := fat32.Read(f, 0, layout.SlotSize)
	if err != nil {
		return nil, nil, err
	}
	shown := fstest.MapFS{}
	for _, f := range files {
		shown[f.Path] = &fstest.MapFile{Data: f.Data}
	}
	c.mounted++
	return shown, func() error { c.mounted--; return nil }, nil
}

func (c *fakeCard) autoboot() (place, error) {
	return place{filepath.Join(c.dir, "bootsel"), autobootAt}, c.missing
}

// chosen returns the slot that would start now.
func (c *fakeCard) chosen() layout.Slot {
	c.t.Helper()
	at, _ := c.autoboot()
	s, err := chosenSlot(at)
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// testSystem returns a small system and its signatures.
func testSystem(t testing.TB, number, floor uint32, signers ...int) (bundletest.Files, *bundle.Manifest, []bundle.Signature) {
	t.Helper()
	noise := make([]byte, 300_000)
	r := rand.New(rand.NewPCG(1, uint64(number)))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	f := bundletest.Files{
		layout.KernelFile: noise, layout.InitrdFile: noise[:70_000],
		layout.CmdlineFile: fmt.Appendf(nil, "number=%d\n", number), "overlays/a-long-name.dtbo": noise[:10],
	}
	m := &bundle.Manifest{Version: fmt.Sprintf("v%d", number), Number: number, Floor: floor, Board: bundle.BoardRPi}
	for _, path := range slices.Sorted(maps.Keys(f)) {
		m.Files = append(m.Files, bundle.File{Path: path, Size: int64(len(f[path])), SHA256: sha256.Sum256(f[path])})
	}
	return f, m, sign(t, m, signers...)
}

// sign signs with the test keys of those numbers, from 1.
func sign(t testing.TB, m *bundle.Manifest, signers ...int) []bundle.Signature {
	t.Helper()
	private, _ := bundletest.Keys()
	var keys []*bundletest.Key
	for _, n := range signers {
		keys = append(keys, private[n-1])
	}
	sigs, err := bundletest.Sign(m, keys...)
	if err != nil {
		t.Fatal(err)
	}
	return sigs
}

// put writes a system into a slot, as an image has it.
func (c *fakeCard) put(s layout.Slot, f bundletest.Files, m *bundle.Manifest, sigs []bundle.Signature) {
	c.t.Helper()
	dev, err := slot.OpenBlockDevice(c.slotDevice(s))
	if err == nil {
		err = errors.Join(slot.Write(dev, s, slot.NewFiles(m, sigs, f.Open)), dev.Close())
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// bundleOf makes an update of a system.
func bundleOf(t testing.TB, f bundletest.Files, m *bundle.Manifest, sigs []bundle.Signature) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := bundle.Write(&b, m, sigs, f.Open); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// start is one start of a box from a card: a system of which nothing runs but
// what the test lets run.
func (c *fakeCard) start(t testing.TB, running layout.Slot) *system {
	t.Helper()
	s := &system{
		log: slog.New(slog.DiscardHandler), state: newState(time.Now()), stop: make(chan ending, 1), data: newDataState(),
		addresses: func() int { return int(c.addresses.Load()) },
	}
	u := newUpdates(s.log, s.state, s.askToStop)
	u.version, u.card = "as in the image", filepath.Join(c.dir, "card")
	u.upload, u.keys = filepath.Join(c.dir, "update"), filepath.Join(c.dir, "release.pub")
	if err := os.MkdirAll(u.card, 0o700); err != nil {
		t.Fatal(err)
	}
	_, keys := bundletest.Keys()
	var text []byte
	for _, k := range keys.Public() {
		text = k.Append(text)
	}
	c.write("release.pub", text)
	s.updates = u
	u.begin(c, running)
	u.load()
	return s
}
