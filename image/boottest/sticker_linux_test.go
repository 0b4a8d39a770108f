package boottest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cobox/image/disk"
	"cobox/image/layout"
)

// TestSticker is a box that was given out with a label: whoever has the label
// pairs without ever seeing the box's screen, and after its first start the card
// gives nothing away any more.
func TestSticker(t *testing.T) {
	image, label := provisioned(t)
	secret := provisionFile(t, image)
	if secret == nil {
		t.Fatal("the copy has no provisioning file")
	}
	m := cardOf(t, image, 4<<30)
	v := start(t, m)
	me := &member{t: t, home: t.TempDir()}
	me.must("init", "--phrase-out", filepath.Join(me.home, "words"))
	took := me.pair(v, label, 2*time.Minute)
	t.Logf("power-on to a pairing by the sticker: %v", took.Round(10*time.Millisecond))
	v.wait("the identity that came with the image is taken", time.Second)
	src := tree(t, 40, 100_000, 11)
	me.must("backup", src)
	v.powerButton(30 * time.Second)
	v.sound()

	if left := provisionFile(t, m.disk); left != nil {
		t.Errorf("the first start left %d bytes under the name of the provisioning file", len(left))
	}
	// The directory entry is not all: the bytes must be gone as well.
	if holdsBytes(t, m.disk, layout.BootselStart, layout.BootselSize, secret[len(secret)/2:]) {
		t.Error("the secret can still be read from the boot partition")
	}

	v = start(t, m)
	me.await(v, 2*time.Minute)
	me.restored("latest", src)
	if strings.Contains(v.log(), "the identity that came with the image is taken") {
		t.Error("the second start took an identity again")
	}
	v.powerButton(30 * time.Second)
	v.sound()
}

var buildImager = sync.OnceValues(func() (string, error) { return buildProgram("cobox/cmd/coboximg") })

// provisioned makes a copy of the image with a label of its own, and returns
// both files: the label as the picture that is printed.
func provisioned(t testing.TB) (image, label string) {
	t.Helper()
	bin, err := buildImager()
	if err != nil {
		t.Fatal(err)
	}
	// The copy is made beside the image that is named.
	original := filepath.Join(t.TempDir(), "cobox.img")
	if err := os.Symlink(theImage(t), original); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(bin, "provision", original).Output()
	if err != nil {
		t.Fatalf("coboximg provision: %v\n%s", err, out)
	}
	names := strings.Fields(string(out))
	if len(names) < 3 {
		t.Fatalf("coboximg provision names no files:\n%s", out)
	}
	return names[0], names[2]
}

// provisionFile reads the provisioning file of an image's boot partition; nil
// if there is none.
func provisionFile(t testing.TB, image string) []byte {
	t.Helper()
	files, err := disk.Partition(image, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Path == layout.ProvisionFile {
			return f.Data
		}
	}
	return nil
}

// holdsBytes tells whether a range of a file has some bytes anywhere.
func holdsBytes(t testing.TB, path string, offset, size int64, want []byte) bool {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, size)
	if _, err := f.ReadAt(b, offset); err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(b, want)
}
