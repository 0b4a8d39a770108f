package ui

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestBytes(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 1: "1 B", 1023: "1023 B", 1024: "1.00 KiB", 1536: "1.50 KiB", 10 << 10: "10.0 KiB", 100 << 10: "100 KiB",
		1023 << 10: "1.00 MiB", 1 << 20: "1.00 MiB", 10<<20 - 1: "10.0 MiB", 500_000_000_000: "466 GiB", 5 << 30: "5.00 GiB",
		1 << 40: "1.00 TiB", 1 << 50: "1.00 PiB", 1 << 60: "1.00 EiB", math.MaxUint64: "16.0 EiB",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
	// Whatever the size, it has at most four digits and a unit.
	for shift := range 64 {
		for _, d := range []int64{-1, 0, 1} {
			n := uint64(int64(1)<<shift + d)
			number, unit, _ := strings.Cut(Bytes(n), " ")
			if digits := len(strings.ReplaceAll(number, ".", "")); digits > 4 || !strings.HasSuffix(unit, "B") {
				t.Errorf("Bytes(%d) = %q", n, Bytes(n))
			}
		}
	}
}

func TestChosen(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 500: "500 B", 1000: "1 kB", 1500: "1.5 kB", 1 << 10: "1.00 KiB", 3 << 20: "3.00 MiB", 500 << 30: "500 GiB",
		500_000_000: "500 MB", 500_000_000_000: "500 GB", 1_500_000_000_000: "1.5 TB", 1_048_576_000_000: "977 GiB", 12_345: "12.1 KiB",
		18_000_000_000_000_000_000: "18 EB", math.MaxUint64: "16.0 EiB",
	} {
		got := Chosen(n)
		if got != want {
			t.Errorf("Chosen(%d) = %q, want %q", n, got, want)
		}
		// Shown in decimal units, it is exact.
		if back, err := ParseBytes(got); !strings.HasSuffix(got, "iB") && n < 1<<63 && (err != nil || back != n) {
			t.Errorf("Chosen(%d) = %q, which is %d, %v", n, got, back, err)
		}
	}
}

func TestParseBytes(t *testing.T) {
	for s, want := range map[string]uint64{
		"0": 0, "1048576": 1 << 20, "500GB": 500_000_000_000, "500 GB": 500_000_000_000, "500gb": 500_000_000_000,
		"1.5TiB": 3 << 39, " 20G ": 20 << 30, "7k": 7 << 10, "3b": 3, "1EiB": 1 << 60, "0.5K": 512,
	} {
		if got, err := ParseBytes(s); err != nil || got != want {
			t.Errorf("ParseBytes(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "GB", "-1", "1x", "1GBB", "1 G B", "1.2.3", "9EiB", "1e30", "NaN", "inf", "0x10", "1,5GB"} {
		if got, err := ParseBytes(s); err == nil {
			t.Errorf("ParseBytes(%q) = %d", s, got)
		}
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 files", 1: "1 file", 2: "2 files", 999: "999 files", 1000: "1,000 files",
		1234567: "1,234,567 files", math.MaxUint64: "18,446,744,073,709,551,615 files"} {
		if got := Count(n, "file", "files"); got != want {
			t.Errorf("Count(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 s", 400 * time.Millisecond: "0 s", 600 * time.Millisecond: "1 s", 59 * time.Second: "59 s",
		59600 * time.Millisecond: "1 min 0 s", 250 * time.Second: "4 min 10 s", time.Hour - time.Second: "59 min 59 s",
		125 * time.Minute: "2 h 5 min", 47*time.Hour + 59*time.Minute: "47 h 59 min", 48 * time.Hour: "2 days",
		7 * 24 * time.Hour: "7 days",
	} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"7d": 7 * 24 * time.Hour, "2w": 14 * 24 * time.Hour, "0.5d": 12 * time.Hour, "12h": 12 * time.Hour, "90s": 90 * time.Second,
		"1h30m": 90 * time.Minute,
	} {
		if got, err := ParseDuration(s); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "7", "d", "-1d", "-3h", "soon", "1e9d", "NaNd", "Infd", "2y"} {
		if got, err := ParseDuration(s); err == nil {
			t.Errorf("ParseDuration(%q) = %v", s, got)
		}
	}
}

func TestTable(t *testing.T) {
	got := Table([][]string{{"Box", "State"}, {"Bäckerei", "reachable"}, {"x", ""}})
	want := "Box       State\nBäckerei  reachable\nx         \n"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := Table(nil); got != "" {
		t.Errorf("an empty table is %q", got)
	}
}
