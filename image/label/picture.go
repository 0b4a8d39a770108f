package label

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"math"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/gomono"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"

	"cobox/netlink/pairing"
)

// fonts are those of both forms of a label.
var fonts = map[style][]byte{regular: goregular.TTF, bold: gobold.TTF, mono: gomono.TTF}

// PNG draws the label as a picture that knows its size.
func (l *Label) PNG() ([]byte, error) {
	p := &picture{img: image.NewGray(image.Rect(0, 0, dots(width), dots(height)))}
	draw.Draw(p.img, p.img.Bounds(), image.White, image.Point{}, draw.Src)
	l.draw(p)
	if p.err != nil {
		return nil, fmt.Errorf("label: drawing: %w", p.err)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, p.img); err != nil {
		return nil, fmt.Errorf("label: encoding: %w", err)
	}
	return withResolution(b.Bytes()), nil
}

// dots is a length in dots.
func dots(mm float64) int { return int(math.Round(mm * dotsPerInch / inch)) }

// picture is a canvas of dots. Its first error stays.
type picture struct {
	img *image.Gray
	err error
}

func (p *picture) text(x, baseline, size float64, s style, text string) {
	p.write(dots(x), dots(baseline), size, s, text, image.Black, false)
}

func (p *picture) write(x, baseline int, size float64, s style, text string, ink image.Image, centred bool) {
	if p.err != nil {
		return
	}
	parsed, err := opentype.Parse(fonts[s])
	if err != nil {
		p.err = err
		return
	}
	face, err := opentype.NewFace(parsed, &opentype.FaceOptions{Size: size, DPI: dotsPerInch, Hinting: font.HintingFull})
	if err != nil {
		p.err = err
		return
	}
	defer face.Close()
	if centred {
		x -= font.MeasureString(face, text).Round() / 2
	}
	d := font.Drawer{Dst: p.img, Src: ink, Face: face, Dot: fixed.P(x, baseline)}
	d.DrawString(text)
}

func (p *picture) number(x, y, radius, size float64, text string) {
	cx, cy, r := x*dotsPerInch/inch, y*dotsPerInch/inch, radius*dotsPerInch/inch
	for py := int(cy - r - 1); py <= int(cy+r+1); py++ {
		for px := int(cx - r - 1); px <= int(cx+r+1); px++ {
			// The edge is as grey as the dot is covered.
			cover := r + 0.5 - math.Hypot(float64(px)+0.5-cx, float64(py)+0.5-cy)
			p.img.SetGray(px, py, color.Gray{Y: uint8(255 * (1 - min(1, max(0, cover))))})
		}
	}
	p.write(dots(x), dots(y+size*capHeight/2*inch/72), size, bold, text, image.White, true)
}

// capHeight is that of the fonts' figures, in their size.
const capHeight = 0.72

func (p *picture) line(x, y, width, thickness float64) {
	draw.Draw(p.img, image.Rect(dots(x), dots(y), dots(x+width), dots(y+thickness)), image.Black, image.Point{}, draw.Src)
}

func (p *picture) code(x, y float64, qr *pairing.Drawing) {
	img := qr.Image(modulePixels)
	at := image.Pt(dots(x)-quietModules*modulePixels, dots(y)-quietModules*modulePixels)
	draw.Draw(p.img, img.Bounds().Add(at), img, image.Point{}, draw.Src)
}

// withResolution adds to a PNG that it has dotsPerInch (PNG specification,
// section 11.3.4.3), so that it prints in its size. The chunk follows the first,
// which always ends at byte 33.
func withResolution(b []byte) []byte {
	const headerEnd = 33
	chunk := binary.BigEndian.AppendUint32(nil, 9)
	chunk = append(chunk, "pHYs"...)
	perMetre := uint32(math.Round(dotsPerInch * 1000 / inch))
	chunk = binary.BigEndian.AppendUint32(chunk, perMetre)
	chunk = binary.BigEndian.AppendUint32(chunk, perMetre)
	chunk = append(chunk, 1) // to the metre
	chunk = binary.BigEndian.AppendUint32(chunk, crc32.ChecksumIEEE(chunk[4:]))
	return bytes.Join([][]byte{b[:headerEnd], chunk, b[headerEnd:]}, nil)
}
