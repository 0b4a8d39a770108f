package image

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cobox/image/bundle/bundletest"
)

// TestKeysOfSource: the keys that an image asks for are those of the source that it
// is built from, not those of the program that builds it.
func TestKeysOfSource(t *testing.T) {
	dir := t.TempDir()
	c := Config{Version: "1", Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Source: filepath.Join(dir, "cmd")}
	if _, err := c.withDefaults(); !errors.Is(err, ErrNotSource) {
		t.Errorf("no go.mod: %v", err)
	}
	put := func(name string, b []byte) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("cmd/x", nil)
	put("go.mod", []byte("module other\n"))
	if _, err := c.withDefaults(); !errors.Is(err, ErrNotSource) {
		t.Errorf("another module: %v", err)
	}
	put("go.mod", []byte("module cobox\n\ngo 1.25\n"))
	if _, err := c.withDefaults(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no keys: %v", err)
	}
	var text []byte
	for n := range 2 {
		k := bundletest.NewKey(n + 1).Public()
		text = k.Append(text)
	}
	put(KeysFile, text)
	got, err := c.withDefaults()
	if err != nil || string(got.ReleaseKeys) != string(text) {
		t.Errorf("%q, %v", got.ReleaseKeys, err)
	}
	c.ReleaseKeys = append(text, text...)
	if _, err := c.withDefaults(); err == nil {
		t.Error("one key twice was taken")
	}
}
