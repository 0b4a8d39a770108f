package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"cobox/cmd/cobox/device"
	"cobox/cmd/cobox/ui"
	"cobox/netlink/discover"
	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
)

const (
	dialTimeout = 8 * time.Second // for a box, wherever it is looked for
	dialStagger = 250 * time.Millisecond
	// lookupAfter is when a box that was elsewhere before is looked for by its
	// name. An address that holds has mostly answered by then.
	lookupAfter = time.Second

	// boxPort is that of every box that was told no other.
	boxPort = 26269
	// maxPorts are tried at an address that was found by the box's name.
	maxPorts = 3
)

// place is where a box is looked for.
type place struct {
	addresses []string // HOST:PORT, the likeliest first
	// host is the box's name in the local network; "" looks at the addresses only.
	host string
	// alone is how long the addresses are tried before the name is asked for.
	alone time.Duration
}

// placeFor is where a box may be that is known from a code: at the address that
// was given and nowhere else, or at those of the code and wherever its name leads.
func placeFor(box noiseconn.StaticPublic, known []pairing.Address, given string) (place, error) {
	if given != "" {
		if !strings.Contains(given, ":") || strings.HasSuffix(given, "]") {
			given = net.JoinHostPort(strings.Trim(given, "[]"), fmt.Sprint(boxPort))
		}
		addr, err := pairing.ParseAddress(given)
		if err != nil {
			return place{}, ui.Usagef("Write for example 192.168.1.20:26269.", "--address: %s", err)
		}
		return place{addresses: []string{addr.String()}}, nil
	}
	var list []string
	for _, x := range known {
		list = append(list, x.String())
	}
	return placeAt(box, list, 0), nil
}

// placeOf is where a box may be that this device is paired with: where it was
// before, and only then where its name leads.
func placeOf(b *device.Box) place { return placeAt(b.Static, b.Addresses, lookupAfter) }

func placeAt(box noiseconn.StaticPublic, addresses []string, alone time.Duration) place {
	p := place{addresses: addresses, host: pairing.HostName(box) + discover.Domain, alone: alone}
	here := func(a string) bool {
		ap, err := netip.ParseAddrPort(a)
		return err == nil && ap.Addr().IsLoopback()
	}
	// A box on this very computer, or behind a tunnel, is not in the network.
	if len(addresses) > 0 && !slices.ContainsFunc(addresses, func(a string) bool { return !here(a) }) {
		p.host = ""
	}
	return p
}

// ports are those at which a box is tried that was found by its name, which says
// no port: those that it had, and the usual one.
func (p place) ports() []uint16 {
	var list []uint16
	for _, a := range p.addresses {
		if x, err := pairing.ParseAddress(a); err == nil && !slices.Contains(list, x.Port) && len(list) < maxPorts-1 {
			list = append(list, x.Port)
		}
	}
	if !slices.Contains(list, boxPort) {
		list = append(list, boxPort)
	}
	return list
}

// attempt is how dialling one address ended.
type attempt struct {
	conn *noiseconn.Conn
	addr string
	err  error
}

// dial returns the first connection whose handshake succeeds, and its address.
// Addresses are tried one after the other, each a little later than the one
// before; what answers to the box's name joins them.
func (p place) dial(ctx context.Context, cfg noiseconn.Config) (*noiseconn.Conn, string, error) {
	if len(p.addresses) == 0 && p.host == "" {
		return nil, "", errors.New("no address is known: give one with --address HOST:PORT")
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	results := make(chan attempt)
	var tried []string
	pending := 0
	try := func(addr string, wait time.Duration) {
		if slices.Contains(tried, addr) {
			return
		}
		tried = append(tried, addr)
		pending++
		go func() {
			conn, err := dialOne(ctx, addr, wait, cfg)
			select {
			case results <- attempt{conn, addr, err}:
			case <-ctx.Done():
				if conn != nil {
					conn.Close()
				}
			}
		}()
	}
	for i, addr := range p.addresses {
		try(addr, time.Duration(i)*dialStagger)
	}

	found, ended := make(chan netip.Addr), make(chan error, 1)
	looking, answers := false, 0
	var later <-chan time.Time // not nil while the name is still to be asked for
	if p.host != "" {
		later = time.After(p.alone)
	}
	var errs []error
	for pending > 0 || looking || later != nil {
		ask := later
		if pending == 0 && later != nil {
			ask = time.After(0) // nothing else is left to try
		}
		select {
		case r := <-results:
			pending--
			if r.err == nil {
				return r.conn, r.addr, nil
			}
			errs = append(errs, r.err)
		case <-ask:
			later, looking = nil, true
			go func() {
				ended <- discover.Lookup(ctx, p.host, func(a netip.Addr) {
					select {
					case found <- a:
					case <-ctx.Done():
					}
				})
			}()
		case a := <-found:
			for _, port := range p.ports() {
				try(netip.AddrPortFrom(a, port).String(), min(time.Duration(answers)*dialStagger, dialTimeout/4))
				answers++
			}
		case err := <-ended:
			looking = false
			if err == nil && answers == 0 {
				err = fmt.Errorf("nobody in this network answers to the name %s", p.host)
			}
			if err != nil {
				errs = append(errs, err)
			}
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil, "", ctx.Err()
			}
			return nil, "", errors.Join(append(errs, fmt.Errorf("no answer within %v from %s", dialTimeout, strings.Join(tried, ", ")))...)
		}
	}
	return nil, "", errors.Join(errs...)
}

func dialOne(ctx context.Context, addr string, wait time.Duration, cfg noiseconn.Config) (*noiseconn.Conn, error) {
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	conn, err := noiseconn.Dial(ctx, nc, cfg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	return conn, nil
}

// notFoundHint is what to do about a box that is nowhere.
const notFoundHint = "Is it on, and on this network, not on one for guests? Its screen shows its address: give it with --address HOST:PORT."

// notFound explains that a box of a code is nowhere.
func (p place) notFound(err error) *ui.Failure {
	f := &ui.Failure{Exit: ui.ExitNoBox, Code: "no_box", What: "the box is not found", Err: err, Hint: notFoundHint}
	if len(p.addresses) > 0 {
		f.What = "the box is not reachable at " + strings.Join(p.addresses, " or ")
	}
	if p.host == "" {
		f.Hint = "Is it on, and on this network? Give its address with --address HOST:PORT if it has changed."
	}
	return f
}
