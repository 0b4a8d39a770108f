// Package ui is how the member's program talks: text for people, or lines of
// JSON for programs, never both.
//
// Everything that a command tells goes through [UI.Emit] as an event, a struct
// with JSON tags and a text form, so that nothing can be said to people that
// programs do not get. docs/JSON.md lists the events; golden tests hold them.
package ui

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// Version is the version of the JSON events.
const Version = 1

// An Event is one line of JSON, or some lines of text.
type Event interface {
	// Type is the value of "type" in JSON.
	Type() string
	// Text is what a person reads; empty for nothing.
	Text() string
}

// A Problem is an event that people read on standard error, apart from what
// they asked for.
type Problem interface {
	Event
	Problem()
}

// UI writes events. Methods may be called from several goroutines.
type UI struct {
	json bool
	out  io.Writer // events
	err  io.Writer // progress, problems and failures in text form
	tty  bool      // err is a terminal
	in   *os.File

	mu   sync.Mutex
	line int // width of the progress line now shown
}

// New returns a UI on the process's own streams.
func New(asJSON bool) *UI {
	return &UI{
		json: asJSON, out: os.Stdout, err: os.Stderr, in: os.Stdin,
		tty: !asJSON && term.IsTerminal(int(os.Stderr.Fd())),
	}
}

// JSON reports whether events are written as JSON.
func (u *UI) JSON() bool { return u.json }

// Interactive reports whether a person can be asked something.
func (u *UI) Interactive() bool {
	return !u.json && term.IsTerminal(int(u.in.Fd())) && u.tty
}

// Emit writes one event.
func (u *UI) Emit(e Event) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.json {
		u.out.Write(Encode(e))
		return
	}
	if text := e.Text(); text != "" {
		u.clearLine()
		out := u.out
		if _, problem := e.(Problem); problem {
			out = u.err
		}
		fmt.Fprintln(out, strings.TrimSuffix(text, "\n"))
	}
}

// Encode returns the event as one line of JSON that starts with type and v.
func Encode(e Event) []byte {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		panic(fmt.Sprintf("ui: event %s cannot be encoded: %v", e.Type(), err))
	}
	rest := strings.TrimPrefix(body.String(), "{")
	sep := ","
	if strings.HasPrefix(rest, "}") {
		sep = ""
	}
	return fmt.Appendf(nil, `{"type":%q,"v":%d%s%s`, e.Type(), Version, sep, rest)
}

// Notef says something to a person that has no meaning for a program, such
// as what to do next. Nothing is written in JSON mode.
func (u *UI) Notef(format string, args ...any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.json {
		return
	}
	u.clearLine()
	fmt.Fprintf(u.err, format+"\n", args...)
}

// Fail tells a failure: a line of JSON on standard output, or text on
// standard error.
func (u *UI) Fail(f *Failure) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.json {
		u.out.Write(Encode(ErrorEvent(f)))
		return
	}
	u.clearLine()
	fmt.Fprintf(u.err, "cobox: %s\n", Plain(f.Error()))
	if f.Hint != "" {
		fmt.Fprintln(u.err, f.Hint)
	}
}

type errorEvent struct {
	Code    string `json:"code"`
	Exit    int    `json:"exit"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// ErrorEvent is a failure as the last line of JSON.
func ErrorEvent(f *Failure) Event {
	return errorEvent{Code: f.Code, Exit: f.Exit, Message: Plain(f.Error()), Hint: f.Hint}
}

func (errorEvent) Type() string { return "error" }
func (errorEvent) Text() string { return "" }

// Warning is something that did not stop the command.
type Warning struct {
	Message string `json:"message"`
}

func (Warning) Type() string   { return "warning" }
func (w Warning) Text() string { return "warning: " + w.Message }

// Problem implements Problem.
func (Warning) Problem() {}

// Warnf emits a Warning.
func (u *UI) Warnf(format string, args ...any) { u.Emit(Warning{Plain(fmt.Sprintf(format, args...))}) }

// Ask shows a prompt on the terminal and reads one line of the answer. It
// returns ctx's error when that ends first; the terminal's next line is then
// still taken by the read left behind, so ctx ending must end the program.
func (u *UI) Ask(ctx context.Context, prompt string) (string, error) {
	fmt.Fprint(u.err, prompt)
	type answer struct {
		line string
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		line, err := readLine(u.in)
		done <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(u.err)
		return "", ctx.Err()
	case a := <-done:
		return strings.TrimSpace(a.line), a.err
	}
}

// readLine reads byte by byte, so that nothing of the next line is taken.
func readLine(r io.Reader) (string, error) {
	var line []byte
	var b [1]byte
	for len(line) < 4096 {
		n, err := r.Read(b[:])
		if n == 1 {
			if b[0] == '\n' {
				break
			}
			line = append(line, b[0])
		}
		if err != nil {
			if len(line) > 0 && err == io.EOF {
				break
			}
			return "", err
		}
	}
	return string(line), nil
}

// Name is a file name or path for JSON: names are bytes and need not be
// UTF-8. Where they are not, Text has replacement characters and B64 the
// bytes.
type Name struct {
	Text string `json:"name"`
	B64  string `json:"name_b64,omitempty"`
}

// NameOf splits a name into its two forms.
func NameOf(s string) Name {
	if utf8.ValidString(s) {
		return Name{Text: s}
	}
	return Name{Text: strings.ToValidUTF8(s, "\uFFFD"), B64: base64.StdEncoding.EncodeToString([]byte(s))}
}

// Printable makes a name safe for a terminal: control characters, those that
// turn the direction of writing, and what is not UTF-8 are shown escaped.
func Printable(s string) string {
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) && !unicode.Is(unicode.Zs, r) {
			q := fmt.Sprintf("%q", s)
			return q[1 : len(q)-1]
		}
	}
	return s
}

// Table writes rows in columns for people; programs get events instead.
func (u *UI) Table(rows [][]string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.json {
		return
	}
	u.clearLine()
	fmt.Fprint(u.out, Table(rows))
}
