// Package picture reads the QR code of CoBox in a photo or screenshot. It is apart
// from package pairing because a box only draws codes: a library that finds them
// would be a part of every box's memory and of each of its starts.
//
// Start at [Read].
package picture

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"iter"

	"github.com/makiuchi-d/gozxing"
	multiqr "github.com/makiuchi-d/gozxing/multi/qrcode"
	"github.com/makiuchi-d/gozxing/qrcode"

	"cobox/netlink/pairing"
)

// What a picture can have wrong with it. A QR code that is not ours gives the
// errors of [pairing.ParseAny].
var (
	// ErrNotPicture: neither PNG nor JPEG, or damaged.
	ErrNotPicture = errors.New("not a PNG or JPEG picture")
	// ErrPictureTooLarge: a picture beyond the limits, which was not decoded.
	ErrPictureTooLarge = errors.New("picture too large")
	// ErrNoQR: no QR code was found in the picture.
	ErrNoQR = errors.New("no QR code in the picture")
)

// Limits of a picture. A phone's largest usual photo, 50 million pixels in JPEG,
// is within them.
const (
	maxPictureFile  = 48 << 20  // bytes of the file
	maxPictureBytes = 200 << 20 // bytes of the decoded picture
	maxPictureSide  = 16384
)

// Read finds the QR code of CoBox in a PNG or JPEG picture and returns
// its text, which [pairing.ParseAny] accepts. The code may be turned, tilted, noisy or
// inverted, and there may be others beside it.
func Read(r io.Reader) (string, error) {
	img, err := decodePicture(r)
	if err != nil {
		return "", fmt.Errorf("picture: %w", err)
	}
	text, err := findCode(img)
	if err != nil {
		return "", fmt.Errorf("picture: %w", err)
	}
	return text, nil
}

// decodePicture looks at the size before it decodes anything.
func decodePicture(r io.Reader) (image.Image, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxPictureFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxPictureFile {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrPictureTooLarge, maxPictureFile)
	}
	// Not image.Decode: which formats that takes depends on what else is linked.
	config, decode := jpeg.DecodeConfig, jpeg.Decode
	if bytes.HasPrefix(data, []byte("\x89PNG")) {
		config, decode = png.DecodeConfig, png.Decode
	}
	c, err := config(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrNotPicture, err)
	}
	if c.Width > maxPictureSide || c.Height > maxPictureSide || int64(c.Width)*int64(c.Height)*int64(pixelBytes(c.ColorModel)) > maxPictureBytes {
		return nil, fmt.Errorf("%w: %d×%d pixels", ErrPictureTooLarge, c.Width, c.Height)
	}
	img, err := decode(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrNotPicture, err)
	}
	return img, nil
}

// pixelBytes is the memory for one pixel of a decoded picture.
func pixelBytes(m color.Model) int {
	switch m {
	case color.GrayModel:
		return 1
	case color.Gray16Model:
		return 2
	case color.YCbCrModel:
		return 3
	case color.RGBA64Model, color.NRGBA64Model:
		return 8
	}
	return 4
}

// The sides to which a picture is scaled, one after the other, until the code is
// found. Most photos have it at the first: scaling down takes away noise.
var sides = []int{1200, 600, 2400, 3600}

// thoroughSide is the side up to which everything is tried; above it only what
// mostly works, for the time it takes.
const thoroughSide = 1200

// findCode tries one reading after the other. The best error is that of a code
// which is CoBox's but cannot be used.
func findCode(img image.Image) (string, error) {
	whole := grayOf(img)
	best := ErrNoQR
	last := 0
	for _, side := range sides {
		g := whole.fit(side)
		if size := max(g.w, g.h); size == last {
			continue // the picture is smaller than that
		} else {
			last = size
		}
		for v := range variants(g) {
			for _, text := range v.read() {
				_, err := pairing.ParseAny(text)
				if err == nil {
					return text, nil
				}
				if errors.Is(best, ErrNoQR) || !errors.Is(err, pairing.ErrNotCoBox) {
					best = err
				}
			}
		}
	}
	return "", best
}

// variant is one way to look at a picture.
type variant struct {
	gray     gray
	inverted bool
	global   bool // one threshold for all, not one for each neighbourhood
	multi    bool // look for several codes
}

// variants gives the readings to try, those that succeed most often first.
func variants(g gray) iter.Seq[variant] {
	return func(yield func(variant) bool) {
		try := func(list ...variant) bool {
			for _, v := range list {
				if !yield(v) {
					return false
				}
			}
			return true
		}
		if !try(variant{gray: g}, variant{gray: g, inverted: true}) {
			return
		}
		if max(g.w, g.h) > thoroughSide {
			try(variant{gray: g, multi: true})
			return
		}
		smooth := g.smooth() // against noise
		if !try(variant{gray: smooth}, variant{gray: g, global: true}, variant{gray: smooth, global: true}) {
			return
		}
		sharp := g.sharpen().double() // against blur
		if !try(variant{gray: sharp}, variant{gray: sharp.smooth()}, variant{gray: smooth.double()}) {
			return
		}
		try(variant{gray: g, multi: true}, variant{gray: g, multi: true, inverted: true},
			variant{gray: smooth, inverted: true}, variant{gray: sharp, inverted: true},
			variant{gray: g, global: true, inverted: true})
	}
}

