package roster

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
	"cobox/storage/account"
)

func examples() []any {
	at := Stamp{Elapsed: 3_600_000, Wall: 1_700_000_000}
	device := account.DeviceKey{1, 2}
	return []any{
		&boxRecord{1, "Backhaus <&> Söhne"},
		&memberRecord{1, "bakery", false, 5 << 30, account.NoiseKey{3}, hex32{4}, at, nil},
		&memberRecord{1, "", true, math.MaxUint64, account.NoiseKey{3}, hex32{4}, at, &at},
		&deviceRecord{1, account.ID{5}, account.NoiseKey{6}, hex32{7}, "laptop", at},
		&inviteRecord{1, RoleClaim, hex16{8}, "", math.MaxUint64, at, 0, nil, nil, nil},
		&inviteRecord{1, RoleMember, hex16{8}, "bakery", 1, at, 3_600_000, &device, &at, nil},
		&keyRecord{1, "phone", hex32{9}, at},
		&counterRecord{1, 42, 10},
		&seenRecord{1, at},
	}
}

// parse reads a record as its kind does, and returns its encoding.
func parse(kind byte, b []byte) ([]byte, error) {
	var rec any
	var err error
	switch kind {
	case kindBox:
		rec, err = parseBox(b)
	case kindMember:
		rec, err = parseMember(b)
	case kindDevice:
		rec, err = parseDevice(b)
	case kindInvite:
		rec, err = parseInvite(b)
	case kindKey:
		rec, err = parseKey(b)
	case kindCounter:
		rec, err = parseCounter(b)
	case kindSeen:
		rec, err = parseSeen(b)
	}
	if err != nil {
		return nil, err
	}
	return appendRecord(rec), nil
}

func kindOf(rec any) byte {
	switch rec.(type) {
	case *boxRecord:
		return kindBox
	case *memberRecord:
		return kindMember
	case *deviceRecord:
		return kindDevice
	case *inviteRecord:
		return kindInvite
	case *keyRecord:
		return kindKey
	case *counterRecord:
		return kindCounter
	}
	return kindSeen
}

// What is in the stores of boxes is read by every later program.
func TestKnownAnswers(t *testing.T) {
	var got bytes.Buffer
	for _, rec := range examples() {
		b := appendRecord(rec)
		fmt.Fprintf(&got, "%c %s\n", kindOf(rec), b)
		if again, err := parse(kindOf(rec), b); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s: %v", b, err)
		}
	}
	fmt.Fprintf(&got, "keys %q %q %q %q %q\n", boxKey(), memberKey(account.ID{'A'}), inviteKey(noiseconn.InviteID{'I'}),
		revocationKey(account.ID{'A'}, 258), counterKey(certified{account.ID{'A'}, account.DeviceKey{'D'}}))
	want, err := os.ReadFile("testdata/known.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("got\n%s", got.String())
	}
}

func TestParseRefuses(t *testing.T) {
	good := string(appendRecord(examples()[1]))
	for name, text := range map[string]string{
		"unknown field":     strings.Replace(good, `"name"`, `"nome"`, 1),
		"another version":   strings.Replace(good, `"v":1`, `"v":2`, 1),
		"white space":       strings.Replace(good, `"v":1`, `"v": 1`, 1),
		"something after":   good + "{}",
		"repeated field":    strings.Replace(good, `"v":1`, `"v":1,"v":1`, 1),
		"missing field":     strings.Replace(good, `"name":"bakery",`, ``, 1),
		"upper-case digits": strings.Replace(good, "0400", "0A00", 1),
		"zero secret":       strings.Replace(good, `"recovery_psk":"04`, `"recovery_psk":"00`, 1),
		"control character": strings.Replace(good, "bakery", `\u001b`, 1),
		"cut":               good[:len(good)-1],
		"empty":             "",
		"long":              good + strings.Repeat(" ", maxRecord),
	} {
		if text == good {
			t.Fatalf("%s: the test changes nothing", name)
		}
		if _, err := parse(kindMember, []byte(text)); err == nil {
			t.Errorf("%s: accepted %s", name, text)
		}
	}
}

// A damaged roster is an error that names the record, not a smaller roster.
func TestDamagedRecord(t *testing.T) {
	for _, change := range []func(d *disk){
		func(d *disk) { d.keys["b"] = []byte("{}") },
		func(d *disk) { d.keys["z"] = []byte("{}") },
		func(d *disk) { d.keys["m123"] = []byte("{}") },
		func(d *disk) {
			for k := range d.keys {
				if k[0] == kindMember {
					delete(d.keys, k)
				}
			}
		},
	} {
		d, c := &disk{}, &clock{}
		claimed(t, d, c)
		change(d)
		if _, err := Open(d, c.options()); err == nil {
			t.Error("nobody noticed")
		} else {
			t.Log(err)
		}
	}
}

func TestSecretsPrintNothing(t *testing.T) {
	for _, verb := range []string{"%v", "%+v", "%s", "%x", "%d", "%q"} {
		s := fmt.Sprintf(verb+verb+verb, hex32{0xab, 0xcd}, hex16{0xab, 0xcd}, struct{ S pairing.Secret }{pairing.Secret{0xab, 0xcd}})
		if strings.Contains(s, "abcd") || strings.Contains(s, "171") {
			t.Errorf("%s prints %s", verb, s)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	for _, rec := range examples() {
		f.Add(kindOf(rec), appendRecord(rec))
	}
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		if !strings.ContainsRune("bmdikns", rune(kind)) {
			return
		}
		if again, err := parse(kind, b); err == nil && !bytes.Equal(again, b) {
			t.Errorf("%s was taken for %s", b, again)
		}
	})
}

// Whatever a store holds, opening a roster on it ends without a panic.
func FuzzLoad(f *testing.F) {
	for _, rec := range examples() {
		f.Add(append([]byte{kindOf(rec)}, make([]byte, 32)...), appendRecord(rec))
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		c := &clock{}
		d := &disk{keys: map[string][]byte{string(key): value}}
		if r, err := Open(d, c.options()); err == nil {
			r.Members()
			r.Invites()
		}
	})
}
