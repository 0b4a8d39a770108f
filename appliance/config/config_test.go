package config

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cobox/netlink/pairing"
)

func ptr[T any](v T) *T { return &v }

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestPrecedence(t *testing.T) {
	for _, tc := range []struct {
		name, file string
		env        []string
		flag       *string
		want       string
	}{
		{"default", "", nil, nil, DefaultListen},
		{"file", `listen = "127.0.0.1:1"`, nil, nil, "127.0.0.1:1"},
		{"environment over file", `listen = "127.0.0.1:1"`, []string{"COBOXD_LISTEN", "127.0.0.1:2"}, nil, "127.0.0.1:2"},
		{"empty environment is unset", `listen = "127.0.0.1:1"`, []string{"COBOXD_LISTEN", ""}, nil, "127.0.0.1:1"},
		{"flag over environment", `listen = "127.0.0.1:1"`, []string{"COBOXD_LISTEN", "127.0.0.1:2"}, ptr("127.0.0.1:3"), "127.0.0.1:3"},
		{"flag over file", `listen = "127.0.0.1:1"`, nil, ptr("127.0.0.1:3"), "127.0.0.1:3"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			if tc.file != "" {
				if err := os.WriteFile(filepath.Join(dir, FileName), []byte(tc.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			c, err := Load(Flags{Data: &dir, Listen: tc.flag}, env(tc.env...))
			if err != nil {
				t.Fatal(err)
			}
			if c.Listen != tc.want {
				t.Errorf("listen = %q, want %q", c.Listen, tc.want)
			}
		})
	}
}

func TestAllSettings(t *testing.T) {
	dir := t.TempDir()
	text := "# a box\nlisten = '[::1]:5'\nhttp = '127.0.0.1:6'\nname = 'Käsebox'\nadvertise = ['box.example', '192.0.2.1:9']\n"
	if err := os.WriteFile(filepath.Join(dir, FileName), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(Flags{}, env("COBOXD_DATA", dir))
	if err != nil {
		t.Fatal(err)
	}
	if !c.Discovery {
		t.Error("discovery is off by default")
	}
	if c.Data != dir || c.Listen != "[::1]:5" || c.HTTP != "127.0.0.1:6" || c.Name != "Käsebox" ||
		!slices.Equal(c.Advertise, []string{"box.example", "192.0.2.1:9"}) {
		t.Errorf("got %+v", c)
	}
	c, err = Load(Flags{Name: ptr("other")}, env("COBOXD_DATA", dir, "COBOXD_ADVERTISE", "a.example:1, b.example", "COBOXD_HTTP", "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "other" || c.HTTP != "127.0.0.1:0" || !slices.Equal(c.Advertise, []string{"a.example:1", "b.example"}) {
		t.Errorf("got %+v", c)
	}
}

func TestDiscovery(t *testing.T) {
	for _, tc := range []struct {
		file string
		env  string
		flag *bool
		want bool
	}{
		{"", "", nil, true},
		{"discovery = false\n", "", nil, false},
		{"discovery = false\n", "true", nil, true},
		{"", "0", nil, false},
		{"", "false", ptr(true), true},
		{"", "true", ptr(false), false},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, FileName), []byte(tc.file), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(Flags{Data: &dir, Discovery: tc.flag}, env("COBOXD_DISCOVERY", tc.env))
		if err != nil || c.Discovery != tc.want {
			t.Errorf("%+v: got %v, %v", tc, c.Discovery, err)
		}
	}
}

func TestFileErrorsNameTheLine(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"listen = ':1'\nlissten = ':2'\n", `line 2: unknown key "lissten"`},
		{"[tls]\nkey = 1\n", `line 1: unknown key "tls"`},
		{"data = '/srv'\n", `line 1: unknown key "data"`},
		{"name = 5\n", "line 1"},
		{"discovery = 'yes'\n", "line 1"},
		{"\n\nname = 'x\n", "line 3"},
		{"name = 'a'\nname = 'b'\n", "line 2"},
	} {
		_, err := parseFile([]byte(tc.text))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: got %v, want %q", tc.text, err, tc.want)
		}
	}
}

