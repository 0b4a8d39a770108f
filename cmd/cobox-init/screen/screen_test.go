package screen

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"slices"
	"testing"

	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
	"cobox/netlink/pairing/picture"
)

func code(t *testing.T) string {
	t.Helper()
	secret, invite := pairing.NewSecret()
	address, err := pairing.ParseAddress("192.168.178.123:26269")
	if err != nil {
		t.Fatal(err)
	}
	c := pairing.Code{Kind: pairing.KindClaim, Box: noiseconn.StaticPublic{1, 2, 3}, Secret: secret, Invite: invite, Addresses: []pairing.Address{address}}
	text, err := c.Text()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// What is drawn is read by the program that a member uses, in every mode that a
// screen is likely to have.
func TestCodeIsRead(t *testing.T) {
	p := Page{Name: "cobox-ab3d", State: "waiting for its administrator", Addresses: "192.168.178.123", Code: code(t)}
	for _, size := range []image.Point{{640, 480}, {800, 480}, {1280, 800}, {1920, 1080}, {1080, 1920}, {3840, 2160}} {
		var b bytes.Buffer
		if err := png.Encode(&b, p.Draw(size.X, size.Y)); err != nil {
			t.Fatal(err)
		}
		if got, err := picture.Read(&b); err != nil || got != p.Code {
			t.Errorf("%v: read %q, %v", size, got, err)
		}
	}
}

// No size and no text makes it write outside of the picture.
func TestOddSizes(t *testing.T) {
	p := Page{Name: "a name that is far too long for a screen of this kind", Problem: "x", Code: code(t)}
	for _, size := range []image.Point{{0, 0}, {1, 1}, {10, 2000}, {2000, 10}, {64, 64}, {320, 200}} {
		p.Draw(size.X, size.Y)
	}
}

func TestTextIsThere(t *testing.T) {
	count := func(p Page, c color.RGBA) (n int) {
		img := p.Draw(800, 480)
		for i := 0; i < len(img.Pix); i += 4 {
			if [4]byte(img.Pix[i:]) == [4]byte{c.R, c.G, c.B, c.A} {
				n++
			}
		}
		return n
	}
	well := Page{Name: "cobox-ab3d", State: "working", Addresses: "192.0.2.7"}
	if count(well, bright) == 0 || count(well, dim) == 0 {
		t.Error("the name or the state is not shown")
	}
	if n := count(well, warning); n != 0 {
		t.Errorf("%d pixels of a warning without a reason", n)
	}
	ill := well
	ill.Problem = "The disk is missing."
	if count(ill, warning) == 0 {
		t.Error("the problem is not shown")
	}
	cut := well
	cut.Addresses = ""
	if count(cut, warning) == 0 {
		t.Error("a missing address is not shown")
	}
}

func TestWrap(t *testing.T) {
	for _, c := range []struct {
		line    string
		columns int
		want    []string
	}{
		{"", 5, []string{""}},
		{"one two three", 20, []string{"one two three"}},
		{"one two three", 7, []string{"one two", "three"}},
		{"abcdefgh", 3, []string{"abc", "def", "gh"}},
		{"a bcdefgh", 3, []string{"a", "bcd", "efg", "h"}},
		{"äöü ß", 3, []string{"äöü", "ß"}},
		{"ab", 0, []string{"a", "b"}},
	} {
		if got := wrap(c.line, c.columns); !slices.Equal(got, c.want) {
			t.Errorf("%q in %d columns: %q", c.line, c.columns, got)
		}
	}
}

func TestPixels(t *testing.T) {
	img := image.NewRGBA(image.Rect(0, 0, 2, 2))
	img.Set(0, 1, color.RGBA{0xff, 0x80, 0x08, 0xff})
	img.Set(1, 1, color.RGBA{0, 0, 0xff, 0xff})
	for _, c := range []struct {
		f    Format
		want string
	}{
		{Format{32, Channel{16, 8}, Channel{8, 8}, Channel{0, 8}}, "\x08\x80\xff\x00\xff\x00\x00\x00"},
		{Format{32, Channel{0, 8}, Channel{8, 8}, Channel{16, 8}}, "\xff\x80\x08\x00\x00\x00\xff\x00"},
		{Format{16, Channel{11, 5}, Channel{5, 6}, Channel{0, 5}}, "\x01\xfc\x1f\x00"},
	} {
		if err := c.f.Validate(); err != nil {
			t.Error(err)
		}
		if got := c.f.Append(nil, img, 1); string(got) != c.want {
			t.Errorf("%+v: %x", c.f, got)
		}
	}
	for _, f := range []Format{
		{},
		{24, Channel{16, 8}, Channel{8, 8}, Channel{0, 8}},
		{16, Channel{12, 5}, Channel{5, 6}, Channel{0, 5}},
		{32, Channel{16, 10}, Channel{8, 8}, Channel{0, 8}},
		{32, Channel{1<<32 - 4, 8}, Channel{8, 8}, Channel{0, 8}},
	} {
		if f.Validate() == nil {
			t.Errorf("%+v is taken", f)
		}
	}
}
