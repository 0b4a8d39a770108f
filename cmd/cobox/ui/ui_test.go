package ui

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// testUI writes into buffers.
func testUI(asJSON, tty bool) (u *UI, out, errs *bytes.Buffer) {
	out, errs = new(bytes.Buffer), new(bytes.Buffer)
	return &UI{json: asJSON, out: out, err: errs, tty: tty}, out, errs
}

type event struct {
	N    int     `json:"n"`
	Text string  `json:"text"`
	List []int   `json:"list,omitempty"`
	F    float64 `json:"f"`
}

func (event) Type() string { return "test" }

type said struct{ text string }

func (said) Type() string   { return "said" }
func (e said) Text() string { return e.text }

type encodable struct {
	event
	said string
}

func (e encodable) Text() string { return e.said }

func TestEncode(t *testing.T) {
	got := string(Encode(encodable{event{1, "<&>\u2028\x00\n", nil, 1e21}, ""}))
	want := `{"type":"test","v":1,"n":1,"text":"<&>\u2028\u0000\n","f":1e+21}` + "\n"
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// An event without fields is an object, too.
	if got := string(Encode(said{"x"})); got != `{"type":"said","v":1}`+"\n" {
		t.Errorf("got %s", got)
	}
}

// What is said goes to one place: text for people, or JSON, never both.
func TestEmit(t *testing.T) {
	u, out, errs := testUI(false, false)
	u.Emit(said{"one\n"})
	u.Emit(said{""})
	u.Emit(said{"two"})
	u.Emit(Warning{"careful"})
	u.Notef("next: %d", 1)
	u.Table([][]string{{"a", "b"}})
	u.Fail(&Failure{Exit: 1, Code: "x", What: "cannot", Err: errors.New("why"), Hint: "do this"})
	if got := out.String(); got != "one\ntwo\na  b\n" {
		t.Errorf("standard output: %q", got)
	}
	if got := errs.String(); got != "warning: careful\nnext: 1\ncobox: cannot: why\ndo this\n" {
		t.Errorf("standard error: %q", got)
	}

	u, out, errs = testUI(true, false)
	u.Emit(said{"one"})
	u.Warnf("careful %d", 1)
	u.Notef("next")
	u.Table([][]string{{"a", "b"}})
	u.Fail(&Failure{Exit: 4, Code: "no_box", What: "cannot", Err: errors.New("why")})
	want := `{"type":"said","v":1}
{"type":"warning","v":1,"message":"careful 1"}
{"type":"error","v":1,"code":"no_box","exit":4,"message":"cannot: why"}
`
	if out.String() != want || errs.Len() > 0 {
		t.Errorf("standard output: %s\nstandard error: %s", out, errs)
	}
}

func TestInteractive(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		u := New(asJSON)
		u.tty = false
		if u.Interactive() {
			t.Error("asks questions without a terminal")
		}
	}
}

func TestName(t *testing.T) {
	for name, want := range map[string]string{
		"/home/ana/grüße": `{"name":"/home/ana/grüße"}`,
		"caf\xe9":         "{\"name\":\"caf\uFFFD\",\"name_b64\":\"Y2Fm6Q==\"}",
		"\xff\xfe":        "{\"name\":\"\uFFFD\",\"name_b64\":\"//4=\"}",
		// Replacement characters that are really there are a valid name.
		"\uFFFD": "{\"name\":\"\uFFFD\"}",
		"":       `{"name":""}`,
		"a\nb":   `{"name":"a\nb"}`,
	} {
		got, err := json.Marshal(NameOf(name))
		if err != nil || string(got) != want {
			t.Errorf("%q: %s, %v, want %s", name, got, err, want)
		}
	}
}