func TestValidateNamesTheField(t *testing.T) {
	for _, tc := range []struct{ field, value, env string }{
		{"listen", "26269", "COBOXD_LISTEN"},
		{"listen", "127.0.0.1:70000", "COBOXD_LISTEN"},
		{"listen", "box.example:1", "COBOXD_LISTEN"},
		{"listen", "127.0.0.1:http", "COBOXD_LISTEN"},
		{"http", "127.0.0.1:-1", "COBOXD_HTTP"},
		{"http", "::1", "COBOXD_HTTP"},
		{"name", " x", "COBOXD_NAME"},
		{"name", strings.Repeat("n", pairing.MaxName+1), "COBOXD_NAME"},
		{"name", "a\x1b[2J", "COBOXD_NAME"},
		{"name", "a\xff", "COBOXD_NAME"},
		{"advertise", "0.0.0.0:1", "COBOXD_ADVERTISE"},
		{"advertise", "box.example:0", "COBOXD_ADVERTISE"},
		{"advertise", "fe80::1%eth0", "COBOXD_ADVERTISE"},
		{"advertise", "a_b", "COBOXD_ADVERTISE"},
		{"advertise", "a,b,c,d,e", "COBOXD_ADVERTISE"},
		{"advertise", "a,,b", "COBOXD_ADVERTISE"},
		{"discovery", "maybe", "COBOXD_DISCOVERY"},
	} {
		dir := t.TempDir()
		_, err := Load(Flags{Data: &dir}, env(tc.env, tc.value))
		var fe *FieldError
		if !errors.As(err, &fe) || fe.Field != tc.field || fe.Source != tc.env {
			t.Errorf("%s=%q: got %v", tc.env, tc.value, err)
		}
	}
	var fe *FieldError
	if err := (&Config{Listen: ":1", HTTP: ":1"}).Validate(); !errors.As(err, &fe) || fe.Field != "data" {
		t.Errorf("no data directory: got %v", err)
	}
	_, err := Load(Flags{Data: ptr(t.TempDir()), Listen: ptr("x")}, env())
	if !errors.As(err, &fe) || fe.Source != "--listen" {
		t.Errorf("bad flag: got %v", err)
	}
}

func TestDataDir(t *testing.T) {
	for _, tc := range []struct {
		flag *string
		env  []string
		want string
	}{
		{ptr("/a"), []string{"COBOXD_DATA", "/b"}, "/a"},
		{nil, []string{"COBOXD_DATA", "/b", "STATE_DIRECTORY", "/c"}, "/b"},
		{nil, []string{"STATE_DIRECTORY", "/c:/d"}, "/c"},
	} {
		if got := DataDir(Flags{Data: tc.flag}, env(tc.env...)); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
	if os.Geteuid() != 0 {
		if got := DataDir(Flags{}, env("HOME", "/h")); got != "/h/.local/share/coboxd" {
			t.Errorf("plain user: %q", got)
		}
	} else if got := DataDir(Flags{}, env("HOME", "/h")); got != "/var/lib/coboxd" {
		t.Errorf("root: %q", got)
	}
}

func TestAddresses(t *testing.T) {
	tcp := func(s string) net.Addr {
		a, err := net.ResolveTCPAddr("tcp", s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	machine := func() ([]net.Addr, error) {
		var list []net.Addr
		for _, s := range []string{"127.0.0.1/8", "::1/128", "fe80::5/64", "2001:db8::5/64", "192.168.1.7/24", "169.254.3.3/16", "10.0.0.1/8"} {
			ip, n, err := net.ParseCIDR(s)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, &net.IPNet{IP: ip, Mask: n.Mask})
		}
		return list, nil
	}
	for _, tc := range []struct {
		bound     string
		advertise []string
		want      []string
	}{
		{"127.0.0.1:40000", nil, []string{"127.0.0.1:40000"}},
		{"[::]:26269", nil, []string{"192.168.1.7:26269", "10.0.0.1:26269", "[2001:db8::5]:26269"}},
		{"0.0.0.0:5", nil, []string{"192.168.1.7:5", "10.0.0.1:5", "[2001:db8::5]:5"}},
		{"[::]:26269", []string{"box.example", "192.0.2.9:7", "2001:db8::9"}, []string{"box.example:26269", "192.0.2.9:7", "[2001:db8::9]:26269"}},
	} {
		c := Config{Advertise: tc.advertise}
		got, err := c.Addresses(tcp(tc.bound), machine)
		if err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%s %v: got %v %v, want %v", tc.bound, tc.advertise, got, err, tc.want)
		}
	}
}

// Settings written as TOML and read again are the same: the parser reads what
// it is documented to read.
func FuzzParseFile(f *testing.F) {
	f.Add([]byte("listen = ':1'\n"))
	f.Add([]byte("advertise = ['a', 'b:1']\nname = \"x\"\n"))
	f.Add([]byte("[x]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := parseFile(text)
		if err != nil {
			return
		}
		c := Config{Data: "/d", Listen: DefaultListen, HTTP: DefaultHTTP}
		c.take(map[string]string{}, FileName, s)
		if c.Validate() == nil && c.Name != "" && pairing.CheckName(c.Name) != nil {
			t.Errorf("a name passed that is none: %q", c.Name)
		}
	})
}
