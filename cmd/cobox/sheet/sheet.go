// Package sheet draws the recovery sheet: the page that a member prints and
// keeps, with everything that recovery needs but the phrase, which is written
// on it by hand.
//
// [HTML] makes a page for printing that needs nothing but itself, [PNG] the
// same as a picture, from which the program reads the boxes again.
package sheet

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"html/template"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"strings"
	"time"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/gomono"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
)

// Sheet is what stands on the page.
type Sheet struct {
	Fingerprint string // of the account
	Made        time.Time
	Boxes       []Box
	QR          image.Image // all boxes in one code; nil if there are none
	Text        string      // what the code says
}

// Box is one box on the sheet.
type Box struct {
	Name      string
	Key       string // static key, in hexadecimal
	Addresses []string
}

// Words is the number of words that are written by hand.
const Words = 12

var page = template.Must(template.New("sheet").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>CoBox recovery sheet {{.Fingerprint}}</title>
<style>
@page { size: A4; margin: 18mm }
body { font: 11pt/1.45 system-ui, sans-serif; color: #000; background: #fff; max-width: 174mm; margin: 1em auto }
h1 { font-size: 20pt; margin: 0 0 .2em } h2 { font-size: 13pt; margin: 1.2em 0 .4em }
.fp { font: bold 14pt ui-monospace, monospace; letter-spacing: .04em }
ol { columns: 3; padding-left: 2em; margin: .5em 0 } ol li { border-bottom: 1px solid #000; height: 9mm; margin: 0 1em 0 0; break-inside: avoid }
.qr { float: right; width: 62mm; margin: 0 0 1em 1em; image-rendering: pixelated }
dl { margin: 0 } dt { font-weight: bold; margin-top: .7em } dd { margin: 0; font: 9pt/1.4 ui-monospace, monospace; overflow-wrap: anywhere }
.small { font-size: 9pt; clear: both }
</style>
</head>
<body>
<h1>CoBox recovery sheet</h1>
<p>Account <span class="fp">{{.Fingerprint}}</span><br>made on {{.Made.Format "2 January 2006"}}</p>
{{if .QR}}<img class="qr" alt="QR code of the boxes" src="{{.QR}}">{{end}}
<h2>Recovery phrase</h2>
<p>Write the 12 words here by hand. Never type them into anything but <code>cobox recover</code>.</p>
<ol>{{range .Blanks}}<li></li>{{end}}</ol>
<h2>Boxes that hold the backups</h2>
{{if .Boxes}}<dl>{{range .Boxes}}<dt>{{.Name}}</dt><dd>{{.Key}}</dd>{{range .Addresses}}<dd>{{.}}</dd>{{end}}{{end}}</dl>
{{else}}<p>None yet. Pair a box with <code>cobox pair</code>; the sheet is then written anew: print that one.</p>{{end}}
<h2>To get everything back</h2>
<p>On any computer with cobox: photograph the code above, then run<br>
<code>cobox recover --phrase-file - --box PHOTO.jpg</code><br>
type the words, and then run <code>cobox restore --target FOLDER</code>.
One surviving box is enough.</p>
{{if .Text}}<p class="small">If the code cannot be read, this text does the same:<br><code style="overflow-wrap:anywhere">{{.Text}}</code></p>{{end}}
<p class="small">Whoever has the words and reaches one of the boxes can read every backup: keep this sheet as you keep a passport. Without the words nobody can.</p>
</body>
</html>
`))

// HTML renders the page. It contains no secret and loads nothing.
func HTML(s *Sheet) ([]byte, error) {
	data := struct {
		*Sheet
		QR     template.URL
		Blanks []struct{}
	}{Sheet: s, Blanks: make([]struct{}, Words)}
	if s.QR != nil {
		var b bytes.Buffer
		if err := png.Encode(&b, s.QR); err != nil {
			return nil, fmt.Errorf("sheet: drawing the code: %w", err)
		}
		data.QR = template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(b.Bytes()))
	}
	var out bytes.Buffer
	if err := page.Execute(&out, data); err != nil {
		return nil, fmt.Errorf("sheet: writing the page: %w", err)
	}
	return out.Bytes(), nil
}

const (
	width  = 1240 // A4 at 150 dots an inch
	height = 1754
	margin = 100
	qrSide = 440
)

// PNG draws the same page.
func PNG(s *Sheet) ([]byte, error) {
	d, err := newDrawing()
	if err != nil {
		return nil, fmt.Errorf("sheet: loading fonts: %w", err)
	}
	right := width - margin
	d.text(d.title, margin, 150, "CoBox recovery sheet")
	d.text(d.body, margin, 210, "Account "+s.Fingerprint)
	d.text(d.body, margin, 250, "made on "+s.Made.Format("2 January 2006"))

	d.text(d.head, margin, 330, "Recovery phrase")
	d.text(d.small, margin, 365, "Write the 12 words here by hand. Never type them into")
	d.text(d.small, margin, 393, "anything but cobox recover.")
	for i := range Words {
		x, y := margin+(i%2)*290, 460+(i/2)*66
		d.text(d.small, x, y, fmt.Sprintf("%2d", i+1))
		d.line(x+38, y+4, x+260)
	}
	if s.QR != nil {
		d.picture(s.QR, image.Rect(right-qrSide, 90, right, 90+qrSide))
	}

	y := 900
	d.text(d.head, margin, y, "Boxes that hold the backups")
	y += 42
	if len(s.Boxes) == 0 {
		d.text(d.small, margin, y, "None yet. Pair a box with cobox pair; the sheet is then written anew: print that one.")
		y += 40
	}
	for i, b := range s.Boxes {
		if y > 1440 {
			d.text(d.small, margin, y, fmt.Sprintf("and %d more, which the code names", len(s.Boxes)-i))
			y += 40
			break
		}
		d.text(d.body, margin, y, b.Name)
		d.text(d.mono, margin, y+28, b.Key)
		d.text(d.mono, margin, y+54, clip(strings.Join(b.Addresses, "  "), 76))
		y += 98
	}

	y = max(y+20, 1240)
	d.text(d.head, margin, y, "To get everything back")
	for i, l := range []string{
		"On any computer with cobox: photograph the code above, then run",
		"    cobox recover --phrase-file - --box PHOTO.jpg",
		"type the words, and then run",
		"    cobox restore --target FOLDER",
		"One surviving box is enough.",
		"",
		"Whoever has the words and reaches one of the boxes can read every backup:",
		"keep this sheet as you keep a passport. Without the words nobody can.",
	} {
		face := d.small
		if strings.HasPrefix(l, " ") {
			face = d.mono
		}
		d.text(face, margin, y+40+i*32, l)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, d.img); err != nil {
		return nil, fmt.Errorf("sheet: encoding the picture: %w", err)
	}
	return b.Bytes(), nil
}

func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

type drawing struct {
	img                            *image.Gray
	title, head, body, small, mono font.Face
}

func newDrawing() (*drawing, error) {
	d := &drawing{img: image.NewGray(image.Rect(0, 0, width, height))}
	draw.Draw(d.img, d.img.Bounds(), image.White, image.Point{}, draw.Src)
	for _, f := range []struct {
		face *font.Face
		ttf  []byte
		size float64
	}{
		{&d.title, gobold.TTF, 22}, {&d.head, gobold.TTF, 14}, {&d.body, goregular.TTF, 12},
		{&d.small, goregular.TTF, 10}, {&d.mono, gomono.TTF, 9},
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

func (d *drawing) text(f font.Face, x, y int, s string) {
	(&font.Drawer{Dst: d.img, Src: image.Black, Face: f, Dot: fixed.P(x, y)}).DrawString(s)
}

func (d *drawing) line(x0, y, x1 int) {
	for x := x0; x < x1; x++ {
		d.img.SetGray(x, y, color.Gray{})
	}
}

// picture scales by whole pixels, so that the modules of a code stay sharp.
func (d *drawing) picture(src image.Image, into image.Rectangle) {
	b := src.Bounds()
	n := max(1, min(into.Dx()/b.Dx(), into.Dy()/b.Dy()))
	if b.Dx() > into.Dx() {
		// Larger than the place for it: take it as it is, to the right.
		into.Min.X = into.Max.X - b.Dx()
	}
	left := into.Max.X - b.Dx()*n
	for y := range b.Dy() * n {
		for x := range b.Dx() * n {
			d.img.Set(left+x, into.Min.Y+y, src.At(b.Min.X+x/n, b.Min.Y+y/n))
		}
	}
}
