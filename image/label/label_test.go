package label_test

import (
	"bytes"
	"image"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"cobox/appliance/datadir"
	"cobox/image/label"
	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
	"cobox/netlink/pairing/picture"
)

func code(t *testing.T) string {
	t.Helper()
	secret, invite := pairing.NewSecret()
	c := pairing.Code{Kind: pairing.KindClaim, Box: noiseconn.StaticPublic(datadir.NewIdentity().StaticPublic()), Secret: secret, Invite: invite}
	text, err := c.Text()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestPNG reads the code of labels as the member's program does, at the size that
// a printer or a screen of 300 dots an inch shows it.
func TestPNG(t *testing.T) {
	for range 5 {
		text := code(t)
		l, err := label.New(text)
		if err != nil {
			t.Fatal(err)
		}
		b, err := l.PNG()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := picture.Read(bytes.NewReader(b)); err != nil || got != text {
			t.Errorf("read %q, %v; want %q", got, err, text)
		}
		img, err := png.DecodeConfig(bytes.NewReader(b))
		if err != nil || img.Width != 1240 || img.Height != 874 {
			t.Errorf("%d×%d dots, %v", img.Width, img.Height, err)
		}
		// 11,811 dots to the metre, behind the first chunk.
		if want := "\x00\x00\x00\x09pHYs\x00\x00\x2e\x23\x00\x00\x2e\x23\x01"; string(b[33:33+len(want)]) != want {
			t.Errorf("the resolution is missing: %x", b[33:60])
		}
	}
}

// TestQuietZone: ISO 18004 wants four modules of white around the code.
func TestQuietZone(t *testing.T) {
	l, err := label.New(code(t))
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.PNG()
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := png.Decode(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	img := decoded.(*image.Gray)
	// The code's corner is 6 mm from the left and 20 mm from the top; a module is
	// 10 dots.
	const quiet = 4 * 10
	x, y, side := 71, 236, 45*10
	if img.GrayAt(x, y).Y != 0 || img.GrayAt(x+side-1, y).Y != 0 || img.GrayAt(x, y+side-1).Y != 0 {
		t.Fatal("the code is elsewhere, or of another size")
	}
	outer := image.Rect(x-quiet, y-quiet, x+side+quiet, y+side+quiet)
	for py := outer.Min.Y; py < outer.Max.Y; py++ {
		for px := outer.Min.X; px < outer.Max.X; px++ {
			if !image.Pt(px, py).In(image.Rect(x, y, x+side, y+side)) && img.GrayAt(px, py).Y != 255 {
				t.Fatalf("something is printed at %d,%d", px, py)
			}
		}
	}
}

// TestPDF prints a label and reads it.
func TestPDF(t *testing.T) {
	text := code(t)
	l, err := label.New(text)
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.PDF()
	if err != nil || !bytes.HasPrefix(b, []byte("%PDF-")) {
		t.Fatal(err)
	}
	// 105 × 74 mm in points.
	if !bytes.Contains(b, []byte("/MediaBox [0 0 297.64 209.76]")) {
		t.Error("the page has another size")
	}
	program, err := exec.LookPath("pdftoppm")
	if err != nil {
		t.Skip("pdftoppm is not installed")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x.pdf"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(program, "-png", "-r", "300", "-singlefile", filepath.Join(dir, "x.pdf"), filepath.Join(dir, "x")).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	f, err := os.Open(filepath.Join(dir, "x.png"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := picture.Read(f); err != nil || got != text {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestNew(t *testing.T) {
	for _, text := range []string{"", "http://example.org", code(t)[:60]} {
		if _, err := label.New(text); err == nil {
			t.Errorf("%q got a label", text)
		}
	}
}
