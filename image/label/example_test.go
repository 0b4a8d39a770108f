package label_test

import (
	"bytes"
	"flag"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"testing"

	"cobox/image/label"
	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
	"cobox/netlink/pairing/picture"
)

var update = flag.Bool("update", false, "make the picture of the README anew")

// exampleCode is of no box.
func exampleCode(t *testing.T) string {
	t.Helper()
	c := pairing.Code{Kind: pairing.KindClaim}
	for i := range c.Box {
		c.Box[i] = byte(i)
	}
	copy(c.Secret[:], "just an example!")
	c.Invite = noiseconn.InviteID([]byte("no box's"))
	text, err := c.Text()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestExample: the label that the README shows is the one that is printed.
func TestExample(t *testing.T) {
	code := exampleCode(t)
	l, err := label.New(code)
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.PNG()
	if err != nil {
		t.Fatal(err)
	}
	printed, err := png.Decode(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	want := onScreen(printed)
	path := filepath.Join("..", "..", "docs", "sticker.png")
	if *update {
		var out bytes.Buffer
		if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, want); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := png.Decode(bytes.NewReader(f))
	if err != nil {
		t.Fatal(err)
	}
	if got.Bounds() != want.Bounds() {
		t.Fatalf("%s is %v, want %v; make it anew: go test ./image/label -update", path, got.Bounds(), want.Bounds())
	}
	for y := range want.Rect.Dy() {
		for x := range want.Rect.Dx() {
			if color.GrayModel.Convert(got.At(x, y)) != color.GrayModel.Convert(want.At(x, y)) {
				t.Fatalf("%s is not the label, at %d,%d; make it anew: go test ./image/label -update", path, x, y)
			}
		}
	}
	if read, err := picture.Read(bytes.NewReader(f)); err != nil || read != code {
		t.Errorf("the picture's code: %q, %v", read, err)
	}
	if len(f) > 32<<10 {
		t.Errorf("the picture has %d bytes", len(f))
	}
}

// onScreen draws a label at half its size, with a thin frame that shows where the
// paper ends, in 16 shades of grey.
func onScreen(printed image.Image) *image.Paletted {
	const frame, shades = 1, 16
	palette := make(color.Palette, shades)
	for i := range palette {
		palette[i] = color.Gray{Y: uint8(i * 255 / (shades - 1))}
	}
	b := printed.Bounds()
	img := image.NewPaletted(image.Rect(0, 0, b.Dx()/2+2*frame, b.Dy()/2+2*frame), palette)
	const edge = 9 * 255 / (shades - 1)
	for y := range img.Rect.Dy() {
		for x := range img.Rect.Dx() {
			shade := color.Gray{Y: edge}
			if image.Pt(x, y).In(img.Rect.Inset(frame)) {
				sum := 0
				for _, d := range []image.Point{{0, 0}, {1, 0}, {0, 1}, {1, 1}} {
					sum += int(color.GrayModel.Convert(printed.At(2*(x-frame)+d.X, 2*(y-frame)+d.Y)).(color.Gray).Y)
				}
				shade.Y = uint8(sum / 4)
			}
			img.Set(x, y, shade)
		}
	}
	return img
}
