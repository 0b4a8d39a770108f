package ui

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Bytes writes a size with three digits and a binary unit: 1.23 GiB.
func Bytes(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 999.5 && i < 5 {
		f, i = f/1024, i+1
	}
	digits := 2
	switch { // as they are after rounding
	case f >= 99.95:
		digits = 0
	case f >= 9.995:
		digits = 1
	}
	return fmt.Sprintf("%.*f %ciB", digits, f, "KMGTPE"[i])
}

// Chosen writes a size that somebody has chosen as they will have written it: 500 GB
// stays that, and is not 466 GiB.
func Chosen(n uint64) string {
	if n%(1<<20) == 0 {
		return Bytes(n)
	}
	f, unit := float64(n), -1
	for f >= 1000 && unit < 5 {
		f, unit = f/1000, unit+1
	}
	// Below a kB, or with more digits than people write.
	short := strconv.FormatFloat(f, 'f', -1, 64)
	if unit < 0 || len(short) > 4 {
		return Bytes(n)
	}
	return short + " " + "kMGTPE"[unit:unit+1] + "B"
}

// ParseBytes reads a size: 500GB, 1.5 TiB, 20G (binary), 1048576.
func ParseBytes(s string) (uint64, error) {
	t := strings.TrimSpace(s)
	end := strings.IndexFunc(t, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	unit := ""
	if end >= 0 {
		t, unit = t[:end], strings.ToLower(strings.TrimSpace(t[end:]))
	}
	f, err := strconv.ParseFloat(t, 64)
	if err != nil || f < 0 {
		return 0, fmt.Errorf("%q is not a size: write for example 500GB, 20GiB or 1.5T", s)
	}
	mult := 1.0
	if unit != "" && unit != "b" {
		i := strings.IndexByte("kmgtpe", unit[0])
		if i < 0 {
			return 0, fmt.Errorf("%q is not a size: unknown unit %q", s, unit)
		}
		switch unit[1:] {
		case "", "ib":
			mult = math.Pow(1024, float64(i+1))
		case "b":
			mult = math.Pow(1000, float64(i+1))
		default:
			return 0, fmt.Errorf("%q is not a size: unknown unit %q", s, unit)
		}
	}
	if f*mult >= 1<<63 {
		return 0, fmt.Errorf("%q is too large", s)
	}
	return uint64(f * mult), nil
}

// Count writes a number with its noun: 1 file, 12,345 files.
func Count(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return Number(n) + " " + many
}

// Number writes a number with its thousands set apart.
func Number(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Duration writes a length of time as people say it: 3 s, 4 min 10 s, 2 h 5 min.
func Duration(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}

// ParseDuration reads a length of time; besides what time.ParseDuration takes,
// a number of days (7d) or weeks (2w).
func ParseDuration(s string) (time.Duration, error) {
	for unit, length := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if n, ok := strings.CutSuffix(s, unit); ok {
			if f, err := strconv.ParseFloat(n, 64); err == nil && f >= 0 && f < 36500 {
				return time.Duration(f * float64(length)), nil
			}
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a length of time: write for example 12h, 7d or 2w", s)
	}
	return d, nil
}

// Table lays rows out in columns; the first row is the heading.
func Table(rows [][]string) string {
	var width []int
	for _, r := range rows {
		for i, c := range r {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], len([]rune(c)))
		}
	}
	var b strings.Builder
	for _, r := range rows {
		for i, c := range r {
			b.WriteString(c)
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-len([]rune(c))+2))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}
