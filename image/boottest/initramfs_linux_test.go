package boottest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"

	"cobox/image/initrd"
	"cobox/image/layout"
)

// readInitramfs unpacks the root file system of a slot.
func readInitramfs(t testing.TB, path string) []cpio.Record {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	records, err := initrd.Unpack(b)
	if err != nil {
		t.Fatal(err)
	}
	return records
}

// writeInitramfs packs a root file system.
func writeInitramfs(t testing.TB, records []cpio.Record) string {
	t.Helper()
	b, err := initrd.Pack(records, initrd.Quick)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), layout.InitrdFile)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestNoShell looks at what an image holds: two programs of ours, and nothing
// that anybody could log in to, run, or become root by.
func TestNoShell(t *testing.T) {
	image := theImage(t)
	for _, slot := range []layout.Slot{layout.SlotA, layout.SlotB} {
		programs := map[string]bool{}
		for _, r := range readInitramfs(t, slotFiles(t, image, slot, layout.InitrdFile)[0]) {
			if r.UID != 0 || r.GID != 0 {
				t.Errorf("slot %v: %s belongs to %d:%d", slot, r.Name, r.UID, r.GID)
			}
			const setID = 0o6000
			if r.Mode&setID != 0 {
				t.Errorf("slot %v: %s has the mode %o", slot, r.Name, r.Mode)
			}
			switch kind := r.Mode & cpio.S_IFMT; kind {
			case cpio.S_IFDIR:
				if r.Mode&0o022 != 0 && r.Name != "tmp" {
					t.Errorf("slot %v: everybody may write to %s", slot, r.Name)
				}
			case cpio.S_IFLNK:
				if r.Name != "etc/resolv.conf" {
					t.Errorf("slot %v: there is a link %s", slot, r.Name)
				}
			case cpio.S_IFCHR:
				if r.Name != "dev/console" {
					t.Errorf("slot %v: there is a device %s", slot, r.Name)
				}
			case cpio.S_IFREG:
				if r.Mode&0o022 != 0 {
					t.Errorf("slot %v: everybody may write %s", slot, r.Name)
				}
				b, err := initrd.Content(r)
				if err != nil {
					t.Fatal(err)
				}
				runs := r.Mode&0o111 != 0 || bytes.HasPrefix(b, []byte("\x7fELF")) || bytes.HasPrefix(b, []byte("#!"))
				if runs {
					programs[r.Name] = true
				} else if !strings.HasPrefix(r.Name, "etc/") {
					t.Errorf("slot %v: there is a file %s", slot, r.Name)
				}
				if r.Name == "etc/passwd" && bytes.Contains(b, []byte("sh\n")) {
					t.Errorf("slot %v: somebody has a shell:\n%s", slot, b)
				}
			default:
				t.Errorf("slot %v: %s is something of mode %o", slot, r.Name, r.Mode)
			}
		}
		if len(programs) != 2 || !programs["init"] || !programs["bin/coboxd"] {
			t.Errorf("slot %v: the programs are %v", slot, programs)
		}
	}
}
