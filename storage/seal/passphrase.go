package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
)

// What a passphrase wraps is small: a device's keys and what it keeps beside
// them.
const (
	maxWrapped = 1 << 20
	// scrypt's N is 2 to this: 64 MiB and about a quarter of a second on a
	// desktop. age's own choice, 18, takes 256 MiB, which a small machine may
	// not have; a file that was made with it is still opened.
	wrapWorkFactor    = 16
	maxWrapWorkFactor = 18
)

// ErrPassphrase means that a passphrase does not open what it is tried on.
var ErrPassphrase = errors.New("wrong passphrase")

// WrapDevice encrypts a device's secrets with a passphrase, as an age file
// (age-encryption.org/v1, scrypt), which the age program opens too. The
// passphrase guards a file at rest; it is no second recovery phrase.
func WrapDevice(plain []byte, passphrase string) ([]byte, error) {
	if len(plain) > maxWrapped {
		return nil, fmt.Errorf("seal: wrapping device: %d bytes, at most %d", len(plain), maxWrapped)
	}
	to, err := age.NewScryptRecipient(passphrase)
	if err != nil { // an empty passphrase
		return nil, fmt.Errorf("seal: wrapping device: %w", err)
	}
	to.SetWorkFactor(wrapWorkFactor)
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to)
	if err != nil {
		return nil, fmt.Errorf("seal: wrapping device: %w", err)
	}
	if _, err := w.Write(plain); err != nil {
		return nil, fmt.Errorf("seal: wrapping device: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("seal: wrapping device: %w", err)
	}
	return out.Bytes(), nil
}

// UnwrapDevice opens what WrapDevice made. A wrong passphrase is ErrPassphrase.
func UnwrapDevice(wrapped []byte, passphrase string) ([]byte, error) {
	key, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, fmt.Errorf("seal: unwrapping device: %w", err)
	}
	key.SetMaxWorkFactor(maxWrapWorkFactor)
	r, err := age.Decrypt(bytes.NewReader(wrapped), key)
	if err != nil {
		var none *age.NoIdentityMatchError
		if errors.As(err, &none) {
			return nil, fmt.Errorf("seal: unwrapping device: %w", ErrPassphrase)
		}
		return nil, fmt.Errorf("seal: unwrapping device: %w", err)
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxWrapped+1))
	if err != nil {
		return nil, fmt.Errorf("seal: unwrapping device: %w", err)
	}
	if len(plain) > maxWrapped {
		return nil, fmt.Errorf("seal: unwrapping device: more than %d bytes", maxWrapped)
	}
	return plain, nil
}

// IsWrapped tells a wrapped file from plain bytes by age's first line.
func IsWrapped(b []byte) bool { return bytes.HasPrefix(b, []byte("age-encryption.org/v1\n")) }
