// Package config finds the start-up settings of a box.
//
// There are few, because what can be changed while the box runs (members,
// quotas, invites) lives in the roster and is changed over a link. A setting
// comes from the first of these places that gives it:
//
//	flag  >  environment  >  coboxd.toml in the data directory  >  default
//
// An empty environment variable counts as unset. A key in coboxd.toml that is
// not known is an error which names its line, so that a misspelt setting is
// noticed and not silently replaced by a default. Start at [Load].
package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"cobox/netlink/pairing"
)

// Defaults of the two addresses.
const (
	DefaultListen = ":26269"
	DefaultHTTP   = "127.0.0.1:26270"
)

// MaxAdvertise is how many addresses a box tells of itself: more would not fit
// into its pairing code.
const MaxAdvertise = 4

// Config is what a box starts from. Make one with [Load], or fill it in and
// call Validate.
type Config struct {
	// Data is the data directory. It is made when it is not there.
	Data string
	// Listen is the address at which links are accepted, HOST:PORT; an empty
	// host means every address of the machine, port 0 one that is free.
	Listen string
	// HTTP is the address of the local pages: health and metrics.
	HTTP string
	// Name is what people call the box; empty keeps the name that the box has.
	Name string
	// Advertise lists the addresses that the pairing code and the box's peers
	// are given, HOST or HOST:PORT. Empty means: find them.
	Advertise []string
	// Discovery makes the box answer for its name in the local network.
	Discovery bool
}

// A FieldError says which setting is wrong, and where it came from.
type FieldError struct {
	Field   string // name as in coboxd.toml
	Source  string // "--listen", "COBOXD_LISTEN", "coboxd.toml" or ""
	Problem string
}

func (e *FieldError) Error() string {
	if e.Source == "" {
		return fmt.Sprintf("config: %s: %s", e.Field, e.Problem)
	}
	return fmt.Sprintf("config: %s (from %s): %s", e.Field, e.Source, e.Problem)
}

// Validate reports the first setting that cannot work, as a *[FieldError].
func (c *Config) Validate() error {
	bad := func(field, format string, args ...any) error {
		return &FieldError{Field: field, Problem: fmt.Sprintf(format, args...)}
	}
	if c.Data == "" {
		return bad("data", "no data directory given")
	}
	if strings.ContainsRune(c.Data, 0) {
		return bad("data", "a path holds no NUL byte")
	}
	if err := checkListen(c.Listen); err != nil {
		return bad("listen", "%v", err)
	}
	if err := checkListen(c.HTTP); err != nil {
		return bad("http", "%v", err)
	}
	if c.Name != "" {
		if err := pairing.CheckName(c.Name); err != nil {
			return bad("name", "%v", err)
		}
	}
	if len(c.Advertise) > MaxAdvertise {
		return bad("advertise", "%d addresses; at most %d fit into the pairing code", len(c.Advertise), MaxAdvertise)
	}
	for _, a := range c.Advertise {
		if _, err := advertised(a, 1); err != nil {
			return bad("advertise", "%v", err)
		}
	}
	return nil
}

func checkListen(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not HOST:PORT", addr)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("%q is not a port from 0 to 65535", port)
	}
	if host == "" || host == "localhost" {
		return nil
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return fmt.Errorf("%q is not an IP address of this machine (leave the host empty for all of them)", host)
	}
	return nil
}

// advertised reads HOST or HOST:PORT, with port for the first.
func advertised(a string, port uint16) (pairing.Address, error) {
	if host, bare := bareHost(a); bare {
		a = net.JoinHostPort(host, strconv.Itoa(int(port)))
	}
	return pairing.ParseAddress(a)
}

// bareHost tells whether a is an address without a port; an IPv6 address may
// stand in brackets.
func bareHost(a string) (string, bool) {
	if _, err := netip.ParseAddr(strings.Trim(a, "[]")); err == nil {
		return strings.Trim(a, "[]"), true
	}
	return a, !strings.Contains(a, ":")
}
