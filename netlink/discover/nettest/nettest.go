//go:build linux

// Package nettest makes networks for tests: each has interfaces, addresses and
// ports of its own (a network namespace), and a cable leads from one to another.
// It needs root; a test without it is skipped, and so it is in a short run.
package nettest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Network is a network of its own. It ends with the test.
type Network struct {
	t  testing.TB
	ns *os.File
}

// New makes a network that has nothing but a loopback interface, or skips the
// test.
func New(t testing.TB) *Network {
	t.Helper()
	needRoot(t)
	n := &Network{t: t}
	home := current(t)
	defer home.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.ns, err = os.Open("/proc/thread-self/ns/net")
			back(home)
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("nettest: making a network: %v", err)
	}
	t.Cleanup(func() { n.ns.Close() })
	n.Up("lo")
	return n
}

func needRoot(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("networks of their own are left out of a short run")
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can make networks of their own")
	}
}

func current(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatalf("nettest: %v", err)
	}
	return f
}

// back returns the thread to its network. A thread that stayed elsewhere would
// be the next goroutine's.
func back(home *os.File) {
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		panic("nettest: a thread cannot leave its network: " + err.Error())
	}
}

// Do runs fn on a thread that is in the network. Sockets that it opens stay in
// it; goroutines that it starts do not begin there.
func (n *Network) Do(fn func() error) error {
	n.t.Helper()
	home := current(n.t)
	defer home.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Setns(int(n.ns.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = fn()
			back(home)
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

func (n *Network) must(what string, fn func() error) {
	n.t.Helper()
	if err := n.Do(fn); err != nil {
		n.t.Fatalf("nettest: %s: %v", what, err)
	}
}

// Start starts a program in the network.
func (n *Network) Start(cmd *exec.Cmd) error {
	n.t.Helper()
	return n.Do(cmd.Start)
}

// Cable connects an interface of a with one of b. They have the names, no
// addresses but those of the link, and are up.
func Cable(a *Network, nameA string, b *Network, nameB string) {
	a.t.Helper()
	// The other end gets its name at home, where nobody has it.
	const away = "nettest0"
	a.must("laying a cable", func() error {
		veth := &rtnl.Veth{LinkAttrs: rtnl.LinkAttrs{Name: nameA}, PeerName: away}
		if err := rtnl.LinkAdd(veth); err != nil {
			return err
		}
		peer, err := rtnl.LinkByName(away)
		if err != nil {
			return err
		}
		return rtnl.LinkSetNsFd(peer, int(b.ns.Fd()))
	})
	b.must("laying a cable", func() error {
		peer, err := rtnl.LinkByName(away)
		if err != nil {
			return err
		}
		return rtnl.LinkSetName(peer, nameB)
	})
	a.Up(nameA)
	b.Up(nameB)
}

// Tap makes an interface whose other end is a program's, such as an emulated
// computer's.
func (n *Network) Tap(name string) {
	n.t.Helper()
	n.must("making "+name, func() error {
		return rtnl.LinkAdd(&rtnl.Tuntap{LinkAttrs: rtnl.LinkAttrs{Name: name}, Mode: rtnl.TUNTAP_MODE_TAP})
	})
	n.Up(name)
}

// Up brings an interface up.
func (n *Network) Up(name string) {
	n.t.Helper()
	n.must("bringing up "+name, func() error { return withLink(name, rtnl.LinkSetUp) })
}

// Add gives an interface an address, "192.168.1.7/24".
func (n *Network) Add(name, address string) {
	n.t.Helper()
	n.must("giving "+name+" "+address, func() error { return AddAddress(name, address) })
}

// Remove takes an address from an interface.
func (n *Network) Remove(name, address string) {
	n.t.Helper()
	n.must("taking "+address+" from "+name, func() error { return RemoveAddress(name, address) })
}

func withLink(name string, fn func(rtnl.Link) error) error {
	l, err := rtnl.LinkByName(name)
	if err != nil {
		return err
	}
	return fn(l)
}

// AddAddress and its like are for a test that is [Alone].
func AddAddress(name, address string) error {
	return withLink(name, func(l rtnl.Link) error {
		a, err := parseAddress(address)
		if err != nil {
			return err
		}
		return rtnl.AddrAdd(l, a)
	})
}

// RemoveAddress takes an address from an interface.
func RemoveAddress(name, address string) error {
	return withLink(name, func(l rtnl.Link) error {
		a, err := parseAddress(address)
		if err != nil {
			return err
		}
		return rtnl.AddrDel(l, a)
	})
}

// AddLink makes an interface whose cable leads nowhere.
func AddLink(name string) error {
	veth := &rtnl.Veth{LinkAttrs: rtnl.LinkAttrs{Name: name}, PeerName: name + "-end"}
	if err := rtnl.LinkAdd(veth); err != nil {
		return err
	}
	return errors.Join(
		// Whoever looks for other interfaces shall not take the end for one.
		withLink(veth.PeerName, func(l rtnl.Link) error { return errors.Join(rtnl.LinkSetMulticastOff(l), rtnl.LinkSetUp(l)) }),
		withLink(name, rtnl.LinkSetUp))
}

// RemoveLink removes an interface.
func RemoveLink(name string) error { return withLink(name, rtnl.LinkDel) }

func parseAddress(s string) (*rtnl.Addr, error) {
	a, err := rtnl.ParseAddr(s)
	if err == nil && a.IP.To4() == nil {
		a.Flags |= unix.IFA_F_NODAD // nobody else is there who could have it
	}
	return a, err
}

// alone is set for a test that runs in a process of its own.
const alone = "COBOX_NETTEST_ALONE"

// Alone tells whether the test runs in a process and a network of its own. If it
// does not, Alone runs it there, reports how that ended, and returns false.
func Alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(alone) == t.Name() {
		if ifaces, err := net.Interfaces(); err != nil || len(ifaces) != 1 {
			t.Fatalf("nettest: the network is not empty: %v %v", ifaces, err)
		}
		if err := withLink("lo", rtnl.LinkSetUp); err != nil {
			t.Fatalf("nettest: %v", err)
		}
		return true
	}
	needRoot(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatalf("nettest: %v", err)
	}
	cmd := exec.Command(self, "-test.run", "^"+regexp.QuoteMeta(t.Name())+"$", "-test.v", "-test.timeout", "5m")
	cmd.Env = append(os.Environ(), alone+"="+t.Name())
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	out, err := cmd.CombinedOutput()
	if testing.Verbose() {
		t.Logf("%s", out)
	}
	if err != nil || !bytes.Contains(out, fmt.Appendf(nil, "--- PASS: %s ", t.Name())) {
		t.Errorf("nettest: %v\n%s", err, out)
	}
	return false
}
