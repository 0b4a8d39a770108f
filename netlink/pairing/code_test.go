package pairing

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"cobox/netlink/noiseconn"
	"cobox/storage/account"
)

func addresses(t testing.TB, list ...string) []Address {
	t.Helper()
	var out []Address
	for _, s := range list {
		a, err := ParseAddress(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, a)
	}
	return out
}

func testCode(t testing.TB, list ...string) *Code {
	c := &Code{Kind: KindClaim, Addresses: addresses(t, list...)}
	for i := range c.Box {
		c.Box[i] = byte(i + 1)
	}
	copy(c.Secret[:], "sixteen secret b")
	copy(c.Invite[:], "inviteid")
	return c
}

func text1(t testing.TB, c *Code) string {
	t.Helper()
	s, err := c.Text()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCodeRoundTrip(t *testing.T) {
	for _, kind := range []Kind{KindClaim, KindMember, KindPartner} {
		for _, list := range [][]string{nil, {"192.168.1.5:26269"}, {"[fd00::5]:26269", "10.0.0.1:1"},
			{"box.example.org:26269", "127.0.0.1:65535"}, {"1.2.3.4:1", "1.2.3.4:2", "1.2.3.5:1", "8.8.8.8:8"}} {
			c := testCode(t, list...)
			c.Kind = kind
			s := text1(t, c)
			if len(s) > maxCodeText {
				t.Errorf("text of %d bytes", len(s))
			}
			for _, form := range []string{s, s[strings.Index(s, "#")+1:], " \n" + s + "\r\n",
				strings.Replace(s, "http://cobox", "HTTP://CoBox", 1)} {
				got, err := ParseCode(form)
				if err != nil {
					t.Fatalf("ParseCode(%q): %v", form, err)
				}
				if !reflect.DeepEqual(got, c) {
					t.Errorf("ParseCode(%q) = %+v, want %+v", form, got, c)
				}
			}
		}
	}
}

// TestCodeDropsAddresses: what does not fit into version 7 is left out from the
// end, and nothing else.
func TestCodeDropsAddresses(t *testing.T) {
	for n := range 12 {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf("[2001:db8::%x]:26269", i+1), fmt.Sprintf("10.0.0.%d:26269", i+1))
		}
		c := testCode(t, list...)
		s := text1(t, c)
		got, err := ParseCode(s)
		if err != nil {
			t.Fatal(err)
		}
		kept := len(got.Addresses)
		if !reflect.DeepEqual(got.Addresses, c.Addresses[:kept:kept]) && kept > 0 {
			t.Errorf("%d addresses: kept %v", n, got.Addresses)
		}
		if want := min(2*n, 2); kept != want { // 19 and 7 bytes of 34
			t.Errorf("%d addresses: kept %d, want %d", 2*n, kept, want)
		}
		d, err := Draw(s)
		if err != nil {
			t.Fatal(err)
		}
		if d.Modules() > 45 {
			t.Errorf("%d modules, version 7 has 45", d.Modules())
		}
	}
}

