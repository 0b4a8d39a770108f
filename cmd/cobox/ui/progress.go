package ui

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/term"
)

// Progress is the state of a long command.
type Progress struct {
	Operation  string `json:"operation"`
	Files      uint64 `json:"files"`
	Bytes      uint64 `json:"bytes"`
	TotalFiles uint64 `json:"total_files,omitempty"`
	TotalBytes uint64 `json:"total_bytes,omitempty"`
	Final      bool   `json:"total_known"`
	Errors     uint64 `json:"errors"`
	Rate       uint64 `json:"bytes_per_second"`
	Left       uint64 `json:"seconds_left,omitempty"`
	Current    string `json:"-"`
}

func (Progress) Type() string { return "progress" }

// Text is the progress as one line.
func (p Progress) Text() string {
	var b strings.Builder
	b.WriteString(p.Operation)
	switch {
	case p.Final && p.TotalBytes > 0:
		fmt.Fprintf(&b, " %3d %%  %s of %s", min(100, p.Bytes*100/p.TotalBytes), Bytes(p.Bytes), Bytes(p.TotalBytes))
	case p.TotalBytes > p.Bytes:
		fmt.Fprintf(&b, " %s of at least %s", Bytes(p.Bytes), Bytes(p.TotalBytes))
	case p.Bytes > 0:
		fmt.Fprintf(&b, " %s", Bytes(p.Bytes))
	}
	if p.Files > 0 {
		fmt.Fprintf(&b, ", %s", Count(p.Files, "file", "files"))
	}
	if p.Rate > 0 {
		fmt.Fprintf(&b, ", %s/s", Bytes(p.Rate))
	}
	if p.Left > 0 {
		fmt.Fprintf(&b, ", %s left", Duration(time.Duration(p.Left)*time.Second))
	}
	if p.Errors > 0 {
		fmt.Fprintf(&b, ", %s", Count(p.Errors, "error", "errors"))
	}
	return b.String()
}

// Meter turns running counts into progress: a line that is rewritten on a
// terminal, a line now and then elsewhere, events in JSON.
type Meter struct {
	ui       *UI
	op       string
	start    time.Time
	last     time.Time
	interval time.Duration
	shown    bool

	// The rate is that of the last seconds: counts at the times of ring.
	ring [16]struct {
		at    time.Time
		bytes uint64
	}
	next int
}

// Meter starts the progress of an operation. A Meter is used by one goroutine
// at a time.
func (u *UI) Meter(op string) *Meter {
	m := &Meter{ui: u, op: op, start: time.Now()}
	switch {
	case u.json:
		m.interval = time.Second
	case u.tty:
		m.interval = 100 * time.Millisecond
	default:
		m.interval = 10 * time.Second
	}
	m.last = m.start
	return m
}

// Update tells the counts. Only some of the calls show anything.
func (m *Meter) Update(p Progress) {
	now := time.Now()
	if now.Sub(m.last) < m.interval {
		return
	}
	m.last = now
	p.Operation = m.op
	oldest := m.ring[m.next]
	if oldest.at.IsZero() {
		oldest.at = m.start
	}
	m.ring[m.next].at, m.ring[m.next].bytes = now, p.Bytes
	m.next = (m.next + 1) % len(m.ring)
	if d := now.Sub(oldest.at).Seconds(); d > 0 && p.Bytes > oldest.bytes {
		p.Rate = uint64(float64(p.Bytes-oldest.bytes) / d)
	}
	if p.Final && p.Rate > 0 && p.TotalBytes > p.Bytes {
		p.Left = (p.TotalBytes - p.Bytes) / p.Rate
	}
	m.shown = true
	m.ui.showProgress(p)
}

// Done takes the progress line away.
func (m *Meter) Done() {
	m.ui.mu.Lock()
	defer m.ui.mu.Unlock()
	m.ui.clearLine()
}

func (u *UI) showProgress(p Progress) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.json:
		u.out.Write(Encode(p))
	case u.tty:
		width := 80
		if w, _, err := term.GetSize(int(u.in.Fd())); err == nil && w > 0 {
			width = w
		}
		text := p.Text()
		if r := []rune(text); len(r) > width-1 {
			text = string(r[:width-1])
		}
		u.clearLine()
		fmt.Fprint(u.err, text)
		u.line = len([]rune(text))
	default:
		fmt.Fprintln(u.err, p.Text())
	}
}

func (u *UI) clearLine() {
	if u.line > 0 {
		fmt.Fprint(u.err, "\r\x1b[K")
		u.line = 0
	}
}
