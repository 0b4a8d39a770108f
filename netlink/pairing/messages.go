package pairing

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"cobox/netlink/noiseconn"
	"cobox/storage/account"
)

// The messages of the exchange. Each is
//
//	offset  size  field
//	     0     1  type: 1 enroll, 2 enrolled, 3 refused
//	     1     2  n, length of the body
//	     3     n  body
type messageType uint8

const (
	messageEnroll   messageType = 1
	messageEnrolled messageType = 2
	messageRefused  messageType = 3

	messageHeader = 3
	maxMessage    = 4096 // body, of any type
)

// Enrollment is what a device tells a box that it pairs with.
//
//	offset  size  field
//	     0  1345  account card
//	  1345  1389  certificate of the device
//	  2734    32  rec_psk, the account's recovery secret for this box
//	  2766     1  n, length of the device's name, 1 to 64
//	  2767     n  name of the device
type Enrollment struct {
	Card        *account.Card
	Certificate *account.Certificate
	RecoveryPSK noiseconn.PSK
	DeviceName  string // as CheckName wants it
}

const enrollmentFixed = account.CardSize + account.CertificateSize + noiseconn.KeySize + 1

// AppendEnrollment appends the body of the message.
func AppendEnrollment(b []byte, e *Enrollment) ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("pairing: making enrollment: %w", err)
	}
	b = account.AppendCard(b, e.Card)
	b = account.AppendCertificate(b, e.Certificate)
	b = append(b, e.RecoveryPSK[:]...)
	b = append(b, byte(len(e.DeviceName)))
	return append(b, e.DeviceName...), nil
}

// ParseEnrollment reads exactly one body. It verifies no signature.
func ParseEnrollment(b []byte) (*Enrollment, error) {
	e, err := parseEnrollment(b)
	if err == nil {
		err = e.check()
	}
	if err != nil {
		return nil, fmt.Errorf("pairing: parsing enrollment: %w", err)
	}
	return e, nil
}

func parseEnrollment(b []byte) (*Enrollment, error) {
	if len(b) < enrollmentFixed {
		return nil, errShort
	}
	e := new(Enrollment)
	var err error
	if e.Card, err = account.ParseCard(b[:account.CardSize]); err != nil {
		return nil, err
	}
	b = b[account.CardSize:]
	if e.Certificate, err = account.ParseCertificate(b[:account.CertificateSize]); err != nil {
		return nil, err
	}
	b = b[account.CertificateSize:]
	e.RecoveryPSK = noiseconn.PSK(b[:noiseconn.KeySize])
	b = b[noiseconn.KeySize:]
	if len(b) != 1+int(b[0]) {
		return nil, errors.New("name of the wrong length")
	}
	e.DeviceName = string(b[1:])
	return e, nil
}

func (e *Enrollment) check() error {
	switch {
	case e.Card == nil || e.Certificate == nil:
		return errors.New("no card or no certificate")
	case e.RecoveryPSK.IsZero():
		return errors.New("no recovery secret")
	}
	return checkName(e.DeviceName, MaxName)
}

// Verify checks the signatures, that card and certificate are of one account,
// and that the certificate is that of the device at the other end.
func (e *Enrollment) Verify(remote noiseconn.StaticPublic) error {
	err := e.Card.Verify()
	if err == nil {
		err = e.Certificate.Verify()
	}
	switch {
	case err != nil:
	case e.Certificate.Account != e.Card.ID:
		err = errors.New("card and certificate are of two accounts")
	case !remote.Equal(noiseconn.StaticPublic(e.Certificate.Noise)):
		err = errors.New("certificate of another device")
	}
	if err != nil {
		return fmt.Errorf("pairing: verifying enrollment: %w", err)
	}
	return nil
}

// Role is what an account, or a box, is to the box it has paired with.
type Role uint8

const (
	RoleAdministrator Role = 1 // and member without limit
	RoleMember        Role = 2
	RolePartner       Role = 3 // reserved
)

func (r Role) String() string {
	switch r {
	case RoleAdministrator:
		return "administrator"
	case RoleMember:
		return "member"
	case RolePartner:
		return "partner"
	}
	return fmt.Sprintf("role(%d)", uint8(r))
}

// BoxKey is the Ed25519 public key with which a box signs receipts. Its text
// form is "box:" and 64 hex digits.
type BoxKey [32]byte

func (k BoxKey) String() string { return "box:" + hex.EncodeToString(k[:]) }

