package pairing

import (
	"errors"
	"fmt"

	"cobox/netlink/noiseconn"
	"cobox/storage/account"
)

// Limits of a recovery sheet.
const (
	MaxSheetBoxes = 10

	// maxSheetText is the number of bytes that a QR code of version 25 holds at
	// error correction level M: 117 modules a side, which a phone still reads
	// from a printed page.
	maxSheetText = 997
	maxPayload   = 1024 // of any text, before its digits are even looked at
)

// SheetBox is one box of a recovery sheet.
type SheetBox struct {
	Name      string // as CheckName wants it, at most MaxSheetName bytes
	Box       noiseconn.StaticPublic
	Addresses []Address // the best first
}

// Sheet is what a recovery sheet tells a machine: which account it is and where
// its boxes are. With the recovery phrase it brings everything back; alone it
// opens nothing.
//
//	offset  size  field
//	     0     1  version, 1
//	     1     1  kind, 16
//	     2    32  account
//	    34     1  number of boxes, 0 to 10
//	    35        for each box:
//	              32  static key
//	               1  length of the name, 1 to 32
//	               n  name
//	               1  number of addresses
//	               m  addresses, the best first
//	           4  checksum
//
// in base64url without padding behind "http://cobox.local/#".
type Sheet struct {
	Account account.ID // so that a wrong phrase is noticed before any box is asked
	Boxes   []SheetBox
}

const sheetFixed = 35

// Text is the text of the sheet. While it would be too long, the box whose
// addresses take the most bytes loses its last one; with eight boxes, none loses
// addresses of 20 bytes or less, which is one IPv6 or two IPv4 addresses.
func (s *Sheet) Text() (string, error) {
	if err := s.check(); err != nil {
		return "", fmt.Errorf("pairing: making sheet: %w", err)
	}
	kept := make([]int, len(s.Boxes))
	for i, b := range s.Boxes {
		kept[i] = min(len(b.Addresses), 255)
	}
	for {
		p := s.payload(kept)
		if encodedLen(sheetHost, len(p)) <= maxSheetText {
			return encode(sheetHost, p), nil
		}
		most, size := 0, 0
		for i, b := range s.Boxes {
			if n := addressBytes(b.Addresses[:kept[i]]); n > size {
				most, size = i, n
			}
		}
		if size == 0 {
			panic("pairing: the limits of a sheet do not fit each other")
		}
		kept[most]--
	}
}

func (s *Sheet) payload(kept []int) []byte {
	p := append([]byte{textVersion, byte(KindSheet)}, s.Account[:]...)
	p = append(p, byte(len(s.Boxes)))
	for i, b := range s.Boxes {
		p = append(p, b.Box[:]...)
		p = append(p, byte(len(b.Name)))
		p = append(p, b.Name...)
		p = append(p, byte(kept[i]))
		for _, a := range b.Addresses[:kept[i]] {
			p = appendAddress(p, a)
		}
	}
	return p
}

func addressBytes(list []Address) int {
	var b []byte
	for _, a := range list {
		b = appendAddress(b, a)
	}
	return len(b)
}

func (s *Sheet) check() error {
	if s.Account == (account.ID{}) {
		return errors.New("no account")
	}
	if len(s.Boxes) > MaxSheetBoxes {
		return fmt.Errorf("%d boxes, at most %d fit", len(s.Boxes), MaxSheetBoxes)
	}
	for i, b := range s.Boxes {
		if b.Box.IsZero() {
			return fmt.Errorf("box %d: no static key", i)
		}
		if err := checkName(b.Name, MaxSheetName); err != nil {
			return fmt.Errorf("box %d: %w", i, err)
		}
		if err := checkAddresses(b.Addresses); err != nil {
			return fmt.Errorf("box %d: %w", i, err)
		}
		for _, o := range s.Boxes[:i] {
			if o.Box.Equal(b.Box) {
				return fmt.Errorf("box %d is there twice", i)
			}
		}
	}
	return nil
}

// ParseSheet reads the text of a sheet: the whole URL or only the part behind
// "#". It fails with ErrNotCoBox, ErrNewer, ErrTruncated or ErrDamaged.
func ParseSheet(s string) (*Sheet, error) {
	t, err := decode(s)
	if err == nil && t.kind != KindSheet {
		err = errors.New("not a recovery sheet but the code of a box")
	}
	if err != nil {
		return nil, fmt.Errorf("pairing: reading sheet: %w", err)
	}
	return t.sheet()
}

func (t text) sheet() (*Sheet, error) {
	s, err := parseSheet(t.payload)
	if err == nil {
		err = s.check()
	}
	if err == nil && t.host != "" && t.host != sheetHost {
		err = errors.New("the URL names a box")
	}
	if err == nil && encodedLen(sheetHost, len(t.payload)) > maxSheetText {
		err = errors.New("too long")
	}
	if err != nil {
		return nil, fmt.Errorf("pairing: reading sheet: %w: %w", ErrDamaged, err)
	}
	return s, nil
}

func parseSheet(p []byte) (*Sheet, error) {
	if len(p) < sheetFixed {
		return nil, errShort
	}
	s := &Sheet{Account: account.ID(p[2:34])}
	count := int(p[34])
	if count > MaxSheetBoxes {
		return nil, errors.New("too many boxes")
	}
	p = p[sheetFixed:]
	for range count {
		if len(p) < 34 || len(p) < 34+int(p[32]) {
			return nil, errShort
		}
		b := SheetBox{Box: noiseconn.StaticPublic(p[:32])}
		n := int(p[32])
		b.Name = string(p[33 : 33+n])
		addresses := int(p[33+n])
		p = p[34+n:]
		for range addresses {
			a, rest, err := parseAddress(p)
			if err != nil {
				return nil, err
			}
			b.Addresses, p = append(b.Addresses, a), rest
		}
		s.Boxes = append(s.Boxes, b)
	}
	if len(p) > 0 {
		return nil, errors.New("something behind the last box")
	}
	return s, nil
}
