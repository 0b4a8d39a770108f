package discover

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func nameOf(t testing.TB, host string) dnsmessage.Name {
	t.Helper()
	name, err := hostName(host)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func addresses(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// unhex reads bytes that stand in groups.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	ourName = "0a 636f626f782d61623364 05 6c6f63616c 00" // cobox-ab3d.local
	aQM     = "0001 0001"
)

func TestHostName(t *testing.T) {
	for _, bad := range []string{"", ".local", "cobox-ab3d", "a.b.local", "cobox-ab3d.local.", strings.Repeat("x", 64) + ".local"} {
		if _, err := hostName(bad); err == nil {
			t.Errorf("%q is a name", bad)
		}
	}
}

// The bytes are those of RFC 1035, so that it is not our own idea of them that
// is tested.
func TestQueryBytes(t *testing.T) {
	got, err := appendQuery(nil, 0x1234, nameOf(t, "cobox-ab3d.local"))
	if err != nil {
		t.Fatal(err)
	}
	want := unhex(t, "1234 0000 0002 0000 0000 0000"+ourName+"0001 8001"+ourName+"001c 8001")
	if !slices.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}

func TestParseQuery(t *testing.T) {
	name := nameOf(t, "cobox-ab3d.local")
	other := strings.Replace(ourName, "61623364", "61623365", 1)
	for _, tc := range []struct {
		what, msg string
		want      string // "4", "6", "46"; "u" for unicast; "" refused
	}{
		{"IPv4", "0000 0000 0001 0000 0000 0000" + ourName + aQM, "4"},
		{"IPv6", "0000 0000 0001 0000 0000 0000" + ourName + "001c 0001", "6"},
		{"both", "0000 0000 0002 0000 0000 0000" + ourName + aQM + ourName + "001c 8001", "46u"},
		{"the second by a pointer", "0000 0000 0002 0000 0000 0000" + ourName + aQM + "c00c 001c 0001", "46"},
		{"anything", "0000 0000 0001 0000 0000 0000" + ourName + "00ff 00ff", "46"},
		{"upper case", "0000 0000 0001 0000 0000 0000" + strings.Replace(ourName, "636f626f78", "434f424f58", 1) + aQM, "4"},
		{"behind another", "0000 0000 0002 0000 0000 0000" + other + aQM + ourName + aQM, "4"},
		{"cut in the next", "0000 0000 0003 0000 0000 0000" + ourName + aQM + other + aQM + "0a 636f", "4"},
		{"cut in the known answers", "0000 0000 0001 0001 0000 0000" + ourName + aQM + "c00c 0001 80", "4"},
		{"twice", "0000 0000 0002 0000 0000 0000" + ourName + aQM + ourName + aQM, "4"},
		{"another name", "0000 0000 0001 0000 0000 0000" + other + aQM, ""},
		{"a name below ours", "0000 0000 0001 0000 0000 0000 0161" + ourName + aQM, ""},
		{"one label with a dot", "0000 0000 0001 0000 0000 0000 10 636f626f782d616233642e6c6f63616c 00" + aQM, ""},
		{"a service", "0000 0000 0001 0000 0000 0000" + ourName + "000c 0001", ""},
		{"another class", "0000 0000 0001 0000 0000 0000" + ourName + "0001 0003", ""},
		{"an answer", "0000 8400 0001 0000 0000 0000" + ourName + aQM, ""},
		{"an update", "0000 2800 0001 0000 0000 0000" + ourName + aQM, ""},
		{"an error", "0000 0003 0001 0000 0000 0000" + ourName + aQM, ""},
		{"a pointer to itself", "0000 0000 0001 0000 0000 0000 c00c" + aQM, ""},
		{"no question", "0000 0000 0000 0000 0000 0000", ""},
		{"cut", "0000 0000 0001 0000 0000 0000" + ourName + "0001 00", ""},
		{"short", "0000 0000 0001", ""},
		{"empty", "", ""},
	} {
		q, ok := parseQuery(unhex(t, tc.msg), &name)
		got := ""
		if q.v4 {
			got += "4"
		}
		if q.v6 {
			got += "6"
		}
		if q.unicast {
			got += "u"
		}
		if got != tc.want || ok != (tc.want != "") || len(q.questions) > 2 {
			t.Errorf("%s: got %q %v, want %q; %d questions", tc.what, got, ok, tc.want, len(q.questions))
		}
	}
	flood := unhex(t, "0000 0000 0040 0000 0000 0000"+strings.Repeat(other+aQM, 63)+ourName+aQM)
	if _, ok := parseQuery(flood, &name); ok {
		t.Error("the 64th question of a message was looked at")
	}
}

func TestAnswerBytes(t *testing.T) {
	name := nameOf(t, "cobox-ab3d.local")
	list := addresses("192.168.1.7", "fe80::7")
	for _, tc := range []struct {
		what, query string
		legacy      bool
		want        string
	}{
		{"by multicast", "abcd 0000 0001 0000 0000 0000" + ourName + aQM, false,
			"0000 8400 0000 0001 0000 0001" + ourName + "0001 8001 00000078 0004 c0a80107" + "c00c 001c 8001 00000078 0010 fe80000000000000 0000000000000007"},
		{"IPv6 to a plain resolver", "abcd 0000 0001 0000 0000 0000" + ourName + "001c 0001", true,
			"abcd 8400 0001 0001 0000 0001" + ourName + "001c 0001" + "c00c 001c 0001 0000000a 0010 fe80000000000000 0000000000000007" + "c00c 0001 0001 0000000a 0004 c0a80107"},
	} {
		q, ok := parseQuery(unhex(t, tc.query), &name)
		if !ok {
			t.Fatal(tc.what)
		}
		got, ok := appendAnswer(nil, &q, name, list, tc.legacy)
		if want := unhex(t, tc.want); !ok || !slices.Equal(got, want) {
			t.Errorf("%s: got  %x\nwant %x", tc.what, got, want)
		}
	}
	q, _ := parseQuery(unhex(t, "abcd 0000 0001 0000 0000 0000"+ourName+"001c 0001"), &name)
	if _, ok := appendAnswer(nil, &q, name, addresses("192.168.1.7"), true); ok {
		t.Error("an answer without what was asked for")
	}
	if _, ok := appendAnswer(nil, &q, name, nil, true); ok {
		t.Error("an answer without addresses")
	}
	var many []netip.Addr
	for i := range 40 {
		many = append(many, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), netip.AddrFrom16([16]byte{0xfd, 15: byte(i)}))
	}
	q.v4 = true
	out, ok := appendAnswer(nil, &q, name, many, false)
	if !ok || len(out) > maxMessage {
		t.Errorf("%v, %d bytes", ok, len(out))
	}
	if got := parseAnswer(out, 0, &name); len(got) != 2*maxAddresses {
		t.Errorf("%d addresses", len(got))
	}
}