// read returns the texts of the QR codes that it finds.
func (v variant) read() (texts []string) {
	// The decoder is made for pictures from everywhere, but a mistake in it must
	// not end the program: such a picture counts as one without a code.
	defer func() {
		if recover() != nil {
			texts = nil
		}
	}()
	source, err := gozxing.NewPlanarYUVLuminanceSource(v.gray.pix, v.gray.w, v.gray.h, 0, 0, v.gray.w, v.gray.h, false)
	if err != nil {
		return nil
	}
	if v.inverted {
		source = source.Invert()
	}
	binarizer := gozxing.NewHybridBinarizer(source)
	if v.global {
		binarizer = gozxing.NewGlobalHistgramBinarizer(source)
	}
	bitmap, err := gozxing.NewBinaryBitmap(binarizer)
	if err != nil {
		return nil
	}
	hints := map[gozxing.DecodeHintType]any{gozxing.DecodeHintType_TRY_HARDER: true}
	if v.multi {
		results, err := multiqr.NewQRCodeMultiReader().DecodeMultiple(bitmap, hints)
		if err != nil {
			return nil
		}
		for _, r := range results {
			texts = append(texts, r.GetText())
		}
		return texts
	}
	r, err := qrcode.NewQRCodeReader().Decode(bitmap, hints)
	if err != nil {
		return nil
	}
	return []string{r.GetText()}
}

// gray is a picture of brightness only.
type gray struct {
	w, h int
	pix  []byte
}

// grayOf takes the brightness of a picture, on white where it is transparent.
func grayOf(img image.Image) gray {
	b := img.Bounds()
	g := gray{w: b.Dx(), h: b.Dy()}
	g.pix = make([]byte, g.w*g.h)
	if y, ok := img.(*image.YCbCr); ok {
		for row := range g.h {
			from := y.YOffset(b.Min.X, b.Min.Y+row)
			copy(g.pix[row*g.w:(row+1)*g.w], y.Y[from:])
		}
		return g
	}
	for row := range g.h {
		for col := range g.w {
			r, gr, bl, a := img.At(b.Min.X+col, b.Min.Y+row).RGBA()
			luma := (299*r+587*gr+114*bl)/1000 + (0xFFFF - a)
			g.pix[row*g.w+col] = byte(luma >> 8)
		}
	}
	return g
}

// leastSide is the side below which a picture is enlarged: the finder wants a
// few pixels for each module.
const leastSide = 500

// fit scales the picture so that its longer side is about side: down by
// averaging, never up, but for very small pictures.
func (g gray) fit(side int) gray {
	long := max(g.w, g.h)
	if long == 0 {
		return g
	}
	if long < leastSide {
		return g.enlarge((leastSide + long - 1) / long)
	}
	if long <= side {
		return g
	}
	out := gray{w: max(1, g.w*side/long), h: max(1, g.h*side/long)}
	out.pix = make([]byte, out.w*out.h)
	for y := range out.h {
		y0, y1 := y*g.h/out.h, max((y+1)*g.h/out.h, y*g.h/out.h+1)
		for x := range out.w {
			x0, x1 := x*g.w/out.w, max((x+1)*g.w/out.w, x*g.w/out.w+1)
			sum := 0
			for sy := y0; sy < y1; sy++ {
				for _, p := range g.pix[sy*g.w+x0 : sy*g.w+x1] {
					sum += int(p)
				}
			}
			out.pix[y*out.w+x] = byte(sum / ((y1 - y0) * (x1 - x0)))
		}
	}
	return out
}

func (g gray) enlarge(n int) gray {
	out := gray{w: g.w * n, h: g.h * n, pix: make([]byte, g.w*n*g.h*n)}
	for y := range out.h {
		for x := range out.w {
			out.pix[y*out.w+x] = g.pix[y/n*g.w+x/n]
		}
	}
	return out
}

// smooth is the picture with each pixel the average of its 3×3 neighbourhood.
func (g gray) smooth() gray {
	out := gray{w: g.w, h: g.h, pix: make([]byte, len(g.pix))}
	for y := range g.h {
		for x := range g.w {
			sum, n := 0, 0
			for sy := max(0, y-1); sy <= min(g.h-1, y+1); sy++ {
				for _, p := range g.pix[sy*g.w+max(0, x-1) : sy*g.w+min(g.w, x+2)] {
					sum += int(p)
					n++
				}
			}
			out.pix[y*g.w+x] = byte(sum / n)
		}
	}
	return out
}

// sharpen is the picture with its edges made steeper, by what a wider
// neighbourhood has less or more.
func (g gray) sharpen() gray {
	out := g.smooth().smooth()
	for i, p := range out.pix {
		out.pix[i] = byte(min(255, max(0, int(g.pix[i])*3-int(p)*2)))
	}
	return out
}

// double is the picture at twice the size, in between filled in linearly.
func (g gray) double() gray {
	out := gray{w: 2 * g.w, h: 2 * g.h, pix: make([]byte, 4*len(g.pix))}
	for y := range out.h {
		// A pixel lies a quarter to one side of its source's middle.
		near, far := y/2, min(g.h-1, max(0, y/2-1+y%2*2))
		a, b := g.pix[near*g.w:(near+1)*g.w], g.pix[far*g.w:(far+1)*g.w]
		row := out.pix[y*out.w : (y+1)*out.w]
		for x := range row {
			n, f := x/2, min(g.w-1, max(0, x/2-1+x%2*2))
			row[x] = byte((9*int(a[n]) + 3*int(a[f]) + 3*int(b[n]) + int(b[f])) / 16)
		}
	}
	return out
}
