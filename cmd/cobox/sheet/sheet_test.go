package sheet

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"os"
	"strings"
	"testing"
	"time"

	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
	"cobox/netlink/pairing/picture"
	"cobox/storage/account"
)

// testSheet is a sheet with n boxes, whose names are as long as names can be.
func testSheet(t testing.TB, n int) *Sheet {
	t.Helper()
	id := account.ID{1, 2, 3}
	s := &Sheet{Fingerprint: id.Fingerprint(), Made: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)}
	code := &pairing.Sheet{Account: id}
	for i := range n {
		box := Box{Name: fmt.Sprintf("%-6s%s", fmt.Sprintf("box %d", i), strings.Repeat("W", 58)), Key: strings.Repeat(fmt.Sprintf("%02x", i+17), 32)}
		entry := pairing.SheetBox{Name: pairing.ShortName(box.Name), Box: noiseconn.StaticPublic{byte(i + 17)}}
		for j := range 8 {
			a := fmt.Sprintf("[2001:db8:1234:5678:9abc:def0:%d:%d]:26269", 1000+i, 1000+j)
			box.Addresses = append(box.Addresses, a)
			addr, err := pairing.ParseAddress(a)
			if err != nil {
				t.Fatal(err)
			}
			entry.Addresses = append(entry.Addresses, addr)
		}
		s.Boxes = append(s.Boxes, box)
		if len(code.Boxes) < pairing.MaxSheetBoxes {
			code.Boxes = append(code.Boxes, entry)
		}
	}
	if n > 0 {
		text, err := code.Text()
		if err != nil {
			t.Fatal(err)
		}
		qr, err := pairing.Draw(text)
		if err != nil {
			t.Fatal(err)
		}
		s.Text, s.QR = text, qr.Image(1)
	}
	return s
}

func render(t *testing.T, s *Sheet) (image.Image, []byte) {
	t.Helper()
	b, err := PNG(s)
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return img, b
}

// The picture is what recovery starts from: its code can be read however many
// boxes there are.
func TestPictureCanBeRead(t *testing.T) {
	for n := 1; n <= pairing.MaxSheetBoxes+1; n++ {
		s := testSheet(t, n)
		_, b := render(t, s)
		if dir := os.Getenv("COBOX_SHEETS"); dir != "" {
			if err := os.WriteFile(fmt.Sprintf("%s/%d.png", dir, n), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		text, err := picture.Read(bytes.NewReader(b))
		if err != nil {
			t.Errorf("%d boxes: %v", n, err)
			continue
		}
		code, err := pairing.ParseAny(text)
		if err != nil {
			t.Errorf("%d boxes: %v", n, err)
			continue
		}
		got, ok := code.(*pairing.Sheet)
		if !ok || len(got.Boxes) != min(n, pairing.MaxSheetBoxes) || got.Account != (account.ID{1, 2, 3}) {
			t.Errorf("%d boxes: read %+v", n, code)
		}
	}
}

// Nothing overlaps and nothing is cut off, however much there is to show.
func TestNothingOverlaps(t *testing.T) {
	paper := image.Rect(margin/2, margin/2, width-margin/2, height-margin/2)
	for n := range maxBoxes + 2 {
		d, err := newDrawing()
		if err != nil {
			t.Fatal(err)
		}
		d.sheet(testSheet(t, n))
		for i, a := range d.used {
			if !a.In(paper) {
				t.Errorf("%d boxes: %v is not on the paper", n, a)
			}
			for _, b := range d.used[:i] {
				if a.Overlaps(b) {
					t.Errorf("%d boxes: %v and %v overlap", n, a, b)
				}
			}
		}
	}
}

func TestCut(t *testing.T) {
	d, err := newDrawing()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{strings.Repeat("W", 500), "short", "", "日本語", "a\nb"} {
		d.used = nil
		d.text(d.name, 100, 100, 200, s)
		for _, r := range d.used {
			if r.Dx() > 204 {
				t.Errorf("%q is %d wide", s, r.Dx())
			}
		}
	}
}

// A box that calls itself something evil changes nothing on the page, and
// nothing is loaded from anywhere.
func TestPageIsSafe(t *testing.T) {
	s := testSheet(t, 2)
	s.Boxes[0].Name = `</dt><script>alert("x")</script>`
	s.Boxes[1].Addresses = []string{`" onload="x`, "javascript:x", "<img src=x>"}
	b, err := HTML(s)
	if err != nil {
		t.Fatal(err)
	}
	html := string(b)
	for _, bad := range []string{"<script", "<img src=x", "onload=\"x", "http-equiv", "<link", "url(", "@import"} {
		if strings.Contains(html, bad) {
			t.Errorf("the page has %s", bad)
		}
	}
	if n := strings.Count(html, " src=\""); n != 1 || !strings.Contains(html, `src="data:image/png;base64,`) {
		t.Errorf("the page loads %d things", n)
	}
	for _, want := range []string{"&lt;script&gt;", s.Fingerprint, s.Boxes[0].Key, s.Boxes[1].Name, "1 May 2026", s.Text} {
		if !strings.Contains(html, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	if n := strings.Count(html, "<li>"); n != Words {
		t.Errorf("there is room for %d words", n)
	}
}

// Without boxes there is a sheet, too, and it says so.
func TestSheetWithoutBoxes(t *testing.T) {
	s := testSheet(t, 0)
	b, err := HTML(s)
	if err != nil {
		t.Fatal(err)
	}
	if html := string(b); !strings.Contains(html, "None yet.") || strings.Contains(html, "<img") {
		t.Errorf("%s", html)
	}
	img, _ := render(t, s)
	if img.Bounds() != image.Rect(0, 0, width, height) {
		t.Errorf("%v", img.Bounds())
	}
}
