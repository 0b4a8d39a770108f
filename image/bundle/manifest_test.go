package bundle_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"cobox/image/bundle"
	"cobox/image/layout"
)

func text(t testing.TB, m *bundle.Manifest) string {
	t.Helper()
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestManifestLimits(t *testing.T) {
	list := func(paths ...string) []bundle.File {
		var f []bundle.File
		for _, p := range paths {
			f = append(f, bundle.File{Path: p, Size: 1})
		}
		return f
	}
	many := func(n int) (paths []string) {
		for i := range n {
			paths = append(paths, fmt.Sprintf("d/%s%05d", strings.Repeat("x", bundle.MaxPath-7), i))
		}
		return paths
	}
	for name, tc := range map[string]struct {
		change func(*bundle.Manifest)
		ok     bool
	}{
		"as it is":            {func(m *bundle.Manifest) {}, true},
		"version with dash":   {func(m *bundle.Manifest) { m.Version = "v1.4.0-3-gabcdef+dirty" }, true},
		"no version":          {func(m *bundle.Manifest) { m.Version = "" }, false},
		"version with space":  {func(m *bundle.Manifest) { m.Version = "1 4" }, false},
		"version with line":   {func(m *bundle.Manifest) { m.Version = "1\nnumber 3" }, false},
		"long version":        {func(m *bundle.Manifest) { m.Version = strings.Repeat("1", 64) }, true},
		"too long version":    {func(m *bundle.Manifest) { m.Version = strings.Repeat("1", 65) }, false},
		"no board":            {func(m *bundle.Manifest) { m.Board = "" }, false},
		"board in capitals":   {func(m *bundle.Manifest) { m.Board = "RPI" }, false},
		"number 0":            {func(m *bundle.Manifest) { m.Number, m.Floor = 0, 0 }, false},
		"floor 0":             {func(m *bundle.Manifest) { m.Floor = 0 }, true},
		"highest number":      {func(m *bundle.Manifest) { m.Number, m.Floor = 1<<32-1, 1<<32-1 }, true},
		"floor above number":  {func(m *bundle.Manifest) { m.Floor = m.Number + 1 }, false},
		"no files":            {func(m *bundle.Manifest) { m.Files = nil }, false},
		"not sorted":          {func(m *bundle.Manifest) { m.Files = list("b", "a") }, false},
		"twice":               {func(m *bundle.Manifest) { m.Files = list("a", "a") }, false},
		"differ in case":      {func(m *bundle.Manifest) { m.Files = list("A", "a") }, false},
		"directories in case": {func(m *bundle.Manifest) { m.Files = list("A/x", "a/y") }, false},
		"file and directory":  {func(m *bundle.Manifest) { m.Files = list("a", "a/x") }, false},
		"and in other case":   {func(m *bundle.Manifest) { m.Files = list("A/x", "a") }, false},
		"one directory":       {func(m *bundle.Manifest) { m.Files = list("a/x", "a/y", "b") }, true},
		"bytes before slash":  {func(m *bundle.Manifest) { m.Files = list("a-b", "a/x", "aa") }, true},
		"all files":           {func(m *bundle.Manifest) { m.Files = list(many(bundle.MaxFiles)...) }, true},
		"a file too many":     {func(m *bundle.Manifest) { m.Files = list(many(bundle.MaxFiles + 1)...) }, false},
		"a whole slot":        {func(m *bundle.Manifest) { m.Files = list("a"); m.Files[0].Size = layout.SlotSize }, true},
		"more than a slot":    {func(m *bundle.Manifest) { m.Files = list("a", "b"); m.Files[0].Size = layout.SlotSize }, false},
		"less than nothing":   {func(m *bundle.Manifest) { m.Files = list("a"); m.Files[0].Size = -1 }, false},
	} {
		m := manifest(files())
		tc.change(m)
		b, err := m.Append(nil)
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err != nil {
			continue
		}
		if len(b) > bundle.MaxManifest {
			t.Errorf("%s: %d bytes", name, len(b))
		}
		back, err := bundle.ParseManifest(b)
		if err != nil || text(t, back) != string(b) {
			t.Errorf("%s: read back: %v", name, err)
		}
	}
	for path, ok := range map[string]bool{
		"a": true, "Image+_-9.dtb": true, "a/b/c/d/e/f/g/h": true, strings.Repeat("a", 255): true,
		"": false, "/a": false, "a/": false, "a//b": false, ".": false, "..": false, "a/../b": false, ".hidden": false,
		"a.": false, "a b": false, "a\\b": false, "a:b": false, "é": false, "a\x00": false, "a\n": false, "a*": false, "~": false,
		"a/b/c/d/e/f/g/h/i": false, strings.Repeat("a", 256): false,
		"manifest.txt": false, "MANIFEST.SIG": false, "d/manifest.txt": true,
	} {
		m := manifest(files())
		m.Files = list(path)
		if _, err := m.Append(nil); (err == nil) != ok {
			t.Errorf("path %q: %v", path, err)
		}
	}
}

func TestParseManifestIsStrict(t *testing.T) {
	good := text(t, manifest(files()))
	for i := range good {
		if _, err := bundle.ParseManifest([]byte(good[:i])); err == nil && !strings.HasSuffix(good[:i], "\n") {
			t.Errorf("cut to %d bytes, and nobody noticed", i)
		}
	}
	for _, change := range [][2]string{
		{"cobox-slot 1", "cobox-slot 0"},
		{"cobox-slot 1", "cobox-slot 01"},
		{"cobox-slot 1", "cobox-slot"},
		{"cobox-slot 1\n", ""},
		{"cobox-slot 1\n", "cobox-slot 1\r\n"},
		{"cobox-slot 1\n", "\xef\xbb\xbfcobox-slot 1\n"},
		{"number 17", "number 017"},
		{"number 17", "number +17"},
		{"number 17", "number 4294967313"},
		{"number 17\nfloor 15", "floor 15\nnumber 17"},
		{"board rpi-arm64\n", "board rpi-arm64\n\n"},
		{"board rpi-arm64\n", "board rpi-arm64\nnote x\n"},
		{"file 0 e3b0", "file 0 E3B0"},
		{"file 0 e3b0", "file 00 e3b0"},
		{"file 0 e3b0", "file -0 e3b0"},
		{"file 0 e3b0", "file 0  e3b0"},
		{"file 0 e3b0", "file 0 e3b"},
		{"file 0 e3b0", "file 0 g3b0"},
		{" config.txt", " ../config.txt"},
		{" config.txt", "  config.txt"},
		{" config.txt", ""},
	} {
		bad := strings.Replace(good, change[0], change[1], 1)
		if bad == good {
			t.Fatalf("%q is not there", change[0])
		}
		if _, err := bundle.ParseManifest([]byte(bad)); err == nil || errors.Is(err, bundle.ErrNewer) {
			t.Errorf("%q for %q: %v", change[1], change[0], err)
		}
	}
	if _, err := bundle.ParseManifest([]byte("cobox-slot 2\nanything")); !errors.Is(err, bundle.ErrNewer) {
		t.Errorf("a newer manifest: %v", err)
	}
	if _, err := bundle.ParseManifest(bytes.Repeat([]byte("x"), bundle.MaxManifest+1)); err == nil {
		t.Error("a manifest that is too long")
	}
}

// Signed, but of a version or form that this program does not read.
func TestSignedManifestOfAnotherForm(t *testing.T) {
	good := text(t, manifest(files()))
	for change, want := range map[[2]string]error{
		{"cobox-slot 1", "cobox-slot 2"}: bundle.ErrNewer,
		{"number 17", "number 017"}:      bundle.ErrDamaged,
	} {
		bad := []byte(strings.Replace(good, change[0], change[1], 1))
		sigs := []bundle.Signature{private[0].Sign(bad, ""), private[2].Sign(bad, "")}
		b := append([]byte("cobox-bundle\x00\x00\x00\x01"), 0, 0, byte(len(bad)>>8), byte(len(bad)))
		s := bundle.AppendSignatures(nil, sigs)
		b = append(append(append(b, 0, 0, byte(len(s)>>8), byte(len(s))), bad...), s...)
		if _, err := bundle.Open(bytes.NewReader(b), public, state); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", change[1], err, want)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(text(f, manifest(files()))))
	f.Add([]byte("cobox-slot 1\nversion 1\nnumber 1\nfloor 0\nboard x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := bundle.ParseManifest(b)
		if err != nil {
			return
		}
		if again, err := m.Append(nil); err != nil || !bytes.Equal(again, b) {
			t.Errorf("not canonical: %v", err)
		}
	})
}
