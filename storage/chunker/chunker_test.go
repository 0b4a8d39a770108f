package chunker_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"cobox/storage/chunker"

	"github.com/zeebo/blake3"
)

var update = flag.Bool("update", false, "write the vectors anew")

func key(b byte) (k [32]byte) {
	for i := range k {
		k[i] = b
	}
	return k
}

func random(seed uint64, n int) []byte {
	var s [32]byte
	binary.BigEndian.PutUint64(s[:], seed)
	b := make([]byte, n)
	rand.NewChaCha8(s).Read(b)
	return b
}

// text is compressible: words out of a small set.
func text(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "word%d ", r.IntN(500))
	}
	return b.Bytes()[:n]
}

func cut(c *chunker.Chunker, data []byte) (lengths []int) {
	for len(data) > 0 {
		n := c.Next(data)
		lengths = append(lengths, n)
		data = data[n:]
	}
	return lengths
}

func TestVectors(t *testing.T) {
	inputs := []struct {
		name string
		data []byte
	}{
		{"empty", nil},
		{"one", []byte{7}},
		{"min", random(1, 16<<10)},
		{"min+1", random(2, 16<<10+1)},
		{"random", random(3, 1<<20)},
		{"text", text(4, 1<<20)},
		{"zeros", make([]byte, 600<<10)},
	}
	var out strings.Builder
	for _, p := range []chunker.Params{chunker.Files, chunker.Listings} {
		for _, k := range []byte{0, 1} {
			c := chunker.New(key(k), p)
			for _, in := range inputs {
				lengths := cut(c, in.data)
				var b []byte
				for _, n := range lengths {
					b = binary.BigEndian.AppendUint32(b, uint32(n))
				}
				sum := blake3.Sum256(b)
				fmt.Fprintf(&out, "normal=%d key=%d %s: %d chunks, first %v, all %s\n",
					p.Normal, k, in.name, len(lengths), lengths[:min(4, len(lengths))], hex.EncodeToString(sum[:8]))
			}
		}
	}
	const file = "testdata/boundaries.txt"
	if *update {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("boundaries changed; they are frozen:\n%s\nwant\n%s", out.String(), want)
	}
}

// slow is the definition of the package comment, byte by byte.
func slow(k [32]byte, p chunker.Params, data []byte) int {
	h, _ := blake3.NewKeyed(k[:])
	h.Write([]byte("cobox/v1/gear\x00"))
	var tb [2048]byte
	h.Digest().Read(tb[:])
	lead := 0
	for 1<<lead < p.Normal {
		lead++
	}
	for n := 1; n <= len(data); n++ {
		if n == p.Max {
			return n
		}
		if n < p.Min {
			continue
		}
		var v uint64
		for _, b := range data[n-64 : n] {
			v = v<<1 + binary.BigEndian.Uint64(tb[8*int(b):])
		}
		zeros := lead + 1
		if n > p.Normal {
			zeros = lead - 2
		}
		if v>>(64-zeros) == 0 {
			return n
		}
	}
	return len(data)
}

func TestDefinition(t *testing.T) {
	p := chunker.Params{Min: 64, Normal: 256, Max: 1024}
	for _, k := range [][32]byte{key(3), key(4)} {
		c := chunker.New(k, p)
		for seed := range uint64(40) {
			data := random(seed, 20_000)
			if seed%2 == 1 {
				data = text(seed, 20_000)
			}
			for len(data) > 0 {
				n, want := c.Next(data), slow(k, p, data)
				if n != want {
					t.Fatalf("seed %d: %d bytes left: cut at %d, want %d", seed, len(data), n, want)
				}
				data = data[n:]
			}
		}
	}
}

func TestLimitsAndAverage(t *testing.T) {
	size := 64 << 20
	if testing.Short() {
		size = 8 << 20
	}
	for _, p := range []chunker.Params{chunker.Files, chunker.Listings} {
		c := chunker.New(key(9), p)
		lengths := cut(c, random(5, size))
		for i, n := range lengths {
			if n > p.Max || n < p.Min && i < len(lengths)-1 {
				t.Fatalf("chunk %d of %d has %d bytes; limits %d to %d", i, len(lengths), n, p.Min, p.Max)
			}
		}
		mean := size / len(lengths)
		t.Logf("normal %d: mean %d", p.Normal, mean)
		if mean < p.Normal*9/10 || mean > p.Normal*11/10 {
			t.Errorf("normal %d: mean chunk is %d bytes", p.Normal, mean)
		}
	}
}

// An insertion moves only the boundaries near it.
func TestShift(t *testing.T) {
	c := chunker.New(key(1), chunker.Files)
	r := rand.New(rand.NewPCG(1, 2))
	data := random(11, 8<<20)
	known := map[[32]byte]bool{}
	each(c, data, func(b []byte) { known[blake3.Sum256(b)] = true })
	for range 12 {
		at, n := r.IntN(len(data)), 1+r.IntN(5000)
		edited := bytes.Join([][]byte{data[:at], random(r.Uint64(), n), data[at:]}, nil)
		fresh := 0
		each(c, edited, func(b []byte) {
			if !known[blake3.Sum256(b)] {
				fresh++
			}
		})
		if fresh > 8 {
			t.Errorf("inserting %d bytes at %d made %d new chunks", n, at, fresh)
		}
	}
}

func each(c *chunker.Chunker, data []byte, fn func([]byte)) {
	for len(data) > 0 {
		n := c.Next(data)
		fn(data[:n])
		data = data[n:]
	}
}

// Boundaries under two keys have nothing to do with each other.
func TestKeyed(t *testing.T) {
	data := random(6, 16<<20)
	ends := map[int]bool{}
	sum := 0
	for _, n := range cut(chunker.New(key(1), chunker.Files), data) {
		sum += n
		ends[sum] = true
	}
	same, all := 0, 0
	sum = 0
	for _, n := range cut(chunker.New(key(2), chunker.Files), data) {
		sum += n
		all++
		if ends[sum] {
			same++
		}
	}
	if same > 1+all/20 { // the end of the data is common
		t.Errorf("%d of %d boundaries are the same under another key", same, all)
	}
}

// A boundary depends only on its own chunk, so the caller may show more or
// less of what follows.
func TestLookahead(t *testing.T) {
	c := chunker.New(key(5), chunker.Listings)
	data := random(8, 1<<20)
	for len(data) > c.Max() {
		n := c.Next(data)
		if m := c.Next(data[:c.Max()]); m != n {
			t.Fatalf("cut at %d with all data and %d with Max bytes", n, m)
		}
		data = data[n:]
	}
}

func BenchmarkNext(b *testing.B) {
	for _, in := range []struct {
		name string
		data []byte
	}{{"random", random(1, 64<<20)}, {"text", text(1, 64<<20)}} {
		b.Run(in.name, func(b *testing.B) {
			c := chunker.New(key(1), chunker.Files)
			b.SetBytes(int64(len(in.data)))
			for b.Loop() {
				cut(c, in.data)
			}
		})
	}
}
