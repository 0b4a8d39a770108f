package seal

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"sync"

	"github.com/zeebo/blake3"
	"golang.org/x/crypto/chacha20poly1305"

	"cobox/storage/merklelog"
)

// A sealed block of data is
//
//	offset  size    field
//	0       1       type, 1 (merklelog.Data)
//	1       24      salt
//	25      32      commitment to the key
//	57      65,463  ciphertext: ChaCha20-Poly1305, nonce 0, no additional data
//	65,520  16      its tag
//	65,536          end
const (
	// PayloadSize is the number of bytes that one block carries.
	PayloadSize = merklelog.BlockSize - PayloadOffset - chacha20poly1305.Overhead
	// PayloadOffset is where in a block its ciphertext begins, and so where a
	// payload must lie to be sealed in place.
	PayloadOffset = 1 + saltSize + commitSize

	saltSize   = 24
	commitSize = 32
)

var (
	// ErrWrongKey means that a block was not sealed under this key for this
	// log, index and epoch. Damage to the salt or the commitment (56 of 65,536
	// bytes) looks the same; a block that was checked against its leaf before
	// has none.
	ErrWrongKey = errors.New("sealed with another key, or for another place")
	// ErrDamaged means that the bytes are not what was sealed: the commitment
	// names this very key and the ciphertext does not verify under it, or the
	// form is wrong.
	ErrDamaged = errors.New("damaged")
)

// LogKey is the key K[L,e] of one epoch of one log.
type LogKey [32]byte

// NewLogKey makes the key of a new epoch.
func NewLogKey() (k LogKey) {
	_, _ = rand.Read(k[:]) // never fails: crypto/rand ends the process instead
	return k
}

// KeyRing holds the keys K[L,0..e] of one log, indexed by epoch.
type KeyRing []LogKey

// blockKey is K_blk of one epoch: it gives each block its key and commitment.
type blockKey struct {
	label string
	key   [32]byte
	pool  sync.Pool // of *deriver
}

func newBlockKey(label string, key [32]byte) *blockKey { return &blockKey{label: label, key: key} }

// deriver is what one derivation works in, kept between calls so that sealing
// and opening allocate only the cipher.
type deriver struct {
	mac   hash.Hash // HMAC-SHA-512 under K_blk
	info  []byte
	out   []byte // key 32 ‖ commitment 32
	nonce [chacha20poly1305.NonceSize]byte
}

// get derives the key and commitment of one salt and context. The result lies
// in the deriver's out and is valid until put.
//
// The output is exactly one hash long, so HKDF-Expand is the one HMAC
// T(1) = HMAC(K_blk, info ‖ 0x01) of RFC 5869, section 2.3. crypto/hkdf would
// key a new HMAC for every block.
func (k *blockKey) get(salt []byte, log *merklelog.LogID, index uint64, epoch uint32) *deriver {
	d, ok := k.pool.Get().(*deriver)
	if !ok {
		d = &deriver{mac: hmac.New(sha512.New, k.key[:]), out: make([]byte, 0, sha512.Size)}
	}
	d.info = append(d.info[:0], k.label...)
	d.info = append(d.info, salt...)
	d.info = appendContext(d.info, *log, index, epoch)
	d.info = append(d.info, 1)
	d.mac.Reset()
	d.mac.Write(d.info)
	d.out = d.mac.Sum(d.out[:0])
	return d
}

func (k *blockKey) put(d *deriver) { k.pool.Put(d) }

func (d *deriver) commitment() []byte { return d.out[32:] }

func (d *deriver) seal(dst, plaintext []byte) []byte {
	aead, err := chacha20poly1305.New(d.out[:32])
	if err != nil {
		panic("seal: cipher with a key of 32 bytes: " + err.Error()) // only for other lengths
	}
	return aead.Seal(dst, d.nonce[:], plaintext, nil)
}

func (d *deriver) open(dst, ciphertext []byte) ([]byte, error) {
	aead, err := chacha20poly1305.New(d.out[:32])
	if err != nil {
		panic("seal: cipher with a key of 32 bytes: " + err.Error()) // only for other lengths
	}
	return aead.Open(dst, d.nonce[:], ciphertext, nil)
}

const blockLabel = "cobox/v1/block\x00"

func logBlockKey(log merklelog.LogID, epoch uint32, key *LogKey) *blockKey {
	e := binary.BigEndian.AppendUint32(nil, epoch)
	return newBlockKey(blockLabel, expand(key[:], "cobox/v1/log-block\x00", log[:], e))
}

// Sealer seals the data blocks of one epoch of a log. It is safe for concurrent
// use.
type Sealer struct {
	hidden
	log   merklelog.LogID
	epoch uint32
	rand  io.Reader
	keys  *blockKey
	salts sync.Pool // of *salter
}

// salter is what one salt is made in.
type salter struct {
	hash *blake3.Hasher // keyed with K_salt
	head [saltSize + contextSize]byte
	sum  [32]byte
}

// NewSealer returns a sealer for the log's epoch, whose key is K[L,epoch].
func NewSealer(log merklelog.LogID, epoch uint32, key LogKey) *Sealer {
	return NewSealerRand(rand.Reader, log, epoch, key)
}

