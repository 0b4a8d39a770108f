package appliance

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"cobox/appliance/config"
	"cobox/appliance/datadir"
)

// TestResponder: a box answers for its name where others can reach it, with the
// addresses at which it listens.
func TestResponder(t *testing.T) {
	identity := datadir.NewIdentity()
	v4, other4, v6 := netip.MustParseAddr("192.168.1.7"), netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fe80::7")
	for _, tc := range []struct {
		bound    string
		off      bool
		tells    []netip.Addr
		tellsNot []netip.Addr
	}{
		{bound: "[::]:26269", tells: []netip.Addr{v4, other4, v6}},
		{bound: "0.0.0.0:26269", tells: []netip.Addr{v4, other4}, tellsNot: []netip.Addr{v6}},
		{bound: "192.168.1.7:26269", tells: []netip.Addr{v4}, tellsNot: []netip.Addr{other4, v6}},
		{bound: "127.0.0.1:26269", tellsNot: []netip.Addr{v4, other4, v6}},
		{bound: "[::1]:26269", tellsNot: []netip.Addr{v4, other4, v6}},
		{bound: "[::]:26269", off: true, tellsNot: []netip.Addr{v4, other4, v6}},
	} {
		bound, err := net.ResolveTCPAddr("tcp", tc.bound)
		if err != nil {
			t.Fatal(err)
		}
		r := responder(&config.Config{Discovery: !tc.off}, identity, slog.New(slog.DiscardHandler), bound)
		tells := func(a netip.Addr) bool { return r != nil && (r.Serves == nil || r.Serves(a)) }
		for _, a := range tc.tells {
			if !tells(a) {
				t.Errorf("at %s it does not tell %v", tc.bound, a)
			}
		}
		for _, a := range tc.tellsNot {
			if tells(a) {
				t.Errorf("at %s it tells %v", tc.bound, a)
			}
		}
	}
}