// Enrolled is a box's answer to a device that it has taken in.
//
//	offset  size  field
//	     0     1  role: 1 administrator, 2 member, 3 partner (reserved)
//	     1     8  quota in bytes, 0 for none
//	     9    32  Ed25519 key with which the box signs
//	    41    32  link PSK of this device
//	    73     1  n, length of the box's name, 1 to 64
//	    74     n  name of the box
//	  74+n     m  addresses of the box, the best first, see appendAddress
type Enrolled struct {
	Role       Role
	Quota      uint64 // 0: no limit
	SigningKey BoxKey
	LinkPSK    noiseconn.PSK
	BoxName    string    // as CheckName wants it
	Addresses  []Address // at most MaxAddresses
}

// MaxAddresses is the most addresses that a box tells of itself.
const MaxAddresses = 8

const enrolledFixed = 1 + 8 + 32 + noiseconn.KeySize + 1

// AppendEnrolled appends the body of the message.
func AppendEnrolled(b []byte, e *Enrolled) ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("pairing: making answer: %w", err)
	}
	b = append(b, byte(e.Role))
	b = binary.BigEndian.AppendUint64(b, e.Quota)
	b = append(b, e.SigningKey[:]...)
	b = append(b, e.LinkPSK[:]...)
	b = append(b, byte(len(e.BoxName)))
	b = append(b, e.BoxName...)
	for _, a := range e.Addresses {
		b = appendAddress(b, a)
	}
	return b, nil
}

// ParseEnrolled reads exactly one body.
func ParseEnrolled(b []byte) (*Enrolled, error) {
	e, err := parseEnrolled(b)
	if err == nil {
		err = e.check()
	}
	if err != nil {
		return nil, fmt.Errorf("pairing: parsing answer: %w", err)
	}
	return e, nil
}

func parseEnrolled(b []byte) (*Enrolled, error) {
	if len(b) < enrolledFixed || len(b) < enrolledFixed+int(b[enrolledFixed-1]) {
		return nil, errShort
	}
	e := &Enrolled{
		Role:       Role(b[0]),
		Quota:      binary.BigEndian.Uint64(b[1:]),
		SigningKey: BoxKey(b[9:41]),
		LinkPSK:    noiseconn.PSK(b[41:73]),
	}
	n := int(b[73])
	e.BoxName = string(b[74 : 74+n])
	var err error
	e.Addresses, err = parseAddresses(b[74+n:])
	return e, err
}

func (e *Enrolled) check() error {
	switch {
	case e.Role < RoleAdministrator || e.Role > RolePartner:
		return fmt.Errorf("unknown %v", e.Role)
	case e.SigningKey == BoxKey{}:
		return errors.New("no signing key")
	case e.LinkPSK.IsZero():
		return errors.New("no link secret")
	case len(e.Addresses) > MaxAddresses:
		return fmt.Errorf("%d addresses, at most %d are possible", len(e.Addresses), MaxAddresses)
	}
	if err := checkName(e.BoxName, MaxName); err != nil {
		return err
	}
	return checkAddresses(e.Addresses)
}

// Refusal says why a box does not take a device in. Whoever learns it has the
// secret of the code.
type Refusal uint8

const (
	RefusedUsed           Refusal = 1 // another device has used this secret
	RefusedExpired        Refusal = 2 // the invite was for a time that is over
	RefusedUnknown        Refusal = 3 // no such invite, or cancelled
	RefusedClaimed        Refusal = 4 // the box has an administrator already
	RefusedFull           Refusal = 5 // the box has no room for another member
	RefusedRevoked        Refusal = 6 // the device was revoked by its account
	RefusedBadCertificate Refusal = 7 // the records do not verify
	RefusedBusy           Refusal = 8 // not now, for a reason of the box's own; try again
)

func (r Refusal) String() string {
	names := [...]string{"", "used", "expired", "unknown", "claimed", "full", "revoked", "bad certificate", "busy"}
	if r == 0 || int(r) >= len(names) {
		return fmt.Sprintf("refusal(%d)", uint8(r))
	}
	return names[r]
}

// RefusedError is a refusal as an error: an Enroller returns one to refuse, and
// Join returns what the box answered.
type RefusedError struct{ Refusal Refusal }

func (e *RefusedError) Error() string { return "pairing: the box refuses: " + e.Refusal.String() }

// AppendRefused appends the body of the message: one byte, the refusal.
func AppendRefused(b []byte, r Refusal) []byte { return append(b, byte(r)) }

// ParseRefused reads exactly one body.
func ParseRefused(b []byte) (Refusal, error) {
	if len(b) != 1 || b[0] == 0 || Refusal(b[0]) > RefusedBusy {
		return 0, errors.New("pairing: parsing refusal: unknown")
	}
	return Refusal(b[0]), nil
}
