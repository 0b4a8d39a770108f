package device

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"cobox/netlink/noiseconn"
	"cobox/storage/account"
	"cobox/storage/archive"
	"cobox/storage/merklelog"
	"cobox/storage/seal"
)

// testState has something in every field.
func testState(t testing.TB, h Home) *State {
	t.Helper()
	acct, err := seal.DeriveAccount(seal.Entropy{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	certify := func(keys *seal.Device) *account.Certificate {
		cert, err := acct.Certify(keys.Public(), 0, time.Unix(1_700_000_000, 0))
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	keys := seal.NewDevice()
	space, err := seal.NewSpace("Büro")
	if err != nil {
		t.Fatal(err)
	}
	newLog := func() (*merklelog.Manifest, merklelog.Checkpoint) {
		m := &merklelog.Manifest{Nonce: [16]byte{byte(rand.Int())}, Writer: merklelog.WriterKey(keys.Key()), Certificate: account.AppendCertificate(nil, certify(keys)), Space: space.Tag}
		if err := merklelog.SignManifest(m, keys.Signer()); err != nil {
			t.Fatal(err)
		}
		cp, err := merklelog.SignCheckpoint(keys.Signer(), m.ID(), 7, merklelog.Hash{1})
		if err != nil {
			t.Fatal(err)
		}
		return m, cp
	}
	m1, cp := newLog()
	m2, _ := newLog()
	return &State{
		Home: h, Name: "laptop", Card: acct.Card(), Certificate: certify(keys), Keys: keys, RecoveryRoot: acct.RecoveryRoot(),
		Boxes: []*Box{
			{Name: "shelf", Static: noiseconn.StaticPublic{1}, Sign: [32]byte{2}, PSK: noiseconn.PSK{3}, Administrator: true, Quota: 4,
				Addresses: []string{"192.168.1.20:26269", "[fd00::1]:26269"}, Version: 1, Paired: time.Unix(1_700_000_000, 0).UTC(), Waiting: "its disk is away"},
			{Name: "attic", Static: noiseconn.StaticPublic{5}},
		},
		Spaces: []*Space{{Keys: space, Logs: []*Log{
			{Manifest: m1, Keys: seal.KeyRing{{1}, {2}}, Envelopes: []archive.Envelope{{Index: 0, Blocks: 1}, {Index: 9, Blocks: 2}}, Own: true,
				Recipients: []account.DeviceKey{keys.Key()}},
			{Manifest: m2, Left: true, Avoid: true, Known: &cp},
		}}},
		Others: []*Other{{certify(seal.NewDevice()), "tablet"}},
	}
}

func TestStateRoundTrip(t *testing.T) {
	h := testHome(t)
	if _, err := Open(h); !errors.Is(err, ErrNotSetUp) {
		t.Errorf("before: %v", err)
	}
	if Exists(h) {
		t.Error("exists before it was made")
	}
	s := testState(t, h)
	if err := Create(s); err != nil {
		t.Fatal(err)
	}
	if err := Create(s); !errors.Is(err, ErrExists) {
		t.Errorf("made twice: %v", err)
	}
	got, err := Open(h)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, s) {
		t.Errorf("got  %+v\nwant %+v", got, s)
	}
	// The smallest state, too.
	small := &State{Home: h, Name: "x", Card: s.Card, Certificate: s.Certificate, Keys: s.Keys, RecoveryRoot: s.RecoveryRoot}
	if err := small.Save(); err != nil {
		t.Fatal(err)
	}
	if got, err := Open(h); err != nil || !reflect.DeepEqual(got, small) {
		t.Errorf("%+v %v", got, err)
	}
}

// Keys are for nobody else to read, and nothing of them is printed.
func TestStateIsSecret(t *testing.T) {
	h := testHome(t)
	s := testState(t, h)
	if err := Create(s); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{h.Config: 0o700, filepath.Join(h.Config, stateFile): 0o600} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != mode {
			t.Errorf("%s: %v %v, want mode %o", path, fi.Mode(), err, mode)
		}
	}
	// A file that others could read is replaced by one that they cannot.
	path := filepath.Join(h.Config, stateFile)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("after saving: %v %v", fi.Mode(), err)
	}
	printed := fmt.Sprintf("%v %+v %#v %s", s.Keys, s.Boxes[0], *s.Boxes[0], s.RecoveryRoot)
	for _, secret := range [][]byte{s.Boxes[0].PSK[:], s.RecoveryRoot[:]} {
		if strings.Contains(printed, fmt.Sprintf("%x", secret)) || strings.Contains(printed, fmt.Sprint(secret)) {
			t.Errorf("a secret is printed: %s", printed)
		}
	}
}

