package seal

import (
	"crypto/hpke"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"

	"golang.org/x/crypto/chacha20poly1305"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// A sealed envelope fills one to three consecutive blocks of its log. Each
// begins with a header that can be read without a key:
//
//	offset  size  field
//	0       1     type, 2 (merklelog.Envelope)
//	1       1     version, 1
//	2       1     part: 0 for the first block, then one more each
//	3       1     parts, 1 to 3
//	4       4     epoch that begins with this envelope
//	8             end
//
// In the first block follow
//
//	8       24      salt
//	32      32      commitment to the envelope's key
//	64      46,720  40 stanzas of 1,168 bytes in random order
//	46,784  18,752  ciphertext, first piece
//	65,536          end
//
// and in the others, from offset 8, 65,528 bytes of ciphertext each. The
// pieces together are one ChaCha20-Poly1305 message (nonce 0, no additional
// data). Its plaintext is the length of the envelope's plain bytes (u32), those
// bytes, and zeros; there are as few parts as can carry it.
//
// A stanza is an HPKE message (X-Wing, HKDF-SHA512, ChaCha20-Poly1305, base
// mode, no additional data) that holds the envelope's key.
const (
	sealedVersion  = 1
	partHeader     = 1 + 1 + 1 + 1 + 4
	stanzaSize     = 1088 + 32 + 32 + chacha20poly1305.Overhead // ML-KEM ‖ X25519 ‖ key ‖ tag
	stanzasOffset  = partHeader + saltSize + commitSize
	bodyOffset     = stanzasOffset + MaxRecipients*stanzaSize
	firstPiece     = merklelog.BlockSize - bodyOffset
	furtherPiece   = merklelog.BlockSize - partHeader
	envelopeLength = 4
)

// ErrNotRecipient means that no stanza of an envelope opens with a key: it was
// not sealed for it, or for another log or index.
var ErrNotRecipient = errors.New("envelope is not sealed for this key")

const envelopeLabel = "cobox/v1/envelope-body\x00"

// SealEnvelope seals e for the recipients, 1 to MaxRecipients, and returns the
// type-2 blocks to append to the log, the first of them at e.Index. Stanzas for
// throwaway keys fill the rest, so the blocks do not show how many recipients
// there are, nor who they are.
//
// random feeds the salt, the envelope's key and the order of the stanzas; nil
// means crypto/rand. HPKE always draws from the system's generator.
func SealEnvelope(e *Envelope, recipients []account.KEMKey, random io.Reader) ([][]byte, error) {
	blocks, err := sealEnvelope(e, recipients, random)
	if err != nil {
		return nil, fmt.Errorf("seal: sealing envelope %d of log %v: %w", e.Epoch, e.Log, err)
	}
	return blocks, nil
}

func sealEnvelope(e *Envelope, recipients []account.KEMKey, random io.Reader) ([][]byte, error) {
	if len(recipients) == 0 || len(recipients) > MaxRecipients {
		return nil, fmt.Errorf("%d recipients, want 1 to %d", len(recipients), MaxRecipients)
	}
	if random == nil {
		random = rand.Reader
	}
	plain, err := AppendEnvelope(make([]byte, envelopeLength, 4096), e)
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(plain, uint32(len(plain)-envelopeLength))
	parts := 1
	for envelopeCapacity(parts) < len(plain) {
		parts++
	}
	plain = append(plain, make([]byte, envelopeCapacity(parts)-len(plain))...)

	secret := newEnvelopeSecret(random, e, plain)
	stanzas, err := sealStanzas(e.Log, e.Index, secret, recipients)
	if err != nil {
		return nil, err
	}
	d := secret.bodyKey().get(secret.salt[:], &e.Log, e.Index, e.Epoch)
	body := d.seal(nil, plain)

	blocks := make([][]byte, parts)
	for part := range blocks {
		b := make([]byte, 0, merklelog.BlockSize)
		b = append(b, byte(merklelog.Envelope), sealedVersion, byte(part), byte(parts))
		b = binary.BigEndian.AppendUint32(b, e.Epoch)
		if part == 0 {
			b = append(b, secret.salt[:]...)
			b = append(b, d.commitment()...)
			b = append(b, stanzas...)
		}
		n := merklelog.BlockSize - len(b)
		blocks[part] = append(b, body[:n]...)
		body = body[n:]
	}
	return blocks, nil
}

// envelopeCapacity is how many bytes of plaintext the parts carry.
func envelopeCapacity(parts int) int {
	return firstPiece + (parts-1)*furtherPiece - chacha20poly1305.Overhead
}

// envelopeSecret is what must not repeat for two envelopes that differ.
type envelopeSecret struct {
	salt    [saltSize]byte
	key     [32]byte
	shuffle [32]byte
}

// newEnvelopeSecret draws the 88 bytes by keyed BLAKE3(32 random bytes ‖
// plaintext), keyed from the newest log key. So they are secret and differ
// whenever the envelope does (log, index and epoch are part of its plaintext),
// even if the random bytes repeat.
func newEnvelopeSecret(random io.Reader, e *Envelope, plain []byte) *envelopeSecret {
	epoch := binary.BigEndian.AppendUint32(nil, e.Epoch)
	key := expand(e.Keys[e.Epoch][:], "cobox/v1/envelope-hedge\x00", e.Log[:], epoch)
	var fresh [32]byte
	_, _ = io.ReadFull(random, fresh[:])
	h := newKeyedHash(&key)
	_, _ = h.Write(fresh[:])
	_, _ = h.Write(plain)
	var s envelopeSecret
	out := h.Digest()
	for _, b := range [][]byte{s.salt[:], s.key[:], s.shuffle[:]} {
		_, _ = out.Read(b)
	}
	return &s
}

func (s *envelopeSecret) bodyKey() *blockKey { return newBlockKey(envelopeLabel, s.key) }

// stanzaInfo binds a stanza to its place and, by the hedged salt, to the
// contents: if HPKE's generator repeated for an envelope that differs, the
// info would still make HPKE's key and nonce differ.
func stanzaInfo(log merklelog.LogID, index uint64, salt []byte) []byte {
	info := append([]byte("cobox/v1/envelope\x00"), log[:]...)
	info = binary.BigEndian.AppendUint64(info, index)
	return append(info, salt...)
}

// sealStanzas makes all MaxRecipients stanzas in random order.
func sealStanzas(log merklelog.LogID, index uint64, s *envelopeSecret, recipients []account.KEMKey) ([]byte, error) {
	kem, kdf, aead := hpke.MLKEM768X25519(), hpke.HKDFSHA512(), hpke.ChaCha20Poly1305()
	info := stanzaInfo(log, index, s.salt[:])
	// One throwaway key serves all the rest: without it nobody can tell its
	// stanzas from one another or from those of the recipients.
	throwaway, err := kem.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("throwaway key: %w", err)
	}
	order := mathrand.New(mathrand.NewChaCha8(s.shuffle)).Perm(MaxRecipients)
	out := make([]byte, MaxRecipients*stanzaSize)
	for i, place := range order {
		to := throwaway.PublicKey()
		if i < len(recipients) {
			if to, err = kem.NewPublicKey(recipients[i][:]); err != nil {
				return nil, fmt.Errorf("recipient %d, %v: %w", i, recipients[i], err)
			}
		}
		stanza, err := hpke.Seal(to, kdf, aead, info, s.key[:])
		if err != nil {
			return nil, fmt.Errorf("stanza %d: %w", i, err)
		}
		if len(stanza) != stanzaSize {
			return nil, fmt.Errorf("stanza of %d bytes, want %d", len(stanza), stanzaSize)
		}
		copy(out[place*stanzaSize:], stanza)
	}
	return out, nil
}

