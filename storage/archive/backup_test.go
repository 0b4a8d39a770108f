package archive

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func writeTree(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, data := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	age(t, dir)
}

// age makes every change older than what the scan cache takes for racy. It
// cannot set change times, so it waits until they are old enough in tests
// that need it; here it only sets modification times.
func age(t testing.TB, dir string) {
	old := time.Now().Add(-time.Hour)
	filepath.Walk(dir, func(p string, _ os.FileInfo, err error) error {
		if err == nil {
			os.Chtimes(p, old, old)
		}
		return nil
	})
}

func TestBackupSimple(t *testing.T) {
	s := newMemSpace(t)
	l := s.newLog("log")
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"a": "hello", "b/c": "world", "b/d": "hello", "e/f/g": ""})
	cache := t.TempDir()
	sum := s.backup(l, cache, dir)
	t.Logf("%+v", sum)
	if sum.Stats.Files != 4 || sum.Blocks != 1 {
		t.Fatalf("summary %+v", sum)
	}
	a := s.open("")
	list, err := a.Snapshots(context.Background())
	if err != nil || len(list) != 1 || list[0].ID != sum.Snapshot.ID || list[0].End != l.size {
		t.Fatalf("%v %+v", err, list)
	}
}
