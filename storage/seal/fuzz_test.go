package seal_test

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"testing"

	"cobox/storage/merklelog"
	"cobox/storage/seal"
)

func FuzzParseDevice(f *testing.F) {
	f.Add(seal.AppendDevice(nil, mustDevice(f, bytes32("device"))))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := seal.ParseDevice(b)
		if err != nil {
			return
		}
		if !bytes.Equal(seal.AppendDevice(nil, d), b) {
			t.Error("another encoding of one device")
		}
	})
}

func FuzzParseEnvelope(f *testing.F) {
	for _, e := range []*seal.Envelope{newEnvelope(1, 1, 0), newEnvelope(3, 2, 5)} {
		f.Add(must(seal.AppendEnvelope(nil, e)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := seal.ParseEnvelope(b)
		if err != nil {
			return
		}
		again, err := seal.AppendEnvelope(nil, e)
		if err != nil {
			t.Fatal("read but not written:", err)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("read and written again: %x, was %x", again, b)
		}
	})
}

func FuzzParseEnvelopeHeader(f *testing.F) {
	f.Add([]byte{2, 1, 0, 1, 0, 0, 0, 0})
	f.Add([]byte{2, 1, 2, 3, 0, 0, 0x0f, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		block := make([]byte, merklelog.BlockSize)
		copy(block, b)
		h, err := seal.ParseEnvelopeHeader(block)
		if err != nil {
			return
		}
		if h.Parts < 1 || h.Parts > seal.MaxEnvelopeBlocks || h.Part < 0 || h.Part >= h.Parts || h.Epoch >= seal.MaxEpochs {
			t.Error("accepted", h)
		}
		if block[0] != byte(merklelog.Envelope) || block[1] != 1 || int(block[2]) != h.Part || int(block[3]) != h.Parts {
			t.Errorf("%x is read as %v", block[:8], h)
		}
	})
}

// FuzzOpenEnvelope changes bytes of an envelope's first block, and the place
// that it is opened for: nothing but the whole opens, and nothing panics.
func FuzzOpenEnvelope(f *testing.F) {
	k := kem("account")
	want := newEnvelope(2, 1, 1)
	good := must(seal.SealEnvelope(want, publics(k), nil))[0]
	f.Add(uint32(0), []byte{0}, uint64(9))
	f.Add(uint32(3), []byte{3}, uint64(9))
	f.Add(uint32(8), []byte{1}, uint64(9))
	f.Add(uint32(46784), []byte{1, 2, 3}, uint64(9))
	f.Add(uint32(0), []byte{0}, uint64(10))
	f.Fuzz(func(t *testing.T, at uint32, change []byte, index uint64) {
		b := bytes.Clone(good)
		for i, c := range change {
			b[(int(at%merklelog.BlockSize)+i)%len(b)] ^= c
		}
		// A changed stanza may be another recipient's.
		outside := !bytes.Equal(b[:64], good[:64]) || !bytes.Equal(b[64+40*1168:], good[64+40*1168:])
		e, err := seal.OpenEnvelope(testLog, index, [][]byte{b}, k)
		if err == nil && (outside || index != 9 || e.Index != 9) {
			t.Error("opened")
		}
		if bytes.Equal(b, good) && index == 9 && err != nil {
			t.Error(err)
		}
	})
}

// FuzzOpen changes bytes of a block of data, and its place.
func FuzzOpen(f *testing.F) {
	key := seal.LogKey(bytes32("key"))
	o := seal.NewOpener(testLog, seal.KeyRing{key})
	p := payload("p")
	good := seal.NewSealer(testLog, 0, key).Seal(nil, 7, p)
	f.Add(uint32(0), []byte{0}, uint64(7), uint32(0))
	f.Add(uint32(20), []byte{1}, uint64(7), uint32(0))
	f.Add(uint32(50), []byte{1}, uint64(7), uint32(1))
	f.Add(uint32(500), []byte{1}, uint64(7), uint32(0))
	f.Fuzz(func(t *testing.T, at uint32, change []byte, index uint64, epoch uint32) {
		b := bytes.Clone(good)
		for i, c := range change {
			b[(int(at%merklelog.BlockSize)+i)%len(b)] ^= c
		}
		same := bytes.Equal(b, good) && index == 7 && epoch == 0
		got, err := o.Open(nil, index, epoch, b)
		switch {
		case same != (err == nil):
			t.Error(err)
		case err == nil && !bytes.Equal(got, p):
			t.Error("opened as something else")
		case err != nil && !errors.Is(err, seal.ErrWrongKey) && !errors.Is(err, seal.ErrDamaged):
			t.Error(err)
		}
	})
}

var quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// FuzzParsePhrase: what is accepted is a phrase, and says so when written out.
func FuzzParsePhrase(f *testing.F) {
	for _, v := range bip39Vectors {
		f.Add(v[1])
	}
	f.Add("1. ozone, 2) Drill 0grab")
	f.Add("AB%!000000")
	f.Fuzz(func(t *testing.T, text string) {
		e, err := seal.ParsePhrase(text)
		if err != nil {
			// What the message quotes is the text's own.
			if said := quoted.ReplaceAllString(err.Error(), ""); strings.Contains(said, "%!") {
				t.Error("message:", err)
			}
			return
		}
		if again, err := seal.ParsePhrase(e.Phrase()); err != nil || again != e {
			t.Error(err)
		}
	})
}
