// Package label draws the label that is stuck on a box: its pairing code as a QR
// code, its name, and what to do in three steps. [Label.PNG] makes it as a
// picture of 300 dots an inch, [Label.PDF] as a page; both have the size of A7,
// 105 × 74 mm, and print without scaling.
//
// A label is a secret until the box is claimed: whoever reads it first owns the
// box.
package label

import (
	"fmt"

	"cobox/netlink/pairing"
)

// Label is what stands on a label.
type Label struct {
	host string
	qr   *pairing.Drawing
}

// New makes the label of a box from the text of its pairing code.
func New(code string) (*Label, error) {
	c, err := pairing.ParseCode(code)
	if err != nil {
		return nil, fmt.Errorf("label: %w", err)
	}
	qr, err := pairing.Draw(code)
	if err != nil {
		return nil, fmt.Errorf("label: %w", err)
	}
	return &Label{host: pairing.HostName(c.Box), qr: qr}, nil
}

// Sizes in millimetres.
const (
	width, height = 105.0, 74.0
	edge          = 6.0 // what a printer may not reach
	columnX       = 50.0
	stepX         = columnX + 8
	qrTop         = 20.0
)

// dotsPerInch is that of the picture. A module is a whole number of dots.
const (
	dotsPerInch  = 300
	modulePixels = 10
	quietModules = 4 // the margin that pairing draws around the code
	inch         = 25.4
)

// style is a font.
type style int

const (
	regular style = iota
	bold
	mono
)

// canvas is what a label is drawn on. Positions are in millimetres from the upper
// left corner, sizes of type in points.
type canvas interface {
	text(x, baseline, size float64, s style, text string)
	// number is white and centred, on a black disc.
	number(x, y, radius, size float64, text string)
	line(x, y, width, thickness float64)
	// code has its dark modules, without the margin, begin at x and y.
	code(x, y float64, qr *pairing.Drawing)
}

// step is one thing to do, and the commands that do it.
type step struct {
	y        float64
	title    string
	text     []string
	commands []string
}

var steps = []step{
	{23.6, "Plug it in", []string{"Network cable first, then power.", "Wait one minute."}, nil},
	{39.2, "Make it yours", []string{"Photograph this code. On a", "computer in the same network:"}, []string{"cobox init", "cobox pair PHOTO.jpg"}},
	{63.1, "Back up", nil, []string{"cobox backup FOLDER"}},
}

// draw puts everything in its place.
func (l *Label) draw(c canvas) {
	c.text(edge, 12.6, 26, bold, l.host)
	c.text(columnX+27.2, 12.6, 12, regular, "backup box")
	c.line(edge, 15.8, width-2*edge, 0.5)
	c.code(edge, qrTop, l.qr)
	c.text(edge, 64.2, 7.5, bold, "Keep this code secret")
	c.text(edge, 67.4, 7.5, regular, "until step 2 is done: whoever")
	c.text(edge, 70.4, 7.5, regular, "uses it first owns the box.")
	for i, s := range steps {
		c.number(columnX+3, s.y-1.5, 3, 11, fmt.Sprint(i+1))
		c.text(stepX, s.y, 12, bold, s.title)
		y := s.y + 0.7
		for _, t := range s.text {
			y += 3.8
			c.text(stepX, y, 8, regular, t)
		}
		for _, t := range s.commands {
			y += 4.1
			c.text(stepX, y, 8.5, mono, t)
		}
	}
}
