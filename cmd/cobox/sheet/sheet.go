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
	"image/png"
	"time"
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
