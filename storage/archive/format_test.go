package archive

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cobox/storage/archive/fstree"
	"cobox/storage/chunker"
	"cobox/storage/merklelog"
	"cobox/storage/seal"
)

var update = flag.Bool("update", false, "write the vectors anew")

func TestConstants(t *testing.T) {
	if PayloadSize != seal.PayloadSize {
		t.Errorf("PayloadSize is %d, in seal %d", PayloadSize, seal.PayloadSize)
	}
	if chunker.Files.Max > maxChunk || chunker.Listings.Max > maxChunk || maxChunk+groupFiles > maxGroupRaw {
		t.Error("chunks may be longer than the format allows")
	}
	if 2*chunker.Files.Max > readSize {
		t.Error("the read buffer is too small for the chunker")
	}
	if maxSegmentRefs != 3444 {
		t.Errorf("a footer lists %d segments", maxSegmentRefs)
	}
}

// Values that every vector and every fuzz corpus starts from.

func vectorGroup() []byte {
	b := appendGroupHeader(nil, codecRaw, []uint32{1, 200, 3})
	return append(b, bytes.Repeat([]byte("x"), 204)...)
}

func vectorIndex() []byte {
	var w segmentWriter
	w.add(indexGroup{location{1, 0}, 70_000, []chunkPrefix{{1, 2, 3}, {4}}})
	w.add(indexGroup{location{2, 4550}, 1, []chunkPrefix{{0xFF}}})
	w.add(indexGroup{location{2, 4555}, maxGroup, make([]chunkPrefix, 256)})
	w.add(indexGroup{location{70_000, 65_456}, 300, []chunkPrefix{{9}}})
	return w.buf
}

func vectorSnapshot() *Snapshot {
	return &Snapshot{
		Parent: SnapshotID{1, 2, 3}, Time: time.Unix(-5, 999_999_999), Duration: 1500 * time.Millisecond,
		Host: "host", User: "user\xff", Program: "cobox 1", Paths: []string{"/home/ä", "/etc"}, Tags: []string{"", "tag"},
		Stats: Stats{1, 2, 3, 1 << 40, 5, 6},
		root: fstree.Node{
			Kind: fstree.Directory, Partial: true, Name: fstree.RootName, Mode: 0o755, User: "root",
			ModTime: fstree.Time{Sec: 1_700_000_000, Nsec: 1}, Size: 700,
			Content: []fstree.Extent{{ID: fstree.ChunkID{7}, Length: 700}},
		},
	}
}

func vectorSnapshots(t testing.TB) []byte {
	r, err := appendSnapshot(nil, vectorSnapshot())
	if err != nil {
		t.Fatal(err)
	}
	return appendSnapshotSegment(nil, []snapshotEntry{{5, r}, {0, r}})
}

func vectorFooter() *footer {
	return &footer{
		complete: true, previous: 77,
		index:     []segmentRef{{location{50, 9}, 8 << 20, 1, 1, 60}, {location{99, 65_456}, 1, 0, 78, 101}},
		snapshots: []segmentRef{{location{100, 0}, 300, 0, 78, 101}},
	}
}

const vectorFooterBlock = 100

