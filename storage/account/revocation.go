package account

import (
	"bytes"
	"cmp"
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"cobox/storage/merklelog"
)

// Revocation ends a device of an account, at once wherever it is known.
//
//	offset   size   field
//	0        1      version, 1
//	1        32     account: Ed25519 public key
//	33       4      number: 1 for the account's first revocation, then one more each time
//	37       32     device: Ed25519 public key
//	69       2      n, number of positions, at most 4,096
//	71       72·n   positions, ascending by log: LogID 32 ‖ size u64 ‖ root 32
//	71+72·n  64     Ed25519 signature of the account over "cobox/v1/revocation\0" ‖ the 71 + 72·n bytes before
//	135+72·n        end
//
// A position says up to which block of one of the device's logs the account
// stands by it. A log of the device that is not named counts as empty.
type Revocation struct {
	Account ID
	Number  uint32
	Device  DeviceKey
	Logs    []merklelog.Position
	Sig     [SignatureSize]byte
}

const (
	revocationFixed = 1 + 32 + 4 + 32 + 2
	positionSize    = 32 + 8 + 32
)

// MaxRevocationLogs is how many positions a revocation can carry: as many as
// an account can have logs.
const MaxRevocationLogs = 4096

// MaxRevocationSize is the length of the longest encoded revocation, 295,047 bytes.
const MaxRevocationSize = revocationFixed + MaxRevocationLogs*positionSize + SignatureSize

// SignRevocation sorts r.Logs and fills in the signature. The key must be that
// of r.Account.
func SignRevocation(r *Revocation, key crypto.Signer) (err error) {
	slices.SortFunc(r.Logs, func(a, b merklelog.Position) int {
		return cmp.Or(bytes.Compare(a.Log[:], b.Log[:]), cmp.Compare(a.Size, b.Size))
	})
	if err = r.check(); err == nil {
		r.Sig, err = sign(key, r.Account, revocationContext, r.appendBody(nil))
	}
	if err != nil {
		return fmt.Errorf("account: signing revocation: %w", err)
	}
	return nil
}

// Verify checks the form and the account's signature. A bad signature is
// ErrSignature.
func (r *Revocation) Verify() error {
	err := r.check()
	if err == nil {
		err = verify(r.Account, revocationContext, r.appendBody(nil), &r.Sig)
	}
	if err != nil {
		return fmt.Errorf("account: verifying revocation: %w", err)
	}
	return nil
}

// Stands returns how many of the first blocks of a log of the device the
// account still stands by, and the root at that size.
func (r *Revocation) Stands(log merklelog.LogID) (size uint64, root merklelog.Hash) {
	i, found := slices.BinarySearchFunc(r.Logs, log, func(p merklelog.Position, id merklelog.LogID) int {
		return bytes.Compare(p.Log[:], id[:])
	})
	if !found {
		return 0, merklelog.EmptyRoot()
	}
	return r.Logs[i].Size, r.Logs[i].Root
}

// check holds what the encoding promises: numbered from 1, at most
// MaxRevocationLogs positions, each log once and in order.
func (r *Revocation) check() error {
	if r.Number == 0 {
		return errors.New("number is 0, the first is 1")
	}
	if len(r.Logs) > MaxRevocationLogs {
		return fmt.Errorf("%d positions, at most %d", len(r.Logs), MaxRevocationLogs)
	}
	for i, p := range r.Logs {
		if p.Size == 0 || p.Size > merklelog.MaxSize {
			return fmt.Errorf("position %d: size %d is not between 1 and %d", i, p.Size, uint64(merklelog.MaxSize))
		}
		if i > 0 && bytes.Compare(r.Logs[i-1].Log[:], p.Log[:]) >= 0 {
			return fmt.Errorf("position %d: logs are not in ascending order", i)
		}
	}
	return nil
}

// AppendRevocation appends the encoding of r, which must have been signed or
// verified.
func AppendRevocation(dst []byte, r *Revocation) []byte {
	return append(r.appendBody(dst), r.Sig[:]...)
}

func (r *Revocation) appendBody(dst []byte) []byte {
	dst = append(dst, Version)
	dst = append(dst, r.Account[:]...)
	dst = binary.BigEndian.AppendUint32(dst, r.Number)
	dst = append(dst, r.Device[:]...)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(r.Logs)))
	for _, p := range r.Logs {
		dst = merklelog.AppendPosition(dst, p)
	}
	return dst
}

// ParseRevocation reads exactly one revocation. It does not verify it.
func ParseRevocation(b []byte) (*Revocation, error) {
	r, err := parseRevocation(b)
	if err != nil {
		return nil, fmt.Errorf("account: parsing revocation: %w", err)
	}
	return r, nil
}

func parseRevocation(b []byte) (*Revocation, error) {
	if len(b) < revocationFixed+SignatureSize {
		return nil, fmt.Errorf("%d bytes, want at least %d", len(b), revocationFixed+SignatureSize)
	}
	f := fields(b)
	if err := checkVersion(f.u8()); err != nil {
		return nil, err
	}
	r := new(Revocation)
	f.take(r.Account[:])
	r.Number = f.u32()
	f.take(r.Device[:])
	n := int(f.u16())
	if n > MaxRevocationLogs {
		return nil, fmt.Errorf("%d positions, at most %d", n, MaxRevocationLogs)
	}
	if want := n*positionSize + SignatureSize; len(f) != want {
		return nil, fmt.Errorf("%d bytes after the count of %d positions, want %d", len(f), n, want)
	}
	if n > 0 {
		r.Logs = make([]merklelog.Position, n)
	}
	for i := range r.Logs {
		p, err := merklelog.ParsePosition(f[:positionSize])
		if err != nil {
			return nil, fmt.Errorf("position %d: %w", i, err)
		}
		r.Logs[i] = p
		f = f[positionSize:]
	}
	f.take(r.Sig[:])
	if err := r.check(); err != nil {
		return nil, err
	}
	return r, nil
}
