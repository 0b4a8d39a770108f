package pairing

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"strings"

	qrcode "github.com/skip2/go-qrcode"
)

// Drawing is the QR code of a text.
type Drawing struct {
	dark [][]bool // without margin
}

const (
	margin = 4 // light modules around a QR code, as ISO 18004 asks for

	maxCodeVersion  = 7
	maxSheetVersion = 25
)

// Draw makes the QR code of the text of a Code or a Sheet, with the most error
// correction that the version allows: 7 for a code, 25 for a sheet.
func Draw(text string) (*Drawing, error) {
	limit := maxCodeVersion
	if len(text) > maxCodeText {
		limit = maxSheetVersion
	}
	for _, level := range []qrcode.RecoveryLevel{qrcode.Highest, qrcode.High, qrcode.Medium, qrcode.Low} {
		q, err := qrcode.New(text, level)
		if err != nil || q.VersionNumber > limit {
			continue
		}
		q.DisableBorder = true
		return &Drawing{q.Bitmap()}, nil
	}
	return nil, fmt.Errorf("pairing: drawing: a text of %d bytes is too long for a QR code of version %d", len(text), limit)
}

// Modules is the number of modules on a side, without the margin.
func (d *Drawing) Modules() int { return len(d.dark) }

// at tells whether a module is dark; those outside are the margin.
func (d *Drawing) at(x, y int) bool {
	return 0 <= y && y < len(d.dark) && 0 <= x && x < len(d.dark) && d.dark[y][x]
}

// Image is the QR code with its margin, scale pixels a module.
func (d *Drawing) Image(scale int) *image.Paletted {
	side := (len(d.dark) + 2*margin) * scale
	img := image.NewPaletted(image.Rect(0, 0, side, side), color.Palette{color.White, color.Black})
	for y := range side {
		for x := range side {
			if d.at(x/scale-margin, y/scale-margin) {
				img.Pix[y*img.Stride+x] = 1
			}
		}
	}
	return img
}

// PNG is Image as a file.
func (d *Drawing) PNG(scale int) ([]byte, error) {
	var b bytes.Buffer
	if err := png.Encode(&b, d.Image(scale)); err != nil {
		return nil, fmt.Errorf("pairing: drawing: %w", err)
	}
	return b.Bytes(), nil
}

// Terminal is the QR code for a terminal, two modules to a character. It paints
// the light modules, as most terminals write light on dark; on the others it is
// an inverted QR code, which phones read as well.
func (d *Drawing) Terminal() string {
	var b strings.Builder
	for y := -margin; y < len(d.dark)+margin; y += 2 {
		for x := -margin; x < len(d.dark)+margin; x++ {
			// An odd number of rows leaves a half line, which is margin too.
			switch upper, lower := d.at(x, y), d.at(x, y+1); {
			case upper && lower:
				b.WriteByte(' ')
			case upper:
				b.WriteRune('▄')
			case lower:
				b.WriteRune('▀')
			default:
				b.WriteRune('█')
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}
