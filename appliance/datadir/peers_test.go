package datadir

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// fixedPeers has one of each kind.
func fixedPeers() *Peers {
	fill := func(dst []byte, from byte) {
		for i := range dst {
			dst[i] = from + byte(i)
		}
	}
	p := &Peers{Name: "shelf", List: []Peer{{Kind: PeerDevice, Administrator: true}, {Kind: PeerRecovery}, {Kind: PeerKey, Administrator: true}}}
	for i := range p.List {
		fill(p.List[i].Noise[:], byte(1+i))
		fill(p.List[i].PSK[:], byte(0x21+i))
	}
	for i := range 2 {
		fill(p.List[i].Account[:], 0x41)
	}
	fill(p.List[0].Device[:], 0x61)
	return p
}

func TestPeers(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	if _, err := d.Peers(); err == nil {
		t.Error("peers that were never written")
	}
	if err := d.WritePeers(fixedPeers()); err != nil {
		t.Fatal(err)
	}
	got, err := d.Peers()
	if err != nil || !reflect.DeepEqual(got, fixedPeers()) {
		t.Errorf("read back: %v", err)
	}
	name := filepath.Join(path, PeersFile)
	before, err := os.Stat(name)
	if err != nil || before.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", before, err)
	}
	if err := d.WritePeers(fixedPeers()); err != nil {
		t.Fatal(err)
	}
	// A memory card wears out by what is written without need.
	if after, err := os.Stat(name); err != nil || !os.SameFile(before, after) {
		t.Errorf("the same peers were written again: %v", err)
	}
	if err := d.WritePeers(&Peers{Name: "shelf"}); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Peers(); err != nil || len(got.List) != 0 {
		t.Errorf("no peers: %v", err)
	}
}

func TestParsePeersRefuses(t *testing.T) {
	good := AppendPeers(nil, fixedPeers())
	for i := range len(good) * 8 {
		b := bytes.Clone(good)
		b[i/8] ^= 1 << (i % 8)
		if _, err := ParsePeers(b); err == nil {
			t.Fatalf("bit %d flipped, and nobody noticed", i)
		}
	}
	for n := range good {
		if _, err := ParsePeers(good[:n]); err == nil {
			t.Fatalf("cut to %d bytes, and nobody noticed", n)
		}
	}
	for what, change := range map[string]func(*Peers){
		"no name":                     func(p *Peers) { p.Name = "" },
		"a name with control":         func(p *Peers) { p.Name = "a\nb" },
		"a long name":                 func(p *Peers) { p.Name = strings.Repeat("x", 65) },
		"another kind":                func(p *Peers) { p.List[0].Kind = 4 },
		"no kind":                     func(p *Peers) { p.List[0].Kind = 0 },
		"no key":                      func(p *Peers) { p.List[0].Noise = [32]byte{} },
		"no secret":                   func(p *Peers) { p.List[0].PSK = [32]byte{} },
		"a device without an account": func(p *Peers) { p.List[0].Account = [32]byte{} },
		"a device without its key":    func(p *Peers) { p.List[0].Device = [32]byte{} },
		"a phrase with a device":      func(p *Peers) { p.List[1].Device = [32]byte{1} },
		"a phrase that administers":   func(p *Peers) { p.List[1].Administrator = true },
		"a bare key with an account":  func(p *Peers) { p.List[2].Account = [32]byte{1} },
		"out of order":                func(p *Peers) { p.List[0], p.List[1] = p.List[1], p.List[0] },
		"twice the same":              func(p *Peers) { p.List[1].Noise = p.List[0].Noise },
	} {
		p := fixedPeers()
		change(p)
		if _, err := ParsePeers(AppendPeers(nil, p)); err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
	// A count that is not that of the bytes, with a checksum that is right.
	b := bytes.Clone(good[:len(good)-sha256.Size])
	b[len(peersMagic)+1+len("shelf")] = 0xff
	sum := sha256.Sum256(b)
	if _, err := ParsePeers(append(b, sum[:]...)); err == nil {
		t.Error("a count that is far too large is accepted")
	}
}

func TestPeersPrintNothing(t *testing.T) {
	p := fixedPeers()
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "p", p, "peer", p.List[0])
	for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%s", "%q", "%d"} {
		fmt.Fprintf(&log, verb+verb, p, p.List[0].PSK)
	}
	for _, secret := range []string{hex.EncodeToString(p.List[0].PSK[:4]), "33 34 35", "!\\\"#"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("%q shows in %s", secret, log.String())
		}
	}
}

