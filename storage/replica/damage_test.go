package replica

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"cobox/storage/merklelog"
)

// damageStore makes a store on the disk with three logs whose index was flushed
// to tables, and closes it.
func damageStore(t *testing.T) (dir string, o Options, logs []*fixtureLog) {
	t.Helper()
	dir = t.TempDir()
	o = testOptions(nil)
	o.Logger = testLogger(t)
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		l := newLog(newWriter("damage", fmt.Sprint(i)), fmt.Sprint("damage", i), 40)
		logs = append(logs, l)
		// A few blocks through the WAL and many by tables.
		if err := l.bring(s, 0, 40); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(context.Background(), l.id); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, o, logs
}

// flip changes one bit where the bytes occur in a table, and says in how many
// files they do.
func flip(t *testing.T, dir string, what []byte) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		i := bytes.Index(data, what)
		if i < 0 {
			continue
		}
		n++
		data[i+len(what)/2] ^= 0x10
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// TestFlippedBlock: one bit of a block changes on the disk. Reading it is an
// error that names it, it becomes a hole that no receipt covers, everything
// else can be read, and the block can be brought again.
func TestFlippedBlock(t *testing.T) {
	for _, index := range []uint64{0, 1, 7, 8, 39} {
		t.Run(fmt.Sprint("block", index), func(t *testing.T) {
			dir, o, logs := damageStore(t)
			l := logs[1]
			if n := flip(t, dir, l.block(index)[:41]); n != 1 {
				t.Fatalf("the block is in %d tables", n)
			}
			s, err := Open(dir, o)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			_, _, err = s.ReadBlock(l.id, index, nil)
			var d *DamagedError
			if !errors.As(err, &d) || d.Log != l.id || d.Index != index || d.What != "block" {
				t.Fatal("damaged block was read:", err)
			}
			for _, other := range logs {
				for i := range uint64(40) {
					if err := other.checkRead(s, i); (err != nil) != (other == l && i == index) {
						t.Fatalf("block %d: %v", i, err)
					}
				}
			}
			got, err := s.Commit(context.Background(), l.id)
			if err != nil {
				t.Fatal(err)
			}
			if got.Held != 39 || len(got.Holes) != 1 || got.Holes[0] != (merklelog.Range{First: index, Count: 1}) {
				t.Fatalf("receipt %+v", got)
			}
			missing, err := s.Missing(l.id, 0, 10)
			if err != nil || len(missing) != 1 || missing[0].First != index {
				t.Fatal("missing", missing, err)
			}
			if err := l.put(s, index, index+1); err != nil {
				t.Fatal(err)
			}
			if got, err = s.Commit(context.Background(), l.id); err != nil || got.Held != 40 {
				t.Fatalf("receipt %+v, %v", got, err)
			}
			if err := l.checkRead(s, index); err != nil {
				t.Fatal(err)
			}
			if err := recount(s); err != nil && !pebble.IsCorruptionError(err) {
				t.Fatal(err)
			}
		})
	}
}

