package boottest

import (
	"os"
	"testing"

	"cobox/image/disk"
	"cobox/image/imagetest"
	"cobox/image/layout"
)

// TestContents looks into the image without booting it: nothing is in it that
// must not be, and both slots hold the same system.
func TestContents(t *testing.T) {
	image := theImage(t)
	findings, err := imagetest.Audit(image)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		t.Error(f)
	}
	a, err := disk.ReadSlot(image, layout.SlotA)
	if err != nil {
		t.Fatal(err)
	}
	b, err := disk.ReadSlot(image, layout.SlotB)
	if err != nil {
		t.Fatal(err)
	}
	// The tests that start the kernel themselves give it what the firmware does.
	line, err := os.ReadFile(slotFiles(t, image, layout.SlotA, layout.CmdlineFile)[0])
	if err != nil {
		t.Fatal(err)
	}
	if want := "console=serial0,115200 " + bootArgs + "\n"; string(line) != want {
		t.Errorf("the kernel is given %q; the tests give it %q", line, want)
	}
	textA, err := a.Manifest.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	textB, err := b.Manifest.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if string(textA) != string(textB) {
		t.Error("the slots have different manifests")
	}
}
