package seal_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"cobox/storage/account"
	"cobox/storage/merklelog"
	"cobox/storage/seal"
)

// newEnvelope makes an envelope with the given number of keys and roster
// entries, the same in every run.
func newEnvelope(keys, accounts, devices int) *seal.Envelope {
	e := &seal.Envelope{
		Log: testLog, Index: 9, Epoch: uint32(keys - 1),
		Space: seal.SpaceKeys{Tag: merklelog.Tag{1, 2, 3}, Name: "Büro", ChunkID: bytes32("id"), Chunker: bytes32("cdc")},
	}
	for i := range keys {
		e.Keys = append(e.Keys, bytes32(fmt.Sprint("key ", i)))
	}
	e.Roster.Number = 5
	id := func(i int) (id account.ID) { id[0], id[1] = 1, byte(i); return id }
	for i := range accounts {
		e.Roster.Accounts = append(e.Roster.Accounts, seal.RosterAccount{ID: id(i), Card: bytes32(fmt.Sprint("card ", i))})
	}
	for i := range devices {
		e.Roster.Devices = append(e.Roster.Devices, seal.RosterDevice{
			Key: account.DeviceKey{2, byte(i)}, Account: id(i % accounts), Name: fmt.Sprintf("laptop %d", i),
		})
	}
	return e
}

func kem(name string) seal.KEMPrivate { return seal.KEMPrivate(bytes32(name)) }

func publics(keys ...seal.KEMPrivate) (p []account.KEMKey) {
	for _, k := range keys {
		p = append(p, k.Public())
	}
	return p
}

func TestEnvelope(t *testing.T) {
	long := strings.Repeat("ä", 127)
	biggest := newEnvelope(seal.MaxEpochs, 1, 39)
	biggest.Space.Name = long
	for i := range biggest.Roster.Devices {
		biggest.Roster.Devices[i].Name = long
	}
	for _, c := range []struct {
		name   string
		env    *seal.Envelope
		blocks int
	}{
		{"first", newEnvelope(1, 1, 1), 1},
		{"no device", newEnvelope(1, 1, 0), 1},
		{"several epochs", newEnvelope(12, 3, 4), 1},
		{"two blocks", newEnvelope(1000, 3, 4), 2},
		{"biggest", biggest, seal.MaxEnvelopeBlocks},
	} {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && c.blocks > 1 {
				t.Skip("post-quantum keys are slow in emulation")
			}
			one, two := kem("account"), kem("device")
			blocks, err := seal.SealEnvelope(c.env, publics(one, two), nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(blocks) != c.blocks {
				t.Fatalf("%d blocks, want %d", len(blocks), c.blocks)
			}
			for i, b := range blocks {
				if len(b) != merklelog.BlockSize || b[0] != byte(merklelog.Envelope) {
					t.Fatal("block of", len(b), "bytes, type", b[0])
				}
				h, err := seal.ParseEnvelopeHeader(b)
				if err != nil || h != (seal.EnvelopeHeader{Part: i, Parts: c.blocks, Epoch: c.env.Epoch}) {
					t.Error(h, err)
				}
			}
			for _, k := range []seal.KEMPrivate{one, two} {
				got, err := seal.OpenEnvelope(testLog, 9, blocks, k)
				if err != nil || !reflect.DeepEqual(got, c.env) {
					t.Fatal("opened another:", err)
				}
			}
			if testing.Short() {
				return
			}
			if _, err := seal.OpenEnvelope(testLog, 9, blocks, kem("stranger")); !errors.Is(err, seal.ErrNotRecipient) {
				t.Error("stranger:", err)
			}
		})
	}
}

