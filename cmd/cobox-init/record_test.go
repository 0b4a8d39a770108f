//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cobox/appliance/machine"
	"cobox/image/layout"
)

func newRecord(s layout.Slot, result machine.Result, reason string) *record {
	return &record{
		Update: machine.Update{Release: machine.Release{Version: "1.2", Number: 7}, Result: result, Reason: reason}, slot: s,
	}
}

func TestRecord(t *testing.T) {
	card := t.TempDir()
	if r, err := readRecord(card); r != nil || err != nil {
		t.Errorf("a card without a record: %+v, %v", r, err)
	}
	for _, c := range []struct {
		r    *record
		want string
	}{
		{newRecord(layout.SlotB, machine.ResultTrying, ""), "cobox-update 1\nversion 1.2\nnumber 7\nslot b\nresult trying\n"},
		{newRecord(layout.SlotA, machine.ResultFellBack, "no net"), "cobox-update 1\nversion 1.2\nnumber 7\nslot a\nresult fellback\nreason no net\n"},
	} {
		if err := writeRecord(card, c.r); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(card, recordFile))
		if err != nil || string(b) != c.want {
			t.Errorf("written %q, %v", b, err)
		}
		if got, err := readRecord(card); err != nil || *got != *c.r {
			t.Errorf("read back %+v, %v", got, err)
		}
		for i := range len(b) {
			if r, err := parseRecord(b[:i]); err == nil {
				t.Errorf("%d of %d bytes are %+v", i, len(b), r)
			}
		}
	}
	for _, bad := range []*record{
		newRecord(0, machine.ResultTrying, ""),
		newRecord(layout.SlotA, "well", ""),
		newRecord(layout.SlotA, machine.ResultTrying, "why"),
		newRecord(layout.SlotA, machine.ResultFellBack, ""),
		newRecord(layout.SlotA, machine.ResultFellBack, "two\nlines"),
		newRecord(layout.SlotA, machine.ResultFellBack, strings.Repeat("x", maxReason+1)),
		{Update: machine.Update{Release: machine.Release{Version: "1 2"}, Result: machine.ResultTrying}, slot: layout.SlotA},
	} {
		if err := writeRecord(card, bad); err == nil {
			t.Errorf("%+v is written", bad)
		}
	}
	for _, bad := range []string{
		"cobox-update 2\nversion 1.2\nnumber 7\nslot b\nresult trying\n",
		"cobox-update 1\nversion 1.2\nnumber 07\nslot b\nresult trying\n",
		"cobox-update 1\nversion 1.2\nnumber 4294967296\nslot b\nresult trying\n",
		"cobox-update 1\nversion 1.2\nnumber 7\nslot c\nresult trying\n",
		"cobox-update 1\nversion 1.2\nnumber 7\nslot b\nresult trying\nreason x\n",
		"cobox-update 1\nversion 1.2\nnumber 7\nslot b\nresult fellback\n",
		"cobox-update 1\nversion 1.2\nslot b\nnumber 7\nresult trying\n",
		"cobox-update 1\r\nversion 1.2\r\nnumber 7\r\nslot b\r\nresult trying\r\n",
		"\n\n\n\n\n",
	} {
		if r, err := parseRecord([]byte(bad)); err == nil {
			t.Errorf("%q is %+v", bad, r)
		}
	}
}

// TestSettle goes through what a start can find.
func TestSettle(t *testing.T) {
	const a, b = layout.SlotA, layout.SlotB
	for _, c := range []struct {
		what            string
		slot            layout.Slot
		result          machine.Result
		running, chosen layout.Slot
		want            machine.Result
		reason          bool
	}{
		{"written, not tried", b, machine.ResultWritten, a, a, machine.ResultWritten, false},
		{"on trial", b, machine.ResultTrying, b, a, machine.ResultTrying, false},
		{"power cut, panic, hang", b, machine.ResultTrying, a, a, machine.ResultFellBack, true},
		{"a cut between choice and record", b, machine.ResultTrying, b, b, machine.ResultPromoted, false},
		{"given up", b, machine.ResultFellBack, a, a, machine.ResultFellBack, true},
		{"given up, and here again", b, machine.ResultFellBack, b, a, machine.ResultFellBack, true},
		{"given up, then well, and a cut before the record", b, machine.ResultFellBack, b, b, machine.ResultPromoted, false},
		{"promoted", b, machine.ResultPromoted, b, b, machine.ResultPromoted, false},
		{"promoted, and the slot does not start any more", b, machine.ResultPromoted, a, b, machine.ResultPromoted, false},
		{"only written, and the firmware took it", b, machine.ResultWritten, b, a, machine.ResultTrying, false},
	} {
		r := newRecord(c.slot, c.result, "")
		if c.result == machine.ResultFellBack {
			r.Reason = "why"
		}
		before := *r
		changed := r.settle(c.running, c.chosen)
		if r.Result != c.want || (r.Reason != "") != c.reason || changed != (*r != before) {
			t.Errorf("%s: %+v, changed %v", c.what, r, changed)
		}
		if _, err := r.append(nil); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		if r.settle(c.running, c.chosen) {
			t.Errorf("%s: it is not settled by settling once", c.what)
		}
	}
}

func TestReason(t *testing.T) {
	for _, text := range []string{"plain", "two\nlines\x00", "bad \xff", strings.Repeat("ä", maxReason), strings.Repeat("x", maxReason) + "ä"} {
		r := newRecord(layout.SlotA, machine.ResultFellBack, oneReason(text))
		if _, err := r.append(nil); err != nil {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

func TestFloor(t *testing.T) {
	card := t.TempDir()
	if n, err := readFloor(card); n != 0 || err != nil {
		t.Errorf("a card without one: %d, %v", n, err)
	}
	if err := writeFloor(card, 4294967295); err != nil {
		t.Fatal(err)
	}
	if n, err := readFloor(card); n != 4294967295 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for _, bad := range []string{"", "7", "07\n", "-1\n", "4294967296\n", "7\n\n", " 7\n"} {
		if n, err := parseFloor([]byte(bad)); err == nil {
			t.Errorf("%q is %d", bad, n)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte("cobox-update 1\nversion 1.2\nnumber 7\nslot b\nresult trying\n"))
	f.Add([]byte("cobox-update 1\nversion 1.2\nnumber 7\nslot a\nresult fellback\nreason no net\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil {
			return
		}
		if same, err := r.append(nil); err != nil || string(same) != string(b) {
			t.Errorf("not canonical: %q, %v", same, err)
		}
	})
}

func FuzzParseFloor(f *testing.F) {
	f.Add([]byte("7\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := parseFloor(b); err == nil && n > 0 && b[0] == '0' {
			t.Errorf("%q is %d", b, n)
		}
	})
}