func TestParseStateIsStrict(t *testing.T) {
	s := testState(t, testHome(t))
	good, err := s.encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseState(good); err != nil {
		t.Fatal(err)
	}
	edit := func(f func(j *stateJSON)) []byte {
		var j stateJSON
		if err := json.Unmarshal(good, &j); err != nil {
			t.Fatal(err)
		}
		f(&j)
		b, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	other, err := seal.DeriveAccount(seal.Entropy{9})
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"empty":               nil,
		"cut":                 good[:len(good)/2],
		"more":                append(bytes.Clone(good), "{}"...),
		"white space":         append(bytes.Clone(good), '\n'),
		"unknown field":       bytes.Replace(good, []byte(`"name"`), []byte(`"x":1,"name"`), 1),
		"field in capitals":   bytes.Replace(good, []byte(`"name"`), []byte(`"Name"`), 1),
		"field twice":         bytes.Replace(good, []byte(`"name"`), []byte(`"name":"x","name"`), 1),
		"version 0":           edit(func(j *stateJSON) { j.V = 0 }),
		"no card":             edit(func(j *stateJSON) { j.Card = nil }),
		"other account":       edit(func(j *stateJSON) { j.Card = account.AppendCard(nil, other.Card()) }),
		"other device":        edit(func(j *stateJSON) { j.Device = seal.AppendDevice(nil, seal.NewDevice()) }),
		"damaged keys":        edit(func(j *stateJSON) { j.Device[40] ^= 1 }),
		"short recovery root": edit(func(j *stateJSON) { j.RecoveryRoot = j.RecoveryRoot[1:] }),
		"long psk":            edit(func(j *stateJSON) { j.Boxes[0].PSK = append(j.Boxes[0].PSK, 0) }),
		"short tag":           edit(func(j *stateJSON) { j.Spaces[0].Tag = nil }),
		"short log key":       edit(func(j *stateJSON) { j.Spaces[0].Logs[0].Keys[1] = nil }),
		"keys and envelopes":  edit(func(j *stateJSON) { j.Spaces[0].Logs[0].Keys = j.Spaces[0].Logs[0].Keys[:1] }),
		"damaged manifest":    edit(func(j *stateJSON) { j.Spaces[0].Logs[0].Manifest = []byte{1} }),
		"damaged checkpoint":  edit(func(j *stateJSON) { j.Spaces[0].Logs[1].Known = []byte{1} }),
		"damaged other":       edit(func(j *stateJSON) { j.Others[0].Certificate = []byte{1} }),
		"no boxes":            edit(func(j *stateJSON) { j.Boxes = nil }),
		"time not in UTC":     edit(func(j *stateJSON) { j.Boxes[0].Paired = j.Boxes[0].Paired.In(time.FixedZone("", 60)) }),
	} {
		if _, err := parseState(b); err == nil {
			t.Errorf("%s: accepted", name)
		} else if errors.Is(err, ErrNewer) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A newer state is told from a damaged one, whatever else it has.
	newer := bytes.Replace(bytes.Replace(good, []byte(`"v":1`), []byte(`"v":2`), 1), []byte(`"name"`), []byte(`"new":{},"name"`), 1)
	if _, err := parseState(newer); !errors.Is(err, ErrNewer) {
		t.Errorf("newer: %v", err)
	}
}

func TestOpenNamesTheFile(t *testing.T) {
	h := testHome(t)
	if err := os.MkdirAll(h.Config, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(h.Config, stateFile)
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(h); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("damaged: %v", err)
	}
	if err := os.Truncate(path, MaxStateSize+1); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(h); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("too large: %v", err)
	}
}

func FuzzParseState(f *testing.F) {
	s := testState(f, Home{})
	b, err := s.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"v":1}`))
	f.Add([]byte(`{"v":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseState(b)
		if err != nil {
			return
		}
		again, err := s.encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("not canonical (%v):\n%s\n%s", err, b, again)
		}
	})
}