// TestInvariant14 (a removed member cannot read later epochs): the envelope of
// the next epoch opens for who stayed, not for who left, and the keys that the
// one who left has do not open its blocks.
func TestInvariant14(t *testing.T) {
	stays, leaves := kem("stays"), kem("leaves")
	before := newEnvelope(1, 2, 0)
	after := newEnvelope(2, 1, 0)
	first := must(seal.SealEnvelope(before, publics(stays, leaves), nil))
	second := must(seal.SealEnvelope(after, publics(stays), nil))
	had := must(seal.OpenEnvelope(testLog, 9, first, leaves))
	if _, err := seal.OpenEnvelope(testLog, 9, second, leaves); !errors.Is(err, seal.ErrNotRecipient) {
		t.Error("who left opens the next envelope:", err)
	}
	has := must(seal.OpenEnvelope(testLog, 9, second, stays))
	block := seal.NewSealer(testLog, 1, has.Keys[1]).Seal(nil, 20, payload("p"))
	for epoch := range uint32(2) {
		if _, err := seal.NewOpener(testLog, had.Keys).Open(nil, 20, epoch, block); err == nil {
			t.Error("who left opens a block of the next epoch")
		}
	}
	if _, err := seal.NewOpener(testLog, has.Keys).Open(nil, 20, 1, block); err != nil {
		t.Error(err)
	}
}