func TestParseAnswer(t *testing.T) {
	name := nameOf(t, "cobox-ab3d.local")
	const head, a = "1234 8400 0000 0001 0000 0000", "0001 8001 00000078 0004 "
	for _, tc := range []struct {
		what, msg string
		want      []netip.Addr
	}{
		{"an address", head + ourName + a + "c0a80107", addresses("192.168.1.7")},
		{"several, in all sections", "1234 8400 0000 0001 0001 0001" + ourName + a + "c0a80107" + "c00c 0002 0001 00000078 0002 c00c" + "c00c 001c 0001 00000078 0010 fe80000000000000 0000000000000007", addresses("192.168.1.7", "fe80::7")},
		{"another name first", "1234 8400 0000 0002 0000 0000 0161 00" + a + "0a000001" + ourName + a + "c0a80107", addresses("192.168.1.7")},
		{"another number", "1235 8400 0000 0001 0000 0000" + ourName + a + "c0a80107", nil},
		{"a question", "1234 0000 0000 0001 0000 0000" + ourName + a + "c0a80107", nil},
		{"an error", "1234 8403 0000 0001 0000 0000" + ourName + a + "c0a80107", nil},
		{"another name", head + "0161 00" + a + "c0a80107", nil},
		{"a goodbye", head + ourName + "0001 8001 00000000 0004 c0a80107", nil},
		{"this computer", head + ourName + a + "7f000001", nil},
		{"nobody", head + ourName + a + "00000000", nil},
		{"all", head + ourName + a + "ffffffff", nil},
		{"a group", head + ourName + a + "e00000fb", nil},
		{"IPv4 as IPv6", head + ourName + "001c 8001 00000078 0010 00000000000000000000ffff c0a80107", nil},
		{"a wrong length", head + ourName + "0001 8001 00000078 0003 c0a801", nil},
		{"cut", head + ourName + a + "c0a801", nil},
		{"a loop", head + "c00c" + a + "c0a80107", nil},
		{"empty", "", nil},
	} {
		if got := parseAnswer(unhex(t, tc.msg), 0x1234, &name); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.what, got, tc.want)
		}
	}
}