func TestParseErrors(t *testing.T) {
	good := text1(t, testCode(t, "192.168.1.5:26269"))
	head, payload, _ := strings.Cut(good, "#")
	head += "#"
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		t.Fatal(err)
	}
	// make is a text with a right checksum.
	make := func(change func([]byte) []byte) string {
		b := change(bytes.Clone(raw[:len(raw)-checksumSize]))
		return head + base64.RawURLEncoding.EncodeToString(append(b, checksum(b)...))
	}
	flip := func(i int) func([]byte) []byte { return func(b []byte) []byte { b[i] ^= 1; return b } }
	tests := []struct {
		name, text string
		want       error
	}{
		{"nothing", "", ErrNotCoBox},
		{"a word", "hello", ErrNotCoBox},
		{"a URL", "https://example.org/#" + payload, ErrNotCoBox},
		{"a wifi code", "WIFI:S:Home;T:WPA;P:pass;;", ErrNotCoBox},
		{"another host", "http://fritz.box/#" + payload, ErrNotCoBox},
		{"another scheme", "https" + good[4:], ErrNotCoBox},
		{"a long text", strings.Repeat("A", 5000), ErrNotCoBox},
		{"a long text of ours", head + strings.Repeat("A", 5000), ErrNotCoBox},
		{"random base64", "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA", ErrNotCoBox},
		{"no payload", head, ErrTruncated},
		{"host only", "http://cobox-abcd.local/", ErrTruncated},
		{"half", good[:len(good)/2], ErrTruncated},
		{"half a payload", payload[:len(payload)/2], ErrTruncated},
		{"an address short", good[:len(good)-9], ErrDamaged},
		{"padding", good + "=", ErrDamaged},
		{"line break", good[:60] + "\n" + good[60:], ErrNotCoBox},
		{"newer version", make(func(b []byte) []byte { b[0] = 2; return b }), ErrNewer},
		{"newer version, payload only", strings.TrimPrefix(make(func(b []byte) []byte { b[0] = 200; return append(b, 1, 2, 3) }), head), ErrNewer},
		{"unknown kind", make(func(b []byte) []byte { b[1] = 9; return b }), ErrNewer},
		{"version 0", make(func(b []byte) []byte { b[0] = 0; return b }), ErrDamaged},
		{"another box's URL", make(flip(5)), ErrDamaged},
		{"no secret", make(func(b []byte) []byte { clear(b[34:50]); return b }), ErrDamaged},
		{"no key", make(func(b []byte) []byte { clear(b[2:34]); return b }), ErrDamaged},
		{"short, right checksum", make(func(b []byte) []byte { return b[:40] }), ErrDamaged},
		{"address kind", make(flip(codeFixed)), ErrDamaged},
		{"address cut", make(func(b []byte) []byte { return b[:len(b)-1] }), ErrDamaged},
		{"address twice", make(func(b []byte) []byte { return append(b, b[codeFixed:]...) }), ErrDamaged},
		{"port 0", make(func(b []byte) []byte { b[len(b)-1], b[len(b)-2] = 0, 0; return b }), ErrDamaged},
		{"IPv4 in IPv6", make(func(b []byte) []byte {
			return append(b[:codeFixed], append([]byte{6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF}, 1, 2, 3, 4, 1, 1)...)
		}), ErrDamaged},
		{"IP as a name", make(func(b []byte) []byte { return append(b[:codeFixed], "\x01\x071.2.3.4\x01\x01"...) }), ErrDamaged},
		{"capital name", make(func(b []byte) []byte { return append(b[:codeFixed], "\x01\x03Box\x01\x01"...) }), ErrDamaged},
		{"empty name", make(func(b []byte) []byte { return append(b[:codeFixed], "\x01\x00\x01\x01"...) }), ErrDamaged},
		{"too long", make(func(b []byte) []byte { return append(b, "\x01\x28abcdefghijklmnopqrstuvwxyzabcdefghijklmn\x01\x01"...) }), ErrDamaged},
	}
	for _, tt := range tests {
		_, err := ParseCode(tt.text)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		for _, other := range []error{ErrNotCoBox, ErrNewer, ErrTruncated, ErrDamaged} {
			if other != tt.want && errors.Is(err, other) {
				t.Errorf("%s: %v is also %v", tt.name, err, other)
			}
		}
		if _, err := ParseAny(tt.text); !errors.Is(err, tt.want) {
			t.Errorf("%s: ParseAny: %v, want %v", tt.name, err, tt.want)
		}
	}
	// No single character can be changed or left out.
	for i := range good {
		for _, changed := range []string{good[:i] + "~" + good[i+1:], good[:i] + good[i+1:], good[:i]} {
			if _, err := ParseCode(changed); err == nil {
				t.Errorf("ParseCode(%q) succeeded", changed)
			}
		}
		if i > len(head) {
			c := byte('A')
			if good[i] == c {
				c = 'B'
			}
			if got, err := ParseCode(good[:i] + string(c) + good[i+1:]); err == nil {
				t.Errorf("character %d changed: %+v", i, got)
			}
		}
	}
}