func TestOpenEnvelopeErrors(t *testing.T) {
	k := kem("account")
	blocks := must(seal.SealEnvelope(newEnvelope(1000, 1, 1), publics(k), nil))
	change := func(block, offset int) [][]byte {
		b := [][]byte{bytes.Clone(blocks[0]), bytes.Clone(blocks[1])}
		b[block][offset] ^= 1
		return b
	}
	all := bytes.Clone(blocks[0])
	for i := 64; i < 64+40*1168; i++ {
		all[i] ^= 1
	}
	short := testing.Short()
	for _, c := range []struct {
		name   string
		log    merklelog.LogID
		index  uint64
		blocks [][]byte
		want   error // nil: any
		slow   bool
	}{
		{"another log", merklelog.LogID(bytes32("another")), 9, blocks, seal.ErrNotRecipient, true},
		{"another index", testLog, 8, blocks, seal.ErrNotRecipient, true},
		{"salt changed", testLog, 9, change(0, 8), seal.ErrNotRecipient, true},
		{"stanzas changed", testLog, 9, [][]byte{all, blocks[1]}, seal.ErrNotRecipient, true},
		{"commitment changed", testLog, 9, change(0, 32), seal.ErrDamaged, true},
		{"first piece changed", testLog, 9, change(0, 46784), seal.ErrDamaged, false},
		{"second piece changed", testLog, 9, change(1, 8), seal.ErrDamaged, false},
		{"tag changed", testLog, 9, change(1, merklelog.BlockSize-1), seal.ErrDamaged, false},
		{"epoch of the first changed", testLog, 9, change(0, 7), seal.ErrDamaged, false},
		{"epoch of the second changed", testLog, 9, change(1, 7), seal.ErrDamaged, false},
		{"type changed", testLog, 9, change(0, 0), seal.ErrDamaged, false},
		{"version changed", testLog, 9, change(0, 1), nil, false},
		{"part changed", testLog, 9, change(1, 2), seal.ErrDamaged, false},
		{"parts changed", testLog, 9, change(0, 3), seal.ErrDamaged, false},
		{"no blocks", testLog, 9, nil, seal.ErrDamaged, false},
		{"one missing", testLog, 9, blocks[:1], seal.ErrDamaged, false},
		{"second first", testLog, 9, [][]byte{blocks[1], blocks[0]}, seal.ErrDamaged, false},
		{"first twice", testLog, 9, [][]byte{blocks[0], blocks[0]}, seal.ErrDamaged, false},
		{"one too many", testLog, 9, [][]byte{blocks[0], blocks[1], blocks[1]}, seal.ErrDamaged, false},
		{"short block", testLog, 9, [][]byte{blocks[0][:100], blocks[1]}, seal.ErrDamaged, false},
		{"data block", testLog, 9, [][]byte{make([]byte, merklelog.BlockSize)}, seal.ErrDamaged, false},
	} {
		if short && c.slow {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			_, err := seal.OpenEnvelope(c.log, c.index, c.blocks, k)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

func TestSealEnvelopeLimits(t *testing.T) {
	k := kem("account").Public()
	many := make([]account.KEMKey, 41)
	for i := range many {
		many[i] = k
	}
	var unusable account.KEMKey
	unusable[0], unusable[1] = 0xff, 0xff
	for _, c := range []struct {
		name       string
		change     func(*seal.Envelope)
		recipients []account.KEMKey
	}{
		{"no recipient", nil, nil},
		{"too many recipients", nil, many},
		{"unusable recipient", nil, []account.KEMKey{unusable}},
		{"no keys", func(e *seal.Envelope) { e.Keys = nil }, many[:1]},
		{"a key missing", func(e *seal.Envelope) { e.Epoch++ }, many[:1]},
		{"too many keys", func(e *seal.Envelope) { *e = *newEnvelope(seal.MaxEpochs+1, 1, 1) }, many[:1]},
		{"index too large", func(e *seal.Envelope) { e.Index = merklelog.MaxSize }, many[:1]},
		{"no name", func(e *seal.Envelope) { e.Space.Name = "" }, many[:1]},
		{"long name", func(e *seal.Envelope) { e.Space.Name = strings.Repeat("x", 256) }, many[:1]},
		{"name not UTF-8", func(e *seal.Envelope) { e.Space.Name = "\xff" }, many[:1]},
		{"name with an escape", func(e *seal.Envelope) { e.Space.Name = "a\x1b[2Jb" }, many[:1]},
		{"name that turns the line", func(e *seal.Envelope) { e.Space.Name = "a\u202eb" }, many[:1]},
		{"device name with a newline", func(e *seal.Envelope) { e.Roster.Devices[0].Name = "a\nb" }, many[:1]},
		{"no account", func(e *seal.Envelope) { e.Roster = seal.Roster{} }, many[:1]},
		{"device of nobody", func(e *seal.Envelope) { e.Roster.Devices[0].Account[5] = 9 }, many[:1]},
		{"account twice", func(e *seal.Envelope) { e.Roster.Accounts[1] = e.Roster.Accounts[0] }, many[:1]},
		{"device twice", func(e *seal.Envelope) { e.Roster.Devices[1] = e.Roster.Devices[0] }, many[:1]},
		{"too many in the roster", func(e *seal.Envelope) { e.Roster = newEnvelope(1, 2, 39).Roster }, many[:1]},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEnvelope(2, 2, 2)
			if c.change != nil {
				c.change(e)
			}
			if _, err := seal.SealEnvelope(e, c.recipients, nil); err == nil {
				t.Error("sealed")
			}
		})
	}
	if testing.Short() {
		return
	}
	if _, err := seal.SealEnvelope(newEnvelope(1, 2, 38), many[:40], nil); err != nil {
		t.Error("as many as there can be:", err)
	}
}

// TestRosterOrder: whatever order the roster is given in, it has one encoding.
func TestRosterOrder(t *testing.T) {
	e := newEnvelope(1, 3, 3)
	want := must(seal.AppendEnvelope(nil, e))
	e.Roster.Accounts[0], e.Roster.Accounts[2] = e.Roster.Accounts[2], e.Roster.Accounts[0]
	e.Roster.Devices[0], e.Roster.Devices[1] = e.Roster.Devices[1], e.Roster.Devices[0]
	if got := must(seal.AppendEnvelope(nil, e)); !bytes.Equal(got, want) {
		t.Error("another order, another encoding")
	}
	if e.Roster.Devices[0].Key[1] != 1 {
		t.Error("the caller's roster was sorted")
	}
}

// TestInvariant4Envelope: with a generator that repeats, envelopes that differ
// in anything have different salts, which separate the keys of the body and
// of the stanzas alike.
func TestInvariant4Envelope(t *testing.T) {
	to := publics(kem("account"))
	seen := map[string]string{}
	for name, change := range map[string]func(*seal.Envelope){
		"as it is":     func(*seal.Envelope) {},
		"log":          func(e *seal.Envelope) { e.Log[0]++ },
		"index":        func(e *seal.Envelope) { e.Index++ },
		"new key":      func(e *seal.Envelope) { e.Keys[1][0]++ },
		"old key":      func(e *seal.Envelope) { e.Keys[0][0]++ },
		"next epoch":   func(e *seal.Envelope) { e.Keys = append(e.Keys, e.Keys[0]); e.Epoch++ },
		"roster":       func(e *seal.Envelope) { e.Roster.Number++ },
		"device name":  func(e *seal.Envelope) { e.Roster.Devices[0].Name += "'" },
		"space":        func(e *seal.Envelope) { e.Space.Tag[0]++ },
		"name":         func(e *seal.Envelope) { e.Space.Name += "'" },
		"hash of card": func(e *seal.Envelope) { e.Roster.Accounts[0].Card[0]++ },
	} {
		e := newEnvelope(2, 1, 1)
		change(e)
		blocks := must(seal.SealEnvelope(e, to, repeating(3)))
		salt := string(blocks[0][8:32])
		if before, ok := seen[salt]; ok {
			t.Errorf("%q and %q share a salt", before, name)
		}
		seen[salt] = name
		if testing.Short() && len(seen) == 3 {
			break
		}
	}
}

// TestParseEnvelopeCanonical: bytes that say the same in another way are not
// accepted.
func TestParseEnvelopeCanonical(t *testing.T) {
	e := newEnvelope(1, 2, 2)
	good := must(seal.AppendEnvelope(nil, e))
	if got := must(seal.ParseEnvelope(good)); !reflect.DeepEqual(got, e) {
		t.Fatal("not read back")
	}
	roster := 126 + len("Büro") + 32 // where the roster's number lies
	swap := func(at, size int) []byte {
		b := bytes.Clone(good)
		copy(b[at:], good[at+size:at+2*size])
		copy(b[at+size:], good[at:at+size])
		return b
	}
	set := func(at int, v ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], v)
		return b
	}
	for name, bad := range map[string][]byte{
		"accounts swapped":     swap(roster+5, 64),
		"devices swapped":      swap(roster+5+128+1, 64+1+len("laptop 0")),
		"a byte too many":      append(bytes.Clone(good), 0),
		"version":              set(0, 2),
		"epoch beyond limit":   set(41, binary.BigEndian.AppendUint32(nil, seal.MaxEpochs)...),
		"epoch beyond the end": set(41, 0, 0, 0x0f, 0xff),
		"epoch huge":           set(41, 0xff, 0xff, 0xff, 0xff),
		"no name":              append(append(bytes.Clone(good[:125]), 0), good[126+len("Büro"):]...),
		"no accounts":          set(roster+4, 0),
		"index":                set(33, 0xff),
	} {
		if _, err := seal.ParseEnvelope(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for n := range len(good) {
		if _, err := seal.ParseEnvelope(good[:n]); err == nil {
			t.Errorf("first %d bytes accepted", n)
		}
	}
}

func BenchmarkSealEnvelope(b *testing.B) {
	e, to := newEnvelope(3, 3, 3), publics(kem("a"), kem("b"))
	for b.Loop() {
		_ = must(seal.SealEnvelope(e, to, nil))
	}
}

func BenchmarkOpenEnvelope(b *testing.B) {
	k := kem("a")
	blocks := must(seal.SealEnvelope(newEnvelope(3, 3, 3), publics(k), nil))
	stranger := kem("b")
	for b.Loop() { // the worst case: all stanzas are tried
		_, _ = seal.OpenEnvelope(testLog, 9, blocks, stranger)
	}
}
