package initrd_test

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"

	"cobox/image/initrd"
)

func records() []cpio.Record {
	return []cpio.Record{
		cpio.Directory("bin", 0o755),
		cpio.StaticFile("bin/coboxd", strings.Repeat("a program ", 10_000), 0o755),
		cpio.Symlink("etc/resolv.conf", "/run/resolv.conf"),
		cpio.StaticFile("init", "", 0o755),
	}
}

func pack(t testing.TB, level initrd.Level) []byte {
	t.Helper()
	b, err := initrd.Pack(records(), level)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// compress makes a frame of any bytes.
func compress(t testing.TB, archive []byte) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	return z.EncodeAll(archive, nil)
}

func archive(t testing.TB, records ...cpio.Record) []byte {
	t.Helper()
	var b bytes.Buffer
	w := cpio.Newc.Writer(&b)
	if err := errors.Join(cpio.WriteRecords(w, records), cpio.WriteTrailer(w)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRoundTrip(t *testing.T) {
	for _, level := range []initrd.Level{initrd.Small, initrd.Quick} {
		b := pack(t, level)
		if !bytes.Equal(b, pack(t, level)) {
			t.Errorf("level %d: the same records give other bytes", level)
		}
		got, err := initrd.Unpack(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := differs(got); diff != "" {
			t.Errorf("level %d: %s", level, diff)
		}
	}
}

// differs says in what the records are other than those that were packed.
func differs(got []cpio.Record) string {
	want := records()
	if len(got) != len(want) {
		return fmt.Sprintf("%d records, want %d", len(got), len(want))
	}
	for i, r := range got {
		have, err := initrd.Content(r)
		should, errWant := initrd.Content(want[i])
		if r.Name != want[i].Name || r.Mode != want[i].Mode || !bytes.Equal(have, should) || err != nil || errWant != nil {
			return fmt.Sprintf("record %v with %d bytes, want %v; %v, %v", r, len(have), want[i], err, errWant)
		}
	}
	return ""
}

// TestDamage: what is cut short, changed or followed by something is an error.
func TestDamage(t *testing.T) {
	whole := pack(t, initrd.Small)
	for n := range len(whole) {
		if _, err := initrd.Unpack(whole[:n]); err == nil {
			t.Errorf("cut after %d of %d bytes: no error", n, len(whole))
		}
		flipped := bytes.Clone(whole)
		flipped[n] ^= 0x40
		if got, err := initrd.Unpack(flipped); err == nil { // some bits stand for nothing
			if diff := differs(got); diff != "" {
				t.Errorf("byte %d of %d changed: no error, but %s", n, len(whole), diff)
			}
		}
	}
	good := archive(t, records()...)
	for what, b := range map[string][]byte{
		"no end":             good[:len(good)-len(archive(t))],
		"a second one":       append(bytes.Clone(good), archive(t, cpio.StaticFile("init", "another", 0o755))...),
		"not an archive":     []byte("something else"),
		"nothing":            {},
		"a file that is cut": good[:400],
	} {
		if _, err := initrd.Unpack(compress(t, b)); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	if _, err := initrd.Unpack(compress(t, append(good, make([]byte, 512)...))); err != nil {
		t.Errorf("zeros behind the end: %v", err)
	}
}

// TestSizesAreBounded: what a header says is not believed before it is compared
// with what is there.
func TestSizesAreBounded(t *testing.T) {
	for what, offset := range map[string]int{"file": 54, "name": 94} {
		b := archive(t, records()...)
		copy(b[offset:], "fffffff0")
		packed := compress(t, b)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := initrd.Unpack(packed)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("a %s of 4 GiB: no error", what)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
			t.Errorf("a %s of 4 GiB takes %d MiB", what, used>>20)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(pack(f, initrd.Small))
	f.Add(compress(f, archive(f)))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		records, err := initrd.Unpack(b)
		if err != nil {
			return
		}
		for _, r := range records {
			initrd.Content(r)
		}
	})
}
