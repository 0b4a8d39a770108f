package sheet

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"strings"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/gomono"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
)

// The picture is a page of A4 at 150 dots an inch: phrase and code side by
// side, below them what to do, and then the boxes.
const (
	width  = 1240
	height = 1754
	margin = 100
	qrSide = 520 // a code of version 25 has modules of 4 dots, 0.7 mm, in it

	whatY  = 860
	boxesY = 1130

	maxBoxes   = 10 // as many as the code has room for
	oneColumn  = 5  // up to so many boxes have the whole width each
	boxHeight  = 98
	lineHeight = 24
)

// PNG draws the same page as HTML. Names and addresses that are too long for
// it are cut, and boxes beyond the tenth only counted.
func PNG(s *Sheet) ([]byte, error) {
	d, err := newDrawing()
	if err != nil {
		return nil, fmt.Errorf("sheet: loading fonts: %w", err)
	}
	d.sheet(s)
	var b bytes.Buffer
	if err := png.Encode(&b, d.img); err != nil {
		return nil, fmt.Errorf("sheet: encoding the picture: %w", err)
	}
	return b.Bytes(), nil
}

func (d *drawing) sheet(s *Sheet) {
	left := width - margin - qrSide - margin // width of what stands beside the code
	d.text(d.title, margin, 150, left, "CoBox recovery sheet")
	d.text(d.body, margin, 210, left, "Account "+s.Fingerprint)
	d.text(d.body, margin, 250, left, "made on "+s.Made.Format("2 January 2006"))
	d.text(d.head, margin, 330, left, "Recovery phrase")
	d.text(d.small, margin, 365, left, "Write the 12 words here by hand. Never type")
	d.text(d.small, margin, 393, left, "them into anything but cobox recover.")
	for i := range Words {
		x, y := margin+(i%2)*265, 460+(i/2)*66
		d.text(d.small, x, y, 36, fmt.Sprintf("%2d", i+1))
		d.line(x+38, y+4, x+240)
	}
	if s.QR != nil {
		d.picture(s.QR, image.Rect(width-margin-qrSide, 90, width-margin, 90+qrSide))
	}

	whole := width - 2*margin
	d.text(d.head, margin, whatY, whole, "To get everything back")
	for i, l := range []string{
		"On any computer with cobox: photograph the code above, then run",
		"    cobox recover --phrase-file - --box PHOTO.jpg",
		"type the words, and then run",
		"    cobox restore --target FOLDER",
		"One surviving box is enough. Whoever has the words and reaches one of the boxes can read",
		"every backup: keep this sheet as you keep a passport. Without the words nobody can.",
	} {
		face := d.small
		if strings.HasPrefix(l, " ") {
			face = d.mono
		}
		d.text(face, margin, whatY+38+i*30, whole, l)
	}

	d.text(d.head, margin, boxesY, whole, "Boxes that hold the backups")
	if len(s.Boxes) == 0 {
		d.text(d.small, margin, boxesY+42, whole, "None yet. Pair a box with cobox pair; the sheet is then written anew: print that one.")
	}
	for i, b := range s.Boxes[:min(len(s.Boxes), maxBoxes)] {
		x, y, w := margin, boxesY+42+i*boxHeight, whole
		key := []string{b.Key}
		if len(s.Boxes) > oneColumn {
			w = (whole - margin/2) / 2
			x, y = margin+i/oneColumn*(w+margin/2), boxesY+42+i%oneColumn*boxHeight
			key = []string{b.Key[:len(b.Key)/2], b.Key[len(b.Key)/2:]}
		}
		d.text(d.name, x, y, w, b.Name)
		for _, part := range append(key, strings.Join(b.Addresses, "  ")) {
			y += lineHeight - 2
			d.text(d.mono, x, y, w, part)
		}
	}
	if n := len(s.Boxes) - maxBoxes; n > 0 {
		d.text(d.small, margin, boxesY+42+oneColumn*boxHeight, whole, fmt.Sprintf("and %d more, which only the page has; the code has no room for them", n))
	}
}

// drawing is a page with what was drawn on it.
type drawing struct {
	img                                  *image.Gray
	title, head, body, name, small, mono font.Face
	used                                 []image.Rectangle // places that are taken, for the tests
}

func newDrawing() (*drawing, error) {
	d := &drawing{img: image.NewGray(image.Rect(0, 0, width, height))}
	draw.Draw(d.img, d.img.Bounds(), image.White, image.Point{}, draw.Src)
	for _, f := range []struct {
		face *font.Face
		ttf  []byte
		size float64
	}{
		{&d.title, gobold.TTF, 20}, {&d.head, gobold.TTF, 14}, {&d.body, goregular.TTF, 12}, {&d.name, gobold.TTF, 10},
		{&d.small, goregular.TTF, 10}, {&d.mono, gomono.TTF, 8},
	} {
		parsed, err := opentype.Parse(f.ttf)
		if err != nil {
			return nil, err
		}
		if *f.face, err = opentype.NewFace(parsed, &opentype.FaceOptions{Size: f.size, DPI: 150, Hinting: font.HintingFull}); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// text writes a line from x on, with its base line at y, and cuts it to a
// width.
func (d *drawing) text(f font.Face, x, y, w int, s string) {
	for r := []rune(s); font.MeasureString(f, s).Ceil() > w && len(r) > 0; {
		r = r[:len(r)-1]
		s = strings.TrimRight(string(r), " ") + "…"
	}
	if s == "" {
		return
	}
	box, _ := font.BoundString(f, s)
	d.used = append(d.used, image.Rect(box.Min.X.Floor(), box.Min.Y.Floor(), box.Max.X.Ceil(), box.Max.Y.Ceil()).Add(image.Pt(x, y)))
	(&font.Drawer{Dst: d.img, Src: image.Black, Face: f, Dot: fixed.P(x, y)}).DrawString(s)
}

func (d *drawing) line(x0, y, x1 int) {
	d.used = append(d.used, image.Rect(x0, y, x1, y+1))
	for x := x0; x < x1; x++ {
		d.img.SetGray(x, y, color.Gray{})
	}
}

// picture scales by whole pixels, so that the modules of a code stay sharp.
func (d *drawing) picture(src image.Image, into image.Rectangle) {
	b := src.Bounds()
	n := max(1, min(into.Dx()/b.Dx(), into.Dy()/b.Dy()))
	at := image.Rect(into.Max.X-b.Dx()*n, into.Min.Y, into.Max.X, into.Min.Y+b.Dy()*n)
	d.used = append(d.used, at)
	for y := range at.Dy() {
		for x := range at.Dx() {
			d.img.Set(at.Min.X+x, at.Min.Y+y, src.At(b.Min.X+x/n, b.Min.Y+y/n))
		}
	}
}
