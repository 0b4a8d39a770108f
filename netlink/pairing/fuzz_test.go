package pairing

import (
	"bytes"
	"reflect"
	"testing"

	"cobox/netlink/noiseconn"
)

// FuzzParseAny: what parses comes back as the same text, but for the host's
// case and white space, and the same value.
func FuzzParseAny(f *testing.F) {
	f.Add(text1(f, testCode(f)))
	f.Add(text1(f, testCode(f, "192.168.1.5:26269", "box.example.org:1")))
	for n := range 3 {
		s, err := testSheet(f, n).Text()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(s)
	}
	f.Add("http://cobox-aaaa.local/#AQE")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseAny(s)
		if err != nil {
			return
		}
		var back string
		switch v := v.(type) {
		case *Code:
			back, err = v.Text()
		case *Sheet:
			back, err = v.Text()
		}
		if err != nil {
			t.Fatalf("%q parsed as %+v, which has no text: %v", s, v, err)
		}
		again, err := ParseAny(back)
		if err != nil || !reflect.DeepEqual(again, v) {
			t.Fatalf("%q parsed as %+v, its text as %+v, %v", s, v, again, err)
		}
	})
}

// FuzzParsePayload is FuzzParseAny behind the checksum, which a fuzzer does not find.
func FuzzParsePayload(f *testing.F) {
	for _, s := range []string{text1(f, testCode(f)), text1(f, testCode(f, "192.168.1.5:26269", "box.example.org:1"))} {
		t, err := decode(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(t.payload)
	}
	for n := range 3 {
		s, err := testSheet(f, n).Text()
		if err != nil {
			f.Fatal(err)
		}
		t, err := decode(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(t.payload)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		if len(payload) < 2 {
			return
		}
		host := sheetHost
		if Kind(payload[1]) != KindSheet && len(payload) >= 34 {
			host = HostName(noiseconn.StaticPublic(payload[2:34]))
		}
		s := encode(host, bytes.Clone(payload))
		v, err := ParseAny(s)
		if err != nil {
			return
		}
		var back string
		switch v := v.(type) {
		case *Code:
			back, err = v.Text()
		case *Sheet:
			back, err = v.Text()
		}
		if err != nil || back != s {
			t.Fatalf("%q parsed as %+v, whose text is %q, %v", s, v, back, err)
		}
	})
}

func FuzzParseEnrollment(f *testing.F) {
	good, err := AppendEnrollment(nil, testEnrollment(f, "ann"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEnrollment(b)
		if err != nil {
			return
		}
		if back, err := AppendEnrollment(nil, e); err != nil || !bytes.Equal(back, b) {
			t.Fatalf("came back as %x, %v", back, err)
		}
		e.Verify(deviceStatic("ann").Public())
	})
}

func FuzzParseEnrolled(f *testing.F) {
	good, err := AppendEnrolled(nil, testEnrolled(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEnrolled(b)
		if err != nil {
			return
		}
		if back, err := AppendEnrolled(nil, e); err != nil || !bytes.Equal(back, b) {
			t.Fatalf("came back as %x, %v", back, err)
		}
	})
}

func FuzzParseRefused(f *testing.F) {
	f.Add([]byte{1})
	f.Add([]byte{8, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRefused(b)
		if err == nil && !bytes.Equal(AppendRefused(nil, r), b) {
			t.Fatalf("%x came back as %v", b, r)
		}
	})
}

// FuzzParseAddress: the one form of an address survives text and bytes.
func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"1.2.3.4:5", "[::1]:80", "box.local:1", "[fe80::1%1]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if again, err := ParseAddress(a.String()); err != nil || again != a {
			t.Fatalf("%q: %v came back as %v, %v", s, a, again, err)
		}
		back, rest, err := parseAddress(appendAddress(nil, a))
		if err != nil || len(rest) > 0 || back != a {
			t.Fatalf("%q: %v came back as %v, %v", s, a, back, err)
		}
	})
}
