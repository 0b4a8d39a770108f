//go:build linux

package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"unicode"
)

// kernelLog writes records to the kernel's log, which the kernel also writes to
// its consoles. There is no other log: a card wears out, and nobody could read
// a file.
type kernelLog struct {
	mu    *sync.Mutex
	out   io.Writer
	attrs string
}

func newKernelLog() *kernelLog {
	var out io.Writer = os.Stderr
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		out = f
	}
	return &kernelLog{mu: new(sync.Mutex), out: out}
}

// Levels of the kernel's log.
const (
	kernelError   = 3
	kernelWarning = 4
	kernelInfo    = 6
)

func kernelLevel(l slog.Level) int {
	switch {
	case l >= slog.LevelError:
		return kernelError
	case l >= slog.LevelWarn:
		return kernelWarning
	}
	return kernelInfo
}

// Enabled implements [slog.Handler].
func (k *kernelLog) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

// Handle implements [slog.Handler]. A record is one write, as the kernel wants
// it.
func (k *kernelLog) Handle(_ context.Context, r slog.Record) error {
	return k.write(r.Level, "cobox-init", r.Message+k.attrs+attrsText(r.Attrs))
}

// write writes one line of who.
func (k *kernelLog) write(level slog.Level, who, text string) error {
	line := kernelLine(kernelLevel(level), who, text)
	k.mu.Lock()
	defer k.mu.Unlock()
	_, err := io.WriteString(k.out, line)
	return err
}

// WithAttrs implements [slog.Handler].
func (k *kernelLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *k
	c.attrs += attrsText(func(f func(slog.Attr) bool) {
		for _, a := range attrs {
			f(a)
		}
	})
	return &c
}

// WithGroup implements [slog.Handler]; init uses no groups.
func (k *kernelLog) WithGroup(string) slog.Handler { return k }

func attrsText(each func(func(slog.Attr) bool)) string {
	var b strings.Builder
	each(func(a slog.Attr) bool {
		v := a.Value.String()
		if v == "" || strings.ContainsAny(v, " \"=\n") {
			v = strconv.Quote(v)
		}
		b.WriteString(" " + a.Key + "=" + v)
		return true
	})
	return b.String()
}

// maxKernelLine is how much of a line is kept; the kernel takes about 1,000
// bytes.
const maxKernelLine = 900

// kernelLine is a line for /dev/kmsg. Bytes that could control a terminal are
// replaced.
func kernelLine(level int, who, text string) string {
	if len(text) > maxKernelLine {
		text = text[:maxKernelLine] + "…"
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) { // with U+009B, which some terminals take for escape and [
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	return "<" + strconv.Itoa(level) + ">" + who + ": " + text + "\n"
}
