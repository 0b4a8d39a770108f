package roster

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
	"cobox/storage/account"
)

// Keys are one byte that says what the record is, and what it is about.
const (
	kindBox         = 'b' //
	kindMember      = 'm' // account 32
	kindCard        = 'a' // account 32; value: the card's own form
	kindDevice      = 'd' // device 32
	kindCertificate = 'c' // device 32; value: the certificate's own form
	kindSeen        = 's' // device 32
	kindCounter     = 'n' // account 32 ‖ device 32
	kindRevocation  = 'r' // account 32 ‖ number u32; value: the revocation's own form
	kindInvite      = 'i' // invite id 8
	kindKey         = 'k' // X25519 public key 32
)

var keySizes = map[byte]int{
	kindBox: 0, kindMember: 32, kindCard: 32, kindDevice: 32, kindCertificate: 32,
	kindSeen: 32, kindCounter: 64, kindRevocation: 36, kindInvite: 8, kindKey: 32,
}

func recordKey(kind byte, id []byte) []byte { return append([]byte{kind}, id...) }

func splitKey(key []byte) (kind byte, id []byte) {
	if len(key) == 0 {
		return 0, nil
	}
	return key[0], key[1:]
}

func boxKey() []byte                            { return []byte{kindBox} }
func memberKey(id account.ID) []byte            { return recordKey(kindMember, id[:]) }
func cardKey(id account.ID) []byte              { return recordKey(kindCard, id[:]) }
func deviceKey(k account.DeviceKey) []byte      { return recordKey(kindDevice, k[:]) }
func certificateKey(k account.DeviceKey) []byte { return recordKey(kindCertificate, k[:]) }
func seenKey(k account.DeviceKey) []byte        { return recordKey(kindSeen, k[:]) }
func counterKey(k certified) []byte {
	return append(recordKey(kindCounter, k.account[:]), k.device[:]...)
}
func inviteKey(id noiseconn.InviteID) []byte     { return recordKey(kindInvite, id[:]) }
func administratorKey(k account.NoiseKey) []byte { return recordKey(kindKey, k[:]) }
func revocationKey(id account.ID, n uint32) []byte {
	return binary.BigEndian.AppendUint32(recordKey(kindRevocation, id[:]), n)
}

// recordVersion is the version of all records below. They are JSON in the one
// form that encoding/json gives them: a record that is not byte for byte what
// its own encoding would be is refused, so unknown, repeated and reordered
// fields are too.
const recordVersion = 1

// Stamp is a moment on both of the box's clocks.
type Stamp struct {
	Elapsed int64 `json:"elapsed"` // milliseconds that the box had been running; decides
	Wall    int64 `json:"wall"`    // seconds since 1970 as the box knew it; for people
}

type boxRecord struct {
	V    int    `json:"v"`
	Name string `json:"name"`
}

type memberRecord struct {
	V             int              `json:"v"`
	Name          string           `json:"name"`
	Administrator bool             `json:"administrator"`
	Quota         uint64           `json:"quota"` // bytes; Unlimited: 2^64-1
	Recovery      account.NoiseKey `json:"recovery"`
	RecoveryPSK   hex32            `json:"recovery_psk"`
	Joined        Stamp            `json:"joined"`
	Removed       *Stamp           `json:"removed"`
}

type deviceRecord struct {
	V       int              `json:"v"`
	Account account.ID       `json:"account"`
	Noise   account.NoiseKey `json:"noise"`
	PSK     hex32            `json:"psk"`
	Name    string           `json:"name"`
	Joined  Stamp            `json:"joined"`
}

type inviteRecord struct {
	V         int                `json:"v"`
	Role      Role               `json:"role"`
	Secret    hex16              `json:"secret"`
	Name      string             `json:"name"`
	Quota     uint64             `json:"quota"`
	Created   Stamp              `json:"created"`
	Lifetime  int64              `json:"lifetime"` // milliseconds; 0: does not expire
	UsedBy    *account.DeviceKey `json:"used_by"`
	Used      *Stamp             `json:"used"`
	Cancelled *Stamp             `json:"cancelled"`
}

type keyRecord struct {
	V     int    `json:"v"`
	Name  string `json:"name"`
	PSK   hex32  `json:"psk"`
	Added Stamp  `json:"added"`
}

// counterRecord counts the new logs that a device was granted on one day of
// the box's own time.
type counterRecord struct {
	V     int   `json:"v"`
	Day   int64 `json:"day"`
	Count int   `json:"count"`
}

type seenRecord struct {
	V  int   `json:"v"`
	At Stamp `json:"at"`
}

