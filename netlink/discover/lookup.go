package discover

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// What a lookup spends at most.
const (
	maxFound = 32 // addresses
	maxAsked = 32 // interfaces
	// maxHeard is how many messages are read in answer to a question, on each
	// interface and family.
	maxHeard = 64
)

// askAgain is how long Lookup waits for an answer before it asks once more: on
// Wi-Fi a multicast packet is lost now and then, for nobody confirms it.
const askAgain = time.Second

// ErrNoNetwork means that there is no interface on which a box could be asked
// for.
var ErrNoNetwork = errors.New("this computer is in no network")

// Lookup asks the local network for the addresses of a host such as
// "cobox-ab3d.local", and calls found with each address once, as soon as it is
// there; an IPv6 address of the link has its zone. It asks by multicast on every
// interface, and beside that the system's resolver, which may have a way of its
// own.
//
// It returns after Patience or when ctx ends, and not before found has returned.
// The error says why nobody could be asked; that nobody has answered is none.
// What is found may be anybody: it is for the caller to make sure.
func Lookup(ctx context.Context, host string, found func(netip.Addr)) error {
	name, err := hostName(host)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	l := &lookup{name: name, found: found, seen: make(map[netip.Addr]bool)}
	if err := l.open(); err != nil {
		return err
	}
	var tasks sync.WaitGroup
	for _, a := range l.asking {
		tasks.Go(func() { l.hear(a) })
	}
	tasks.Go(func() { l.resolve(ctx, host) })
	l.ask(ctx)
	for _, a := range l.asking {
		a.conn.Close() // ends hear
	}
	tasks.Wait()
	return nil
}

// lookup is one that runs.
type lookup struct {
	name   dnsmessage.Name
	asking []*asking

	mu    sync.Mutex // held while found runs, too
	found func(netip.Addr)
	seen  map[netip.Addr]bool
}

// asking is the question on one interface, by one family. It has a socket of its
// own, so that the answer's interface is known on every system.
type asking struct {
	conn  net.PacketConn
	group *net.UDPAddr
	zone  string
	id    uint16
}

// open opens a socket for each interface and family that can be asked.
func (l *lookup) open() error {
	all, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("discover: looking for networks: %w", err)
	}
	n := 0
	var errs []error
	for i := range all {
		iface := &all[i]
		if !hears(iface) || iface.Flags&net.FlagUp == 0 || n == maxAsked {
			continue
		}
		addresses, err := addressesOf(iface)
		if err != nil {
			continue
		}
		n++
		var v4, v6 bool
		for _, a := range addresses {
			v4, v6 = v4 || a.Addr().Is4(), v6 || a.Addr().Is6()
		}
		for network, there := range map[string]bool{"udp4": v4, "udp6": v6} {
			if !there {
				continue
			}
			a, err := openAsking(network, iface)
			if err != nil {
				errs = append(errs, fmt.Errorf("discover: asking on %s: %w", iface.Name, err))
				continue
			}
			l.asking = append(l.asking, a)
		}
	}
	if len(l.asking) == 0 && len(errs) == 0 {
		return fmt.Errorf("discover: %w", ErrNoNetwork)
	}
	if len(l.asking) == 0 {
		return errors.Join(errs...)
	}
	return nil
}

func openAsking(network string, iface *net.Interface) (*asking, error) {
	c, err := net.ListenPacket(network, ":0")
	if err != nil {
		return nil, err
	}
	a := &asking{conn: c, zone: iface.Name}
	if network == "udp6" {
		a.group = &net.UDPAddr{IP: group6.AsSlice(), Port: port, Zone: iface.Name}
		p := ipv6.NewPacketConn(c)
		err = errors.Join(p.SetMulticastInterface(iface), p.SetMulticastHopLimit(255))
	} else {
		a.group = &net.UDPAddr{IP: group4.AsSlice(), Port: port}
		p := ipv4.NewPacketConn(c)
		err = errors.Join(p.SetMulticastInterface(iface), p.SetMulticastTTL(255))
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	var id [2]byte
	rand.Read(id[:]) // never fails
	a.id = binary.BigEndian.Uint16(id[:])
	return a, nil
}

// ask asks on all interfaces, again and again until ctx ends.
func (l *lookup) ask(ctx context.Context) {
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	for {
		for _, a := range l.asking {
			// A question that cannot be sent is like one that is lost.
			if msg, err := appendQuery(nil, a.id, l.name); err == nil {
				_, _ = a.conn.WriteTo(msg, a.group)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// hear takes in answers until the socket is closed.
func (l *lookup) hear(a *asking) {
	buf := make([]byte, maxMessage)
	for range maxHeard {
		n, from, err := a.conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		udp, ok := from.(*net.UDPAddr)
		if err != nil || !ok || udp.Port != port {
			continue
		}
		for _, x := range parseAnswer(buf[:n], a.id, &l.name) {
			if x.Is6() && x.IsLinkLocalUnicast() {
				x = x.WithZone(a.zone)
			}
			l.tell(x)
		}
	}
}

// resolve asks the system. Without multicast, a router that has given the box its
// address may know the name.
func (l *lookup) resolve(ctx context.Context, host string) {
	// The C library of Linux would keep a goroutine after ctx has ended, and
	// programs that ship do not have it. Go's own resolver ends when its
	// connections do.
	r := &net.Resolver{PreferGo: runtime.GOOS == "linux", Dial: func(_ context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, address)
		if err == nil {
			context.AfterFunc(ctx, func() { c.Close() })
		}
		return c, err
	}}
	list, err := r.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return // that it does not know the name is the rule
	}
	for _, a := range list[:min(len(list), maxAddresses)] {
		if a = a.Unmap(); dialable(a) {
			l.tell(a)
		}
	}
}

func (l *lookup) tell(a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.seen[a] && len(l.seen) < maxFound {
		l.seen[a] = true
		l.found(a)
	}
}
