package label

import (
	"bytes"
	"fmt"
	"image/png"
	"time"

	"github.com/go-pdf/fpdf"

	"cobox/netlink/pairing"
)

// PDF draws the label as a page of its size. Letters are outlines, and every
// module of the code is as large as in the picture.
func (l *Label) PDF() ([]byte, error) {
	f := fpdf.NewCustom(&fpdf.InitType{OrientationStr: "P", UnitStr: "mm", Size: fpdf.SizeType{Wd: width, Ht: height}})
	f.SetMargins(0, 0, 0)
	f.SetAutoPageBreak(false, 0)
	f.SetTitle("CoBox "+l.host, true)
	// When a label was made is nobody's business.
	f.SetCreationDate(time.Unix(0, 0).UTC())
	f.SetModificationDate(time.Unix(0, 0).UTC())
	for _, s := range []style{regular, bold, mono} {
		f.AddUTF8FontFromBytes(family(s), "", fonts[s])
	}
	f.AddPage()
	l.draw(&page{f})
	var b bytes.Buffer
	if err := f.Output(&b); err != nil {
		return nil, fmt.Errorf("label: making the page: %w", err)
	}
	return b.Bytes(), nil
}

func family(s style) string { return fmt.Sprintf("go%d", s) }

// page is a canvas that remembers its first error itself.
type page struct{ f *fpdf.Fpdf }

func (p *page) text(x, baseline, size float64, s style, text string) {
	p.f.SetFont(family(s), "", size)
	p.f.Text(x, baseline, text)
}

func (p *page) number(x, y, radius, size float64, text string) {
	p.f.SetFillColor(0, 0, 0)
	p.f.Circle(x, y, radius, "F")
	p.f.SetTextColor(255, 255, 255)
	p.f.SetFont(family(bold), "", size)
	p.f.Text(x-p.f.GetStringWidth(text)/2, y+size*capHeight/2*inch/72, text)
	p.f.SetTextColor(0, 0, 0)
}

func (p *page) line(x, y, width, thickness float64) {
	p.f.SetFillColor(0, 0, 0)
	p.f.Rect(x, y, width, thickness, "F")
}

func (p *page) code(x, y float64, qr *pairing.Drawing) {
	var b bytes.Buffer
	if err := png.Encode(&b, qr.Image(modulePixels)); err != nil {
		p.f.SetError(err)
		return
	}
	const module = modulePixels * inch / dotsPerInch
	side := float64(qr.Modules()+2*quietModules) * module
	o := fpdf.ImageOptions{ImageType: "PNG"}
	p.f.RegisterImageOptionsReader("code", o, &b)
	p.f.ImageOptions("code", x-quietModules*module, y-quietModules*module, side, side, false, o, 0, "")
}