// NewSealerRand is NewSealer with a source of randomness, which must be safe
// for concurrent use if the sealer is to be. A source that repeats itself or
// fails does no harm but this: the same payload, sealed for the same place,
// gives the same block.
func NewSealerRand(random io.Reader, log merklelog.LogID, epoch uint32, key LogKey) *Sealer {
	e := binary.BigEndian.AppendUint32(nil, epoch)
	saltKey := expand(key[:], "cobox/v1/log-salt\x00", log[:], e)
	return &Sealer{
		log: log, epoch: epoch, rand: random,
		keys: logBlockKey(log, epoch, &key),
		salts: sync.Pool{New: func() any {
			return &salter{hash: newKeyedHash(&saltKey)}
		}},
	}
}

func newKeyedHash(key *[32]byte) *blake3.Hasher {
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic("seal: BLAKE3 with a key of 32 bytes: " + err.Error()) // only for other lengths
	}
	return h
}

// Seal appends to dst the block that carries payload at the given index of the
// log. The payload must have PayloadSize bytes. If dst has room for a block,
// nothing but the cipher's state is allocated.
//
// The payload may lie exactly where its ciphertext goes, PayloadOffset bytes
// after the end of dst; otherwise the two must not overlap.
func (s *Sealer) Seal(dst []byte, index uint64, payload []byte) []byte {
	if len(payload) != PayloadSize {
		panic(fmt.Sprintf("seal: payload of %d bytes, want %d", len(payload), PayloadSize))
	}
	start := len(dst)
	dst = slices.Grow(dst, merklelog.BlockSize)[:start+merklelog.BlockSize]
	block := dst[start:]

	w := s.salts.Get().(*salter)
	w.make(s.rand, &s.log, index, s.epoch, payload)
	salt := w.sum[:saltSize]
	d := s.keys.get(salt, &s.log, index, s.epoch)

	block[0] = byte(merklelog.Data)
	copy(block[1:], salt)
	copy(block[1+saltSize:], d.commitment())
	d.seal(block[PayloadOffset:PayloadOffset], payload)

	s.keys.put(d)
	s.salts.Put(w)
	return dst
}

// make computes the salt into w.sum: keyed BLAKE3(24 random bytes ‖ ctx ‖
// plaintext). It differs whenever place or plaintext differ, whatever the
// random bytes are, so a failed read of them needs no answer.
func (w *salter) make(random io.Reader, log *merklelog.LogID, index uint64, epoch uint32, payload []byte) {
	clear(w.head[:saltSize])
	_, _ = io.ReadFull(random, w.head[:saltSize])
	appendContext(w.head[:saltSize], *log, index, epoch)
	w.hash.Reset()
	_, _ = w.hash.Write(w.head[:])
	_, _ = w.hash.Write(payload)
	w.hash.Sum(w.sum[:0])
}

// Opener opens the data blocks of a log. It is safe for concurrent use.
type Opener struct {
	hidden
	log   merklelog.LogID
	epoch []*blockKey
}

// NewOpener returns an opener for the log with the keys of its epochs.
func NewOpener(log merklelog.LogID, keys KeyRing) *Opener {
	o := &Opener{log: log, epoch: make([]*blockKey, len(keys))}
	for e := range keys {
		o.epoch[e] = logBlockKey(log, uint32(e), &keys[e])
	}
	return o
}

// Open appends the payload of a block to dst. index and epoch say where the
// block was read and how many envelopes, less one, precede it there; a block
// that was sealed for another place does not open.
//
// The error wraps ErrWrongKey or ErrDamaged. dst may be block[PayloadOffset:
// PayloadOffset], which opens in place; otherwise the two must not overlap.
func (o *Opener) Open(dst []byte, index uint64, epoch uint32, block []byte) ([]byte, error) {
	out, err := o.open(dst, index, epoch, block)
	if err != nil {
		return nil, fmt.Errorf("seal: opening block %d of log %v: %w", index, o.log, err)
	}
	return out, nil
}

func (o *Opener) open(dst []byte, index uint64, epoch uint32, block []byte) ([]byte, error) {
	if len(block) != merklelog.BlockSize {
		return nil, fmt.Errorf("%w: %d bytes", ErrDamaged, len(block))
	}
	if block[0] != byte(merklelog.Data) {
		return nil, fmt.Errorf("%w: type %d is not data", ErrDamaged, block[0])
	}
	if uint64(epoch) >= uint64(len(o.epoch)) {
		return nil, fmt.Errorf("%w: no key of epoch %d", ErrWrongKey, epoch)
	}
	k := o.epoch[epoch]
	d := k.get(block[1:1+saltSize], &o.log, index, epoch)
	defer k.put(d)
	if subtle.ConstantTimeCompare(d.commitment(), block[1+saltSize:PayloadOffset]) != 1 {
		return nil, ErrWrongKey
	}
	out, err := d.open(dst, block[PayloadOffset:])
	if err != nil {
		return nil, ErrDamaged
	}
	return out, nil
}
