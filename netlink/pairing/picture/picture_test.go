package picture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"image/png"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	qrcode "github.com/skip2/go-qrcode"

	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
	"cobox/storage/account"
)

// testCode is a code whose text is always the same.
func testCode(t testing.TB, addresses ...string) *pairing.Code {
	t.Helper()
	c := &pairing.Code{Kind: pairing.KindClaim}
	for i := range c.Box {
		c.Box[i] = byte(i + 1)
	}
	copy(c.Secret[:], "sixteen secret b")
	copy(c.Invite[:], "inviteid")
	for _, s := range addresses {
		a, err := pairing.ParseAddress(s)
		if err != nil {
			t.Fatal(err)
		}
		c.Addresses = append(c.Addresses, a)
	}
	return c
}

func text1(t testing.TB, c *pairing.Code) string {
	t.Helper()
	s, err := c.Text()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// testSheet is a sheet of eight boxes, the largest usual one.
func testSheet(t testing.TB) string {
	t.Helper()
	s := &pairing.Sheet{Account: account.ID{1, 2, 3}}
	for i := range byte(8) {
		b := pairing.SheetBox{Name: fmt.Sprintf("box %d", i), Box: noiseconn.StaticPublic{i + 1}}
		for _, text := range []string{fmt.Sprintf("[2001:db8::%x]:26269", i+1), fmt.Sprintf("10.0.0.%d:26269", i+1)} {
			a, err := pairing.ParseAddress(text)
			if err != nil {
				t.Fatal(err)
			}
			b.Addresses = append(b.Addresses, a)
		}
		s.Boxes = append(s.Boxes, b)
	}
	text, err := s.Text()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// canvas is a grey picture to be made worse.
type canvas = image.Gray

// photo puts the drawing in the middle of a page and turns, tilts and scales it:
// angle in degrees, tilt the share by which one side is shorter.
func photo(d *pairing.Drawing, w, h int, module, angle, tilt float64) *canvas {
	out := image.NewGray(image.Rect(0, 0, w, h))
	code := d.Image(1)
	size := float64(code.Bounds().Dx())
	sin, cos := math.Sincos(angle * math.Pi / 180)
	const sub = 3 // samples a side and pixel
	for y := range h {
		for x := range w {
			sum := 0
			for i := range sub * sub {
				px := float64(x) + (float64(i%sub)+0.5)/sub - float64(w)/2
				py := float64(y) + (float64(i/sub)+0.5)/sub - float64(h)/2
				// Turn, then undo the perspective: lines further up are shorter.
				rx, ry := px*cos+py*sin, -px*sin+py*cos
				u, v := rx/module, ry/module
				f := 1 + tilt*v/size
				u, v = u/f+size/2, v/f+size/2
				switch {
				case u < 0 || v < 0 || u >= size || v >= size:
					sum += 200 // the wall
				case code.ColorIndexAt(int(u), int(v)) == 1:
					sum += 30
				default:
					sum += 230
				}
			}
			out.Pix[y*out.Stride+x] = byte(sum / (sub * sub))
		}
	}
	return out
}

func noise(c *canvas, sigma float64, seed uint64) *canvas {
	r := rand.New(rand.NewPCG(seed, 1))
	for i, p := range c.Pix {
		c.Pix[i] = byte(min(255, max(0, float64(p)+r.NormFloat64()*sigma)))
	}
	return c
}

func blur(c *canvas, times int) *canvas {
	g := gray{c.Rect.Dx(), c.Rect.Dy(), c.Pix}
	for range times {
		g = g.smooth()
	}
	return &canvas{Pix: g.pix, Stride: g.w, Rect: c.Rect}
}

func invert(c *canvas) *canvas {
	for i := range c.Pix {
		c.Pix[i] = 255 - c.Pix[i]
	}
	return c
}

func asPNG(t testing.TB, img image.Image) []byte {
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func asJPEG(t testing.TB, img image.Image, quality int) []byte {
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, &jpeg.Options{Quality: quality}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func drawing(t testing.TB, text string) *pairing.Drawing {
	t.Helper()
	d, err := pairing.Draw(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func mustRead(t *testing.T, name string, picture []byte, want string) {
	t.Helper()
	got, err := Read(bytes.NewReader(picture))
	if err != nil || got != want {
		t.Errorf("%s: read %q, %v, want %q", name, got, err, want)
	}
}

func TestReadPNG(t *testing.T) {
	sheet := testSheet(t)
	for name, text := range map[string]string{
		"short code": text1(t, testCode(t)),
		"long code":  text1(t, testCode(t, "[2001:db8::5]:26269", "127.0.0.1:4000")),
		"sheet":      sheet,
	} {
		d := drawing(t, text)
		scales := []int{1, 2, 3, 8, 15}
		if testing.Short() {
			scales = []int{2}
		}
		for _, scale := range scales {
			b, err := d.PNG(scale)
			if err != nil {
				t.Fatal(err)
			}
			mustRead(t, fmt.Sprintf("%s, scale %d", name, scale), b, text)
		}
	}
}

func TestReadPhotos(t *testing.T) {
	text := text1(t, testCode(t, "192.168.1.5:26269"))
	d := drawing(t, text)
	sheet := testSheet(t)
	s := drawing(t, sheet)
	mustRead(t, "90°", asPNG(t, photo(d, 600, 600, 8, 90, 0)), text)
	mustRead(t, "180°, JPEG", asJPEG(t, photo(d, 600, 600, 8, 180, 0), 80), text)
	if testing.Short() {
		return
	}
	mustRead(t, "37°, JPEG 50", asJPEG(t, photo(d, 700, 700, 7, 37, 0), 50), text)
	mustRead(t, "tilted", asJPEG(t, photo(d, 700, 700, 8, 5, 0.08), 75), text)
	mustRead(t, "noisy", asJPEG(t, noise(photo(d, 700, 700, 8, 10, 0.03), 40, 1), 60), text)
	mustRead(t, "blurred", asJPEG(t, blur(photo(d, 700, 700, 8, 3, 0), 6), 75), text)
	mustRead(t, "inverted", asPNG(t, invert(photo(d, 700, 700, 8, 3, 0))), text)
	mustRead(t, "wide margin", asJPEG(t, photo(d, 1800, 1300, 6, 12, 0), 70), text)
	mustRead(t, "12 million pixels", asJPEG(t, photo(d, 4000, 3000, 20, 12, 0.04), 70), text)
	mustRead(t, "small in a large photo", asJPEG(t, photo(d, 3000, 2000, 6, 8, 0), 80), text)
	mustRead(t, "sheet", asJPEG(t, photo(s, 1400, 1000, 6, 3, 0.01), 80), sheet)
	// Colours and transparency.
	rgba := image.NewNRGBA(image.Rect(0, 0, 400, 400))
	draw.Draw(rgba, rgba.Rect, photo(d, 400, 400, 7, 0, 0), image.Point{}, draw.Src)
	for i := 0; i < len(rgba.Pix); i += 4 {
		if rgba.Pix[i] > 128 {
			copy(rgba.Pix[i:], []byte{0, 0, 0, 0}) // transparent black where it was white
		} else {
			copy(rgba.Pix[i:], []byte{20, 30, 120, 255})
		}
	}
	mustRead(t, "transparent", asPNG(t, rgba), text)
}

// TestReadPictures reads the pictures of testdata: the same code at any angle,
// tilted by up to 8 %, noisy, blurred, JPEG at quality 50. At least 95 % must be
// read. COBOX_UPDATE_VECTORS=1 makes them anew.
func TestReadPictures(t *testing.T) {
	const total = 40
	text := text1(t, testCode(t, "192.168.1.5:26269"))
	name := func(i int) string { return fmt.Sprintf("testdata/pictures/%02d.jpg", i) }
	if os.Getenv("COBOX_UPDATE_VECTORS") == "1" {
		d := drawing(t, text)
		r := rand.New(rand.NewPCG(7, 7))
		for i := range total {
			angle, tilt := r.Float64()*360, r.Float64()*0.16-0.08
			module, sigma, times := 3.5+r.Float64()*2, r.Float64()*25, r.IntN(4)
			c := noise(blur(photo(d, 400, 400, module, angle, tilt), times), sigma, uint64(i))
			if err := os.WriteFile(name(i), asJPEG(t, c, 50), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	step := 1
	if testing.Short() {
		step = 15
	}
	tried, failed := 0, 0
	for i := 0; i < total; i += step {
		b, err := os.ReadFile(name(i))
		if err != nil {
			t.Fatal(err)
		}
		tried++
		if got, err := Read(bytes.NewReader(b)); err != nil || got != text {
			failed++
			t.Logf("%s: %q, %v", name(i), got, err)
		}
	}
	if failed > max(1, tried/20) { // one in twenty; a short run tries fewer
		t.Errorf("%d of %d pictures were not read", failed, tried)
	}
}

func TestPictureErrors(t *testing.T) {
	blank := asPNG(t, image.NewGray(image.Rect(0, 0, 300, 300)))
	foreign, err := qrcode.Encode("https://example.org/", qrcode.Medium, 300)
	if err != nil {
		t.Fatal(err)
	}
	good, err := drawing(t, text1(t, testCode(t))).PNG(4)
	if err != nil {
		t.Fatal(err)
	}
	huge := bytes.Clone(blank)
	copy(huge[16:], []byte{0, 0, 0xFF, 0xFF, 0, 0, 0xFF, 0xFF})
	for name, tt := range map[string]struct {
		data []byte
		want error
	}{
		"empty":            {nil, ErrNotPicture},
		"text":             {[]byte("hello"), ErrNotPicture},
		"truncated PNG":    {good[:len(good)/2], ErrNotPicture},
		"only a signature": {good[:8], ErrNotPicture},
		"no code":          {blank, ErrNoQR},
		"noise":            {asPNG(t, noise(photo(&pairing.Drawing{}, 300, 300, 1, 0, 0), 80, 3)), ErrNoQR},
		"one pixel":        {asPNG(t, image.NewGray(image.Rect(0, 0, 1, 1))), ErrNoQR},
		"one line":         {asPNG(t, image.NewGray(image.Rect(0, 0, 3000, 1))), ErrNoQR},
		"foreign code":     {foreign, pairing.ErrNotCoBox},
		"too large":        {fixCRC(huge), ErrPictureTooLarge},
	} {
		if _, err := Read(bytes.NewReader(tt.data)); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	if _, err := Read(endless{}); !errors.Is(err, ErrPictureTooLarge) {
		t.Errorf("endless: %v", err)
	}
	// A foreign code beside ours does no harm.
	both := image.NewGray(image.Rect(0, 0, 900, 400))
	draw.Draw(both, both.Rect, image.White, image.Point{}, draw.Src)
	theirs, err := png.Decode(bytes.NewReader(foreign))
	if err != nil {
		t.Fatal(err)
	}
	ours := drawing(t, text1(t, testCode(t))).Image(7)
	draw.Draw(both, image.Rect(20, 20, 320, 320), theirs, image.Point{}, draw.Src)
	draw.Draw(both, image.Rect(450, 10, 900, 400), ours, image.Point{}, draw.Src)
	mustRead(t, "two codes", asPNG(t, both), text1(t, testCode(t)))
}

// TestTerminal reads the half blocks back as a picture.
func TestTerminal(t *testing.T) {
	for _, text := range []string{text1(t, testCode(t)), text1(t, testCode(t, "192.168.1.5:26269"))} {
		lines := strings.Split(strings.TrimSuffix(drawing(t, text).Terminal(), "\n"), "\n")
		width := len([]rune(lines[0]))
		for _, foreground := range []color.Gray{{255}, {0}} { // on dark, and on light
			img := image.NewGray(image.Rect(0, 0, width*4, len(lines)*8))
			paint := func(x, y int, lit bool) {
				c := foreground
				if !lit {
					c.Y = 255 - c.Y
				}
				draw.Draw(img, image.Rect(x*4, y*4, x*4+4, y*4+4), image.NewUniform(c), image.Point{}, draw.Src)
			}
			for y, line := range lines {
				for x, r := range []rune(line) {
					paint(x, 2*y, r == '█' || r == '▀')
					paint(x, 2*y+1, r == '█' || r == '▄')
				}
				if n := len([]rune(line)); n != width {
					t.Fatalf("line %d has %d characters, line 0 has %d", y, n, width)
				}
			}
			mustRead(t, fmt.Sprintf("foreground %d", foreground.Y), asPNG(t, img), text)
		}
	}
}

// fixCRC makes the header of a PNG file right again after a change.
func fixCRC(b []byte) []byte {
	binary.BigEndian.PutUint32(b[29:], crc32.ChecksumIEEE(b[12:29]))
	return b
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// FuzzRead is one reading of a small picture; Read does the same
// with many sizes of it.
func FuzzRead(f *testing.F) {
	b, err := drawing(f, text1(f, testCode(f))).PNG(1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, false)
	f.Add(asJPEG(f, drawing(f, text1(f, testCode(f))).Image(2), 50), true)
	f.Add([]byte("\x89PNG\r\n\x1a\n"), false)
	f.Fuzz(func(t *testing.T, b []byte, multi bool) {
		img, err := decodePicture(bytes.NewReader(b))
		if err != nil || img.Bounds().Dx()*img.Bounds().Dy() > 20_000 {
			return // the large ones only take time
		}
		for _, text := range (variant{gray: grayOf(img), multi: multi}).read() {
			pairing.ParseAny(text)
		}
	})
}