// hex32 and hex16 hold secrets: in a record as hexadecimal digits, elsewhere
// as nothing.
type (
	hex32 [32]byte
	hex16 [16]byte
)

func (h hex32) MarshalText() ([]byte, error)     { return hexText(h[:]), nil }
func (h *hex32) UnmarshalText(text []byte) error { return parseHex(h[:], text) }
func (h hex32) String() string                   { return "secret" }
func (h hex32) Format(s fmt.State, _ rune)       { io.WriteString(s, h.String()) }
func (h hex16) MarshalText() ([]byte, error)     { return hexText(h[:]), nil }
func (h *hex16) UnmarshalText(text []byte) error { return parseHex(h[:], text) }
func (h hex16) String() string                   { return "secret" }
func (h hex16) Format(s fmt.State, _ rune)       { io.WriteString(s, h.String()) }

func hexText(b []byte) []byte { return []byte(hex.EncodeToString(b)) }

func parseHex(dst, text []byte) error {
	if len(text) != 2*len(dst) || strings.ToLower(string(text)) != string(text) {
		return fmt.Errorf("want %d lower-case hexadecimal digits", 2*len(dst))
	}
	_, err := hex.Decode(dst, text)
	return err
}

// maxRecord bounds a JSON record; the longest has some 600 bytes.
const maxRecord = 4096

func appendRecord(rec any) []byte {
	b, err := json.Marshal(rec)
	if err != nil {
		panic("roster: a record cannot be encoded: " + err.Error())
	}
	return b
}

func parseRecord[T any](b []byte, version func(*T) int, check func(*T) error) (*T, error) {
	if len(b) > maxRecord {
		return nil, fmt.Errorf("%d bytes, at most %d", len(b), maxRecord)
	}
	rec := new(T)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(rec); err != nil {
		return nil, err
	}
	if v := version(rec); v != recordVersion {
		return nil, fmt.Errorf("version %d, want %d", v, recordVersion)
	}
	if !bytes.Equal(appendRecord(rec), b) {
		return nil, errors.New("not in canonical form")
	}
	if check != nil {
		if err := check(rec); err != nil {
			return nil, err
		}
	}
	return rec, nil
}

func parseBox(b []byte) (*boxRecord, error) {
	return parseRecord(b, func(r *boxRecord) int { return r.V }, func(r *boxRecord) error { return pairing.CheckName(r.Name) })
}

func parseMember(b []byte) (*memberRecord, error) {
	return parseRecord(b, func(r *memberRecord) int { return r.V }, func(r *memberRecord) error {
		return errors.Join(checkOptionalName(r.Name), checkSecret(r.RecoveryPSK[:]))
	})
}

func parseDevice(b []byte) (*deviceRecord, error) {
	return parseRecord(b, func(r *deviceRecord) int { return r.V }, func(r *deviceRecord) error {
		return errors.Join(checkOptionalName(r.Name), checkSecret(r.PSK[:]))
	})
}

func parseInvite(b []byte) (*inviteRecord, error) {
	return parseRecord(b, func(r *inviteRecord) int { return r.V }, func(r *inviteRecord) error {
		switch {
		case r.Role != RoleClaim && r.Role != RoleMember:
			return fmt.Errorf("role %q is not known", r.Role)
		case r.Lifetime < 0:
			return errors.New("a lifetime below zero")
		case (r.UsedBy == nil) != (r.Used == nil):
			return errors.New("used, but not by anybody or at no time")
		}
		return errors.Join(checkOptionalName(r.Name), checkSecret(r.Secret[:]))
	})
}

func parseKey(b []byte) (*keyRecord, error) {
	return parseRecord(b, func(r *keyRecord) int { return r.V }, func(r *keyRecord) error {
		return errors.Join(checkOptionalName(r.Name), checkSecret(r.PSK[:]))
	})
}

func parseCounter(b []byte) (*counterRecord, error) {
	return parseRecord(b, func(r *counterRecord) int { return r.V }, func(r *counterRecord) error {
		if r.Count < 0 {
			return errors.New("a count below zero")
		}
		return nil
	})
}

func parseSeen(b []byte) (*seenRecord, error) {
	return parseRecord(b, func(r *seenRecord) int { return r.V }, nil)
}

func checkOptionalName(name string) error {
	if name == "" {
		return nil
	}
	return pairing.CheckName(name)
}

func checkSecret(b []byte) error {
	for _, x := range b {
		if x != 0 {
			return nil
		}
	}
	return errors.New("a secret is all zero")
}
