package fstree_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"cobox/storage/archive/fstree"
)

// The table was compared with what git check-ignore says of each line.
func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		rules string // separated by "|"
		path  string // with a slash at the end for a directory
		want  bool
	}{
		{"*.tmp", "a.tmp", true},
		{"*.tmp", "deep/in/a.tmp", true},
		{"*.tmp", "a.tmp.gz", false},
		{"foo", "foo", true},
		{"foo", "a/foo/b", true},
		{"foo", "foobar", false},
		{"foo/", "foo", false},
		{"foo/", "foo/", true},
		{"foo/", "a/foo/x", true},
		{"/foo", "foo", true},
		{"/foo", "a/foo", false},
		{"a/b", "a/b", true},
		{"a/b", "x/a/b", false},
		{"a/b/", "a/b/c", true},
		{"**/b", "b", true},
		{"**/b", "x/y/b", true},
		{"**/a/b", "a/c/a/b", true},
		{"a/**", "a/", false},
		{"a/**", "a/b", true},
		{"a/**", "a/b/c", true},
		{"a/**/b", "a/b", true},
		{"a/**/b", "a/x/y/b", true},
		{"a/**/b", "ab", false},
		{"**", "x", true},
		{"a*b", "a/b", false},
		{"a?c", "abc", true},
		{"a?c", "a/c", false},
		{"[a-c]x", "bx", true},
		{"[!a-c]x", "bx", false},
		{"[!a-c]x", "dx", true},
		{"[^a-c]x", "dx", true},
		{"*.log|!keep.log", "keep.log", false},
		{"*.log|!keep.log", "other.log", true},
		{"!keep.log|*.log", "keep.log", true},
		{"dir/|!dir/keep", "dir/keep", true},
		{"dir/*|!dir/keep", "dir/keep", false},
		{"dir/*|!dir/keep", "dir/other", true},
		{"# comment", "# comment", false},
		{`\# name`, "# name", true},
		{`\!name`, "!name", true},
		{"name   ", "name", true},
		{`name\ `, "name ", true},
		{`name\ `, "name", false},
		{`a\*b`, "a*b", true},
		{`a\*b`, "axb", false},
		{"{a,b}", "a", false},
		{"{a,b}", "{a,b}", true},
		{"*.{tmp}", "x.{tmp}", true},
		{"| |\r|x\r", "x", true},
		{"caf\u00e9", "caf\u00e9", true},
		{"*", "\xff\xfe", true},
		{"?\xff", "a\xff", true},
	} {
		p, err := fstree.ParsePatterns(strings.Split(c.rules, "|"))
		if err != nil {
			t.Errorf("%q: %v", c.rules, err)
			continue
		}
		path, isDir := strings.CutSuffix(c.path, "/")
		if got := p.Excluded(path, isDir); got != c.want {
			t.Errorf("%q on %q: %v", c.rules, c.path, got)
		}
	}
	for _, bad := range []string{"[a", "!", "/", "//", "!/"} {
		if _, err := fstree.ParsePatterns([]string{bad}); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	var none *fstree.Patterns
	if none.Excluded("x", false) {
		t.Error("no patterns leave something out")
	}
}

func TestPatternFile(t *testing.T) {
	p, err := fstree.ReadPatterns(strings.NewReader("\ufeff*.a\r\n# b\r\n\r\nc d\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	q, err := fstree.ParsePatterns([]string{"!x.a"})
	if err != nil {
		t.Fatal(err)
	}
	p = p.Append(nil).Append(q)
	got := fmt.Sprint(p.Excluded("y.a", false), p.Excluded("x.a", false), p.Excluded("c d", true), p.Excluded("b", false))
	if got != "true false true false" {
		t.Error(got)
	}
}

// TestExcludeWhileScanning has rules relative to the root and, as they are
// typed on the command line, absolute.
func TestExcludeWhileScanning(t *testing.T) {
	root := t.TempDir()
	build(t, root, "a/x.tmp=1", "a/x=1", "a/cache/f=1", "b/cache/f=1", "b/x.tmp/f=1", "build/a=1", "c/build/a=1")
	for _, c := range []struct {
		rules []string
		want  string
	}{
		{[]string{"*.tmp"}, "a/cache/f a/cache/ a/x a/ b/cache/f b/cache/ b/ build/a build/ c/build/a c/build/ c/ ./"},
		{[]string{"cache/", "*.tmp", "/build"}, "a/x a/ b/ c/build/a c/build/ c/ ./"},
		{[]string{root + "/a/cache", filepath.Join(root, "b") + "/", root + "/c/**"}, "a/x a/x.tmp a/ build/a build/ c/ ./"},
		{[]string{root, filepath.Dir(root) + "/**", "/tmp", "c", "b"}, "a/cache/f a/cache/ a/x a/x.tmp a/ build/a build/ ./"},
		{[]string{"cache", "!" + root + "/b/cache", "build", "*.tmp", "x"}, "a/ b/cache/f b/cache/ b/ c/ ./"},
	} {
		p, err := fstree.ParsePatterns(c.rules)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := scanned(t, root, []string{root}, fstree.ScanOptions{Exclude: p})
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%q: %s\nwant %s", c.rules, g, c.want)
		}
	}
}

func FuzzParsePatterns(f *testing.F) {
	f.Add("a/**/[b-d]?\\*{x}", "a/b/c")
	f.Fuzz(func(t *testing.T, rule, path string) {
		p, err := fstree.ParsePatterns([]string{rule})
		if err != nil {
			return
		}
		if got := p.Excluded(path, false); got && p.Empty() {
			t.Errorf("%q leaves out %q without a rule", rule, path)
		}
		q := p.Append(p)
		if p.Excluded(path, true) != q.Excluded(path, true) {
			t.Errorf("%q twice decides otherwise on %q", rule, path)
		}
	})
}
