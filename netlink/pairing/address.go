package pairing

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Address is where a box can be reached: an IP address or a host name, and a
// TCP port. Make it with ParseAddress.
type Address struct {
	Host string // netip's form of an IP address, or a lower-case host name
	Port uint16
}

// ParseAddress reads "host:port" and brings it into the one form that an
// Address has.
func ParseAddress(s string) (Address, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return Address{}, fmt.Errorf("pairing: parsing address: %w", err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return Address{}, fmt.Errorf("pairing: parsing address %q: bad port", s)
	}
	host = strings.ToLower(host)
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.Unmap().String()
	}
	a := Address{host, uint16(n)}
	if err := a.check(); err != nil {
		return Address{}, fmt.Errorf("pairing: parsing address %q: %w", s, err)
	}
	return a, nil
}

// String is "host:port", with brackets around an IPv6 address.
func (a Address) String() string { return net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port))) }

const maxHost = 253

// check tells whether a is in canonical form.
func (a Address) check() error {
	if a.Port == 0 {
		return errors.New("port 0")
	}
	if ip, err := netip.ParseAddr(a.Host); err == nil {
		switch {
		case ip.Zone() != "":
			return errors.New("address with a zone")
		case ip.Is4In6() || ip.String() != a.Host:
			return errors.New("address not in its usual form")
		case ip.IsUnspecified() || ip.IsMulticast():
			return errors.New("address that nobody can dial")
		}
		return nil
	}
	return checkHost(a.Host)
}

// checkHost accepts host names of letters, digits and hyphens (RFC 1123) whose
// last label is not a number, so that no name looks like an IP address.
func checkHost(host string) error {
	if len(host) == 0 || len(host) > maxHost {
		return fmt.Errorf("host name of %d bytes", len(host))
	}
	labels := strings.Split(host, ".")
	for _, l := range labels {
		if len(l) == 0 || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			return errors.New("host name with a bad part")
		}
		for _, c := range []byte(l) {
			if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-') {
				return errors.New("host name with a character that is not a lower-case letter, digit or hyphen")
			}
		}
	}
	last := labels[len(labels)-1]
	if strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") {
		return errors.New("host name that looks like a number")
	}
	return nil
}

// The kinds of an encoded address.
const (
	addressName = 1
	addressIPv4 = 4
	addressIPv6 = 6
)

// appendAddress appends a canonical address.
//
//	IPv4       4 ‖ address 4 ‖ port u16
//	IPv6       6 ‖ address 16 ‖ port u16
//	host name  1 ‖ length u8 ‖ name ‖ port u16
func appendAddress(b []byte, a Address) []byte {
	ip, err := netip.ParseAddr(a.Host)
	switch {
	case err != nil:
		b = append(b, addressName, byte(len(a.Host)))
		b = append(b, a.Host...)
	case ip.Is4():
		b = append(append(b, addressIPv4), ip.AsSlice()...)
	default:
		b = append(append(b, addressIPv6), ip.AsSlice()...)
	}
	return binary.BigEndian.AppendUint16(b, a.Port)
}

var errShort = errors.New("ends too early")

// parseAddress takes one address off the front of b.
func parseAddress(b []byte) (a Address, rest []byte, err error) {
	if len(b) < 2 {
		return a, nil, errShort
	}
	size := 0
	switch b[0] {
	case addressIPv4:
		size, b = 4, b[1:]
	case addressIPv6:
		size, b = 16, b[1:]
	case addressName:
		size, b = int(b[1]), b[2:]
		if len(b) >= size {
			a.Host = string(b[:size])
			if err := checkHost(a.Host); err != nil {
				return a, nil, err
			}
		}
	default:
		return a, nil, fmt.Errorf("address of kind %d", b[0])
	}
	if len(b) < size+2 {
		return a, nil, errShort
	}
	if a.Host == "" {
		ip, ok := netip.AddrFromSlice(b[:size])
		if !ok || ip.Is4In6() {
			return a, nil, errors.New("IPv4 address in IPv6 form")
		}
		a.Host = ip.String()
	}
	a.Port = binary.BigEndian.Uint16(b[size:])
	return a, b[size+2:], a.check()
}

// parseAddresses takes what is left of b as addresses, none of them twice.
func parseAddresses(b []byte) ([]Address, error) {
	var list []Address
	for len(b) > 0 {
		a, rest, err := parseAddress(b)
		if err != nil {
			return nil, err
		}
		for _, o := range list {
			if a == o {
				return nil, errors.New("address that is there twice")
			}
		}
		list, b = append(list, a), rest
	}
	return list, nil
}

func checkAddresses(list []Address) error {
	for i, a := range list {
		if err := a.check(); err != nil {
			return fmt.Errorf("address %q: %w", a, err)
		}
		for _, o := range list[:i] {
			if a == o {
				return fmt.Errorf("address %q is there twice", a)
			}
		}
	}
	return nil
}