func TestCodeCheck(t *testing.T) {
	for name, change := range map[string]func(*Code){
		"kind":    func(c *Code) { c.Kind = KindSheet },
		"box":     func(c *Code) { c.Box = noiseconn.StaticPublic{} },
		"secret":  func(c *Code) { c.Secret = Secret{} },
		"address": func(c *Code) { c.Addresses = []Address{{"Box", 1}} },
		"port":    func(c *Code) { c.Addresses = []Address{{"1.2.3.4", 0}} },
		"zone":    func(c *Code) { c.Addresses = []Address{{"fe80::1%eth0", 1}} },
		"twice":   func(c *Code) { c.Addresses = []Address{{"box", 1}, {"box", 1}} },
	} {
		c := testCode(t)
		change(c)
		if s, err := c.Text(); err == nil {
			t.Errorf("a code with a bad %s became %q", name, s)
		}
	}
}

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]string{
		"192.168.1.5:26269":              "192.168.1.5:26269",
		"[FD00:0:0::5]:1":                "[fd00::5]:1",
		"[::ffff:1.2.3.4]:1":             "1.2.3.4:1",
		"Box.Example.ORG:443":            "box.example.org:443",
		"localhost:1":                    "localhost:1",
		"":                               "",
		"box":                            "",
		":26269":                         "",
		"box:":                           "",
		"box:0":                          "",
		"box:65536":                      "",
		"box:http":                       "",
		"[fe80::1%eth0]:1":               "",
		"0.0.0.0:1":                      "",
		"[::]:1":                         "",
		"1.2.3:1":                        "",
		"1.2.3.4.5:1":                    "",
		"a..b:1":                         "",
		"-a:1":                           "",
		"a_b:1":                          "",
		"bücher:1":                       "",
		"a.0x1f:1":                       "",
		strings.Repeat("a", 64) + ":1":   "",
		strings.Repeat("a.", 127) + ":1": "",
	} {
		got, err := ParseAddress(in)
		if want == "" {
			if err == nil {
				t.Errorf("ParseAddress(%q) = %v", in, got)
			}
			continue
		}
		if err != nil || got.String() != want {
			t.Errorf("ParseAddress(%q) = %v, %v, want %s", in, got, err, want)
		}
		b := appendAddress(nil, got)
		back, rest, err := parseAddress(b)
		if err != nil || len(rest) > 0 || back != got {
			t.Errorf("%v came back as %v, %v", got, back, err)
		}
		for n := range b {
			if _, _, err := parseAddress(b[:n]); err == nil {
				t.Errorf("%v: %d bytes of %d parsed", got, n, len(b))
			}
		}
	}
}

func TestNames(t *testing.T) {
	for _, good := range []string{"a", "Küche 2", "日本", strings.Repeat("x", MaxName)} {
		if err := CheckName(good); err != nil {
			t.Errorf("CheckName(%q): %v", good, err)
		}
	}
	for _, bad := range []string{"", " a", "a ", "a\nb", "a\x00", "a\u202Eb", "\xFF", strings.Repeat("x", MaxName+1)} {
		if err := CheckName(bad); err == nil {
			t.Errorf("CheckName(%q) succeeded", bad)
		}
	}
	for _, long := range []string{strings.Repeat("ä", 32), strings.Repeat("日", 21), strings.Repeat("x", 31) + " yyy", strings.Repeat("x", 64)} {
		short := ShortName(long)
		if err := checkName(short, MaxSheetName); err != nil || !strings.HasPrefix(long, short) || len(short) < 28 {
			t.Errorf("ShortName(%q) = %q, %v", long, short, err)
		}
	}
}

func testSheet(t testing.TB, boxes int) *Sheet {
	s := &Sheet{Account: account.ID{1, 2, 3}}
	for i := range boxes {
		b := SheetBox{Name: fmt.Sprintf("box %d", i), Box: noiseconn.StaticPublic{byte(i + 1)}}
		b.Addresses = addresses(t, fmt.Sprintf("[2001:db8::%x]:26269", i+1), fmt.Sprintf("10.0.0.%d:26269", i+1))
		s.Boxes = append(s.Boxes, b)
	}
	return s
}

func TestSheetRoundTrip(t *testing.T) {
	for n := range MaxSheetBoxes + 1 {
		s := testSheet(t, n)
		text, err := s.Text()
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > maxSheetText {
			t.Errorf("%d boxes: text of %d bytes", n, len(text))
		}
		got, err := ParseSheet(text)
		if err != nil {
			t.Fatal(err)
		}
		if n <= 8 && !reflect.DeepEqual(got, s) && n > 0 {
			t.Errorf("%d boxes: got %+v", n, got)
		}
		payloadOnly := text[strings.Index(text, "#")+1:]
		if again, err := ParseAny(payloadOnly); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%d boxes: ParseAny: %+v, %v", n, again, err)
		}
	}
	if _, err := testSheet(t, MaxSheetBoxes+1).Text(); err == nil {
		t.Error("a sheet with too many boxes was made")
	}
}

