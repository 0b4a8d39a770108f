package boottest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"cobox/image/disk"
	"cobox/image/imagetest"
	"cobox/image/layout"
)

// Programs in a system's initramfs.
const (
	initProgram = "init"
	boxProgram  = "bin/coboxd"
)

// release is what a manifest says of a system. The number is its floor too.
type release struct {
	version string
	number  uint32
}

// contents are files of a system's initramfs that are different.
type contents = map[string][]byte

// noProgram is a program that the kernel cannot run.
var noProgram = []byte("This is not a program.\n")

// misfit builds a program that does what testdata/misfit says.
func misfit(t testing.TB, does string) []byte {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "misfit")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w -X main.does="+does, "-o", bin, "./testdata/misfit")
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building a program that misbehaves: %v\n%s", err, out)
	}
	b, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// variant makes another release of a system, which trusts the test keys and is
// signed by two of them.
func variant(t testing.TB, s *disk.Slot, r release, c contents) *disk.Slot {
	t.Helper()
	return signed(t, s, imagetest.Variant{Version: r.version, Number: r.number, Floor: r.number, Initramfs: c})
}

func signed(t testing.TB, s *disk.Slot, v imagetest.Variant) *disk.Slot {
	t.Helper()
	other, err := v.Of(s)
	if err != nil {
		t.Fatal(err)
	}
	return other
}

// imageSystem is the system of the image.
func imageSystem(t testing.TB) *disk.Slot {
	t.Helper()
	s, err := disk.ReadSlot(theImage(t), layout.SlotA)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// install puts a system into a slot of a card.
func install(t testing.TB, card string, to layout.Slot, s *disk.Slot) {
	t.Helper()
	if err := imagetest.Install(card, to, s); err != nil {
		t.Fatal(err)
	}
}

// bundleOf writes a system as an update into a file.
func bundleOf(t testing.TB, s *disk.Slot) string {
	t.Helper()
	b, err := imagetest.Bundle(s)
	if err != nil {
		t.Fatal(err)
	}
	return fileOf(t, b)
}

func fileOf(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "update.cobox")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
