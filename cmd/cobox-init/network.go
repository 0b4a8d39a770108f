//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cobox/appliance/datadir"
	"cobox/netlink/pairing"
)

// nameTimeout is how long a first address may wait for the data, which knows the
// box's name. coboxd waits for the data as well, so that nothing is lost.
const nameTimeout = 3 * time.Second

// resolvFile is where /etc/resolv.conf leads to.
const resolvFile = "/run/resolv.conf"

// network gives every wired interface its addresses: IPv6 ones by the kernel,
// from router advertisements, and IPv4 ones by DHCP.
type network struct {
	log       *slog.Logger
	ready     chan struct{} // closed when there has been an address
	readyOnce sync.Once
	named     chan struct{} // closed when the host name is as well known as it will be

	mu     sync.Mutex
	leases map[string]*lease // by interface
}

func newNetwork(log *slog.Logger) *network {
	return &network{log: log, ready: make(chan struct{}), named: make(chan struct{}), leases: map[string]*lease{}}
}

// wired is an interface that the box looks after.
type wired struct {
	cancel  context.CancelFunc
	carrier chan bool // holds the newest
}

// run looks after all interfaces until ctx ends, those too that come later.
func (n *network) run(ctx context.Context) {
	if lo, err := rtnl.LinkByName("lo"); err != nil {
		n.log.Error("there is no loopback interface", "error", err)
	} else if err := rtnl.LinkSetUp(lo); err != nil {
		n.log.Error("the loopback interface is down", "error", err)
	}
	var tasks sync.WaitGroup
	defer tasks.Wait()
	again := backoff{first: time.Second, limit: time.Minute}
	for ctx.Err() == nil {
		err := n.watch(ctx, &tasks)
		if ctx.Err() != nil {
			return
		}
		n.log.Error("interfaces are not watched", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(again.wait()):
		}
	}
}

// watch follows the kernel's news of interfaces until that fails.
func (n *network) watch(ctx context.Context, tasks *sync.WaitGroup) error {
	updates, done := make(chan rtnl.LinkUpdate, 64), make(chan struct{})
	defer close(done)
	failed := make(chan error, 1)
	err := rtnl.LinkSubscribeWithOptions(updates, done, rtnl.LinkSubscribeOptions{
		ListExisting: true,
		ErrorCallback: func(err error) {
			select {
			case failed <- err:
			default:
			}
		},
	})
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	known := map[int]*wired{}
	defer func() {
		for _, w := range known {
			w.cancel()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return fmt.Errorf("network: %w", err)
		case u, ok := <-updates:
			if !ok {
				return errors.New("network: the kernel tells no more")
			}
			attrs := u.Link.Attrs()
			w := known[attrs.Index]
			if u.Header.Type == unix.RTM_DELLINK {
				if w != nil {
					w.cancel()
					delete(known, attrs.Index)
					n.log.Info("an interface is gone", "interface", attrs.Name)
				}
				continue
			}
			if w == nil {
				if !isWired(u.Link) {
					continue
				}
				w = n.add(ctx, u.Link, tasks)
				known[attrs.Index] = w
			}
			up := attrs.RawFlags&unix.IFF_LOWER_UP != 0 && attrs.RawFlags&unix.IFF_UP != 0
			select {
			case <-w.carrier:
			default:
			}
			w.carrier <- up
		}
	}
}

// isWired tells Ethernet from loopback, Wi-Fi and virtual interfaces.
func isWired(l rtnl.Link) bool {
	a := l.Attrs()
	if l.Type() != "device" || a.EncapType != "ether" || a.Flags&net.FlagLoopback != 0 {
		return false
	}
	for _, mark := range []string{"wireless", "phy80211"} {
		if _, err := os.Stat(filepath.Join("/sys/class/net", a.Name, mark)); err == nil {
			return false
		}
	}
	return true
}

