package pairing

import (
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"
)

// Limits of the names of devices and boxes, in bytes.
const (
	MaxName      = 64
	MaxSheetName = 32 // on a recovery sheet
)

// CheckName tells whether a device or a box can have this name: 1 to 64 bytes of
// printable UTF-8 without spaces at its ends.
func CheckName(name string) error {
	if err := checkName(name, MaxName); err != nil {
		return fmt.Errorf("pairing: %w", err)
	}
	return nil
}

func checkName(name string, most int) error {
	switch {
	case name == "":
		return errors.New("empty name")
	case len(name) > most:
		return fmt.Errorf("name of %d bytes, at most %d are possible", len(name), most)
	case !utf8.ValidString(name):
		return errors.New("name that is not UTF-8")
	case name[0] == ' ' || name[len(name)-1] == ' ':
		return errors.New("name with a space at an end")
	}
	for _, r := range name {
		if !unicode.IsPrint(r) {
			return errors.New("name with a character that does not print")
		}
	}
	return nil
}

// ShortName cuts a name, between characters, to what fits on a recovery sheet.
func ShortName(name string) string {
	if len(name) <= MaxSheetName {
		return name
	}
	n := MaxSheetName
	for n > 0 && (!utf8.RuneStart(name[n]) || name[n-1] == ' ') {
		n--
	}
	return name[:n]
}
