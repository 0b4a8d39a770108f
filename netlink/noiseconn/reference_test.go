package noiseconn

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"testing"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/curve25519"
	"golang.org/x/crypto/hkdf"
)

// reference is Noise once more, straight from the specification (revision 34,
// section 5) and by other means than the library: it checks the library, and
// the transcripts in testdata.
type reference struct {
	ck, h, k []byte
	n        uint64
}

func newHash() hash.Hash {
	h, err := blake2b.New512(nil)
	if err != nil {
		panic(err)
	}
	return h
}

func newReference(name string, prologue []byte) *reference {
	r := &reference{h: make([]byte, 64)}
	copy(r.h, name) // the names here are shorter than a hash
	r.ck = bytes.Clone(r.h)
	r.mixHash(prologue)
	return r
}

func (r *reference) mixHash(data []byte) {
	h := newHash()
	h.Write(r.h)
	h.Write(data)
	r.h = h.Sum(nil)
}

// derive is Noise's HKDF: RFC 5869 with the chaining key as salt and no info.
func (r *reference) derive(input []byte, n int) [][]byte {
	kdf := hkdf.New(newHash, input, r.ck, nil)
	out := make([][]byte, n)
	for i := range out {
		out[i] = make([]byte, 64)
		if _, err := kdf.Read(out[i]); err != nil {
			panic(err)
		}
	}
	return out
}

func (r *reference) mixKey(input []byte) {
	o := r.derive(input, 2)
	r.ck, r.k, r.n = o[0], o[1][:32], 0
}

func (r *reference) mixPSK(psk []byte) {
	o := r.derive(psk, 3)
	r.ck, r.k, r.n = o[0], o[2][:32], 0
	r.mixHash(o[1])
}

func (r *reference) seal(plain []byte) []byte {
	if r.k == nil {
		r.mixHash(plain)
		return plain
	}
	out := refAEAD(r.k).Seal(nil, refNonce(r.n), plain, r.h)
	r.n++
	r.mixHash(out)
	return out
}

// ephemeral is the "e" token in a handshake with PSKs.
func (r *reference) ephemeral(public []byte) []byte {
	r.mixHash(public)
	r.mixKey(public)
	return public
}

func refAEAD(k []byte) cipher.AEAD {
	a, err := chacha20poly1305.New(k)
	if err != nil {
		panic(err)
	}
	return a
}

func refNonce(n uint64) []byte { return binary.LittleEndian.AppendUint64(make([]byte, 4), n) }

func refDH(private, public []byte) []byte {
	s, err := curve25519.X25519(private, public)
	if err != nil {
		panic(err)
	}
	return s
}

func refPublic(private []byte) []byte { return refDH(private, curve25519.Basepoint) }

// refInput is what a handshake is made of.
type refInput struct {
	prologue, initStatic, respStatic, initEphemeral, respEphemeral, psk []byte
	payloads                                                            [][]byte
}

// run gives the handshake messages and then one transport message for each
// payload that is left, in turn, the initiator first, as the vectors of
// flynn/noise have it.
func (in refInput) run(m Mode) [][]byte {
	is, rs := refPublic(in.initStatic), refPublic(in.respStatic)
	ie, re := refPublic(in.initEphemeral), refPublic(in.respEphemeral)
	var r *reference
	var out [][]byte
	payload := func() []byte { p := in.payloads[0]; in.payloads = in.payloads[1:]; return p }
	message := func(parts ...[]byte) { out = append(out, bytes.Join(append(parts, r.seal(payload())), nil)) }
	if m == ModePair { // XKpsk0: <- s … -> psk, e, es; <- e, ee; -> s, se
		r = newReference("Noise_XKpsk0_25519_ChaChaPoly_BLAKE2b", in.prologue)
		r.mixHash(rs)
		r.mixPSK(in.psk)
		e := r.ephemeral(ie)
		r.mixKey(refDH(in.initEphemeral, rs))
		message(e)
		e = r.ephemeral(re)
		r.mixKey(refDH(in.respEphemeral, ie))
		message(e)
		s := r.seal(is)
		r.mixKey(refDH(in.initStatic, re))
		message(s)
	} else { // IKpsk2: <- s … -> e, es, s, ss; <- e, ee, se, psk
		r = newReference("Noise_IKpsk2_25519_ChaChaPoly_BLAKE2b", in.prologue)
		r.mixHash(rs)
		e := r.ephemeral(ie)
		r.mixKey(refDH(in.initEphemeral, rs))
		s := r.seal(is)
		r.mixKey(refDH(in.initStatic, rs))
		message(e, s)
		e = r.ephemeral(re)
		r.mixKey(refDH(in.respEphemeral, ie))
		r.mixKey(refDH(in.respEphemeral, is))
		r.mixPSK(in.psk)
		message(e)
	}
	keys := r.derive(nil, 2)
	turn := 0
	var n [2]uint64
	for len(in.payloads) > 0 {
		out = append(out, refAEAD(keys[turn][:32]).Seal(nil, refNonce(n[turn]), payload(), nil))
		n[turn]++
		turn = 1 - turn
	}
	return out
}

func unhex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
