//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"cobox/appliance/machine"
	"cobox/image/layout"
)

// Names of files on the card, beside coboxd's directory.
const (
	recordFile = "update"
	floorFile  = "floor"
)

// record is what became of the last update:
//
//	cobox-update 1
//	version TEXT
//	number N
//	slot a | b
//	result written | trying | promoted | fellback
//	reason TEXT        only with fellback
type record struct {
	machine.Update
	slot layout.Slot
}

const (
	recordHead  = "cobox-update 1"
	maxVersion  = 64  // bytes, as in a manifest
	maxReason   = 300 // bytes
	maxRecord   = 1024
	cutReason   = "…"
	reasonNever = "the box started again before the new system had proved itself; it may not have started at all"
)

// append appends the text of r, or says why r cannot be one.
func (r *record) append(b []byte) ([]byte, error) {
	plain := func(c rune) bool { return c > ' ' && c < 0x7f }
	switch r.Result {
	case machine.ResultWritten, machine.ResultTrying, machine.ResultPromoted, machine.ResultFellBack:
	default:
		return nil, fmt.Errorf("update: %.20q is no result", r.Result)
	}
	switch {
	case !isLine(r.Version, maxVersion, plain):
		return nil, fmt.Errorf("update: %.80q is no version", r.Version)
	case r.slot != layout.SlotA && r.slot != layout.SlotB:
		return nil, fmt.Errorf("update: %v is no slot", r.slot)
	case (r.Reason != "") != (r.Result == machine.ResultFellBack):
		return nil, fmt.Errorf("update: a reason belongs to what fell back, and to nothing else")
	case r.Reason != "" && !isLine(r.Reason, maxReason, unicode.IsPrint):
		return nil, fmt.Errorf("update: the reason is not one line of at most %d bytes", maxReason)
	}
	b = fmt.Appendf(b, "%s\nversion %s\nnumber %d\nslot %s\nresult %s\n", recordHead, r.Version, r.Number, r.slot, r.Result)
	if r.Reason != "" {
		b = fmt.Appendf(b, "reason %s\n", r.Reason)
	}
	return b, nil
}

// isLine says whether s has 1 to most bytes of UTF-8, all of whose characters
// are ok.
func isLine(s string, most int, ok func(rune) bool) bool {
	return s != "" && len(s) <= most && utf8.ValidString(s) && strings.IndexFunc(s, func(c rune) bool { return !ok(c) }) < 0
}

var errRecord = errors.New("update: the record of the last update is damaged")

// parseRecord reads what append writes, and nothing else.
func parseRecord(b []byte) (*record, error) {
	lines := strings.Split(string(b), "\n")
	if len(b) > maxRecord || len(lines) < 6 || len(lines) > 7 {
		return nil, errRecord
	}
	field := func(i int, name string) string {
		value, _ := strings.CutPrefix(lines[i], name+" ")
		return value
	}
	r := &record{Update: machine.Update{Result: machine.Result(field(4, "result"))}}
	r.Version = field(1, "version")
	number, err := strconv.ParseUint(field(2, "number"), 10, 32)
	if err != nil {
		return nil, errRecord
	}
	r.Number = uint32(number)
	if r.slot, err = layout.ParseSlot(field(3, "slot")); err != nil {
		return nil, errRecord
	}
	if len(lines) == 7 {
		r.Reason = field(5, "reason")
	}
	// Whatever was overlooked so far does not come out the same.
	if same, err := r.append(nil); err != nil || string(same) != string(b) {
		return nil, errRecord
	}
	return r, nil
}

// settle puts a record right with what is known at a start: the slot that runs
// and the one that autoboot.txt names. It says whether it changed the record.
//
// A system on trial whose record is "trying" is left alone. One that was only
// "written" and runs all the same was chosen by the firmware, because the other
// slot does not start.
func (r *record) settle(running, chosen layout.Slot) (changed bool) {
	switch {
	case running == chosen && r.slot == running && r.Result != machine.ResultPromoted:
		// The power went between the choice and the record.
		r.Result, r.Reason = machine.ResultPromoted, ""
	case running == chosen && r.slot != running && r.Result == machine.ResultTrying:
		r.Result, r.Reason = machine.ResultFellBack, reasonNever
	case running != chosen && r.slot == running && r.Result == machine.ResultWritten:
		r.Result = machine.ResultTrying
	default:
		return false
	}
	return true
}

// oneReason makes a reason of what may be an error's text.
func oneReason(text string) string {
	text = strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason-len(cutReason)], "") + cutReason
	}
	return text
}

// readRecord returns the record on the card; nil if there was no update yet.
func readRecord(card string) (*record, error) {
	b, err := readSmall(filepath.Join(card, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("update: %w", err)
	}
	return parseRecord(b)
}

// writeRecord replaces the record durably.
func writeRecord(card string, r *record) error {
	b, err := r.append(nil)
	if err == nil {
		err = writeDurably(filepath.Join(card, recordFile), b, 0o600, os.Getuid())
	}
	if err != nil {
		return fmt.Errorf("update: keeping what became of it: %w", err)
	}
	return nil
}

// parseFloor reads the lowest number that may be installed: decimal, without
// leading zeros, and a newline.
func parseFloor(b []byte) (uint32, error) {
	digits, ok := strings.CutSuffix(string(b), "\n")
	n, err := strconv.ParseUint(digits, 10, 32)
	if !ok || err != nil || strconv.FormatUint(n, 10) != digits {
		return 0, fmt.Errorf("update: %.20q is no release number", b)
	}
	return uint32(n), nil
}

func readFloor(card string) (uint32, error) {
	b, err := readSmall(filepath.Join(card, floorFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("update: %w", err)
	}
	return parseFloor(b)
}

func writeFloor(card string, floor uint32) error {
	if err := writeDurably(filepath.Join(card, floorFile), fmt.Appendf(nil, "%d\n", floor), 0o600, os.Getuid()); err != nil {
		return fmt.Errorf("update: keeping the lowest number: %w", err)
	}
	return nil
}
