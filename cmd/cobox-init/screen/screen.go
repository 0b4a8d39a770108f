// Package screen draws what a box shows on a connected screen: its name, its
// addresses, how it is, and its pairing code while it has no administrator. It
// draws into memory; pixels.go turns that into the bytes of a framebuffer.
//
// Start at [Page].
package screen

import (
	"image"
	"image/color"
	"image/draw"
	"strings"

	"golang.org/x/image/font"
	"golang.org/x/image/font/inconsolata"
	"golang.org/x/image/math/fixed"

	"cobox/netlink/pairing"
)

// Page is one picture. Two equal pages look alike.
type Page struct {
	Name      string
	State     string
	Problem   string // what is wrong and what to do; "" means nothing
	Addresses string // a line each
	Code      string // text of the pairing code, "" if there is none
}

var (
	background = color.RGBA{0x10, 0x18, 0x20, 0xff}
	bright     = color.RGBA{0xff, 0xff, 0xff, 0xff}
	dim        = color.RGBA{0xb0, 0xc0, 0xd0, 0xff}
	warning    = color.RGBA{0xff, 0xb0, 0x40, 0xff}
)

// The font's size in pixels at scale 1, and how many columns a line of text is
// to have at least: the scale follows from it.
const (
	glyphWidth  = 8
	glyphHeight = 16
	minColumns  = 34
	minRows     = 16
)

const steps = `This box has no administrator yet.

1. Install cobox on your computer.
2. Take a photo of this code.
3. Run: cobox pair photo.jpg

Whoever does this first becomes the
administrator. Keep the code to yourself.`

// Draw makes the picture for a screen of so many pixels. The code takes the
// left half of a wide screen, the lower half of a high one.
func (p Page) Draw(width, height int) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, max(width, 1), max(height, 1)))
	draw.Draw(img, img.Rect, image.NewUniform(background), image.Point{}, draw.Src)
	text := img.Rect
	if p.Code != "" {
		code := img.Rect
		if width >= height {
			code.Max.X = width / 2
			text.Min.X = width / 2
		} else {
			code.Min.Y = height / 2
			text.Max.Y = height / 2
		}
		drawCode(img, code, p.Code)
	}
	scale := max(1, min(text.Dx()/(glyphWidth*minColumns), text.Dy()/(glyphHeight*minRows)))
	w := &writer{img: img, area: text.Inset(glyphWidth * scale), scale: scale}
	w.y = w.area.Min.Y
	w.write(p.Name, bright, 2)
	w.write("CoBox: "+p.State, dim, 1)
	w.write("", dim, 1)
	if p.Problem != "" {
		w.write(p.Problem, warning, 1)
		w.write("", dim, 1)
	}
	if p.Code != "" {
		w.write(steps, bright, 1)
		w.write("", dim, 1)
	}
	if p.Addresses == "" {
		w.write("No network address yet. Is the network cable in?", warning, 1)
	} else {
		w.write(p.Addresses, dim, 1)
	}
	return img
}

// drawCode draws the pairing code into the middle of an area, as large as whole
// pixels a module allow. Its margin is part of it.
func drawCode(img draw.Image, area image.Rectangle, text string) {
	d, err := pairing.Draw(text)
	if err != nil {
		return // no code of ours is too long for a QR code
	}
	one := d.Image(1).Bounds().Dx()
	scale := min(area.Dx(), area.Dy()) / one
	if scale < 1 {
		return // smaller cannot be read
	}
	code := d.Image(scale)
	at := area.Min.Add(area.Size().Sub(code.Rect.Size()).Div(2))
	draw.Draw(img, code.Rect.Sub(code.Rect.Min).Add(at), code, code.Rect.Min, draw.Src)
}

// writer writes lines below one another.
type writer struct {
	img   *image.RGBA
	area  image.Rectangle
	scale int
	y     int
}

// write writes text, its lines broken where the area ends. What does not fit
// below is left out.
func (w *writer) write(text string, c color.RGBA, size int) {
	scale := w.scale * size
	for line := range strings.SplitSeq(text, "\n") {
		for _, part := range wrap(line, w.area.Dx()/(glyphWidth*scale)) {
			if w.y+glyphHeight*scale > w.area.Max.Y {
				return
			}
			w.line(part, c, scale)
			w.y += glyphHeight * scale
		}
	}
}

// line draws one line at scale 1 and copies it enlarged.
func (w *writer) line(text string, c color.RGBA, scale int) {
	face := inconsolata.Bold8x16
	mask := image.NewAlpha(image.Rect(0, 0, glyphWidth*len([]rune(text)), glyphHeight))
	d := font.Drawer{Dst: mask, Src: image.Opaque, Face: face, Dot: fixed.P(0, face.Ascent)}
	d.DrawString(text)
	for y := range glyphHeight {
		for x := range mask.Rect.Dx() {
			if mask.AlphaAt(x, y).A < 0x80 {
				continue
			}
			at := image.Pt(w.area.Min.X+x*scale, w.y+y*scale)
			dot := image.Rectangle{at, at.Add(image.Pt(scale, scale))}
			draw.Draw(w.img, dot.Intersect(w.area), image.NewUniform(c), image.Point{}, draw.Src)
		}
	}
}

// wrap breaks a line between words into lines of at most so many columns; a
// word that is longer is broken too.
func wrap(line string, columns int) []string {
	columns = max(columns, 1)
	var lines []string
	current := []rune(nil)
	for word := range strings.SplitSeq(line, " ") {
		w := []rune(word)
		if len(current) > 0 && len(current)+1+len(w) > columns {
			lines = append(lines, string(current))
			current = nil
		} else if len(current) > 0 {
			current = append(current, ' ')
		}
		current = append(current, w...)
		for len(current) > columns {
			lines = append(lines, string(current[:columns]))
			current = current[columns:]
		}
	}
	return append(lines, string(current))
}
