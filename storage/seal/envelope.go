package seal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// Limits of an envelope.
const (
	// MaxRecipients is how many keys an envelope can be sealed for: as many
	// stanzas as every envelope has.
	MaxRecipients = 40
	// MaxEpochs is how many keys a log can have. A device that has used them
	// up begins a new log.
	MaxEpochs = 4096
	// MaxEnvelopeBlocks is how many blocks an envelope within these limits
	// can fill.
	MaxEnvelopeBlocks = 3
)

// Envelope is what the writer of a log tells its readers: the keys of the log,
// the space that it belongs to, and who is in it. Its plain bytes are
//
//	offset  size      field
//	0       1         version, 1
//	1       32        log: LogID
//	33      8         index of the envelope's first block in the log
//	41      4         e: epoch that begins here, below 4,096
//	45      16        space: tag
//	61      32        space: chunk-id key
//	93      32        space: chunker key
//	125     1         n: length of the space's name, 1 to 255
//	126     n         space: name, UTF-8
//	126+n   32·(e+1)  K[L,0] … K[L,e]
//	        4         roster: number
//	        1         a: accounts, 1 to 40
//	        64·a      each, ascending: account 32 ‖ hash of its card 32
//	        1         d: devices, a + d at most 40
//	                  each, ascending: device 32 ‖ account 32 ‖ length u8 ‖ name
type Envelope struct {
	hidden
	Log    merklelog.LogID
	Index  uint64 // of the first block
	Epoch  uint32 // len(Keys) - 1
	Space  SpaceKeys
	Keys   KeyRing
	Roster Roster
}

// Roster says who is in a space. Its number grows with every change, so that
// of two rosters by the same account the newer is known.
type Roster struct {
	Number   uint32
	Accounts []RosterAccount
	Devices  []RosterDevice
}

// RosterAccount is a member: the hash pins its card, whoever delivers that.
type RosterAccount struct {
	ID   account.ID
	Card account.CardHash
}

// RosterDevice is an unrevoked device of a member and the name it goes by.
type RosterDevice struct {
	Key     account.DeviceKey
	Account account.ID
	Name    string
}

const (
	envelopeVersion = 1
	envelopeFixed   = 1 + 32 + 8 + 4 + 16 + 32 + 32 + 1
)

// check holds what the encoding promises, given rosters in order.
func (e *Envelope) check() error {
	if e.Index >= merklelog.MaxSize {
		return fmt.Errorf("index %d is beyond the largest log", e.Index)
	}
	if len(e.Keys) == 0 || len(e.Keys) > MaxEpochs {
		return fmt.Errorf("%d keys, want 1 to %d", len(e.Keys), MaxEpochs)
	}
	if int(e.Epoch) != len(e.Keys)-1 {
		return fmt.Errorf("epoch %d with %d keys", e.Epoch, len(e.Keys))
	}
	if err := checkName(e.Space.Name); err != nil {
		return fmt.Errorf("name of the space: %w", err)
	}
	return e.Roster.check()
}

func (r *Roster) check() error {
	if len(r.Accounts) == 0 {
		return errors.New("roster without accounts")
	}
	if n := len(r.Accounts) + len(r.Devices); n > MaxRecipients {
		return fmt.Errorf("roster of %d accounts and devices, at most %d", n, MaxRecipients)
	}
	for i := 1; i < len(r.Accounts); i++ {
		if compareAccounts(r.Accounts[i-1], r.Accounts[i]) >= 0 {
			return fmt.Errorf("roster: account %d out of order", i)
		}
	}
	for i, d := range r.Devices {
		if i > 0 && compareDevices(r.Devices[i-1], d) >= 0 {
			return fmt.Errorf("roster: device %d out of order", i)
		}
		if err := checkName(d.Name); err != nil {
			return fmt.Errorf("roster: name of device %d: %w", i, err)
		}
		if !slices.ContainsFunc(r.Accounts, func(a RosterAccount) bool { return a.ID == d.Account }) {
			return fmt.Errorf("roster: device %d of an account that is not in it", i)
		}
	}
	return nil
}

func compareAccounts(a, b RosterAccount) int { return bytes.Compare(a.ID[:], b.ID[:]) }
func compareDevices(a, b RosterDevice) int   { return bytes.Compare(a.Key[:], b.Key[:]) }