// Save either happens or does not: what cannot be written leaves the old state.
func TestSaveFails(t *testing.T) {
	h := testHome(t)
	s := testState(t, h)
	if err := Create(s); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(h.Config, stateFile))
	if err != nil {
		t.Fatal(err)
	}
	s.Boxes[1].Paired = time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC) // cannot be encoded
	if err := s.Save(); err == nil {
		t.Error("what cannot be encoded was saved")
	}
	if after, err := os.ReadFile(filepath.Join(h.Config, stateFile)); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the old state is gone: %v", err)
	}
	// A folder in the way of the rename.
	path := filepath.Join(h.Config, "busy")
	if err := os.MkdirAll(filepath.Join(path, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("x")); err == nil {
		t.Error("a folder was written over")
	}
	entries, err := os.ReadDir(h.Config)
	if err != nil || len(entries) != 2 {
		t.Errorf("files left behind: %v %v", entries, err)
	}
}

// SIGKILL at any point of Save leaves a whole state, and no litter after the
// next.
func TestSaveIsCrashSafe(t *testing.T) {
	if dir := os.Getenv("COBOX_TEST_SAVE"); dir != "" {
		s, err := Open(Home{Config: dir})
		if err != nil {
			t.Fatal(err)
		}
		for i := uint64(1); ; i++ {
			s.Boxes[0].Quota = i
			s.Boxes[1].Name = strings.Repeat("n", int(i%1000))
			if err := s.Save(); err != nil {
				t.Fatal(err)
			}
			if i == 1 {
				fmt.Println("saving")
			}
		}
	}
	h := testHome(t)
	if err := Create(testState(t, h)); err != nil {
		t.Fatal(err)
	}
	kills := 20
	if testing.Short() {
		kills = 3
	}
	for range kills {
		cmd := exec.Command(os.Args[0], "-test.run=^TestSaveIsCrashSafe$")
		cmd.Env = append(os.Environ(), "COBOX_TEST_SAVE="+h.Config)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(rand.N(5 * time.Millisecond))
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		s, err := Open(h)
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Boxes[1].Name) != int(s.Boxes[0].Quota%1000) {
			t.Fatal("a mixture of two states")
		}
	}
	s, err := Open(h)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(h.Config); err != nil || len(entries) != 1 {
		t.Errorf("litter: %v %v", entries, err)
	}
}

func TestBoxByName(t *testing.T) {
	s := &State{Boxes: []*Box{{Name: "shelf", Static: noiseconn.StaticPublic{0xab, 0xcd}}, {Name: "attic", Static: noiseconn.StaticPublic{0xab, 0xce}}, {Name: "attic"}}}
	for name, want := range map[string]*Box{"shelf": s.Boxes[0], "abcd": s.Boxes[0], "abce00": s.Boxes[1]} {
		if got, err := s.Box(name); err != nil || got != want {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
	for _, name := range []string{"", "Shelf", "attic", "ab", "abc", "abcf"} {
		if got, err := s.Box(name); name != "abc" && err == nil {
			t.Errorf("%q found %v", name, got)
		}
	}
	s.AddBox(&Box{Name: "new name", Static: noiseconn.StaticPublic{0xab, 0xcd}})
	if len(s.Boxes) != 3 || s.Boxes[0].Name != "new name" {
		t.Errorf("%+v", s.Boxes)
	}
	s.AddBox(&Box{Name: "third", Static: noiseconn.StaticPublic{9}})
	if len(s.Boxes) != 4 {
		t.Errorf("%+v", s.Boxes)
	}
}

func TestSaw(t *testing.T) {
	b := &Box{Addresses: []string{"a:1", "b:1"}}
	if b.Saw("a:1", []string{"b:1"}) {
		t.Error("nothing new is a change")
	}
	if !b.Saw("b:1", []string{"c:1", "", "c:1"}) || strings.Join(b.Addresses, " ") != "b:1 c:1 a:1" {
		t.Errorf("%v", b.Addresses)
	}
	var many []string
	for i := range 20 {
		many = append(many, fmt.Sprintf("x%d:1", i))
	}
	if b.Saw("[fe80::1%eth0]:1", []string{"fe80::2%eth0"}) {
		t.Errorf("an address of one interface is remembered: %v", b.Addresses)
	}
	if b.Saw("a:1", many); len(b.Addresses) != MaxAddresses || b.Addresses[0] != "a:1" {
		t.Errorf("%v", b.Addresses)
	}
}
