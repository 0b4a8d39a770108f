package datadir

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
)

// Identity is what makes a box the box it is: the static key of its Noise
// handshakes and the key with which it signs receipts. It prints as nothing.
//
// The file identity:
//
//	offset size
//	     0   18  "cobox/v1/identity" ‖ 0
//	    18   32  X25519 private key
//	    50   32  Ed25519 seed
//	    82   32  SHA-256 of the 82 bytes before
//	   114       end
type Identity struct {
	static [32]byte
	seed   [ed25519.SeedSize]byte
}

const (
	identityMagic = "cobox/v1/identity\x00"
	identitySize  = len(identityMagic) + 32 + 32 + sha256.Size
)

// NewIdentity makes the keys of a new box.
func NewIdentity() *Identity {
	id := new(Identity)
	rand.Read(id.static[:]) // never fails
	rand.Read(id.seed[:])
	return id
}

// StaticPrivate returns the private key of the box's Noise handshakes.
func (id *Identity) StaticPrivate() [32]byte { return id.static }

// StaticPublic returns the key that a pairing code carries.
func (id *Identity) StaticPublic() [32]byte {
	key, err := ecdh.X25519().NewPrivateKey(id.static[:])
	if err != nil {
		panic("datadir: 32 bytes are no X25519 key: " + err.Error())
	}
	return [32]byte(key.PublicKey().Bytes())
}

// Signer returns the key with which the box signs receipts.
func (id *Identity) Signer() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(id.seed[:]) }

// String, GoString, Format and LogValue keep the keys out of logs.
func (id *Identity) String() string             { return "datadir.Identity(secret)" }
func (id *Identity) GoString() string           { return id.String() }
func (id *Identity) Format(s fmt.State, _ rune) { fmt.Fprint(s, id.String()) }
func (id *Identity) LogValue() slog.Value       { return slog.StringValue(id.String()) }

// AppendIdentity appends the file form of id to b.
func AppendIdentity(b []byte, id *Identity) []byte {
	start := len(b)
	b = append(b, identityMagic...)
	b = append(b, id.static[:]...)
	b = append(b, id.seed[:]...)
	sum := sha256.Sum256(b[start:])
	return append(b, sum[:]...)
}

// ParseIdentity reads the file form.
func ParseIdentity(b []byte) (*Identity, error) {
	rest, err := checkEnvelope(b, identityMagic, identitySize)
	if err != nil {
		return nil, fmt.Errorf("datadir: identity: %w", err)
	}
	return takeKeys(rest)
}

// A Provision is an identity made elsewhere, with the secret of the pairing
// code that was printed for it.
//
// The file provision:
//
//	offset size
//	     0   19  "cobox/v1/provision" ‖ 0
//	    19   32  X25519 private key
//	    51   32  Ed25519 seed
//	    83    8  invite id of the pairing code
//	    91   16  secret of the pairing code
//	   107   32  SHA-256 of the 107 bytes before
//	   139       end
type Provision struct {
	Identity *Identity
	InviteID [8]byte
	Secret   [16]byte
}

const (
	provisionMagic = "cobox/v1/provision\x00"
	provisionSize  = len(provisionMagic) + 32 + 32 + 8 + 16 + sha256.Size
)

// String, GoString, Format and LogValue keep the secrets out of logs.
func (p *Provision) String() string             { return "datadir.Provision(secret)" }
func (p *Provision) GoString() string           { return p.String() }
func (p *Provision) Format(s fmt.State, _ rune) { fmt.Fprint(s, p.String()) }
func (p *Provision) LogValue() slog.Value       { return slog.StringValue(p.String()) }

// AppendProvision appends the file form of p to b.
func AppendProvision(b []byte, p *Provision) []byte {
	start := len(b)
	b = append(b, provisionMagic...)
	b = append(b, p.Identity.static[:]...)
	b = append(b, p.Identity.seed[:]...)
	b = append(b, p.InviteID[:]...)
	b = append(b, p.Secret[:]...)
	sum := sha256.Sum256(b[start:])
	return append(b, sum[:]...)
}