func TestVectors(t *testing.T) {
	snap, err := appendSnapshot(nil, vectorSnapshot())
	if err != nil {
		t.Fatal(err)
	}
	header := make([]byte, headerSize)
	putPayloadHeader(header, payloadHeader{0x1234, 0xFFFFFFFF})
	k := newHashKey([32]byte{1})
	id := k.hasher().chunkID([]byte("chunk"))
	sid := k.snapshotID([]byte("record"), merklelog.LogID{2})
	scan, err := appendScanRecord(nil, &scanRecord{
		key: dirKey{1}, digest: [16]byte{2}, flags: flagRacy, content: []fstree.Extent{{ID: fstree.ChunkID{3}, Length: 3}},
		listing: []byte("abc"), stats: []entryStat{{1, never}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, v := range []struct {
		name string
		b    []byte
	}{
		{"payload header", header},
		{"record header", appendRecordHeader(nil, typeIndex, 0x10203)},
		{"group", vectorGroup()},
		{"index segment", vectorIndex()},
		{"snapshot", snap},
		{"snapshot segment", vectorSnapshots(t)},
		{"footer", appendFooter(nil, vectorFooter())},
		{"chunk id", id[:]},
		{"snapshot id", sid[:]},
		{"scan record", scan},
	} {
		s := hex.EncodeToString(v.b)
		if len(s) > 2000 {
			s = s[:1000] + "…" + s[len(s)-200:]
		}
		sum := k.hasher().chunkID(v.b)
		fmt.Fprintf(&out, "%s: %d bytes, hash %x\n%s\n", v.name, len(v.b), sum[:8], s)
	}
	golden(t, "formats.txt", []byte(out.String()))
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: an encoding changed; encodings are frozen. Got\n%s\nwant\n%s", name, got, want)
	}
}

func TestParseBack(t *testing.T) {
	var g group
	if err := parseGroup(&g, vectorGroup()); err != nil || !slices.Equal(g.lengths, []uint32{1, 200, 3}) || len(g.data) != 204 {
		t.Errorf("%+v %v", g, err)
	}
	var groups []indexGroup
	if err := eachIndexGroup(vectorIndex(), func(g indexGroup) error {
		g.chunks = slices.Clone(g.chunks)
		groups = append(groups, g)
		return nil
	}); err != nil || len(groups) != 4 || groups[2].loc != (location{2, 4555}) || len(groups[2].chunks) != 256 || groups[3].loc.block != 70_000 {
		t.Errorf("%v %v", groups, err)
	}
	want := vectorSnapshot()
	b, _ := appendSnapshot(nil, want)
	got, err := parseSnapshot(b)
	if err != nil || !got.Time.Equal(want.Time) || got.User != want.User || !slices.Equal(got.Paths, want.Paths) ||
		!slices.Equal(got.Tags, want.Tags) || got.Stats != want.Stats || got.Duration != want.Duration || got.root.Size != 700 {
		t.Errorf("%+v %v", got, err)
	}
	f, err := parseFooter(appendFooter(nil, vectorFooter()), vectorFooterBlock)
	if err != nil || !f.complete || f.previous != 77 || !slices.Equal(f.index, vectorFooter().index) || !slices.Equal(f.snapshots, vectorFooter().snapshots) {
		t.Errorf("%+v %v", f, err)
	}
}

// What a footer must not say.
func TestFooterRules(t *testing.T) {
	for name, change := range map[string]func(*footer){
		"previous is itself":     func(f *footer) { f.previous = vectorFooterBlock },
		"segment after it":       func(f *footer) { f.index[1].loc.block = vectorFooterBlock + 1 },
		"offset beyond body":     func(f *footer) { f.index[1].loc.off = bodySize },
		"empty segment":          func(f *footer) { f.index[0].length = 0 },
		"long segment":           func(f *footer) { f.index[0].length = maxSegment + 1 },
		"high generation":        func(f *footer) { f.index[0].generation = maxGeneration + 1 },
		"overlapping coverage":   func(f *footer) { f.index[1].first = 59 },
		"empty coverage":         func(f *footer) { f.index[1].end = f.index[1].first },
		"coverage of the future": func(f *footer) { f.snapshots[0].end = vectorFooterBlock + 2 },
	} {
		f := vectorFooter()
		change(f)
		if _, err := parseFooter(appendFooter(nil, f), vectorFooterBlock); !errors.Is(err, errFormat) {
			t.Errorf("%s: accepted (%v)", name, err)
		}
	}
}

// A log as the first version wrote it: it stays readable.
func TestFixtureLog(t *testing.T) {
	const file = "testdata/log-v1.gz"
	s := newMemSpace(t)
	l := s.newLog("fixture")
	if *update {
		writeFixture(t, file)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	payloads, err := io.ReadAll(z)
	if err != nil || len(payloads)%PayloadSize != 0 {
		t.Fatalf("%d bytes, %v", len(payloads), err)
	}
	for len(payloads) > 0 {
		if _, err := l.Append(l.sealer().Seal(nil, l.size, payloads[:PayloadSize])); err != nil {
			t.Fatal(err)
		}
		payloads = payloads[PayloadSize:]
	}
	a := s.open("")
	list, err := a.Snapshots(background)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, snap := range list {
		fmt.Fprintf(&out, "snapshot %s %s %s@%s %q %q %+v end %d\n", snap.ID, snap.Time.UTC().Format(time.RFC3339Nano), snap.User, snap.Host, snap.Paths, snap.Tags, snap.Stats, snap.End)
		target := t.TempDir()
		if r, err := a.Restore(background, RestoreOptions{Snapshot: snap, Target: target}); err != nil || r.Failed > 0 {
			t.Fatal(err, r.Errors)
		}
		if err := a.Ls(background, snap, "/", true, func(e Entry) error {
			fmt.Fprintf(&out, "%q %s %o %d %s %q", e.Path, e.Kind, e.Mode, e.Size, e.ModTime.UTC().Format(time.RFC3339Nano), e.Target)
			if e.Kind == fstree.File {
				b, err := os.ReadFile(filepath.Join(target, e.Path))
				if err != nil {
					return err
				}
				sum := a.hash.hasher().chunkID(b)
				fmt.Fprintf(&out, " %x", sum[:8])
			}
			out.WriteByte('\n')
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "log-v1.txt", []byte(out.String()))
}

func writeFixture(t *testing.T, file string) {
	s := newMemSpace(t)
	l := s.newLog("fixture")
	dir, err := os.MkdirTemp("", "fixture")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	old := time.Unix(1_600_000_000, 5)
	for i := range 2 {
		writeTree(t, dir, map[string]string{
			"text": strings.Repeat("some text ", 3000+i), "sub/random": string(randomBytes(1, 3000)), "sub/empty": "", "long": strings.Repeat("0123456789abcdef", 20_000),
		})
		os.Symlink("text", filepath.Join(dir, "link"))
		os.Link(filepath.Join(dir, "text"), filepath.Join(dir, "sub/hard"))
		os.WriteFile(filepath.Join(dir, "bytes\xff"), []byte("b"), 0o600)
		filepath.Walk(dir, func(p string, st os.FileInfo, _ error) error {
			if st.Mode()&os.ModeSymlink == 0 {
				os.Chtimes(p, old, old)
			}
			return nil
		})
		o := s.options(l, dir)
		o.Time, o.Tags = time.Unix(1_700_000_000+int64(i), 7), []string{"fixture"}
		s.mustBackup("", o)
	}
	var buf bytes.Buffer
	z, _ := gzip.NewWriterLevel(&buf, 9)
	o := seal.NewOpener(l.id, l.keys)
	for i := l.envelopes[0].Blocks; uint64(i) < l.size; i++ {
		p, err := o.Open(nil, uint64(i), 0, l.blocks[i])
		if err != nil {
			t.Fatal(err)
		}
		z.Write(p)
	}
	z.Close()
	if err := os.WriteFile(file, buf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
