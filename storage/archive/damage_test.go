package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"cobox/storage/merklelog"
	"cobox/storage/seal"
)

// damagedSpace is a log of several backups, and what they were of.
func damagedSpace(t *testing.T, backups int) (s *memSpace, l *memLog, dir string, last BackupSummary) {
	s = newMemSpace(t)
	l = s.newLog("log")
	dir = t.TempDir()
	for i := range backups {
		files := map[string]string{}
		for k := range 10 {
			files[fmt.Sprintf("d%d/f%d-%d", k%3, i, k)] = string(randomBytes(uint64(100*i+k), 1000+k*4000))
			files[fmt.Sprintf("t%d/f%d-%d", k%3, i, k)] = strings.Repeat(fmt.Sprintf("text %d %d ", i, k), 1000)
		}
		writeTree(t, dir, files)
		last = s.mustBackup("", s.options(l, dir))
		if i == backups/2 {
			l.envelope()
		}
	}
	return s, l, dir, last
}

// checkLoss restores what is left of a snapshot and checks that every file is
// either as it was or named.
func checkLoss(t *testing.T, a *Archive, snap Snapshot, dir string) (restored, named int) {
	t.Helper()
	target := t.TempDir()
	sum, err := a.Restore(background, RestoreOptions{Snapshot: snap, Target: target})
	if err != nil {
		t.Fatal(err)
	}
	lost := map[string]bool{}
	for _, e := range sum.Errors {
		if e.Op != OpDamaged {
			t.Errorf("unexpected: %v", e)
		}
		lost[e.Path] = true
	}
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		want, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		got, err := os.ReadFile(filepath.Join(target, p))
		if err == nil && string(got) == string(want) {
			restored++
			return nil
		}
		if err == nil {
			t.Errorf("%s was restored with other content", p)
			return nil
		}
		for q := p; ; q = filepath.Dir(q) {
			if lost[q] {
				named++
				return nil
			}
			if q == "/" {
				t.Errorf("%s is missing and not named", p)
				return nil
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return restored, named
}

// Whichever block is lost: snapshots stay listed unless the last commit was
// hit, and all files but those in the block are restored.
func TestLostBlocks(t *testing.T) {
	s, l, dir, last := damagedSpace(t, 9)
	restoreAndCompare(t, s.open(""), *last.Snapshot, dir)
	costly := 0
	for i := range l.size {
		if l.blocks[i][0] != byte(merklelog.Data) || testing.Short() && i%5 > 0 {
			continue
		}
		l.lost = map[uint64]bool{i: true}
		a := s.open("")
		list, err := a.Snapshots(background)
		if err != nil {
			t.Fatalf("block %d lost: %v", i, err)
		}
		// A snapshot is lost only where no segment that is left has it.
		if len(list) < 8 {
			t.Errorf("block %d lost: %d of 9 snapshots", i, len(list))
		}
		if i == l.size-1 {
			continue
		}
		found := false
		for _, snap := range list {
			if snap.ID == last.Snapshot.ID {
				found = true
				restored, named := checkLoss(t, a, snap, dir)
				if restored+named != 180 {
					t.Errorf("block %d lost: %d restored, %d named", i, restored, named)
				}
				if restored < 100 {
					costly++
				}
				v, err := a.Verify(background, []Snapshot{snap}, Hooks{})
				if err != nil || (v.Failed > 0) != (named > 0) {
					t.Errorf("block %d lost: verify %+v, %v; %d named", i, v, err, named)
				}
			}
		}
		if !found && i < last.Snapshot.End-3 {
			t.Errorf("block %d lost: the last snapshot is gone", i)
		}
	}
	// Only the blocks with the newest listings cost much.
	if costly > 3 {
		t.Errorf("%d blocks cost more than 80 of 180 files each", costly)
	}
}

// What may hide the newest commit is not built upon, unless it is known to be
// lost; and blocks that cannot be asked for are not taken for lost.
func TestNewestCommitUnreadable(t *testing.T) {
	s, l, dir, last := damagedSpace(t, 3)
	end := l.size - 1
	l.lost = map[uint64]bool{end: true}
	if _, err := s.open("").Backup(background, s.options(l, dir)); !errors.Is(err, ErrNewestCommit) {
		t.Fatalf("backup after a commit that cannot be read: %v", err)
	}
	l.known = []merklelog.Range{{First: end, Count: 1}}
	sum := s.mustBackup("", s.options(l, dir))
	restoreAndCompare(t, s.open(""), *sum.Snapshot, dir)
	l.lost, l.known = nil, nil
	a := s.open("")
	a.cfg.Blocks = offline{}
	if _, err := a.Snapshots(background); !errors.Is(err, ErrUnavailable) {
		t.Errorf("listing without anybody to ask: %v", err)
	}
	if _, err := a.Restore(background, RestoreOptions{Snapshot: *last.Snapshot, Target: t.TempDir()}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("restore without anybody to ask: %v", err)
	}
}

// Where a snapshot may be missing because a block cannot be read, that is said.
func TestUnread(t *testing.T) {
	s, l, _, _ := damagedSpace(t, 3)
	whole, err := s.open("").Snapshots(background)
	if err != nil {
		t.Fatal(err)
	}
	for name, lost := range map[string]uint64{"oldest": whole[0].End - 1, "newest": whole[2].End - 1} {
		for _, known := range []bool{false, true} {
			l.lost, l.known = map[uint64]bool{lost: true}, nil
			if known {
				l.known = []merklelog.Range{{First: lost, Count: 1}}
			}
			a := s.open("")
			if list, err := a.Snapshots(background); err != nil || len(list) != 2 || a.Unread() == known {
				t.Errorf("%s, known %v: %d snapshots, unread %v, %v", name, known, len(list), a.Unread(), err)
			}
		}
	}
	l.lost, l.known = nil, nil
	a := s.open("")
	if list, err := a.Snapshots(background); err != nil || len(list) != 3 || a.Unread() {
		t.Errorf("whole: %d snapshots, unread %v, %v", len(list), a.Unread(), err)
	}
}

// A listing that could not be read when it was needed is named, though it can be read
// later: nothing of what it names was verified.
func TestVerifyListingThatComesLate(t *testing.T) {
	s := newMemSpace(t)
	l := s.newLog("log")
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"a/b": string(randomBytes(1, 200_000)), "c": "two"})
	sum := s.mustBackup("", s.options(l, dir))
	a := s.open("")
	if _, err := a.loadIndex(background); err != nil {
		t.Fatal(err)
	}
	a.cfg.Blocks = &late{Blocks: s}
	v, err := a.Verify(background, []Snapshot{*sum.Snapshot}, Hooks{})
	if err != nil || v.Failed == 0 {
		t.Errorf("%+v, %v", v, err)
	}
}

