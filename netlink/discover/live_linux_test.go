package discover_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/ipv4"

	"cobox/netlink/discover"
	"cobox/netlink/discover/nettest"
)

const host = "cobox-ab3d.local"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// respond answers for host until the test ends.
func respond(t testing.TB, r discover.Responder) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	r.Host = host
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the responder does not end")
		}
	})
}

// lookup looks the host up until all that is wanted has been found, or to the
// end if nothing is wanted.
func lookup(t testing.TB, name string, want ...string) []string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []string
	err := discover.Lookup(ctx, name, func(a netip.Addr) {
		got = append(got, a.String())
		for _, w := range want {
			if !slices.Contains(got, w) {
				return
			}
		}
		if len(want) > 0 {
			cancel()
		}
	})
	must(t, err)
	slices.Sort(got)
	return got
}

// eventually looks the host up until it has exactly these addresses.
func eventually(t testing.TB, want ...string) {
	t.Helper()
	slices.Sort(want)
	var got []string
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); {
		if got = lookup(t, host, want...); slices.Equal(got, want) {
			return
		}
	}
	t.Fatalf("found at %v, want %v", got, want)
}

// TestLookup follows a box through what happens to its network.
func TestLookup(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	if err := discover.Lookup(t.Context(), host, func(netip.Addr) { t.Error("found without a network") }); !errors.Is(err, discover.ErrNoNetwork) {
		t.Errorf("without a network: %v", err)
	}
	respond(t, discover.Responder{}) // before there is any interface
	must(t, nettest.AddLink("eth0"))
	linkLocal := linkLocalOf(t, "eth0")
	must(t, nettest.AddAddress("eth0", "192.168.7.5/24"))
	eventually(t, "192.168.7.5", linkLocal)

	// DHCP gives another address, a router one of IPv6.
	must(t, nettest.RemoveAddress("eth0", "192.168.7.5/24"))
	must(t, nettest.AddAddress("eth0", "192.168.7.6/24"))
	must(t, nettest.AddAddress("eth0", "fd00:7::6/64"))
	eventually(t, "192.168.7.6", "fd00:7::6", linkLocal)

	// IPv6 only.
	must(t, nettest.RemoveAddress("eth0", "192.168.7.6/24"))
	must(t, nettest.RemoveAddress("eth0", "fd00:7::6/64"))
	eventually(t, linkLocal)

	// Another interface, and the first is gone.
	must(t, nettest.AddLink("eth1"))
	must(t, nettest.AddAddress("eth1", "10.9.8.7/8"))
	eventually(t, linkLocal, "10.9.8.7", linkLocalOf(t, "eth1"))
	must(t, nettest.RemoveLink("eth0"))
	eventually(t, "10.9.8.7", linkLocalOf(t, "eth1"))

	began := time.Now()
	if got := lookup(t, "cobox-ab3e.local"); len(got) > 0 {
		t.Errorf("another name is found at %v", got)
	}
	// It ends by itself; how soon after its time is up to the machine.
	if took := time.Since(began); took < discover.Patience || took > discover.Patience+10*time.Second {
		t.Errorf("a lookup that finds nothing took %v", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began = time.Now()
	must(t, discover.Lookup(ctx, host, func(netip.Addr) {}))
	if took := time.Since(began); took >= discover.Patience {
		t.Errorf("a lookup that was cancelled took %v", took)
	}
	if err := discover.Lookup(t.Context(), "a.b.local", nil); err == nil {
		t.Error("a bad name was looked up")
	}
}

func linkLocalOf(t testing.TB, name string) string {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		i, err := net.InterfaceByName(name)
		must(t, err)
		list, err := i.Addrs()
		must(t, err)
		for _, a := range list {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsLinkLocalUnicast() && p.Addr().Is6() {
				return p.Addr().WithZone(name).String()
			}
		}
	}
	t.Fatalf("%s has no address of its link", name)
	return ""
}

// TestServes: a box that listens on one address tells no other.
func TestServes(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	must(t, nettest.AddLink("eth0"))
	must(t, nettest.AddAddress("eth0", "192.168.7.5/24"))
	must(t, nettest.AddAddress("eth0", "192.168.7.6/24"))
	only := netip.MustParseAddr("192.168.7.6")
	respond(t, discover.Responder{Serves: func(a netip.Addr) bool { return a == only }})
	eventually(t, "192.168.7.6")
}

// TestForeignPort: a program that keeps the port to itself is waited for.
func TestForeignPort(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	must(t, nettest.AddLink("eth0"))
	must(t, nettest.AddAddress("eth0", "192.168.7.5/24"))
	foreign, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 5353})
	must(t, err)
	foreign6, err := net.ListenUDP("udp6", &net.UDPAddr{Port: 5353})
	must(t, err)
	var log buffer
	respond(t, discover.Responder{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if got := lookup(t, host); len(got) > 0 {
		t.Errorf("found at %v", got)
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 2 {
		t.Errorf("%d warnings, want one for each family\n%s", n, log.String())
	}
	foreign.Close()
	foreign6.Close()
	eventually(t, "192.168.7.5", linkLocalOf(t, "eth0"))
	if n := strings.Count(log.String(), "level=WARN"); n != 2 {
		t.Errorf("%d warnings, want one for each family\n%s", n, log.String())
	}
}

type buffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestFlood: packets as fast as they can be sent cost a box little time and no
// memory, and it answers again when they stop.
func TestFlood(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	must(t, nettest.AddLink("eth0"))
	must(t, nettest.AddAddress("eth0", "192.168.7.5/24"))
	respond(t, discover.Responder{})
	want := []string{"192.168.7.5", linkLocalOf(t, "eth0")}
	eventually(t, want...)

	const name = "\x0acobox-ab3d\x05local\x00"
	rubbish := strings.Repeat("\xff", 1400)
	packets := [][]byte{
		[]byte("\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00" + name + "\x00\x01\x80\x01"), // asks
		[]byte("\x00\x00\x84\x00\x00\x00\x00\x20\x00\x00\x00\x00" + rubbish),
		[]byte("\x00\x00\x00\x00\xff\xff\x00\x00\x00\x00\x00\x00" + strings.Repeat("\x00\x00\x01\x00\x01", 270)),
	}
	iface, err := net.InterfaceByName("eth0")
	must(t, err)
	c, err := net.ListenUDP("udp4", nil)
	must(t, err)
	defer c.Close()
	must(t, ipv4.NewPacketConn(c).SetMulticastInterface(iface))
	group := &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353}

	// Answers are counted by whoever asks.
	answers := make(chan int)
	go func() {
		n, buf := 0, make([]byte, 1500)
		for {
			if _, _, err := c.ReadFromUDP(buf); err != nil {
				answers <- n
				return
			}
			n++
		}
	}()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const lasts = 3 * time.Second
	sent := 0
	for end := time.Now().Add(lasts); time.Now().Before(end); sent++ {
		if _, err := c.WriteToUDP(packets[sent%len(packets)], group); err != nil && !errors.Is(err, syscall.ENOBUFS) {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	c.SetReadDeadline(time.Now().Add(time.Second))
	n := <-answers
	t.Logf("%d packets in %v, %d answers, %d KB of garbage", sent, lasts, n, (after.TotalAlloc-before.TotalAlloc)>>10)
	if sent < 10_000 {
		t.Skipf("this machine sends only %d packets in %v", sent, lasts)
	}
	if n == 0 || n > 50*5 {
		t.Errorf("%d answers in %v", n, lasts)
	}
	// A packet that is read costs some hundred bytes, and only so many are read.
	// The sender's own garbage is in there as well.
	if garbage := after.TotalAlloc - before.TotalAlloc; garbage > 10<<20 {
		t.Errorf("%d bytes of garbage", garbage)
	}
	eventually(t, want...)
}
