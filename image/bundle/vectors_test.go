package bundle_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"cobox/image/bundle"
	"cobox/image/bundle/bundletest"
)

// TestVectors holds bytes that never change. FORMAT.md says how they were made.
func TestVectors(t *testing.T) {
	m := manifest(files())
	sigs, err := bundletest.Sign(m, private[0], private[1])
	if err != nil {
		t.Fatal(err)
	}
	var pub []byte
	for _, k := range public.Public() {
		pub = k.Append(pub)
	}
	vector := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, got := range map[string][]byte{
		"manifest.txt": []byte(text(t, m)),
		"manifest.sig": bundle.AppendSignatures(nil, sigs),
		"test.pub":     pub,
	} {
		if want := vector(name); !bytes.Equal(got, want) {
			t.Errorf("%s is now\n%swas\n%s", name, got, want)
		}
	}

	frozen := vector("small.cobox")
	got, err := read(bytes.NewReader(frozen), public, state)
	if err != nil || !equal(got, files()) {
		t.Errorf("the frozen bundle: %v", err)
	}
	// All but the compressed bytes, which are the library's affair.
	head := 24 + len(vector("manifest.txt")) + len(vector("manifest.sig"))
	if now := small(t); !bytes.Equal(now[:head], frozen[:head]) {
		t.Error("the head of a bundle has changed")
	}
}