func FuzzName(f *testing.F) {
	f.Add("plain")
	f.Add("\xc3\x28 \xff")
	f.Add("really there: \uFFFD")
	f.Fuzz(func(t *testing.T, s string) {
		b, err := json.Marshal(NameOf(s))
		if err != nil {
			t.Fatal(err)
		}
		var back struct {
			Name string `json:"name"`
			B64  []byte `json:"name_b64"`
		}
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatal(err)
		}
		got := back.Name
		if back.B64 != nil {
			got = string(back.B64)
		}
		if got != s {
			t.Errorf("%q came back as %q", s, got)
		}
		if p := Printable(s); !utf8.ValidString(p) || strings.ContainsAny(p, "\x1b\n\r\x07\u009b") {
			t.Errorf("%q is shown as %q", s, p)
		}
	})
}

func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{
		"grüße":         "grüße",
		"two words":     "two words",
		"line\nbreak":   `line\nbreak`,
		"\x1b[31mred":   `\x1b[31mred`,
		"not \xff":      `not \xff`,
		"c1 \u009b31m":  `c1 \u009b31m`,
		"over\u202eeno": `over\u202eeno`,
		`quote"d`:       `quote"d`,
		"日本":            "日本",
	} {
		if got := Printable(s); got != want {
			t.Errorf("Printable(%q) = %s, want %s", s, got, want)
		}
	}
}

func TestTime(t *testing.T) {
	for at, want := range map[time.Time]string{
		time.Date(2026, 5, 1, 12, 0, 0, 0, time.FixedZone("", 7200)): `"2026-05-01T10:00:00Z"`,
		time.Date(1931, 2, 3, 4, 5, 6, 789, time.UTC):                `"1931-02-03T04:05:06.000000789Z"`,
		time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC):             `"9999-12-31T23:59:59Z"`,
		time.Date(12345, 1, 2, 3, 4, 5, 600_000_000, time.UTC):       `"+012345-01-02T03:04:05.6Z"`,
		time.Date(-44, 3, 15, 0, 0, 0, 0, time.UTC):                  `"-000044-03-15T00:00:00Z"`,
		time.Unix(1<<55, 0): `"+1141707036-03-18T17:14:08Z"`,
	} {
		got, err := json.Marshal(Time{at})
		if err != nil {
			t.Error(err)
		} else if string(got) != want && at.Unix() != 1<<55 {
			t.Errorf("%v: %s, want %s", at, got, want)
		}
	}
}

func TestFailure(t *testing.T) {
	cause := errors.New("cause")
	if Fail(nil, "x", "y", "z") != nil {
		t.Error("no error became a failure")
	}
	err := fmt.Errorf("doing: %w", Fail(cause, "code", "what", "hint"))
	f := AsFailure(err)
	if f.Code != "code" || f.Exit != ExitFailed || f.Error() != "what: cause" || !errors.Is(err, cause) {
		t.Errorf("%+v", f)
	}
	// What knows more is kept.
	if again := Fail(err, "other", "other", ""); AsFailure(again) != f {
		t.Error("a failure was wrapped in another")
	}
	if f := AsFailure(fmt.Errorf("x: %w", context.Canceled)); f.Exit != ExitInterrupted || f.Code != "interrupted" {
		t.Errorf("%+v", f)
	}
	if f := AsFailure(cause); f.Exit != ExitFailed || f.Code != "failed" || f.Error() != "cause" {
		t.Errorf("%+v", f)
	}
	if f := Usagef("hint", "no %d", 1); f.Exit != ExitUsage || f.Error() != "no 1" {
		t.Errorf("%+v", f)
	}
}

