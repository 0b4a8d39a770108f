package noiseconn

import (
	"crypto/subtle"
	"errors"
	"fmt"

	"golang.org/x/crypto/blake2b"
)

// Mode is what a connection is for; it selects the Noise pattern.
type Mode uint8

const (
	// ModePair is Noise_XKpsk0: the dialler has scanned the box's QR code, and
	// the box does not know the dialler yet.
	ModePair Mode = 1
	// ModeLink is Noise_IKpsk2: both know each other.
	ModeLink Mode = 2
)

func (m Mode) String() string {
	switch m {
	case ModePair:
		return "pair"
	case ModeLink:
		return "link"
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// Version is the newest protocol version, and the one that Dial uses.
const Version = 1

// OldestVersion is the oldest version that this program still speaks: the one
// before Version, once there is one.
const OldestVersion = 1

// versions is the range of versions that one side speaks.
type versions struct{ oldest, newest uint8 }

func (v versions) contains(n uint8) bool { return v.oldest <= n && n <= v.newest }

// spoken is the range that this program speaks.
func spoken() versions { return versions{OldestVersion, Version} }

const (
	magic       = "CoBox\x00"
	headerSize  = 16 // magic, mode, version, selector
	macSize     = 16
	openingSize = headerSize + macSize

	macPrefix = "cobox/v1/opening\x00"
)

// InviteID names a pairing secret of a box. It is no secret itself.
type InviteID [8]byte

// opening is the clear text that goes before the first Noise message.
//
//	offset  size  field
//	     0     6  magic "CoBox" 0x00
//	     6     1  mode: 1 pair, 2 link
//	     7     1  version
//	     8     8  selector: the invite id in mode pair, zero in mode link
//	    16    16  MAC: keyed BLAKE2b-128, key = the box's public key, over
//	              "cobox/v1/opening" 0x00 ‖ bytes 0-15 ‖ the first Noise message
//
// The first 16 bytes are the Noise prologue, so that nobody on the way can
// change mode, version or selector. The MAC keeps whoever does not know the
// box's public key from making it compute anything but one hash.
type opening struct {
	mode     Mode
	version  uint8
	selector InviteID
}

// appendHeader appends the first 16 bytes.
func (o opening) appendHeader(b []byte) []byte {
	b = append(b, magic...)
	b = append(b, byte(o.mode), o.version)
	return append(b, o.selector[:]...)
}

var (
	errMagic    = errors.New("noiseconn: not a CoBox connection")
	errMode     = errors.New("noiseconn: unknown mode")
	errSelector = errors.New("noiseconn: selector in a link")
)

// parseHeader reads the first 16 bytes. It does not judge the version.
func parseHeader(b []byte) (opening, error) {
	if len(b) != headerSize || string(b[:len(magic)]) != magic {
		return opening{}, errMagic
	}
	o := opening{mode: Mode(b[6]), version: b[7], selector: InviteID(b[8:16])}
	switch o.mode {
	case ModePair:
	case ModeLink:
		if o.selector != (InviteID{}) {
			return opening{}, errSelector
		}
	default:
		return opening{}, errMode
	}
	return o, nil
}

// openingMAC is the MAC over the header and the first message.
func openingMAC(box StaticPublic, header, message []byte) [macSize]byte {
	h, err := blake2b.New(macSize, box[:])
	if err != nil {
		panic("noiseconn: keyed BLAKE2b-128 was refused: " + err.Error())
	}
	h.Write([]byte(macPrefix))
	h.Write(header)
	h.Write(message)
	var mac [macSize]byte
	h.Sum(mac[:0])
	return mac
}

func macEqual(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }
