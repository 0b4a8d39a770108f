package bundle_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"maps"
	"strings"
	"testing"

	"cobox/image/bundle"
	"cobox/image/bundle/bundletest"
)

var (
	private, public = bundletest.Keys()
	state           = bundle.State{Board: bundle.BoardRPi, Floor: 15}
)

// sentinels are all reasons for which a bundle is refused.
var sentinels = []error{
	bundle.ErrNotBundle, bundle.ErrNewer, bundle.ErrSignature,
	bundle.ErrBoard, bundle.ErrTooOld, bundle.ErrDamaged,
}

// files of a small slot: text, an empty one, one that does not compress.
func files() bundletest.Files {
	noise := make([]byte, 300)
	for i, sum := 0, sha256.Sum256(nil); i < len(noise); i += len(sum) {
		copy(noise[i:], sum[:])
		sum = sha256.Sum256(sum[:])
	}
	return bundletest.Files{
		"cmdline.txt":          []byte("rdinit=/init panic=10\n"),
		"config.txt":           nil,
		"kernel8.img":          noise,
		"overlays/README":      []byte(strings.Repeat("Nothing to see here.\n", 40)),
		"overlays/w1-gpio.dtb": {1, 2, 3},
	}
}

func manifest(f bundletest.Files) *bundle.Manifest {
	return &bundle.Manifest{Version: "1.4.0", Number: 17, Floor: 15, Board: bundle.BoardRPi, Files: f.Describe()}
}

// build makes a bundle that is signed by some of the test keys.
func build(t testing.TB, m *bundle.Manifest, f bundletest.Files, keys ...*bundletest.Key) []byte {
	t.Helper()
	sigs, err := bundletest.Sign(m, keys...)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, m, sigs, f)
}

func write(t testing.TB, m *bundle.Manifest, sigs []bundle.Signature, f bundletest.Files) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := bundle.Write(&b, m, sigs, f.Open); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func small(t testing.TB) []byte {
	f := files()
	return build(t, manifest(f), f, private[0], private[1])
}

// read takes a bundle as a box does. The files count only without an error.
func read(r io.Reader, keys *bundle.Keys, s bundle.State) (bundletest.Files, error) {
	b, err := bundle.Open(r, keys, s)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	got := bundletest.Files{}
	for {
		f, r, err := b.Next()
		if err == io.EOF {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		if got[f.Path], err = io.ReadAll(r); err != nil {
			return got, err
		}
	}
}

// oneSentinel says whether an error gives exactly one reason.
func oneSentinel(err error) bool {
	n := 0
	for _, s := range sentinels {
		if errors.Is(err, s) {
			n++
		}
	}
	return n == 1
}

func equal(a, b bundletest.Files) bool {
	return maps.EqualFunc(a, b, func(x, y []byte) bool { return bytes.Equal(x, y) })
}

// sum appends the checksum at the end of a bundle.
func sum(b []byte) []byte {
	s := sha256.Sum256(b)
	return append(b, s[:]...)
}