func TestProgressText(t *testing.T) {
	for want, p := range map[string]Progress{
		"Backing up":                               {Operation: "Backing up"},
		"Backing up 1.00 KiB, 1 file":              {Operation: "Backing up", Files: 1, Bytes: 1024},
		"Backing up 1.00 KiB of at least 2.00 KiB": {Operation: "Backing up", Bytes: 1024, TotalBytes: 2048},
		"Backing up  50 %  1.00 KiB of 2.00 KiB, 1,000 files, 512 B/s, 2 s left, 2 errors": {Operation: "Backing up", Files: 1000, Bytes: 1024, TotalBytes: 2048, Final: true, Rate: 512, Left: 2, Errors: 2},
		"Backing up 100 %  3.00 KiB of 2.00 KiB":                                           {Operation: "Backing up", Bytes: 3072, TotalBytes: 2048, Final: true},
	} {
		if got := p.Text(); got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
}

// The rate is that of the last seconds, and the time left follows from it.
func TestMeter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, out, _ := testUI(true, false)
		m := u.Meter("Testing")
		for i := range 40 {
			time.Sleep(time.Second)
			rate := 100
			if i >= 20 {
				rate = 1000
			}
			m.Update(Progress{Bytes: uint64(min(i+1, 20)*100 + max(0, i-19)*rate), TotalBytes: 100_000, Final: true})
			m.Update(Progress{Bytes: 1}) // too soon
		}
		m.Done()
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 40 {
			t.Fatalf("%d lines in 40 s", len(lines))
		}
		var first, last Progress
		for line, p := range map[string]*Progress{lines[0]: &first, lines[39]: &last} {
			if err := json.Unmarshal([]byte(line), p); err != nil {
				t.Fatal(err)
			}
		}
		if first.Rate != 100 || first.Left != 999 {
			t.Errorf("first: %+v", first)
		}
		if last.Rate != 1000 || last.Left != (100_000-22_000)/1000 {
			t.Errorf("last: %+v", last)
		}
	})
}

// On a terminal there is one line, never longer than the screen, that makes
// room for anything else.
func TestMeterOnTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, out, errs := testUI(false, true)
		m := u.Meter(strings.Repeat("long ", 40))
		time.Sleep(time.Second)
		m.Update(Progress{Bytes: 1})
		shown := errs.String()
		if n := utf8.RuneCountInString(shown); n == 0 || n > 79 || strings.Contains(shown, "\n") {
			t.Errorf("%d characters: %q", n, shown)
		}
		u.Emit(said{"done"})
		if !strings.HasSuffix(errs.String(), "\r\x1b[K") || out.String() != "done\n" {
			t.Errorf("the line stays: %q", errs)
		}
		length := errs.Len()
		m.Done()
		if errs.Len() != length {
			t.Error("the line is cleared twice")
		}
	})
}

// Elsewhere there is a line now and then.
func TestMeterInFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, _, errs := testUI(false, false)
		m := u.Meter("Testing")
		for i := range 35 {
			time.Sleep(time.Second)
			m.Update(Progress{Bytes: uint64(i + 1)})
		}
		m.Done()
		if n := strings.Count(errs.String(), "\n"); n != 3 || strings.Contains(errs.String(), "\x1b") {
			t.Errorf("%d lines in 35 s: %q", n, errs)
		}
	})
}

func TestReadLine(t *testing.T) {
	r := strings.NewReader("one\ntwo\n\nlast")
	for _, want := range []string{"one", "two", "", "last"} {
		if got, err := readLine(r); err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	if got, err := readLine(r); err == nil {
		t.Errorf("got %q behind the end", got)
	}
	if got, err := readLine(strings.NewReader(strings.Repeat("x", 10_000))); err != nil || len(got) != 4096 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestNameB64(t *testing.T) {
	n := NameOf("caf\xe9")
	if b, err := base64.StdEncoding.DecodeString(n.B64); err != nil || string(b) != "caf\xe9" {
		t.Errorf("%q %v", b, err)
	}
}

func TestPlain(t *testing.T) {
	for message, want := range map[string]string{
		"archive: exclude: fstree: pattern \"[\" is malformed":                                           "exclude: pattern \"[\" is malformed",
		"no box is reachable: shelf: 127.0.0.1:1: noiseconn: dialling: noiseconn: the box hung up (EOF)": "no box is reachable: shelf: 127.0.0.1:1: dialling: the box hung up (EOF)",
		"seal: archive: x":          "x",
		"cannot back up archive: x": "cannot back up archive: x",
		"one\ntwo":                  "one; two",
		"evil \x1b[31m":             `evil \x1b[31m`,
		"plain":                     "plain",
		"":                          "",
	} {
		if got := Plain(message); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
