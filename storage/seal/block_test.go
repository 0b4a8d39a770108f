package seal_test

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/iotest"

	"crypto/hkdf"

	"github.com/zeebo/blake3"
	"golang.org/x/crypto/chacha20poly1305"

	"cobox/storage/merklelog"
	"cobox/storage/seal"
)

var testLog = merklelog.LogID(bytes32("a log"))

func bytes32(name string) [32]byte {
	s := sha512.Sum512([]byte(name))
	return [32]byte(s[:32])
}

// stream is an endless reader of fixed bytes for a name. Unlike a random
// generator it is the same in every run.
func stream(name string) io.Reader {
	return blake3Stream{blake3Digest(name)}
}

type blake3Stream struct{ d *blake3.Digest }

func (s blake3Stream) Read(p []byte) (int, error) { return s.d.Read(p) }

func blake3Digest(name string) *blake3.Digest {
	h := blake3.New()
	_, _ = h.WriteString(name)
	return h.Digest()
}

func payload(name string) []byte {
	p := make([]byte, seal.PayloadSize)
	if _, err := io.ReadFull(stream(name), p); err != nil {
		panic(err)
	}
	return p
}

// repeating is a broken generator: it returns the same bytes for ever.
type repeating byte

func (r repeating) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r)
	}
	return len(p), nil
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestBlockSizes(t *testing.T) {
	if seal.PayloadSize != 65463 || seal.PayloadOffset != 57 {
		t.Error("payload", seal.PayloadSize, "at", seal.PayloadOffset)
	}
}

func TestSealOpen(t *testing.T) {
	key := seal.LogKey(bytes32("key"))
	s := seal.NewSealer(testLog, 2, key)
	o := seal.NewOpener(testLog, seal.KeyRing{{}, {}, key})
	want := payload("p")
	block := s.Seal(nil, 7, want)
	if len(block) != merklelog.BlockSize || block[0] != byte(merklelog.Data) {
		t.Fatal("block of", len(block), "bytes, type", block[0])
	}
	if got, err := o.Open(nil, 7, 2, block); err != nil || !bytes.Equal(got, want) {
		t.Fatal("not opened:", err)
	}
	if bytes.Equal(block, s.Seal(nil, 7, want)) {
		t.Error("sealed twice with the same salt")
	}

	t.Run("appends", func(t *testing.T) {
		out := s.Seal([]byte("before"), 7, want)
		if string(out[:6]) != "before" || len(out) != 6+merklelog.BlockSize {
			t.Fatal("dst was not kept")
		}
		got, err := o.Open([]byte("before"), 7, 2, out[6:])
		if err != nil || string(got[:6]) != "before" || !bytes.Equal(got[6:], want) {
			t.Fatal(err)
		}
	})
	t.Run("in place", func(t *testing.T) {
		buf := make([]byte, merklelog.BlockSize)
		in := buf[seal.PayloadOffset : seal.PayloadOffset+seal.PayloadSize]
		copy(in, want)
		out := s.Seal(buf[:0], 7, in)
		if &out[0] != &buf[0] {
			t.Fatal("moved")
		}
		got, err := o.Open(out[seal.PayloadOffset:seal.PayloadOffset], 7, 2, out)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatal(err)
		}
	})
	t.Run("wrong length", func(t *testing.T) {
		defer func() {
			if recover() == nil {
				t.Error("a short payload was sealed")
			}
		}()
		s.Seal(nil, 0, want[1:])
	})
}