// TestCheckFindsDamage: Check finds a flipped bit in a block, in leaves, in the
// tree and in the index, and names log and place.
func TestCheckFindsDamage(t *testing.T) {
	dir, o, logs := damageStore(t)
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	report, err := s.Check(context.Background(), nil)
	if err != nil || !report.OK() || report.Logs != 3 || report.Blocks != 120 || report.Leaves != 120 {
		t.Fatalf("report %+v, %v", report, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if flip(t, dir, logs[2].block(20)[:41]) != 1 {
		t.Fatal("block not found")
	}
	if s, err = Open(dir, o); err != nil {
		t.Fatal(err)
	}
	var told Progress
	report, err = s.Check(context.Background(), func(p Progress) { told = p })
	if err != nil {
		t.Fatal(err)
	}
	if told.Logs != 3 || told.Blocks != 120 || told.TotalBlocks != 120 || told.TotalLogs != 3 {
		t.Errorf("progress %+v", told)
	}
	if report.DamageCount != 1 || report.Damage[0].Log != logs[2].id || report.Damage[0].Index != 20 || report.Blocks != 119 {
		t.Fatalf("report %+v", report)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFlippedSmall: one bit changes in each kind of small value, as if the
// checksums of the database had not noticed. Nothing false is receipted, the
// error names the log, other logs are not disturbed, and Check finds it.
func TestFlippedSmall(t *testing.T) {
	for _, c := range []struct {
		name string
		key  func(num uint32) []byte
		at   int // offset of the byte that changes
	}{
		{"leaf", func(n uint32) []byte { return leavesKey(n, 0) }, 33*5 + 9},
		{"leaf of the tail", func(n uint32) []byte { return leavesKey(n, 1) }, 33*5 + 9},
		{"tree", func(n uint32) []byte { return treeKey(n, 1, 0) }, 3},
		{"extent's arrival", func(n uint32) []byte { return indexKey(prefixExtent, n, 0) }, 11},
		{"extent's count", func(n uint32) []byte { return indexKey(prefixExtent, n, 0) }, 3},
		{"checkpoint", func(n uint32) []byte { return logKey(prefixCheckpoint, n) }, 40},
		{"checkpoint's size", func(n uint32) []byte { return logKey(prefixCheckpoint, n) }, 39},
		{"frontier", func(n uint32) []byte { return logKey(prefixFrontier, n) }, 20},
		{"manifest", func(n uint32) []byte { return logKey(prefixManifest, n) }, 30},
		{"held", func(n uint32) []byte { return logKey(prefixHeld, n) }, 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			const size = 300
			dir := t.TempDir()
			o := testOptions(nil)
			o.Logger = testLogger(t)
			s, err := Open(dir, o)
			if err != nil {
				t.Fatal(err)
			}
			good := newLog(newWriter("small", "good"), "good", 20)
			bad := newLog(newWriter("small", "bad"), "bad", size)
			for _, l := range []*fixtureLog{good, bad} {
				n := uint64(len(l.leaves))
				if err := l.bring(s, 0, min(n, 20)); err != nil {
					t.Fatal(err)
				}
				if err := l.bring(s, 20, n); err != nil {
					t.Fatal(err)
				}
				if _, err := s.Commit(context.Background(), l.id); err != nil {
					t.Fatal(err)
				}
			}
			var num uint32
			s.get(identityKey(bad.id), func(v []byte) error {
				num = binary.BigEndian.Uint32(v)
				return nil
			})
			k := c.key(num)
			v, closer, err := s.db.Get(k)
			if err != nil {
				t.Fatal(err)
			}
			v = append([]byte(nil), v...)
			closer.Close()
			v[c.at] ^= 1
			if err := s.db.Set(k, v, pebble.Sync); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}

			if s, err = Open(dir, o); err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			for i := range uint64(20) {
				if err := good.checkRead(s, i); err != nil {
					t.Fatal("the other log:", err)
				}
			}
			report, err := s.Check(context.Background(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if report.OK() {
				t.Error("Check finds nothing")
			}
			named := false
			for _, d := range report.Damage {
				named = named || d.Log == bad.id
				if d.Log == good.id {
					t.Errorf("Check blames the other log: %v", d)
				}
			}
			if !named && c.name != "manifest" {
				t.Errorf("Check does not name the log: %v", report.Damage)
			}
			// Whatever can still be read is right, and so is a receipt.
			readable := uint64(0)
			for i := range uint64(size) {
				b, leaf, err := s.ReadBlock(bad.id, i, nil)
				if err != nil {
					if !strings.Contains(err.Error(), bad.id.String()) {
						t.Fatal("an error that does not name the log:", err)
					}
					continue
				}
				readable++
				if leaf != bad.leaves[i] || !bytes.Equal(b, bad.block(i)) {
					t.Fatalf("block %d is false", i)
				}
			}
			d, err := s.Commit(context.Background(), bad.id)
			if err == nil && (d.Held > readable || d.Checkpoint.Verify(bad.manifest.Writer) != nil) {
				t.Errorf("a false receipt: %+v, where %d blocks can be read", d, readable)
			}
			t.Logf("%d blocks of %d can be read; receipt error: %v; damage: %v", readable, size, err, report.Damage)
		})
	}
}

// TestFlippedLog: after Close nothing rests on the write-ahead log, so that a
// flipped bit in it takes nothing back.
func TestFlippedLog(t *testing.T) {
	for _, tenth := range []int{1, 3, 5, 8, 9} {
		dir, o, logs := damageStore(t)
		files, err := filepath.Glob(filepath.Join(dir, "*"+walSuffix))
		if err != nil || len(files) == 0 {
			t.Fatal("no write-ahead log", err)
		}
		for _, name := range files {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if len(data) == 0 {
				continue
			}
			data[len(data)*tenth/10] ^= 1
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, err := Open(dir, o)
		if pebble.IsCorruptionError(err) {
			continue // a clear error is as good
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range logs {
			if d, err := s.Commit(context.Background(), l.id); err != nil || d.Held != 40 {
				t.Errorf("%d blocks are held, %v", d.Held, err)
			}
		}
		closeTest(t, s)
	}
}
