package config

import (
	"net"
	"net/netip"
	"slices"
)

// Addresses lists where peers can reach a box that listens at bound (as the
// listener reports it), best first and at most [MaxAdvertise]: what the
// settings advertise; else the listen address if it is specific, loopback too;
// else the machine's own global addresses, of which interfaces lists all.
// interfaces is net.InterfaceAddrs outside of tests.
func (c *Config) Addresses(bound net.Addr, interfaces func() ([]net.Addr, error)) ([]string, error) {
	tcp, err := netip.ParseAddrPort(bound.String())
	if err != nil {
		return nil, &FieldError{Field: "listen", Problem: "the listener's address is no IP address: " + bound.String()}
	}
	if len(c.Advertise) > 0 {
		list := make([]string, 0, len(c.Advertise))
		for _, a := range c.Advertise {
			addr, err := advertised(a, tcp.Port())
			if err != nil {
				return nil, &FieldError{Field: "advertise", Problem: err.Error()}
			}
			list = append(list, addr.String())
		}
		return list, nil
	}
	if ip := tcp.Addr().Unmap(); !ip.IsUnspecified() {
		return []string{netip.AddrPortFrom(ip, tcp.Port()).String()}, nil
	}
	all, err := interfaces()
	if err != nil {
		return nil, err
	}
	var ips []netip.Addr
	for _, a := range all {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		if ip := prefix.Addr().Unmap(); ip.IsGlobalUnicast() && !slices.Contains(ips, ip) {
			ips = append(ips, ip)
		}
	}
	// A phone or laptop on the same LAN is nearly always reached over IPv4, and
	// such an address is short in the code.
	slices.SortStableFunc(ips, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	ips = ips[:min(len(ips), MaxAdvertise)]
	list := make([]string, len(ips))
	for i, ip := range ips {
		list[i] = netip.AddrPortFrom(ip, tcp.Port()).String()
	}
	return list, nil
}