// late has nothing the first time that it is asked.
type late struct {
	Blocks
	asked atomic.Bool
}

func (b *late) Fetch(ctx context.Context, log merklelog.LogID, indexes []uint64, fn func(uint64, []byte) error) error {
	if !b.asked.Swap(true) {
		return errors.New("not yet")
	}
	return b.Blocks.Fetch(ctx, log, indexes, fn)
}

// What an interrupted backup left behind may end in the middle of a record. Where the
// index of the next one is lost, the blocks that it covers are read from the first
// record on that begins in them.
func TestLostIndexAfterAnInterruption(t *testing.T) {
	s := newMemSpace(t)
	l := s.newLog("log")
	dir := t.TempDir()
	for cut := uint64(1); cut < 12; cut++ {
		for i := range 12 {
			writeTree(t, dir, map[string]string{fmt.Sprintf("d%d/f%d", cut, i): string(randomBytes(100*cut+uint64(i), 100_000))})
		}
		end := l.size + cut
		l.before = func(i uint64) error {
			if i >= end {
				return errCut
			}
			return nil
		}
		if _, err := s.open("").Backup(background, s.options(l, dir)); !errors.Is(err, errCut) || l.size != end {
			t.Fatalf("%d of %d blocks: %v", l.size, end, err)
		}
		l.before = nil
		s.mustBackup("", s.options(l, dir))
		a := s.open("")
		all, err := a.loadIndex(background)
		if err != nil {
			t.Fatal(err)
		}
		refs := a.logs[0].foot.index
		lost := uint64(refs[len(refs)-1].loc.block)
		l.lost = map[uint64]bool{lost: true}
		left, err := s.open("").loadIndex(background)
		if err != nil {
			t.Fatal(err)
		}
		gone := 0
		for i, g := range all.groups {
			if g == freeSlot {
				continue
			}
			p := all.places[g]
			_, _, found := left.find(all.keys[i])
			if whole := !slices.Contains(a.logs[0].blocks.span(nil, p.loc, p.length), lost); whole && !found {
				gone++
			}
		}
		if gone > 0 {
			t.Errorf("cut after %d blocks: %d chunks are there, but not found", cut, gone)
		}
		l.lost = nil
	}
}

type offline struct{}

func (offline) Fetch(context.Context, merklelog.LogID, []uint64, func(uint64, []byte) error) error {
	return fmt.Errorf("no box: %w", ErrUnavailable)
}