// TestSheetLimits: eight boxes with the longest names keep 20 bytes of addresses
// each, whatever the others have; ten always fit.
func TestSheetLimits(t *testing.T) {
	s := testSheet(t, 8)
	for i := range s.Boxes {
		s.Boxes[i].Name = strings.Repeat("n", MaxSheetName)
		s.Boxes[i].Addresses = addresses(t, "[2001:db8::1]:26269")
	}
	s.Boxes[3].Addresses = addresses(t, "[2001:db8::1]:26269", strings.Repeat("a", 60)+"."+strings.Repeat("b", 60)+".org:1", "1.2.3.4:5")
	text, err := s.Text()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseSheet(text)
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range got.Boxes {
		if len(b.Addresses) != 1 || b.Addresses[0] != s.Boxes[i].Addresses[0] {
			t.Errorf("box %d: addresses %v", i, b.Addresses)
		}
	}
	for len(s.Boxes) < MaxSheetBoxes {
		b := s.Boxes[0]
		b.Box[5] = byte(len(s.Boxes))
		s.Boxes = append(s.Boxes, b)
	}
	if _, err := s.Text(); err != nil {
		t.Error(err)
	}
	if d, err := Draw(text); err != nil || d.Modules() > 117 {
		t.Errorf("drawing: %v", err)
	}
}

// TestSecretsDoNotPrint: neither a secret nor a code that holds it shows it.
func TestSecretsDoNotPrint(t *testing.T) {
	c := testCode(t)
	c.Secret = Secret(bytes.Repeat([]byte{0xAB}, 16))
	e := Enrollment{RecoveryPSK: noiseconn.PSK(bytes.Repeat([]byte{0xAB}, 32))}
	a := Enrolled{LinkPSK: e.RecoveryPSK}
	var out bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&out, nil))
	for _, v := range []any{c, *c, c.Secret, &e, e, a, &a} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		logger.Info("value", "v", v)
	}
	got := strings.ToLower(out.String())
	for _, leak := range []string{"abab", "171 171", "0xab"} {
		if strings.Contains(got, leak) {
			t.Errorf("output has %q:\n%s", leak, got)
		}
	}
}

// TestVectors freezes the texts. They are printed on stickers.
func TestVectors(t *testing.T) {
	codes := map[string]*Code{
		"claim, no address":        testCode(t),
		"claim, IPv4":              testCode(t, "192.168.1.5:26269"),
		"claim, IPv6 and IPv4":     testCode(t, "[2001:db8::5]:26269", "127.0.0.1:4000"),
		"claim, name":              testCode(t, "box.example.org:26269"),
		"member, IPv4":             testCode(t, "192.168.1.5:26269"),
		"claim, more than it fits": testCode(t, "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "10.0.0.4:1", "10.0.0.5:1"),
	}
	codes["member, IPv4"].Kind = KindMember
	got := map[string]string{"host name": HostName(testCode(t).Box)}
	psk := testCode(t).PSK()
	got["pairing PSK"] = fmt.Sprintf("%x", psk[:])
	for name, c := range codes {
		got[name] = text1(t, c)
	}
	for _, n := range []int{0, 1, 8, 10} {
		text, err := testSheet(t, n).Text()
		if err != nil {
			t.Fatal(err)
		}
		got[fmt.Sprintf("sheet, %d boxes", n)] = text
	}
	frozen(t, "texts.json", got)
}

// frozen compares with a file of testdata. COBOX_UPDATE_VECTORS=1 writes it,
// which is right only for a new version.
func frozen(t *testing.T, name string, got map[string]string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("COBOX_UPDATE_VECTORS") == "1" {
		b, err := json.MarshalIndent(got, "", "  ")
		if err == nil {
			err = os.WriteFile(path, append(b, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	if len(want) != len(got) {
		t.Errorf("%s has %d entries, want %d", name, len(want), len(got))
	}
	for k, v := range got {
		if want[k] != v {
			t.Errorf("%s: %s has changed: got %s, want %s", name, k, v, want[k])
		}
	}
}

func TestDrawTooLong(t *testing.T) {
	if _, err := Draw(strings.Repeat("x", 2000)); err == nil {
		t.Error("a text of 2,000 bytes was drawn")
	}
}
