package screen

import (
	"errors"
	"fmt"
	"image"
)

// Channel is where a colour lies in a pixel, in bits from the lowest.
type Channel struct{ Offset, Length uint32 }

// Format is how a framebuffer stores pixels: little-endian words of 16 or 32
// bits.
type Format struct {
	Bits             uint32
	Red, Green, Blue Channel
}

// Validate tells whether Append can write the format.
func (f Format) Validate() error {
	if f.Bits != 16 && f.Bits != 32 {
		return fmt.Errorf("screen: pixels of %d bits", f.Bits)
	}
	for _, c := range []Channel{f.Red, f.Green, f.Blue} {
		if c.Length < 1 || c.Length > 8 || c.Offset > f.Bits-c.Length {
			return errors.New("screen: a colour lies outside of its pixel")
		}
	}
	return nil
}

// Append appends the bytes of row y of a picture.
func (f Format) Append(b []byte, img *image.RGBA, y int) []byte {
	row := img.Pix[img.PixOffset(img.Rect.Min.X, y):][:4*img.Rect.Dx()]
	for i := 0; i < len(row); i += 4 {
		word := f.Red.put(row[i]) | f.Green.put(row[i+1]) | f.Blue.put(row[i+2])
		b = append(b, byte(word), byte(word>>8))
		if f.Bits == 32 {
			b = append(b, byte(word>>16), byte(word>>24))
		}
	}
	return b
}

// put keeps the highest bits of a value.
func (c Channel) put(v byte) uint32 { return uint32(v) >> (8 - c.Length) << c.Offset }
