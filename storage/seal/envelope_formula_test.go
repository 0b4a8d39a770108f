package seal_test

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"cobox/storage/merklelog"
	"cobox/storage/seal"
)

// forge makes an envelope by the specification's formulas, not by the code
// under test, and as a lying writer would want it: plain and parts are taken as
// they are, and stanzas holds what each stanza says the key is.
type forge struct {
	index   uint64
	epoch   uint32
	plain   []byte // without length and zeros
	length  int    // what the length field says, if not len(plain)
	pad     byte   // what the padding is made of
	parts   int
	key     [32]byte
	stanzas map[int][]byte // place → key; random bytes elsewhere
}

func (f *forge) blocks(to seal.KEMPrivate) [][]byte {
	salt := bytes.Repeat([]byte{5}, 24)
	ctx := binary.BigEndian.AppendUint64(bytes.Clone(testLog[:]), f.index)
	info := append(append([]byte("cobox/v1/envelope\x00"), ctx...), salt...)
	ctx = binary.BigEndian.AppendUint32(ctx, f.epoch)
	out := must(hkdf.Expand(sha512.New, f.key[:], "cobox/v1/envelope-body\x00"+string(salt)+string(ctx), 64))

	public := to.Public()
	recipient := must(hpke.MLKEM768X25519().NewPublicKey(public[:]))
	stanzas := make([]byte, 40*1168)
	_, _ = stream("stanzas").Read(stanzas)
	for place, k := range f.stanzas {
		s := must(hpke.Seal(recipient, hpke.HKDFSHA512(), hpke.ChaCha20Poly1305(), info, k))
		copy(stanzas[place*1168:(place+1)*1168], s)
	}

	if f.length == 0 {
		f.length = len(f.plain)
	}
	if f.parts == 0 {
		f.parts = 1
	}
	body := binary.BigEndian.AppendUint32(nil, uint32(f.length))
	body = append(body, f.plain...)
	room := 18752 + (f.parts-1)*65528 - 16
	body = append(body, bytes.Repeat([]byte{f.pad}, room-len(body))...)
	body = must(chacha20poly1305.New(out[:32])).Seal(nil, make([]byte, 12), body, nil)

	var blocks [][]byte
	for part := range f.parts {
		b := binary.BigEndian.AppendUint32([]byte{2, 1, byte(part), byte(f.parts)}, f.epoch)
		if part == 0 {
			b = append(append(append(b, salt...), out[32:]...), stanzas...)
		}
		n := merklelog.BlockSize - len(b)
		blocks, body = append(blocks, append(b, body[:n]...)), body[n:]
	}
	return blocks
}

func TestEnvelopeFormula(t *testing.T) {
	env := newEnvelope(2, 1, 1)
	plain := must(seal.AppendEnvelope(nil, env))
	key, wrong := bytes32("envelope"), bytes32("wrong")
	long := must(seal.AppendEnvelope(nil, newEnvelope(1000, 1, 1)))
	k := kem("account")
	for _, c := range []struct {
		name string
		f    forge
		ok   bool
		want error // nil: any
	}{
		{"by the formula", forge{stanzas: map[int][]byte{0: key[:]}}, true, nil},
		{"last stanza", forge{stanzas: map[int][]byte{39: key[:]}}, true, nil},
		{"a lying stanza first", forge{stanzas: map[int][]byte{3: wrong[:], 30: key[:]}}, true, nil},
		{"only a lying stanza", forge{stanzas: map[int][]byte{3: wrong[:]}}, false, seal.ErrDamaged},
		{"no stanza", forge{}, false, seal.ErrNotRecipient},
		{"padding is not zero", forge{stanzas: map[int][]byte{0: key[:]}, pad: 1}, false, nil},
		{"a part too many", forge{stanzas: map[int][]byte{0: key[:]}, parts: 2}, false, nil},
		{"length one too large", forge{stanzas: map[int][]byte{0: key[:]}, length: len(plain) + 1}, false, nil},
		{"length beyond the end", forge{stanzas: map[int][]byte{0: key[:]}, length: 18733}, false, nil},
		{"length huge", forge{stanzas: map[int][]byte{0: key[:]}, length: 1<<32 - 1}, false, nil},
		{"contents for another epoch", forge{stanzas: map[int][]byte{0: key[:]}, epoch: 2}, false, nil},
		{"contents for another index", forge{stanzas: map[int][]byte{0: key[:]}, index: 10}, false, nil},
		{"two parts, cut in the middle", forge{stanzas: map[int][]byte{0: key[:]}, plain: long[:20000], parts: 2}, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && !c.ok {
				t.Skip("post-quantum keys are slow in emulation")
			}
			f := c.f
			f.key = key
			if f.index == 0 {
				f.index = 9
			}
			if f.epoch == 0 {
				f.epoch = 1
			}
			if f.plain == nil {
				f.plain = plain
			}
			got, err := seal.OpenEnvelope(testLog, f.index, f.blocks(k), k)
			if c.ok && (err != nil || !reflect.DeepEqual(got, env)) {
				t.Error("not opened:", err)
			}
			if !c.ok && (err == nil || c.want != nil && !errors.Is(err, c.want)) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}