// A directory whose data was moved away never becomes an empty box.
func TestMoved(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	id, _, err := d.Identity()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.WritePeers(fixedPeers()); err != nil {
		t.Fatal(err)
	}
	d.Close()
	disk := [16]byte{0xab, 15: 1}
	mark := filepath.Join(path, MovedFile)
	for _, c := range []struct {
		content string
		disk    string
	}{
		{string(AppendMoved(nil, disk)), "ab000000000000000000000000000001"},
		{"", ""}, // a mark that is damaged is one all the same
		{"ab0000000000000000000000000000\n", ""},
	} {
		if err := os.WriteFile(mark, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, create := range []bool{true, false} {
			_, err := Open(path, Options{Create: create})
			var moved *MovedError
			if !errors.As(err, &moved) || moved.Disk != c.disk {
				t.Fatalf("%q, create %v: %v", c.content, create, err)
			}
		}
		w, err := Open(path, Options{Waiting: true, Holder: "test"})
		if err != nil {
			t.Fatalf("waiting: %v", err)
		}
		again, _, err := w.Identity()
		if err != nil || *again != *id {
			t.Errorf("waiting: another identity: %v", err)
		}
		if p, err := w.Peers(); err != nil || len(p.List) != 3 {
			t.Errorf("waiting: peers: %v", err)
		}
		w.Close()
	}
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	d = open(t, path)
	if _, _, err := d.Identity(); err == nil || !strings.Contains(err.Error(), "is missing") {
		t.Errorf("a box that has run and has no store would start empty: %v", err)
	}
	if err := os.Mkdir(d.Store(), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Identity(); err != nil {
		t.Error(err)
	}
}

// A box that waits makes nothing.
func TestWaitingMakesNothing(t *testing.T) {
	path := t.TempDir()
	if _, err := Open(path, Options{Waiting: true}); !errors.Is(err, ErrNoBox) {
		t.Errorf("an empty directory: %v", err)
	}
	open(t, path).Close()
	d, err := Open(path, Options{Waiting: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, _, err := d.Identity(); err == nil {
		t.Error("an identity was made")
	}
	entries, err := os.ReadDir(path)
	if err != nil || len(entries) != 2 {
		t.Errorf("%v %v", entries, err)
	}
}

func TestParseMoved(t *testing.T) {
	good := AppendMoved(nil, [16]byte{1})
	for _, bad := range []string{"", "\n", string(good[:32]), string(good) + "\n", strings.ToUpper(string(AppendMoved(nil, [16]byte{0xab}))), strings.Repeat("0", 32) + "\n"} {
		if id, err := ParseMoved([]byte(bad)); err == nil {
			t.Errorf("%q is %x", bad, id)
		}
	}
	if id, err := ParseMoved(good); err != nil || id != [16]byte{1} {
		t.Errorf("%x %v", id, err)
	}
}

func FuzzParsePeers(f *testing.F) {
	f.Add(AppendPeers(nil, fixedPeers()))
	f.Add(AppendPeers(nil, &Peers{Name: "x"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := ParsePeers(b); err == nil && !bytes.Equal(AppendPeers(nil, p), b) {
			t.Error("not canonical")
		}
		// Behind a checksum that is right, too.
		sum := sha256.Sum256(b)
		b = append(b, sum[:]...)
		if p, err := ParsePeers(b); err == nil && !bytes.Equal(AppendPeers(nil, p), b) {
			t.Error("not canonical")
		}
	})
}

func FuzzParseMoved(f *testing.F) {
	f.Add(AppendMoved(nil, [16]byte{1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, err := ParseMoved(b); err == nil && !bytes.Equal(AppendMoved(nil, id), b) {
			t.Error("not canonical")
		}
	})
}
