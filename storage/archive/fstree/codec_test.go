package fstree_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"cobox/storage/archive/fstree"
)

var update = flag.Bool("update", false, "write the vectors anew")

func id(b byte) (c fstree.ChunkID) {
	for i := range c {
		c[i] = b
	}
	return c
}

// samples are nodes of every kind, in order of their names.
func samples() []fstree.Node {
	return []fstree.Node{
		{Kind: fstree.BlockDevice, Name: "blk", Mode: 0o660, GID: 6, Group: "disk", Device: fstree.Device{Major: 8, Minor: 1 << 19}},
		{Kind: fstree.CharDevice, Name: "chr", Mode: 0o620, Device: fstree.Device{Major: 4095, Minor: 1}},
		{Kind: fstree.Directory, Name: "dir", Mode: 0o2755, UID: 1000, GID: 1000, User: "anna", Group: "anna",
			ModTime: fstree.Time{Sec: 1700000000, Nsec: 999999999}, Size: 300,
			Content: []fstree.Extent{{ID: id(1), Length: 200}, {ID: id(2), Length: 100}}},
		{Kind: fstree.Directory, Name: "empty dir", Partial: true},
		{Kind: fstree.FIFO, Name: "fifo", Mode: 0o600},
		{Kind: fstree.File, Name: "f\xff\xfe", Mode: 0o4755, ModTime: fstree.Time{Sec: -1, Nsec: 1}},
		{Kind: fstree.File, Name: "huge", Size: math.MaxInt64, Indirect: true, Content: []fstree.Extent{{ID: id(3), Length: math.MaxUint32}},
			ModTime: fstree.Time{Sec: math.MinInt64}, UID: math.MaxUint32, GID: math.MaxUint32},
		{Kind: fstree.Symlink, Name: "link", Mode: 0o777, Target: "../\xff", Link: fstree.LinkID{Device: 1, Inode: 2}},
		{Kind: fstree.Socket, Name: "sock", ModTime: fstree.Time{Sec: math.MaxInt64}},
		{Kind: fstree.File, Name: "sparse", Size: 5<<30 + 4096, Link: fstree.LinkID{Inode: 7},
			Content: []fstree.Extent{{Hole: true, Length: 5 << 30}, {ID: id(4), Length: 4096}},
			Xattrs:  []fstree.Xattr{{Name: "user.a", Value: []byte{0, 255}}, {Name: "user.b"}}},
		{Kind: fstree.File, Name: strings.Repeat("z", fstree.MaxName), Mode: fstree.ModeMask},
	}
}