// AppendEnvelope appends the plain bytes of e, for SealEnvelope and for the
// device's own state. The roster may be in any order; it is written in the
// canonical one.
func AppendEnvelope(dst []byte, e *Envelope) ([]byte, error) {
	c := *e
	c.Roster.Accounts = slices.SortedFunc(slices.Values(e.Roster.Accounts), compareAccounts)
	c.Roster.Devices = slices.SortedFunc(slices.Values(e.Roster.Devices), compareDevices)
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("seal: encoding envelope: %w", err)
	}
	dst = append(dst, envelopeVersion)
	dst = append(dst, c.Log[:]...)
	dst = binary.BigEndian.AppendUint64(dst, c.Index)
	dst = binary.BigEndian.AppendUint32(dst, c.Epoch)
	dst = append(dst, c.Space.Tag[:]...)
	dst = append(dst, c.Space.ChunkID[:]...)
	dst = append(dst, c.Space.Chunker[:]...)
	dst = appendName(dst, c.Space.Name)
	for _, k := range c.Keys {
		dst = append(dst, k[:]...)
	}
	dst = binary.BigEndian.AppendUint32(dst, c.Roster.Number)
	dst = append(dst, byte(len(c.Roster.Accounts)))
	for _, a := range c.Roster.Accounts {
		dst = append(dst, a.ID[:]...)
		dst = append(dst, a.Card[:]...)
	}
	dst = append(dst, byte(len(c.Roster.Devices)))
	for _, d := range c.Roster.Devices {
		dst = append(dst, d.Key[:]...)
		dst = append(dst, d.Account[:]...)
		dst = appendName(dst, d.Name)
	}
	return dst, nil
}

func appendName(dst []byte, name string) []byte {
	return append(append(dst, byte(len(name))), name...)
}

// ParseEnvelope reads exactly the plain bytes of one envelope.
func ParseEnvelope(b []byte) (*Envelope, error) {
	e, err := parseEnvelope(b)
	if err != nil {
		return nil, fmt.Errorf("seal: reading envelope: %w", err)
	}
	return e, nil
}

func parseEnvelope(b []byte) (*Envelope, error) {
	r := reader{b: b}
	fixed := r.take(envelopeFixed)
	if r.short {
		return nil, errShort
	}
	if fixed[0] != envelopeVersion {
		return nil, fmt.Errorf("version %d, want %d", fixed[0], envelopeVersion)
	}
	e := &Envelope{
		Log:   merklelog.LogID(fixed[1:]),
		Index: binary.BigEndian.Uint64(fixed[33:]),
		Epoch: binary.BigEndian.Uint32(fixed[41:]),
	}
	copy(e.Space.Tag[:], fixed[45:])
	copy(e.Space.ChunkID[:], fixed[61:])
	copy(e.Space.Chunker[:], fixed[93:])
	e.Space.Name = string(r.take(int(fixed[125])))
	if e.Epoch >= MaxEpochs {
		return nil, fmt.Errorf("epoch %d, want less than %d", e.Epoch, MaxEpochs)
	}
	keys := r.take(32 * (int(e.Epoch) + 1))
	e.Roster.Number = r.u32()
	accounts := r.take(64 * r.count())
	devices := r.count()
	if r.short {
		return nil, errShort
	}
	e.Keys = make(KeyRing, 0, len(keys)/32)
	for k := range slices.Chunk(keys, 32) {
		e.Keys = append(e.Keys, LogKey(k))
	}
	for a := range slices.Chunk(accounts, 64) {
		e.Roster.Accounts = append(e.Roster.Accounts, RosterAccount{ID: account.ID(a), Card: account.CardHash(a[32:])})
	}
	for range devices {
		keys := r.take(64)
		name := string(r.take(r.count()))
		if r.short {
			return nil, errShort
		}
		e.Roster.Devices = append(e.Roster.Devices,
			RosterDevice{Key: account.DeviceKey(keys), Account: account.ID(keys[32:]), Name: name})
	}
	if len(r.b) != 0 {
		return nil, fmt.Errorf("%d bytes too many", len(r.b))
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	return e, nil
}

var errShort = errors.New("ends too early")

// reader takes fields off the front of b. Once b is too short, short is set
// and every further field is zero.
type reader struct {
	b     []byte
	short bool
}

// take returns the next n bytes. If there are fewer, it returns nil and sets
// short: nothing is allocated for a length that only claims to be there.
func (r *reader) take(n int) []byte {
	if r.short || n > len(r.b) {
		r.short = true
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) count() int {
	if b := r.take(1); b != nil {
		return int(b[0])
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}