// EnvelopeHeader is what a block of an envelope shows without a key.
type EnvelopeHeader struct {
	Part, Parts int
	Epoch       uint32
}

// ParseEnvelopeHeader reads the header of a type-2 block. From the first block
// of an envelope it tells how many blocks to fetch.
func ParseEnvelopeHeader(block []byte) (EnvelopeHeader, error) {
	h, err := parseEnvelopeHeader(block)
	if err != nil {
		return EnvelopeHeader{}, fmt.Errorf("seal: reading envelope block: %w", err)
	}
	return h, nil
}

func parseEnvelopeHeader(block []byte) (h EnvelopeHeader, err error) {
	if len(block) != merklelog.BlockSize {
		return h, fmt.Errorf("%w: %d bytes", ErrDamaged, len(block))
	}
	if block[0] != byte(merklelog.Envelope) {
		return h, fmt.Errorf("%w: type %d is not an envelope", ErrDamaged, block[0])
	}
	if block[1] != sealedVersion {
		return h, fmt.Errorf("version %d, want %d", block[1], sealedVersion)
	}
	h = EnvelopeHeader{Part: int(block[2]), Parts: int(block[3]), Epoch: binary.BigEndian.Uint32(block[4:])}
	if h.Parts < 1 || h.Parts > MaxEnvelopeBlocks || h.Part >= h.Parts || h.Epoch >= MaxEpochs {
		return h, fmt.Errorf("%w: part %d of %d, epoch %d", ErrDamaged, h.Part, h.Parts, h.Epoch)
	}
	return h, nil
}

