//go:build linux

package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

func TestLeaseTimes(t *testing.T) {
	const m = time.Minute
	for _, c := range []struct {
		end, renew, rebind time.Duration
		want               leaseTimes
	}{
		{80 * m, 0, 0, leaseTimes{40 * m, 70 * m, 80 * m}},
		{80 * m, 10 * m, 20 * m, leaseTimes{10 * m, 20 * m, 80 * m}},
		{80 * m, 20 * m, 10 * m, leaseTimes{40 * m, 70 * m, 80 * m}},
		{80 * m, 10 * m, 90 * m, leaseTimes{40 * m, 70 * m, 80 * m}},
		{0, 0, 0, leaseTimes{30 * time.Second, 52500 * time.Millisecond, m}},
	} {
		if got := newLeaseTimes(c.end, c.renew, c.rebind); got != c.want {
			t.Errorf("%v %v %v: %v", c.end, c.renew, c.rebind, got)
		}
	}
}

func TestNewLease(t *testing.T) {
	ack := func(mods ...dhcpv4.Modifier) *nclient4.Lease {
		m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 7))}, mods...)...)
		if err != nil {
			t.Fatal(err)
		}
		return &nclient4.Lease{ACK: m}
	}
	mask := dhcpv4.WithNetmask(net.CIDRMask(24, 32))
	l, err := newLease(ack(mask, dhcpv4.WithRouter(net.IPv4(192, 0, 2, 1)), dhcpv4.WithDNS(net.IPv4(192, 0, 2, 2)),
		dhcpv4.WithOption(dhcpv4.OptNTPServers(net.IPv4(192, 0, 2, 3))), dhcpv4.WithLeaseTime(3600)), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if l.address != netip.MustParsePrefix("192.0.2.7/24") || l.router != netip.MustParseAddr("192.0.2.1") ||
		!slices.Equal(l.names, []netip.Addr{netip.MustParseAddr("192.0.2.2")}) ||
		!slices.Equal(l.clocks, []netip.Addr{netip.MustParseAddr("192.0.2.3")}) || l.times.end != time.Hour {
		t.Errorf("%+v", l)
	}
	for name, bad := range map[string]*nclient4.Lease{
		"no mask":     ack(),
		"mask of 0":   ack(dhcpv4.WithNetmask(net.CIDRMask(0, 32))),
		"holes":       ack(dhcpv4.WithNetmask(net.IPv4Mask(255, 0, 255, 0))),
		"no address":  ack(mask, dhcpv4.WithYourIP(net.IPv4zero)),
		"loopback":    ack(mask, dhcpv4.WithYourIP(net.IPv4(127, 0, 0, 1))),
		"multicast":   ack(mask, dhcpv4.WithYourIP(net.IPv4(224, 0, 0, 1))),
		"broadcast":   ack(mask, dhcpv4.WithYourIP(net.IPv4bcast)),
		"short lease": ack(dhcpv4.WithGeneric(dhcpv4.OptionSubnetMask, []byte{255, 255})),
	} {
		if l, err := newLease(bad, time.Time{}); err == nil {
			t.Errorf("%s: %+v", name, l)
		}
	}
}

// server answers each question as the test says, and notes when it came.
type server struct {
	t      *testing.T
	begun  time.Time
	asked  []string
	answer func(kind string, age time.Duration) (*lease, error)
}

func (s *server) ask(kind string) (*lease, error) {
	age := time.Since(s.begun)
	s.asked = append(s.asked, kind+" "+age.String())
	return s.answer(kind, age)
}
func (s *server) renew(context.Context, *lease) (*lease, error)  { return s.ask("renew") }
func (s *server) rebind(context.Context, *lease) (*lease, error) { return s.ask("rebind") }

func TestLeaseIsKept(t *testing.T) {
	silent := errors.New("no answer")
	lasting := func(d time.Duration) *lease { return &lease{start: time.Now(), times: newLeaseTimes(d, 0, 0)} }
	for _, c := range []struct {
		what   string
		answer func(kind string, age time.Duration) (*lease, error)
		want   error
		asked  []string
		used   int
	}{
		{
			"a silent network",
			func(string, time.Duration) (*lease, error) { return nil, silent },
			errLeaseEnded,
			[]string{
				"renew 8m0s", "renew 11m0s", "renew 12m30s", "renew 13m30s",
				"rebind 14m0s", "rebind 15m0s",
			}, 0,
		},
		{
			"another server takes over",
			func(kind string, age time.Duration) (*lease, error) {
				if kind == "rebind" && age < 20*time.Minute {
					return lasting(16 * time.Minute), nil
				}
				if age > 20*time.Minute {
					return nil, &nclient4.ErrNak{}
				}
				return nil, silent
			},
			errLeaseRefused,
			[]string{"renew 8m0s", "renew 11m0s", "renew 12m30s", "renew 13m30s", "rebind 14m0s", "renew 22m0s"}, 1,
		},
		{
			"renewed twice",
			func(_ string, age time.Duration) (*lease, error) {
				if age > 20*time.Minute {
					return nil, &nclient4.ErrNak{}
				}
				return lasting(16 * time.Minute), nil
			},
			errLeaseRefused,
			[]string{"renew 8m0s", "renew 16m0s", "renew 24m0s"}, 2,
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &server{t: t, begun: time.Now(), answer: c.answer}
			used := 0
			err := lasting(16*time.Minute).keep(t.Context(), s, nil, func(*lease) { used++ })
			if err != c.want || !slices.Equal(s.asked, c.asked) || used != c.used {
				t.Errorf("%s: %v, used %d\n%q", c.what, err, used, s.asked)
			}
		})
	}
}

func TestLeaseGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lease{start: time.Now(), times: newLeaseTimes(time.Hour, 0, 0)}
		changed := make(chan struct{})
		time.AfterFunc(time.Minute, func() { close(changed) })
		if err := l.keep(t.Context(), &server{}, changed, nil); err != errLinkChanged || time.Since(l.start) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(l.start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := l.keep(ctx, &server{}, nil, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestResolv(t *testing.T) {
	a := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	leases := map[string]*lease{
		"eth1": {names: []netip.Addr{a("192.0.2.1"), a("192.0.2.9")}},
		"eth0": {names: []netip.Addr{a("198.51.100.1"), a("192.0.2.1")}},
		"eth2": {names: []netip.Addr{a("203.0.113.1")}},
	}
	if got := resolvText(leases); got != "nameserver 198.51.100.1\nnameserver 192.0.2.1\nnameserver 192.0.2.9\n" {
		t.Error(got)
	}
	if got := resolvText(nil); got != "" {
		t.Error(got)
	}
}