// The same with many blocks at once, and with blocks that arrive damaged.
func TestLostManyBlocks(t *testing.T) {
	s, l, dir, last := damagedSpace(t, 6)
	rounds := 20
	if testing.Short() {
		rounds = 4
	}
	good := l.blocks
	for seed := range rounds {
		r := rand.New(rand.NewPCG(uint64(seed), 7))
		l.lost = map[uint64]bool{}
		l.blocks = append([][]byte(nil), good...)
		for range 1 + r.IntN(int(l.size)/2) {
			i := r.Uint64N(l.size)
			if r.IntN(2) == 0 {
				l.lost[i] = true
				continue
			}
			b := append([]byte(nil), good[i]...)
			b[r.IntN(len(b))] ^= 1
			l.blocks[i] = b
		}
		a := s.open("")
		list, err := a.Snapshots(background)
		if err != nil {
			t.Fatal(err)
		}
		for _, snap := range list {
			if snap.ID == last.Snapshot.ID {
				checkLoss(t, a, snap, dir)
			}
		}
		// The next backup works whatever is lost, and is whole once what is
		// lost is known.
		for i := range l.size {
			if l.lost[i] || &l.blocks[i][0] != &good[i][0] {
				l.known = append(l.known, merklelog.Range{First: i, Count: 1})
			}
		}
		size := l.size
		next := s.mustBackup("", s.options(l, dir))
		l.known = nil
		restoreAndCompare(t, s.open(""), *next.Snapshot, dir)
		l.size, l.committed = size, size
	}
}

// A log whose writer does not keep to the format: sealed with the right key,
// any bytes inside. Nothing panics, nothing takes memory out of proportion.
func TestHostilePayloads(t *testing.T) {
	s, l, _, last := damagedSpace(t, 3)
	good := l.blocks
	rounds := 60
	if testing.Short() {
		rounds = 10
	}
	for seed := range rounds {
		r := rand.New(rand.NewPCG(uint64(seed), 8))
		l.blocks = append([][]byte(nil), good...)
		opener := seal.NewOpener(l.id, l.keys)
		m, err := newBlockMap(ptr(l.state(l.size)))
		if err != nil {
			t.Fatal(err)
		}
		for range 1 + r.IntN(4) {
			i := m.data(r.Uint64N(l.size))
			if i >= l.size {
				continue
			}
			if r.IntN(2) == 0 {
				i = l.size - 1
			}
			e := m.epoch(i)
			payload, err := opener.Open(nil, i, e, l.blocks[i])
			if err != nil {
				t.Fatal(err)
			}
			for range 1 + r.IntN(20) {
				at := r.IntN(len(payload))
				if r.IntN(2) == 0 { // where headers and footers are
					at = len(payload) - 1 - r.IntN(200)
				}
				if r.IntN(4) == 0 {
					at = r.IntN(20)
				}
				payload[at] = byte(r.Uint32())
			}
			l.blocks[i] = seal.NewSealer(l.id, e, l.keys[e]).Seal(nil, i, payload)
		}
		a := s.open("")
		list, err := a.Snapshots(background)
		if err != nil {
			t.Fatal(err)
		}
		for _, snap := range append(list, *last.Snapshot) {
			if _, err := a.Restore(background, RestoreOptions{Snapshot: snap, Target: t.TempDir()}); err != nil {
				t.Logf("seed %d: %v", seed, err)
			}
		}
		if _, err := a.Verify(background, list, Hooks{}); err != nil {
			t.Fatal(err)
		}
		l.blocks = good
	}
}

func ptr[T any](v T) *T { return &v }

// Caches with any damage are ignored: the result is the same.
func TestDamagedCache(t *testing.T) {
	s := newMemSpace(t)
	l := s.newLog("log")
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"a/b": "one", "a/c": string(randomBytes(1, 200_000)), "d": "two"})
	for seed := range 30 {
		r := rand.New(rand.NewPCG(uint64(seed), 9))
		cache := t.TempDir()
		s.mustBackup(cache, s.options(l, dir))
		writeTree(t, dir, map[string]string{"a/b": fmt.Sprint("edit", seed)})
		for range 3 {
			damageCache(t, r, cache)
		}
		sum := s.mustBackup(cache, s.options(l, dir))
		restoreAndCompare(t, s.open(cache), *sum.Snapshot, dir)
	}
}

// The cache tells that a directory has not changed, but its frame is damaged:
// the backup begins anew, and stores what the one before had only collected.
func TestDamagedFrames(t *testing.T) {
	s := newMemSpace(t)
	l := s.newLog("log")
	dir, cache := t.TempDir(), t.TempDir()
	writeTree(t, dir, map[string]string{"a/b": "one", "c/d": "two"})
	backup := func() BackupSummary {
		a := s.open(cache)
		a.now = later
		sum, err := a.Backup(background, s.options(l, dir))
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	backup()
	list, err := filepath.Glob(filepath.Join(cache, "scan-*"))
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	b, err := os.ReadFile(list[0])
	if err != nil {
		t.Fatal(err)
	}
	end := len(b) - scanTrailer
	end -= scanRow * int(be.Uint32(b[end:]))
	for i := 3 + 40*int(be.Uint16(b[1:])) + 2 + 16 + cacheSum; i < end; i++ {
		b[i] ^= 1
	}
	if err := os.WriteFile(list[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	writeTree(t, dir, map[string]string{"a/b": "edited"})
	sum := backup()
	restoreAndCompare(t, s.open(""), *sum.Snapshot, dir)
	if sum.Changed != 2 {
		t.Errorf("%d files were read, want all", sum.Changed)
	}
}
