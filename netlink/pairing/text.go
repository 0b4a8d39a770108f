package pairing

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"cobox/netlink/noiseconn"
)

// What a text can have wrong with it, for the hint that a person needs.
var (
	// ErrNotCoBox: the text has nothing to do with CoBox.
	ErrNotCoBox = errors.New("not a CoBox code")
	// ErrNewer: the text was made by a newer version of CoBox.
	ErrNewer = errors.New("code of a newer version of CoBox")
	// ErrTruncated: a CoBox code whose end is missing.
	ErrTruncated = errors.New("CoBox code whose end is missing")
	// ErrDamaged: a CoBox code that was changed, such as by a typing error.
	ErrDamaged = errors.New("CoBox code with an error in it")
)

// textVersion is the version of both payloads.
const textVersion = 1

// Kind says what a code is for.
type Kind uint8

const (
	KindClaim   Kind = 1  // whoever holds it becomes the box's administrator
	KindMember  Kind = 2  // admits a member with a quota
	KindPartner Kind = 3  // reserved: admits another box
	KindSheet   Kind = 16 // recovery sheet; no secret
)

func (k Kind) String() string {
	switch k {
	case KindClaim:
		return "claim"
	case KindMember:
		return "member"
	case KindPartner:
		return "partner"
	case KindSheet:
		return "sheet"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

const (
	checksumSize    = 4
	checksumContext = "cobox/v1/code\x00"
	nameContext     = "cobox/v1/name\x00"

	urlScheme = "http://"
	urlSuffix = ".local/#"
	sheetHost = "cobox"
)

// checksum is the first 4 bytes of SHA-256("cobox/v1/code" 0x00 ‖ payload).
// It is in the payload of every version and kind, so that a typing error is
// told from a newer version.
func checksum(payload []byte) []byte {
	sum := sha256.Sum256(append([]byte(checksumContext), payload...))
	return sum[:checksumSize]
}

// HostName is the name of a box in the local network, without ".local":
// "cobox-" and the first 20 bits of SHA-256("cobox/v1/name" 0x00 ‖ static key)
// as 4 characters of lower-case base 32.
func HostName(box noiseconn.StaticPublic) string {
	sum := sha256.Sum256(append([]byte(nameContext), box[:]...))
	return "cobox-" + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:5]))[:4]
}

// encode makes the text of a payload that lacks only its checksum.
func encode(host string, payload []byte) string {
	payload = append(payload, checksum(payload)...)
	return urlScheme + host + urlSuffix + base64.RawURLEncoding.EncodeToString(payload)
}

// encodedLen is the length of what encode makes of n bytes.
func encodedLen(host string, n int) int {
	return len(urlScheme) + len(host) + len(urlSuffix) + base64.RawURLEncoding.EncodedLen(n+checksumSize)
}

// text is a decoded text. The checksum has been verified and taken off.
type text struct {
	host    string // of the URL in lower case, empty if only the payload was given
	kind    Kind
	payload []byte // all but the checksum, with version and kind
}

// decode takes a text apart: the whole URL or only the payload, with white
// space around it. It says what kind of thing is wrong with it.
func decode(s string) (text, error) {
	s = strings.TrimSpace(s)
	var t text
	digits := s
	if url, fragment, ok := strings.Cut(s, "#"); ok {
		host, ok := cutFold(url+"#", urlScheme, urlSuffix)
		if !ok || host != sheetHost && !strings.HasPrefix(host, sheetHost+"-") {
			return t, ErrNotCoBox
		}
		t.host, digits = host, fragment
	} else if _, ok := cutFold(s, urlScheme, ""); ok && strings.HasPrefix(strings.ToLower(s), urlScheme+sheetHost) {
		return t, ErrTruncated // a URL of ours without the part behind #
	}
	ours := t.host != "" || looksOurs(digits)
	if strings.ContainsAny(digits, "\r\n") { // which the decoder would skip
		return t, ErrNotCoBox
	}
	if len(digits) > base64.RawURLEncoding.EncodedLen(maxPayload) {
		return t, ErrNotCoBox
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(digits)
	if err != nil {
		switch {
		case !ours:
			return t, ErrNotCoBox
		case strings.Trim(digits, base64Digits) != "":
			return t, ErrDamaged
		}
		return t, ErrTruncated // cut within a group of four
	}
	if len(raw) < 2+checksumSize {
		if ours {
			return t, ErrTruncated
		}
		return t, ErrNotCoBox
	}
	body := raw[:len(raw)-checksumSize]
	t.kind = Kind(body[1])
	t.payload = body
	if !bytes.Equal(checksum(body), raw[len(body):]) {
		switch {
		case !ours:
			return t, ErrNotCoBox
		case len(body) < leastPayload(t.kind):
			return t, ErrTruncated
		}
		return t, ErrDamaged
	}
	if body[0] == 0 {
		return t, ErrDamaged
	}
	if body[0] > textVersion || leastPayload(t.kind) == 0 {
		return t, ErrNewer
	}
	return t, nil
}

// looksOurs tells whether a payload without its URL begins like one of this
// version.
func looksOurs(digits string) bool {
	if len(digits) < 4 {
		return false
	}
	b, err := base64.RawURLEncoding.DecodeString(digits[:4])
	return err == nil && len(b) == 3 && b[0] == textVersion && leastPayload(Kind(b[1])) > 0
}

const base64Digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// leastPayload is the least length of a kind's payload, 0 for an unknown kind.
func leastPayload(k Kind) int {
	switch k {
	case KindClaim, KindMember, KindPartner:
		return codeFixed
	case KindSheet:
		return sheetFixed
	}
	return 0
}

// cutFold cuts an ASCII prefix and suffix in any case and gives what is between
// in lower case.
func cutFold(s, prefix, suffix string) (string, bool) {
	s = strings.ToLower(s)
	s, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return "", false
	}
	return strings.CutSuffix(s, suffix)
}

// ParseAny reads any text of this package and returns a *Code or a *Sheet. It
// takes the whole URL or only the part behind "#".
func ParseAny(s string) (any, error) {
	t, err := decode(s)
	if err != nil {
		return nil, fmt.Errorf("pairing: reading code: %w", err)
	}
	if t.kind == KindSheet {
		return t.sheet()
	}
	return t.code()
}