// TestOpenErrors tells a wrong key or place from damage.
func TestOpenErrors(t *testing.T) {
	key, other := seal.LogKey(bytes32("key")), seal.LogKey(bytes32("other"))
	block := seal.NewSealer(testLog, 1, key).Seal(nil, 7, payload("p"))
	ring := seal.KeyRing{key, key, key}
	flip := func(i int) []byte {
		b := bytes.Clone(block)
		b[i] ^= 0x10
		return b
	}
	for _, c := range []struct {
		name  string
		log   merklelog.LogID
		keys  seal.KeyRing
		index uint64
		epoch uint32
		block []byte
		want  error
	}{
		{"right", testLog, ring, 7, 1, block, nil},
		{"another key", testLog, seal.KeyRing{other, other}, 7, 1, block, seal.ErrWrongKey},
		{"another log", merklelog.LogID(bytes32("another")), ring, 7, 1, block, seal.ErrWrongKey},
		{"another index", testLog, ring, 8, 1, block, seal.ErrWrongKey},
		{"another epoch, same key", testLog, ring, 7, 2, block, seal.ErrWrongKey},
		{"epoch without key", testLog, ring, 7, 3, block, seal.ErrWrongKey},
		{"last epoch there can be", testLog, ring, 7, 1<<32 - 1, block, seal.ErrWrongKey},
		{"no keys", testLog, nil, 7, 0, block, seal.ErrWrongKey},
		{"salt changed", testLog, ring, 7, 1, flip(1), seal.ErrWrongKey},
		{"commitment changed", testLog, ring, 7, 1, flip(56), seal.ErrWrongKey},
		{"first byte of ciphertext changed", testLog, ring, 7, 1, flip(57), seal.ErrDamaged},
		{"tag changed", testLog, ring, 7, 1, flip(merklelog.BlockSize - 1), seal.ErrDamaged},
		{"type changed", testLog, ring, 7, 1, flip(0), seal.ErrDamaged},
		{"an envelope", testLog, ring, 7, 1, append([]byte{2}, block[1:]...), seal.ErrDamaged},
		{"short", testLog, ring, 7, 1, block[:merklelog.BlockSize-1], seal.ErrDamaged},
		{"long", testLog, ring, 7, 1, append(bytes.Clone(block), 0), seal.ErrDamaged},
		{"empty", testLog, ring, 7, 1, nil, seal.ErrDamaged},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := seal.NewOpener(c.log, c.keys).Open(nil, c.index, c.epoch, c.block)
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

// TestInvariant4 (no key and nonce with two plaintexts): a cloned disk, a state
// rolled back and a random generator that repeats or fails all come down to the
// same random bytes. Then two blocks may share a salt, and with it key and
// nonce, only if they are the same block.
func TestInvariant4(t *testing.T) {
	key := seal.LogKey(bytes32("key"))
	for name, random := range map[string]io.Reader{
		"repeats": repeating(7), "zeros": repeating(0), "fails": iotest.ErrReader(errors.New("no entropy")),
		"ends": bytes.NewReader([]byte{1, 2, 3}),
	} {
		t.Run(name, func(t *testing.T) {
			p, q := payload("p"), payload("p")
			q[len(q)-1] ^= 1
			seen := map[string]string{}
			add := func(what string, block []byte) {
				salt := string(block[1:25])
				if before, ok := seen[salt]; ok {
					t.Errorf("%s and %s share a salt", before, what)
				}
				seen[salt] = what
			}
			for epoch := range uint32(3) {
				for index := range uint64(8) {
					// A clone: the same state seals on, twice.
					s := seal.NewSealerRand(random, testLog, epoch, key)
					c := seal.NewSealerRand(random, testLog, epoch, key)
					add(fmt.Sprint("p ", epoch, index), s.Seal(nil, index, p))
					add(fmt.Sprint("q ", epoch, index), c.Seal(nil, index, q))
				}
			}
			s := seal.NewSealerRand(random, merklelog.LogID(bytes32("another")), 0, key)
			add("another log", s.Seal(nil, 0, p))
			s = seal.NewSealerRand(random, testLog, 0, seal.LogKey(bytes32("other")))
			add("another key", s.Seal(nil, 0, p))

			if name == "ends" { // its first read was not like the others
				return
			}
			a := seal.NewSealerRand(random, testLog, 0, key).Seal(nil, 0, p)
			b := seal.NewSealerRand(random, testLog, 0, key).Seal(nil, 0, p)
			if !bytes.Equal(a, b) {
				t.Error("the same block under the same salt differs: one key and nonce, two ciphertexts")
			}
		})
	}
}

// TestBlockFormula computes a block by the specification's formulas with
// crypto/hkdf and compares.
func TestBlockFormula(t *testing.T) {
	const index, epoch = 0x0102030405, 3
	key := bytes32("key")
	p := payload("p")
	got := seal.NewSealerRand(repeating(9), testLog, epoch, key).Seal(nil, index, p)

	ctx := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(bytes.Clone(testLog[:]), index), epoch)
	logEpoch := string(testLog[:]) + "\x00\x00\x00\x03"
	blk := must(hkdf.Expand(sha512.New, key[:], "cobox/v1/log-block\x00"+logEpoch, 32))
	saltKey := must(hkdf.Expand(sha512.New, key[:], "cobox/v1/log-salt\x00"+logEpoch, 32))
	h := must(blake3.NewKeyed(saltKey))
	_, _ = h.Write(bytes.Repeat([]byte{9}, 24))
	_, _ = h.Write(ctx)
	_, _ = h.Write(p)
	salt := h.Sum(nil)[:24]
	out := must(hkdf.Expand(sha512.New, blk, "cobox/v1/block\x00"+string(salt)+string(ctx), 64))
	want := append(append([]byte{1}, salt...), out[32:]...)
	want = must(chacha20poly1305.New(out[:32])).Seal(want, make([]byte, 12), p, nil)
	if !bytes.Equal(got, want) {
		t.Error("block differs from the formula")
	}
}

// TestConcurrent seals and opens from several goroutines with one sealer and
// one opener; run with -race.
func TestConcurrent(t *testing.T) {
	key := seal.NewLogKey()
	s, o := seal.NewSealer(testLog, 0, key), seal.NewOpener(testLog, seal.KeyRing{key})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			p := payload(fmt.Sprint(g))
			var block, out []byte
			for i := range uint64(20) {
				block = s.Seal(block[:0], i, p)
				var err error
				if out, err = o.Open(out[:0], i, 0, block); err != nil || !bytes.Equal(out, p) {
					t.Error(g, i, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("pools are not pools under the race detector")
	}
	key := seal.NewLogKey()
	s, o := seal.NewSealer(testLog, 0, key), seal.NewOpener(testLog, seal.KeyRing{key})
	block, out, p := make([]byte, 0, merklelog.BlockSize), make([]byte, 0, merklelog.BlockSize), payload("p")
	block = s.Seal(block[:0], 1, p)
	// One each: the cipher. A collection may empty the pools in between.
	if n := testing.AllocsPerRun(50, func() { block = s.Seal(block[:0], 1, p) }); n > 1 {
		t.Errorf("Seal allocates %v times", n)
	}
	if n := testing.AllocsPerRun(50, func() { out, _ = o.Open(out[:0], 1, 0, block) }); n > 1 {
		t.Errorf("Open allocates %v times", n)
	}
}

func BenchmarkSeal(b *testing.B) {
	s := seal.NewSealer(testLog, 0, seal.NewLogKey())
	block, p := make([]byte, 0, merklelog.BlockSize), payload("p")
	b.SetBytes(merklelog.BlockSize)
	b.ReportAllocs()
	for i := uint64(0); b.Loop(); i++ {
		block = s.Seal(block[:0], i, p)
	}
}

func BenchmarkOpen(b *testing.B) {
	key := seal.NewLogKey()
	o := seal.NewOpener(testLog, seal.KeyRing{key})
	block := seal.NewSealer(testLog, 0, key).Seal(nil, 1, payload("p"))
	out := make([]byte, 0, merklelog.BlockSize)
	b.SetBytes(merklelog.BlockSize)
	b.ReportAllocs()
	for b.Loop() {
		out, _ = o.Open(out[:0], 1, 0, block)
	}
}