// OpenEnvelope opens the envelope whose blocks begin at index of the log, with
// the KEM key of an account or device. It tries every stanza. Errors wrap
// ErrNotRecipient, or ErrDamaged if a stanza opened and the rest did not.
func OpenEnvelope(log merklelog.LogID, index uint64, blocks [][]byte, key KEMPrivate) (*Envelope, error) {
	e, err := openEnvelope(log, index, blocks, key)
	if err != nil {
		return nil, fmt.Errorf("seal: opening envelope at block %d of log %v: %w", index, log, err)
	}
	return e, nil
}

func openEnvelope(log merklelog.LogID, index uint64, blocks [][]byte, key KEMPrivate) (*Envelope, error) {
	if len(blocks) == 0 {
		return nil, fmt.Errorf("%w: no blocks", ErrDamaged)
	}
	first, err := parseEnvelopeHeader(blocks[0])
	if err != nil {
		return nil, err
	}
	if first.Part != 0 || first.Parts != len(blocks) {
		return nil, fmt.Errorf("%w: part %d of %d first, and %d blocks", ErrDamaged, first.Part, first.Parts, len(blocks))
	}
	body := append(make([]byte, 0, envelopeCapacity(len(blocks))+chacha20poly1305.Overhead), blocks[0][bodyOffset:]...)
	for i, b := range blocks[1:] {
		h, err := parseEnvelopeHeader(b)
		if err != nil {
			return nil, err
		}
		if h != (EnvelopeHeader{Part: i + 1, Parts: first.Parts, Epoch: first.Epoch}) {
			return nil, fmt.Errorf("%w: block %d is not the next part", ErrDamaged, i+1)
		}
		body = append(body, b[partHeader:]...)
	}
	salt := blocks[0][partHeader : partHeader+saltSize]
	commitment := blocks[0][partHeader+saltSize : stanzasOffset]

	d, err := findKey(log, index, first.Epoch, salt, commitment, blocks[0][stanzasOffset:bodyOffset], key)
	if err != nil {
		return nil, err
	}
	plain, err := d.open(body[:0], body)
	if err != nil {
		return nil, ErrDamaged
	}
	e, err := parsePadded(plain, first.Parts)
	if err != nil {
		return nil, err
	}
	if e.Log != log || e.Index != index || e.Epoch != first.Epoch {
		return nil, errors.New("its contents are for another place")
	}
	return e, nil
}

// findKey tries the stanzas until one yields the key that the commitment names.
// A stanza with another key than that is a writer's fault or malice, and does
// not keep the right one from being found.
func findKey(log merklelog.LogID, index uint64, epoch uint32, salt, commitment, stanzas []byte, key KEMPrivate) (*deriver, error) {
	kdf, aead := hpke.HKDFSHA512(), hpke.ChaCha20Poly1305()
	private := key.key()
	info := stanzaInfo(log, index, salt)
	failure := ErrNotRecipient
	for i := range MaxRecipients {
		k, err := hpke.Open(private, kdf, aead, info, stanzas[i*stanzaSize:(i+1)*stanzaSize])
		if err != nil {
			continue
		}
		if len(k) == 32 {
			d := newBlockKey(envelopeLabel, [32]byte(k)).get(salt, &log, index, epoch)
			if subtle.ConstantTimeCompare(d.commitment(), commitment) == 1 {
				return d, nil
			}
		}
		failure = ErrDamaged
	}
	return nil, failure
}

// parsePadded reads an envelope's plaintext: its length, itself, zeros, in no
// more parts than it needs.
func parsePadded(plain []byte, parts int) (*Envelope, error) {
	n := uint64(binary.BigEndian.Uint32(plain))
	plain = plain[envelopeLength:]
	if n > uint64(len(plain)) {
		return nil, fmt.Errorf("length %d in %d bytes", n, len(plain))
	}
	if parts > 1 && envelopeCapacity(parts-1) >= envelopeLength+int(n) {
		return nil, fmt.Errorf("%d bytes in %d parts", n, parts)
	}
	for _, b := range plain[n:] {
		if b != 0 {
			return nil, errors.New("padding is not zero")
		}
	}
	return parseEnvelope(plain[:n])
}