// TestVectors holds the encoding: testdata/listing.hex may never change.
func TestVectors(t *testing.T) {
	const path = "testdata/listing.hex"
	nodes := samples()
	b, err := fstree.AppendListing(nil, nodes)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, []byte(hex.Dump(b)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.Dump(b); got != string(want) {
		t.Errorf("encoding differs from %s:\n%s", path, got)
	}
	back, err := fstree.ParseListing(b)
	if err != nil || !reflect.DeepEqual(back, nodes) {
		t.Errorf("decoded: %v\n%+v", err, back)
	}
	r := fstree.NewListingReader(io.MultiReader(bytes.NewReader(b[:7]), bytes.NewReader(b[7:])))
	for i := range nodes {
		if n, err := r.Next(); err != nil || !reflect.DeepEqual(n, nodes[i]) {
			t.Fatalf("node %d read as %+v, %v", i, n, err)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	// The worked size in FORMAT.md.
	worked := fstree.Node{Kind: fstree.File, Name: "document.txt", User: "anna", Group: "users", Size: 5, Content: []fstree.Extent{{ID: id(1), Length: 5}}}
	if w, err := fstree.AppendListing(nil, []fstree.Node{worked}); err != nil || len(w) != 1+101 {
		t.Errorf("worked size: %d, %v", len(w), err)
	}
	for cut := range len(b) {
		if cut == 1 || slices.Contains(ends(b), cut) {
			continue // a shorter listing
		}
		if _, err := fstree.ParseListing(b[:cut]); !errors.Is(err, fstree.ErrFormat) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
	}
}

// ends returns where the nodes of a listing end.
func ends(b []byte) (all []int) {
	for at := 1; at < len(b); {
		at += 4 + int(b[at])<<24 + int(b[at+1])<<16 + int(b[at+2])<<8 + int(b[at+3])
		all = append(all, at)
	}
	return all
}

func TestRefusedNodes(t *testing.T) {
	ok := fstree.Node{Kind: fstree.File, Name: "f", Size: 10, Content: []fstree.Extent{{ID: id(1), Length: 10}}}
	for name, change := range map[string]func(*fstree.Node){
		"no name":                func(n *fstree.Node) { n.Name = "" },
		"dot":                    func(n *fstree.Node) { n.Name = "." },
		"dot dot":                func(n *fstree.Node) { n.Name = ".." },
		"slash":                  func(n *fstree.Node) { n.Name = "../f" },
		"root that is a file":    func(n *fstree.Node) { n.Name = "/" },
		"NUL":                    func(n *fstree.Node) { n.Name = "a\x00" },
		"long name":              func(n *fstree.Node) { n.Name = strings.Repeat("n", 1025) },
		"kind 0":                 func(n *fstree.Node) { n.Kind = 0 },
		"kind 8":                 func(n *fstree.Node) { n.Kind = 8 },
		"mode":                   func(n *fstree.Node) { n.Mode = 0o10000 },
		"nanoseconds":            func(n *fstree.Node) { n.ModTime.Nsec = 1e9 },
		"user":                   func(n *fstree.Node) { n.User = strings.Repeat("u", 256) },
		"group":                  func(n *fstree.Node) { n.Group = "a\x00" },
		"partial file":           func(n *fstree.Node) { n.Partial = true },
		"link with content":      func(n *fstree.Node) { n.Kind, n.Target = fstree.Symlink, "t" },
		"file with target":       func(n *fstree.Node) { n.Target = "t" },
		"symlink without target": func(n *fstree.Node) { n.Kind, n.Size, n.Content = fstree.Symlink, 0, nil },
		"file with device":       func(n *fstree.Node) { n.Device.Major = 1 },
		"fifo with content":      func(n *fstree.Node) { n.Kind = fstree.FIFO },
		"linked directory":       func(n *fstree.Node) { n.Kind, n.Link.Inode = fstree.Directory, 1 },
		"size":                   func(n *fstree.Node) { n.Size++ },
		"negative size":          func(n *fstree.Node) { n.Size, n.Indirect = 1<<63, true },
		"empty extent":           func(n *fstree.Node) { n.Content[0].Length, n.Size = 0, 0 },
		"empty indirect":         func(n *fstree.Node) { n.Content, n.Indirect = nil, true },
		"long chunk":             func(n *fstree.Node) { n.Content[0].Length, n.Size = 1<<32, 1<<32 },
		"holes in a row": func(n *fstree.Node) {
			n.Content = []fstree.Extent{{Hole: true, Length: 5}, {Hole: true, Length: 5}}
		},
		"overflow": func(n *fstree.Node) {
			n.Content = []fstree.Extent{{Hole: true, Length: math.MaxInt64}, {ID: id(1), Length: 10}, {Hole: true, Length: math.MaxInt64}, {ID: id(1), Length: 2}}
		},
		"hole in a directory": func(n *fstree.Node) {
			n.Kind, n.Content = fstree.Directory, []fstree.Extent{{Hole: true, Length: 10}}
		},
		"hole with id":            func(n *fstree.Node) { n.Content[0].Hole = true },
		"attributes out of order": func(n *fstree.Node) { n.Xattrs = []fstree.Xattr{{Name: "b"}, {Name: "a"}} },
		"attribute twice":         func(n *fstree.Node) { n.Xattrs = []fstree.Xattr{{Name: "a"}, {Name: "a"}} },
		"attribute without name":  func(n *fstree.Node) { n.Xattrs = []fstree.Xattr{{}} },
		"large attributes": func(n *fstree.Node) {
			n.Xattrs = []fstree.Xattr{{Name: "a", Value: make([]byte, fstree.MaxXattrBytes)}}
		},
	} {
		n := ok
		n.Content = slices.Clone(ok.Content)
		change(&n)
		if b, err := fstree.AppendNode(nil, &n); !errors.Is(err, fstree.ErrFormat) || len(b) != 0 {
			t.Errorf("%s: encoded as %x, %v", name, b, err)
		}
	}
	if _, err := fstree.AppendNode(nil, &ok); err != nil {
		t.Error(err)
	}
	// A name in what is read is held to the same rules: here ".." by hand.
	b, err := fstree.AppendListing(nil, []fstree.Node{{Kind: fstree.Directory, Name: "ab"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"..", "a/", "/a", "a\x00"} {
		bad := bytes.Replace(b, []byte("ab"), []byte(name), 1)
		if _, err := fstree.ParseListing(bad); !errors.Is(err, fstree.ErrFormat) {
			t.Errorf("name %q: %v", name, err)
		}
		if _, err := fstree.NewListingReader(bytes.NewReader(bad)).Next(); !errors.Is(err, fstree.ErrFormat) {
			t.Errorf("name %q: %v", name, err)
		}
	}
}

func TestRefusedListings(t *testing.T) {
	for name, nodes := range map[string][]fstree.Node{
		"out of order": {{Kind: fstree.FIFO, Name: "b"}, {Kind: fstree.FIFO, Name: "a"}},
		"twice":        {{Kind: fstree.FIFO, Name: "a"}, {Kind: fstree.FIFO, Name: "a"}},
		"root":         {{Kind: fstree.Directory, Name: "/"}},
	} {
		if _, err := fstree.AppendListing(nil, nodes); !errors.Is(err, fstree.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
		b := fstree.AppendListingHeader(nil)
		for i := range nodes {
			n, err := fstree.AppendNode(nil, &nodes[i])
			if err != nil {
				t.Fatal(err)
			}
			b = append(append(b, 0, 0, 0, byte(len(n))), n...)
		}
		if _, err := fstree.ParseListing(b); !errors.Is(err, fstree.ErrFormat) {
			t.Errorf("%s, read: %v", name, err)
		}
	}
	for _, b := range [][]byte{nil, {0}, {2}, {1, 0, 0, 0, 0}, {1, 255, 255, 255, 255}} {
		if _, err := fstree.ParseListing(b); !errors.Is(err, fstree.ErrFormat) {
			t.Errorf("%x: %v", b, err)
		}
		if _, err := fstree.NewListingReader(bytes.NewReader(b)).Next(); !errors.Is(err, fstree.ErrFormat) {
			t.Errorf("%x, read: %v", b, err)
		}
	}
}

func TestExtents(t *testing.T) {
	es := []fstree.Extent{{ID: id(1), Length: 1}, {Hole: true, Length: 1 << 40}, {ID: id(2), Length: math.MaxUint32}}
	b, err := fstree.AppendExtents(nil, es)
	if err != nil {
		t.Fatal(err)
	}
	var got []fstree.Extent
	var rest []byte
	for _, c := range b { // as it comes from chunks, here of one byte
		var part []fstree.Extent
		if part, rest, err = fstree.ParseExtents(append(rest, c)); err != nil {
			t.Fatal(err)
		}
		got = append(got, part...)
	}
	if !reflect.DeepEqual(got, es) || len(rest) != 0 {
		t.Errorf("got %v and %x", got, rest)
	}
	if _, err := fstree.AppendExtents(nil, []fstree.Extent{{}}); !errors.Is(err, fstree.ErrFormat) {
		t.Error("empty extent:", err)
	}
	if _, _, err := fstree.ParseExtents(make([]byte, 12)); !errors.Is(err, fstree.ErrFormat) {
		t.Error("empty hole:", err)
	}
}

func FuzzParseListing(f *testing.F) {
	b, err := fstree.AppendListing(nil, samples())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		nodes, err := fstree.ParseListing(b)
		r := fstree.NewListingReader(bytes.NewReader(b))
		for i := range nodes {
			if n, rErr := r.Next(); rErr != nil || !reflect.DeepEqual(n, nodes[i]) {
				t.Fatalf("read %+v, %v", n, rErr)
			}
		}
		if err != nil {
			for rErr := error(nil); rErr == nil; {
				if _, rErr = r.Next(); rErr == io.EOF {
					t.Fatalf("refused whole (%v), read to the end", err)
				}
			}
			return
		}
		if _, rErr := r.Next(); rErr != io.EOF {
			t.Fatal(rErr)
		}
		again, err := fstree.AppendListing(nil, nodes)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%v\n%x\n%x", err, b, again)
		}
	})
}

func FuzzParseNode(f *testing.F) {
	for _, n := range samples() {
		b, err := fstree.AppendNode(nil, &n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := fstree.ParseNode(b)
		if err != nil {
			return
		}
		again, err := fstree.AppendNode(nil, &n)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%v\n%x\n%x", err, b, again)
		}
	})
}

func FuzzParseExtents(f *testing.F) {
	f.Add(make([]byte, 48))
	f.Fuzz(func(t *testing.T, b []byte) {
		es, rest, err := fstree.ParseExtents(b)
		if err != nil {
			return
		}
		again, err := fstree.AppendExtents(nil, es)
		if err != nil || !bytes.Equal(append(again, rest...), b) {
			t.Fatalf("%v\n%x\n%x", err, b, again)
		}
	})
}