func TestLocal(t *testing.T) {
	of := []netip.Prefix{netip.MustParsePrefix("192.168.1.7/24"), netip.MustParsePrefix("fd00::7/64"), netip.MustParsePrefix("fe80::7/64")}
	for a, want := range map[string]bool{
		"192.168.1.99": true, "::ffff:192.168.1.99": true, "192.168.2.1": false, "8.8.8.8": false,
		"fd00::99": true, "fd01::1": false, "fe80::1%eth0": true,
	} {
		if got := local(netip.MustParseAddr(a), of); got != want {
			t.Errorf("%s: %v", a, got)
		}
	}
}

// No message makes a responder say more than its addresses, or much.
func FuzzParseQuery(f *testing.F) {
	for _, s := range []string{
		"0000 0000 0001 0000 0000 0000" + ourName + aQM,
		"0000 0000 0002 0000 0000 0000" + ourName + aQM + "c00c 001c 8001",
		"0000 8400 0000 0001 0000 0000" + ourName + "0001 8001 00000078 0004 c0a80107",
	} {
		f.Add(unhex(f, s), true)
	}
	name := nameOf(f, "cobox-ab3d.local")
	list := addresses("192.168.1.7", "fe80::7", "2001:db8::7")
	f.Fuzz(func(t *testing.T, msg []byte, legacy bool) {
		q, ok := parseQuery(msg, &name)
		if !ok {
			return
		}
		out, ok := appendAnswer(nil, &q, name, list, legacy)
		if !ok {
			t.Fatal("a question for addresses got no answer")
		}
		if len(out) > 256 {
			t.Errorf("an answer of %d bytes", len(out))
		}
		id := uint16(0)
		if legacy {
			id = q.id
		}
		got := parseAnswer(out, id, &name)
		slices.SortFunc(got, netip.Addr.Compare)
		want := slices.Clone(list)
		slices.SortFunc(want, netip.Addr.Compare)
		if !slices.Equal(got, want) {
			t.Errorf("told %v", got)
		}
	})
}

// No message makes a device dial more than some addresses that can be dialled.
func FuzzParseAnswer(f *testing.F) {
	f.Add(unhex(f, "1234 8400 0000 0001 0000 0000"+ourName+"0001 8001 00000078 0004 c0a80107"))
	f.Add(unhex(f, "1234 8400 0001 0001 0000 0001"+ourName+aQM+"c00c 0001 8001 00000078 0004 c0a80107 c00c 001c 0001 00000078 0010 fe800000000000000000000000000007"))
	name := nameOf(f, "cobox-ab3d.local")
	f.Fuzz(func(t *testing.T, msg []byte) {
		got := parseAnswer(msg, 0x1234, &name)
		if len(got) > 2*maxAddresses {
			t.Errorf("%d addresses", len(got))
		}
		for _, a := range got {
			if !dialable(a) || a.Zone() != "" {
				t.Errorf("%v", a)
			}
		}
	})
}