// add starts to look after an interface.
func (n *network) add(ctx context.Context, l rtnl.Link, tasks *sync.WaitGroup) *wired {
	a := l.Attrs()
	n.log.Info("an interface is found", "interface", a.Name, "mac", a.HardwareAddr)
	// 2: also on a machine that forwards, which a box never does; it costs nothing
	// and does not hang on another setting.
	for key, value := range map[string]string{"accept_ra": "2", "autoconf": "1", "forwarding": "0"} {
		if err := os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", a.Name, key), []byte(value), 0); err != nil {
			n.log.Warn("IPv6 may not work", "interface", a.Name, "error", err)
		}
	}
	if err := rtnl.LinkSetUp(l); err != nil {
		n.log.Error("the interface stays down", "interface", a.Name, "error", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &wired{cancel: cancel, carrier: make(chan bool, 1)}
	c := &dhcpClient{name: a.Name, mac: a.HardwareAddr, host: hostName}
	tasks.Go(func() { n.serve(ctx, l, c, w.carrier) })
	return w
}

// serve keeps one interface's IPv4 address until ctx ends.
func (n *network) serve(ctx context.Context, l rtnl.Link, c *dhcpClient, carrier <-chan bool) {
	// A router shows the name that it was told first.
	select {
	case <-n.named:
	case <-ctx.Done():
		return
	case <-time.After(nameTimeout):
	}
	up, told := false, false
	again := backoff{first: time.Second, limit: time.Minute}
	for {
		for !up {
			select {
			case <-ctx.Done():
				return
			case up = <-carrier:
				again.reset()
			}
		}
		got, err := c.discover(ctx)
		if err == nil {
			err = n.use(l, got)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			if !told {
				n.log.Warn("no IPv4 address yet; the box goes on asking", "interface", c.name, "error", err)
				told = true
			}
			select {
			case <-ctx.Done():
				return
			case up = <-carrier:
			case <-time.After(again.wait()):
			}
			continue
		}
		again.reset()
		told = false
		n.log.Info("an IPv4 address is granted", "interface", c.name, "address", got.address, "router", got.router, "for", got.times.end)
		// The kernel tells of many changes; only a carrier that goes is of interest.
		changed, done := make(chan struct{}), make(chan struct{})
		keepCtx, stop := context.WithCancel(ctx)
		go func() {
			defer close(done)
			for {
				select {
				case <-keepCtx.Done():
					return
				case up = <-carrier:
					if !up {
						close(changed)
						return
					}
				}
			}
		}()
		err = got.keep(ctx, c, changed, func(longer *lease) {
			if err := n.use(l, longer); err != nil {
				n.log.Error("the renewed address is not set", "interface", c.name, "error", err)
			}
		})
		stop()
		<-done
		n.withdraw(l, c.name)
		if ctx.Err() != nil {
			return
		}
		n.log.Warn("the IPv4 address is given up", "interface", c.name, "error", err)
	}
}

// routeMetric lets the interface that came first win, whichever has a lease.
const routeMetric = 1000

// use sets what a lease grants, in place of what the interface had before.
func (n *network) use(l rtnl.Link, got *lease) error {
	name := l.Attrs().Name
	n.mu.Lock()
	before := n.leases[name]
	n.mu.Unlock()
	if before != nil && before.address != got.address {
		n.withdraw(l, name)
	}
	seconds := int(min(got.times.end, 1<<31*time.Second-time.Second) / time.Second)
	address := &rtnl.Addr{IPNet: ipNet(got.address), ValidLft: seconds, PreferedLft: seconds}
	if err := rtnl.AddrReplace(l, address); err != nil {
		return fmt.Errorf("network: setting the address %v: %w", got.address, err)
	}
	if got.router.IsValid() {
		route := &rtnl.Route{LinkIndex: l.Attrs().Index, Gw: got.router.AsSlice(), Priority: routeMetric + l.Attrs().Index}
		if !got.address.Contains(got.router) {
			route.Flags = int(rtnl.FLAG_ONLINK)
		}
		if err := rtnl.RouteReplace(route); err != nil {
			return fmt.Errorf("network: setting the route by %v: %w", got.router, err)
		}
	}
	n.mu.Lock()
	n.leases[name] = got
	n.mu.Unlock()
	err := n.writeResolv()
	// Whoever waits for it wants to resolve names.
	n.readyOnce.Do(func() { close(n.ready) })
	return err
}

// withdraw takes back what use has set; routes by the address go with it.
func (n *network) withdraw(l rtnl.Link, name string) {
	n.mu.Lock()
	old := n.leases[name]
	delete(n.leases, name)
	n.mu.Unlock()
	if old == nil {
		return
	}
	err := rtnl.AddrDel(l, &rtnl.Addr{IPNet: ipNet(old.address)})
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
		n.log.Error("an old address stays", "interface", name, "error", err)
	}
	if err := n.writeResolv(); err != nil {
		n.log.Error("old name servers stay", "error", err)
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// writeResolv tells programs the name servers of all interfaces. A crash cannot
// leave half a file: it lies in memory.
func (n *network) writeResolv() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := os.WriteFile(resolvFile+".tmp", []byte(resolvText(n.leases)), 0o644); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	if err := os.Rename(resolvFile+".tmp", resolvFile); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	return nil
}

// maxNameServers is how many a program asks at most (resolv.conf(5)).
const maxNameServers = 3

func resolvText(leases map[string]*lease) string {
	var b strings.Builder
	for _, a := range collect(leases, func(l *lease) []netip.Addr { return l.names }, maxNameServers) {
		fmt.Fprintf(&b, "nameserver %v\n", a)
	}
	return b.String()
}

// timeServers returns those that the network names.
func (n *network) timeServers() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []string
	for _, a := range collect(n.leases, func(l *lease) []netip.Addr { return l.clocks }, 4) {
		list = append(list, a.String())
	}
	return list
}

// collect lists addresses of all leases once, in the order of the interfaces'
// names.
func collect(leases map[string]*lease, of func(*lease) []netip.Addr, most int) []netip.Addr {
	names := make([]string, 0, len(leases))
	for name := range leases {
		names = append(names, name)
	}
	slices.Sort(names)
	var list []netip.Addr
	for _, name := range names {
		for _, a := range of(leases[name]) {
			if !slices.Contains(list, a) && len(list) < most {
				list = append(list, a)
			}
		}
	}
	return list
}

// hostName is the box's name in the local network, by which its pairing code
// names it too. A box that has no identity yet is just a box.
func hostName() string {
	if id := readIdentity(dataDir); id != nil {
		return pairing.HostName(id.StaticPublic())
	}
	return "cobox"
}

// readIdentity reads the box's identity, or the one that it will take at this
// start; nil if there is none.
func readIdentity(data string) *datadir.Identity {
	if b, err := readSmall(filepath.Join(data, identityFile)); err == nil {
		if id, err := datadir.ParseIdentity(b); err == nil {
			return id
		}
	}
	if b, err := readSmall(filepath.Join(data, provisionCopy)); err == nil {
		if p, err := datadir.ParseProvision(b); err == nil {
			return p.Identity
		}
	}
	return nil
}
