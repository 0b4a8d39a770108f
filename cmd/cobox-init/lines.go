//go:build linux

package main

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"time"
)

// A program that goes wrong can write without end. It gets burst lines, and
// then perSecond.
const (
	lineBurst     = 200
	linePerSecond = 10
)

// copyLines gives write each line of r until r ends, cut to limit bytes, and
// no more of them than the rate allows: it reads on, so that the program is
// never held up by its own talk, and says how many lines were left out.
func copyLines(r io.Reader, limit int, now func() time.Time, write func(line string), left func(n int)) {
	b := bufio.NewReaderSize(r, limit)
	tokens, last, dropped := float64(lineBurst), now(), 0
	for {
		line, err := b.ReadSlice('\n')
		rest := err
		for errors.Is(rest, bufio.ErrBufferFull) {
			kept := strings.Clone(string(line))
			_, rest = b.ReadSlice('\n')
			line = []byte(kept)
		}
		if text := strings.TrimRight(string(line), "\r\n"); text != "" {
			t := now()
			tokens = min(lineBurst, tokens+t.Sub(last).Seconds()*linePerSecond)
			last = t
			if tokens >= 1 {
				tokens--
				if dropped > 0 {
					left(dropped)
					dropped = 0
				}
				write(text)
			} else {
				dropped++
			}
		}
		if rest != nil {
			if dropped > 0 {
				left(dropped)
			}
			return
		}
	}
}
