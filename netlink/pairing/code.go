package pairing

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha512"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"cobox/netlink/noiseconn"
)

// Secret is the one-time secret of a code. It never prints itself.
type Secret [16]byte

const pairPSKContext = "cobox/v1/pair-psk\x00"

// NewSecret draws a secret and the invite id that goes with it.
func NewSecret() (Secret, noiseconn.InviteID) {
	var s Secret
	var id noiseconn.InviteID
	rand.Read(s[:]) // never fails
	rand.Read(id[:])
	return s, id
}

// PSK is the pre-shared key of the handshake: HKDF-Expand with SHA-512 of the
// secret, info "cobox/v1/pair-psk" 0x00 ‖ invite id.
func (s Secret) PSK(id noiseconn.InviteID) noiseconn.PSK {
	key, err := hkdf.Expand(sha512.New, s[:], pairPSKContext+string(id[:]), noiseconn.KeySize)
	if err != nil {
		panic("pairing: HKDF of fixed lengths failed: " + err.Error())
	}
	return noiseconn.PSK(key)
}

// Equal compares in constant time.
func (s Secret) Equal(o Secret) bool { return subtle.ConstantTimeCompare(s[:], o[:]) == 1 }

// String shows that there is a secret, and nothing of it.
func (s Secret) String() string { return "pairing.Secret(secret)" }

// Format keeps %x and its like from printing the secret.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// LogValue keeps the secret out of logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Code lets its holder pair with a box.
//
//	offset  size  field
//	     0     1  version, 1
//	     1     1  kind: 1 claim, 2 member, 3 partner (reserved)
//	     2    32  static key of the box
//	    34    16  secret
//	    50     8  invite id
//	    58     n  addresses, the best first, see appendAddress
//	  58+n     4  checksum
//
// in base64url without padding behind "http://cobox-xxxx.local/#".
type Code struct {
	Kind      Kind
	Box       noiseconn.StaticPublic
	Secret    Secret
	Invite    noiseconn.InviteID
	Addresses []Address // the best first; none means: look in the local network
}

const (
	codeFixed = 58

	// maxCodeText is the number of bytes that a QR code of version 7 holds at
	// its lowest level of error correction.
	maxCodeText = 154
)

// PSK is the pre-shared key of the handshake.
func (c *Code) PSK() noiseconn.PSK { return c.Secret.PSK(c.Invite) }

// Text is the text of the code. As many of the addresses go in as leave it
// within a QR code of version 7; the last ones are left out first.
func (c *Code) Text() (string, error) {
	if err := c.check(); err != nil {
		return "", fmt.Errorf("pairing: making code: %w", err)
	}
	host := HostName(c.Box)
	b := make([]byte, 0, maxCodeText)
	b = append(b, textVersion, byte(c.Kind))
	b = append(b, c.Box[:]...)
	b = append(b, c.Secret[:]...)
	b = append(b, c.Invite[:]...)
	for _, a := range c.Addresses {
		with := appendAddress(b, a)
		if encodedLen(host, len(with)) > maxCodeText {
			break
		}
		b = with
	}
	return encode(host, b), nil
}

func (c *Code) check() error {
	switch {
	case c.Kind != KindClaim && c.Kind != KindMember && c.Kind != KindPartner:
		return fmt.Errorf("a code cannot be of kind %v", c.Kind)
	case c.Box.IsZero():
		return errors.New("no static key")
	case c.Secret.Equal(Secret{}):
		return errors.New("no secret")
	}
	return checkAddresses(c.Addresses)
}

// ParseCode reads the text of a code: the whole URL or only the part behind
// "#". It fails with ErrNotCoBox, ErrNewer, ErrTruncated or ErrDamaged.
func ParseCode(s string) (*Code, error) {
	t, err := decode(s)
	if err == nil && t.kind == KindSheet {
		err = errors.New("a recovery sheet cannot pair")
	}
	if err != nil {
		return nil, fmt.Errorf("pairing: reading code: %w", err)
	}
	return t.code()
}

func (t text) code() (*Code, error) {
	if len(t.payload) < codeFixed {
		return nil, fmt.Errorf("pairing: reading code: %w", ErrDamaged)
	}
	p := t.payload
	c := &Code{
		Kind:   t.kind,
		Box:    noiseconn.StaticPublic(p[2:34]),
		Secret: Secret(p[34:50]),
		Invite: noiseconn.InviteID(p[50:58]),
	}
	var err error
	if c.Addresses, err = parseAddresses(p[codeFixed:]); err == nil {
		err = c.check()
	}
	if err == nil && t.host != "" && t.host != HostName(c.Box) {
		err = errors.New("the URL names another box")
	}
	if err == nil && encodedLen(HostName(c.Box), len(p)) > maxCodeText {
		err = errors.New("too long")
	}
	if err != nil {
		return nil, fmt.Errorf("pairing: reading code: %w: %w", ErrDamaged, err)
	}
	return c, nil
}
