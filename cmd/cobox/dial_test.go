package main

import (
	"slices"
	"strings"
	"testing"

	"cobox/cmd/cobox/device"
	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
)

// TestPlace: where a box is looked for.
func TestPlace(t *testing.T) {
	box := noiseconn.StaticPublic{1}
	name := pairing.HostName(box) + ".local"
	for _, tc := range []struct {
		known, given string
		want         string
		host         string
		ports        []uint16
	}{
		{"192.168.1.20:26269", "", "192.168.1.20:26269", name, []uint16{26269}},
		{"192.168.1.20:4711", "", "192.168.1.20:4711", name, []uint16{4711, 26269}},
		{"", "", "", name, []uint16{26269}},
		{"127.0.0.1:5", "", "127.0.0.1:5", "", []uint16{5, 26269}},
		{"192.168.1.20:26269", "box.example", "box.example:26269", "", []uint16{26269}},
		{"", "[fd00::1]", "[fd00::1]:26269", "", []uint16{26269}},
	} {
		var known []pairing.Address
		if tc.known != "" {
			a, err := pairing.ParseAddress(tc.known)
			if err != nil {
				t.Fatal(err)
			}
			known = append(known, a)
		}
		p, err := placeFor(box, known, tc.given)
		if err != nil || strings.Join(p.addresses, " ") != tc.want || p.host != tc.host || p.alone != 0 || !slices.Equal(p.ports(), tc.ports) {
			t.Errorf("%q %q: %+v, ports %v, %v", tc.known, tc.given, p, p.ports(), err)
		}
		if tc.given != "" || tc.known == "" {
			continue
		}
		if p := placeOf(&device.Box{Static: box, Addresses: []string{tc.known}}); p.host != tc.host || p.alone != lookupAfter {
			t.Errorf("paired, %q: %+v", tc.known, p)
		}
	}
}