// ParseProvision reads the file form.
func ParseProvision(b []byte) (*Provision, error) {
	rest, err := checkEnvelope(b, provisionMagic, provisionSize)
	if err != nil {
		return nil, fmt.Errorf("datadir: provision: %w", err)
	}
	id, err := takeKeys(rest)
	if err != nil {
		return nil, err
	}
	p := &Provision{Identity: id, InviteID: [8]byte(rest[64:72]), Secret: [16]byte(rest[72:88])}
	if p.Secret == ([16]byte{}) {
		return nil, errors.New("datadir: provision: the pairing secret is all zero")
	}
	return p, nil
}

// checkEnvelope checks magic, size and checksum and returns what is between.
func checkEnvelope(b []byte, magic string, size int) ([]byte, error) {
	switch {
	case !bytes.HasPrefix(b, []byte(magic)):
		return nil, errors.New("not a file of this kind or version")
	case len(b) != size:
		return nil, fmt.Errorf("%d bytes, want %d", len(b), size)
	}
	body := b[:size-sha256.Size]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], b[len(body):]) {
		return nil, errors.New("the checksum does not match: the file is damaged")
	}
	return body[len(magic):], nil
}

func takeKeys(b []byte) (*Identity, error) {
	id := &Identity{static: [32]byte(b[:32]), seed: [32]byte(b[32:64])}
	if id.static == ([32]byte{}) || id.seed == ([32]byte{}) {
		return nil, errors.New("datadir: a key is all zero")
	}
	return id, nil
}

// Identity returns the box's identity. At the first start it takes the one of
// the provisioning file, or makes one. The Provision, if there is one, is
// returned until RemoveProvision: its pairing secret has to be durable in the
// roster first, so that a crash in between takes it again.
func (d *Dir) Identity() (*Identity, *Provision, error) {
	var p *Provision
	b, err := d.read(provisionName)
	switch {
	case err == nil:
		if p, err = ParseProvision(b); err != nil {
			return nil, nil, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, nil, err
	}

	b, err = d.read(identityName)
	if err == nil {
		id, err := ParseIdentity(b)
		if err != nil {
			return nil, nil, err
		}
		if p != nil && *p.Identity != *id {
			return nil, nil, fmt.Errorf("datadir: %s already has an identity, and the provisioning file holds another; remove the file %q", d.path, provisionName)
		}
		// Somebody may have copied the directory without its modes.
		if info, err := d.root.Stat(identityName); err == nil && info.Mode().Perm()&0o077 != 0 && !d.readOnly {
			if err := d.root.Chmod(identityName, 0o600); err != nil {
				return nil, nil, fmt.Errorf("datadir: protecting the identity: %w", err)
			}
		}
		if err := d.checkStore(); err != nil {
			return nil, nil, err
		}
		return id, p, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	if d.waiting {
		return nil, nil, fmt.Errorf("datadir: %s does not say which box it is: its file %q is missing", d.path, identityName)
	}
	// A store without an identity has lost it: a new one would orphan every
	// member, whose programs know the box by its key.
	if _, err := d.root.Lstat(storeName); err == nil {
		return nil, nil, fmt.Errorf("datadir: %s holds a store but its file %q is missing; put the file back from a copy", d.path, identityName)
	}
	id := NewIdentity()
	if p != nil {
		id = p.Identity
	}
	if err := d.write(identityName, AppendIdentity(nil, id), 0o600); err != nil {
		return nil, nil, err
	}
	return id, p, nil
}

// checkStore refuses a box that has run and whose store is gone: an empty one
// would be a stranger to its members.
func (d *Dir) checkStore() error {
	if d.waiting {
		return nil
	}
	_, err := d.root.Lstat(storeName)
	if !errors.Is(err, fs.ErrNotExist) {
		return nil // the store says by itself what is wrong with it
	}
	if _, err := d.root.Lstat(peersName); err != nil {
		return nil // its first start was cut off
	}
	return fmt.Errorf("datadir: %s is a box that has run, but its store %q is missing; put it back from a copy, or name an empty directory for a new box", d.path, storeName)
}

// RemoveProvision deletes the provisioning file, which must have been taken.
func (d *Dir) RemoveProvision() error { return d.remove(provisionName) }
