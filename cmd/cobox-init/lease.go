//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// lease is what a DHCP server has granted (RFC 2131).
type lease struct {
	raw     *nclient4.Lease
	start   time.Time
	address netip.Prefix
	router  netip.Addr // invalid: none
	names   []netip.Addr
	clocks  []netip.Addr
	times   leaseTimes
}

// leaseTimes counts from the start of the lease: when it is renewed with its
// server, when any server is asked, and when it ends.
type leaseTimes struct{ renew, rebind, end time.Duration }

// minLease keeps a server from making the box ask without end.
const minLease = time.Minute

// newLease reads an acknowledgement.
func newLease(raw *nclient4.Lease, start time.Time) (*lease, error) {
	ack := raw.ACK
	address, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || !address.IsGlobalUnicast() {
		return nil, fmt.Errorf("dhcp: the server grants the address %v", ack.YourIPAddr)
	}
	ones, bits := ack.SubnetMask().Size()
	if bits != 32 || ones == 0 {
		return nil, fmt.Errorf("dhcp: the server grants %v with the mask %v", address, ack.SubnetMask())
	}
	l := &lease{raw: raw, start: start, address: netip.PrefixFrom(address, ones)}
	if r := ack.Router(); len(r) > 0 {
		l.router, _ = netip.AddrFromSlice(r[0].To4())
	}
	for _, ip := range ack.DNS() {
		if a, ok := netip.AddrFromSlice(ip.To4()); ok {
			l.names = append(l.names, a)
		}
	}
	for _, ip := range ack.NTPServers() {
		if a, ok := netip.AddrFromSlice(ip.To4()); ok {
			l.clocks = append(l.clocks, a)
		}
	}
	l.times = newLeaseTimes(ack.IPAddressLeaseTime(time.Hour), ack.IPAddressRenewalTime(0), ack.IPAddressRebindingTime(0))
	return l, nil
}

// newLeaseTimes takes a server's times where they make sense, and those of RFC
// 2131, section 4.4.5, where not.
func newLeaseTimes(end, renew, rebind time.Duration) leaseTimes {
	end = max(end, minLease)
	if renew <= 0 || rebind <= renew || end <= rebind {
		renew, rebind = end/2, end/8*7
	}
	return leaseTimes{renew, rebind, end}
}

// exchanger asks servers to extend a lease.
type exchanger interface {
	renew(context.Context, *lease) (*lease, error)  // the server that granted it
	rebind(context.Context, *lease) (*lease, error) // any
}

// Reasons why a lease is not kept any longer.
var (
	errLeaseEnded   = errors.New("dhcp: the lease has ended, and no server has extended it")
	errLeaseRefused = errors.New("dhcp: the server takes the address back")
	errLinkChanged  = errors.New("dhcp: the cable was pulled out or put in")
)

// minLeaseRetry is the least time between two tries to extend a lease (RFC
// 2131, section 4.4.5).
const minLeaseRetry = time.Minute

// keep extends a lease again and again, and gives each new one to use. It
// returns why that is over.
func (l *lease) keep(ctx context.Context, x exchanger, changed <-chan struct{}, use func(*lease)) error {
	next := l.times.renew
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
			return errLinkChanged
		case <-time.After(next - time.Since(l.start)):
		}
		ask, until := x.renew, l.times.rebind
		switch age := time.Since(l.start); {
		case age >= l.times.end:
			return errLeaseEnded
		case age >= l.times.rebind:
			ask, until = x.rebind, l.times.end
		}
		try, cancel := context.WithDeadline(ctx, l.start.Add(until))
		longer, err := ask(try, l)
		cancel()
		var nak *nclient4.ErrNak
		switch {
		case errors.As(err, &nak):
			return errLeaseRefused
		case err == nil:
			l, next = longer, longer.times.renew
			use(l)
		default:
			age := time.Since(l.start)
			next = min(until, age+max((until-age)/2, minLeaseRetry))
		}
	}
}

// dhcpOptions are what the box asks a server for.
var dhcpOptions = []dhcpv4.OptionCode{
	dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer,
	dhcpv4.OptionNTPServers, dhcpv4.OptionIPAddressLeaseTime,
	dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue,
}
