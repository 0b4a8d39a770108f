package merklelog

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	manifestVersion = 1
	manifestContext = "cobox/v1/manifest\x00"

	manifestFixed = 1 + 16 + 32 + 16 + 2 // version … length of the certificate
	manifestMin   = manifestFixed + 1 + ed25519.SignatureSize
	// MaxManifest is the length of the longest encoded manifest in bytes.
	MaxManifest = manifestMin + MaxCertificate + positionSize

	positionSize = 32 + 8 + HashSize
)

// Position is a place in a log that somebody vouches for: its first Size
// blocks, whose tree has the given root.
//
//	offset  bytes
//	     0     32  log
//	    32      8  size, at least 1
//	    40     32  root
type Position struct {
	Log  LogID
	Size uint64
	Root Hash
}

// AppendPosition appends the 72 bytes of p to dst.
func AppendPosition(dst []byte, p Position) []byte {
	dst = append(dst, p.Log[:]...)
	dst = binary.BigEndian.AppendUint64(dst, p.Size)
	return append(dst, p.Root[:]...)
}

// ParsePosition reads what [AppendPosition] wrote.
func ParsePosition(b []byte) (Position, error) {
	var p Position
	if len(b) != positionSize {
		return p, fmt.Errorf("merklelog: position has %d bytes, want %d", len(b), positionSize)
	}
	size := binary.BigEndian.Uint64(b[32:])
	if err := checkSize(size); err != nil {
		return p, err
	}
	p.Size = size
	copy(p.Log[:], b)
	copy(p.Root[:], b[40:])
	return p, nil
}

// checkSize refuses sizes that nobody may sign.
func checkSize(n uint64) error {
	if n == 0 || n > MaxSize {
		return fmt.Errorf("merklelog: size %d is not between 1 and %d", n, uint64(MaxSize))
	}
	return nil
}

// Manifest begins a log and gives it its identity.
//
//	offset  bytes
//	     0      1  version, 1
//	     1     16  nonce: random, so that a device can begin any number of logs
//	    17     32  writer: Ed25519 public key
//	    49     16  tag of the space
//	    65      2  c, length of the certificate, at most 2,048
//	    67      c  certificate of the writing device
//	  67+c      1  1 if a predecessor follows, else 0
//	  68+c  0|72  predecessor: the position at which an earlier log was left
//	             64  Ed25519 signature by the writer
//
// The signature covers "cobox/v1/manifest\0" and all bytes before it; the log's
// identity is the SHA-256 of the same bytes. So the identity does not depend on
// the signature, which could be made anew.
type Manifest struct {
	Nonce       [16]byte
	Writer      WriterKey
	Certificate []byte // opaque to this package
	Space       Tag
	Predecessor *Position // nil for a first log
	Sig         [64]byte
}

// SignManifest sets m.Sig. key must be the Ed25519 key whose public half is
// m.Writer.
func SignManifest(m *Manifest, key crypto.Signer) error {
	if err := m.check(); err != nil {
		return err
	}
	sig, err := sign(key, m.Writer, m.message())
	if err != nil {
		return fmt.Errorf("merklelog: sign manifest: %w", err)
	}
	m.Sig = sig
	return nil
}

// ID returns the identity of the log that m begins.
func (m *Manifest) ID() LogID { return sha256.Sum256(m.message()) }

// Verify checks the writer's signature. It does not look into the certificate.
func (m *Manifest) Verify() error {
	if err := m.check(); err != nil {
		return err
	}
	if !ed25519.Verify(m.Writer[:], m.message(), m.Sig[:]) {
		return fmt.Errorf("%w: manifest of log %v", ErrSignature, m.ID())
	}
	return nil
}

// check refuses contents that the encoding cannot carry.
func (m *Manifest) check() error {
	if len(m.Certificate) > MaxCertificate {
		return fmt.Errorf("merklelog: certificate has %d bytes, the limit is %d", len(m.Certificate), MaxCertificate)
	}
	if m.Predecessor != nil {
		return checkSize(m.Predecessor.Size)
	}
	return nil
}

// message returns what is hashed and signed.
func (m *Manifest) message() []byte {
	return m.appendBody(append(make([]byte, 0, len(manifestContext)+MaxManifest), manifestContext...))
}

func (m *Manifest) appendBody(dst []byte) []byte {
	dst = append(dst, manifestVersion)
	dst = append(dst, m.Nonce[:]...)
	dst = append(dst, m.Writer[:]...)
	dst = append(dst, m.Space[:]...)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(m.Certificate)))
	dst = append(dst, m.Certificate...)
	if m.Predecessor == nil {
		return append(dst, 0)
	}
	return AppendPosition(append(dst, 1), *m.Predecessor)
}

// AppendManifest appends the encoded manifest with its signature to dst.
func AppendManifest(dst []byte, m *Manifest) []byte {
	return append(m.appendBody(dst), m.Sig[:]...)
}

// ParseManifest reads what [AppendManifest] wrote. It does not verify the
// signature.
func ParseManifest(b []byte) (*Manifest, error) {
	if len(b) < manifestMin || len(b) > MaxManifest {
		return nil, fmt.Errorf("merklelog: manifest has %d bytes, want %d to %d", len(b), manifestMin, MaxManifest)
	}
	if b[0] != manifestVersion {
		return nil, fmt.Errorf("merklelog: manifest has version %d, want %d", b[0], manifestVersion)
	}
	m := new(Manifest)
	copy(m.Nonce[:], b[1:])
	copy(m.Writer[:], b[17:])
	copy(m.Space[:], b[49:])
	c := int(binary.BigEndian.Uint16(b[65:]))
	b = b[manifestFixed:]
	if c > MaxCertificate || len(b) < c+1+ed25519.SignatureSize {
		return nil, fmt.Errorf("merklelog: certificate of %d bytes does not fit its manifest", c)
	}
	m.Certificate = append(m.Certificate, b[:c]...)
	flag := b[c]
	b = b[c+1:]
	switch flag {
	case 0:
	case 1:
		if len(b) < positionSize {
			return nil, errors.New("merklelog: manifest ends within its predecessor")
		}
		p, err := ParsePosition(b[:positionSize])
		if err != nil {
			return nil, fmt.Errorf("%w (predecessor in a manifest)", err)
		}
		m.Predecessor = &p
		b = b[positionSize:]
	default:
		return nil, fmt.Errorf("merklelog: manifest has predecessor flag %d", flag)
	}
	if len(b) != ed25519.SignatureSize {
		return nil, fmt.Errorf("merklelog: manifest ends with %d bytes, want a signature of %d", len(b), ed25519.SignatureSize)
	}
	copy(m.Sig[:], b)
	return m, nil
}

// sign makes an Ed25519 signature and verifies it before anybody sees it: a
// signature is a commitment for ever, so a faulty signer must fail here.
func sign(key crypto.Signer, public WriterKey, message []byte) (sig [64]byte, err error) {
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return sig, fmt.Errorf("key is a %T, want Ed25519", key.Public())
	}
	if !pub.Equal(ed25519.PublicKey(public[:])) {
		return sig, errors.New("key is not the log's writer")
	}
	s, err := key.Sign(nil, message, crypto.Hash(0))
	if err != nil {
		return sig, err
	}
	if !ed25519.Verify(public[:], message, s) {
		return sig, errors.New("signer returned a signature that does not verify")
	}
	copy(sig[:], s)
	return sig, nil
}
