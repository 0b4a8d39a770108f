package noiseconn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fromConn is a net.Conn that seems to come from an address.
type fromConn struct {
	net.Conn
	addr *net.TCPAddr
}

func (f fromConn) RemoteAddr() net.Addr { return f.addr }

func from(nc net.Conn, addr string) net.Conn {
	return fromConn{nc, net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 1000))}
}

// pipeFrom is a connection whose box side seems to come from an address.
func pipeFrom(t testing.TB, addr string) (device, box net.Conn) {
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, from(b, addr)
}

// attempt brings one connection through the gate; what the device does is up to f.
func attempt(t testing.TB, g *Gate, addr string, f func(net.Conn)) error {
	device, box := pipeFrom(t, addr)
	ticket, err := g.Admit(box)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() { f(device) })
	c, err := ticket.Accept(context.Background(), serverConfig())
	device.Close()
	if c != nil {
		c.Close()
	}
	wg.Wait()
	return err
}

// What devices do.
func sendsGarbage(nc net.Conn) { nc.Write(bytes.Repeat([]byte("x"), openingSize)) }

func knocks(cfg Config) func(net.Conn) {
	return func(nc net.Conn) {
		if c, err := Dial(context.Background(), nc, cfg); err == nil {
			c.Read(make([]byte, 1)) // until the box closes
			c.Close()
		}
	}
}

func wantReason(t *testing.T, what string, err error, want Reason) {
	t.Helper()
	if reason, _ := ReasonOf(err); reason != want || err == nil {
		t.Errorf("%s: %v, want reason %q", what, err, want)
	}
}

// stranger knows the box but is not known to it.
func stranger() Config {
	cfg := clientConfig(ModeLink)
	cfg.Static = StaticPrivate{99}
	return cfg
}

// TestRates: failures limit their network, and all together everybody, but
// never a known peer.
func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate()
		for range int(sourceRate) {
			wantReason(t, "garbage", attempt(t, g, "10.0.0.1", sendsGarbage), ReasonMagic)
		}
		// The same /24 cannot pair now, even with the right secret …
		wantReason(t, "pairing from the network", attempt(t, g, "10.0.0.2", knocks(clientConfig(ModePair))), ReasonRate)
		// … another network can, and so can a known peer from the same.
		if err := attempt(t, g, "10.0.1.2", knocks(clientConfig(ModePair))); err != nil {
			t.Errorf("pairing from another network: %v", err)
		}
		if err := attempt(t, g, "10.0.0.3", knocks(clientConfig(ModeLink))); err != nil {
			t.Errorf("known peer from the network: %v", err)
		}
		// It is known now, and may pair again from there, others may not.
		if err := attempt(t, g, "10.0.0.3", knocks(clientConfig(ModePair))); err != nil {
			t.Errorf("pairing from a known address: %v", err)
		}
		wantReason(t, "pairing beside a known address", attempt(t, g, "10.0.0.4", knocks(clientConfig(ModePair))), ReasonRate)
		// A second pays all off.
		time.Sleep(time.Second)
		if err := attempt(t, g, "10.0.0.4", knocks(clientConfig(ModePair))); err != nil {
			t.Errorf("pairing a second later: %v", err)
		}
		// IPv6 goes by /56.
		for range int(sourceRate) {
			attempt(t, g, "2001:db8:0:1::1", sendsGarbage)
		}
		wantReason(t, "the same /56", attempt(t, g, "2001:db8:0:2::1", knocks(clientConfig(ModePair))), ReasonRate)
		if err := attempt(t, g, "2001:db8:0:100::1", knocks(clientConfig(ModePair))); err != nil {
			t.Errorf("another /56: %v", err)
		}
		// The total.
		time.Sleep(time.Second)
		for i := range int(totalRate) {
			attempt(t, g, fmt.Sprintf("172.16.%d.1", i), sendsGarbage)
		}
		wantReason(t, "over the total", attempt(t, g, "192.168.7.7", knocks(clientConfig(ModePair))), ReasonRate)
		if err := attempt(t, g, "192.168.7.7", knocks(clientConfig(ModeLink))); err != nil {
			t.Errorf("known peer over the total: %v", err)
		}
	})
}

// TestSuccessIsFree: handshakes that succeed use up no rate, however many.
func TestSuccessIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate()
		for i := range 3 * int(totalRate) {
			if err := attempt(t, g, "10.0.0.1", knocks(clientConfig(bothModes[i%2]))); err != nil {
				t.Fatalf("handshake %d: %v", i, err)
			}
		}
		if g.HalfOpen() != 0 {
			t.Errorf("%d places are taken", g.HalfOpen())
		}
	})
}

// TestTrials: whoever knows the box's key but is not known cannot make it
// compute at will, even from a thousand networks.
func TestTrials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate()
		asked := 0
		reasons := map[Reason]int{}
		for i := range 500 {
			device, box := pipeFrom(t, fmt.Sprintf("10.%d.%d.1", i/250, i%250))
			ticket, err := g.Admit(box)
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			wg.Go(func() { knocks(stranger())(device) })
			cfg := serverConfig()
			cfg.LinkPSK = func(StaticPublic) (PSK, any, bool) { asked++; return PSK{}, nil, false }
			_, err = ticket.Accept(context.Background(), cfg)
			wg.Wait()
			reason, _ := ReasonOf(err)
			reasons[reason]++
		}
		if asked != 2*int(totalRate) {
			t.Errorf("%d of 500 strangers cost more than a hash at once, want %d", asked, 2*int(totalRate))
		}
		if reasons[ReasonUnknownPeer] != asked || reasons[ReasonRate] != 500-asked {
			t.Errorf("reasons: %v", reasons)
		}
	})
}

// TestPlaces: at most 16 are half-open, for at most ten seconds, and silent ones
// never keep an honest peer out.
func TestPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate()
		var wg sync.WaitGroup
		reasons := make(chan Reason, 1000)
		silent := func(n int) {
			for i := range n {
				_, box := pipeFrom(t, fmt.Sprintf("10.0.%d.1", i))
				ticket, err := g.Admit(box)
				if err != nil {
					reason, _ := ReasonOf(err)
					reasons <- reason
					continue
				}
				wg.Go(func() {
					_, err := ticket.Accept(context.Background(), serverConfig())
					reason, _ := ReasonOf(err)
					reasons <- reason
				})
				synctest.Wait()
				if n := g.HalfOpen(); n > maxHalfOpen {
					t.Errorf("%d connections are half-open", n)
				}
			}
		}
		silent(maxHalfOpen)
		if n := g.HalfOpen(); n != maxHalfOpen {
			t.Errorf("%d connections are half-open, want %d", n, maxHalfOpen)
		}
		for _, mode := range bothModes {
			if err := attempt(t, g, "192.168.1.1", knocks(clientConfig(mode))); err != nil {
				t.Errorf("%v among silent ones: %v", mode, err)
			}
		}
		synctest.Wait()
		if len(reasons) != 1 || <-reasons != ReasonDisplaced { // the second attempt found a place
			t.Error("no silent connection was displaced")
		}
		time.Sleep(HandshakeTimeout)
		wg.Wait()
		for range maxHalfOpen - 1 {
			if r := <-reasons; r != ReasonTimeout {
				t.Errorf("a silent connection ended with %q", r)
			}
		}
		if g.HalfOpen() != 0 {
			t.Errorf("%d places are taken in the end", g.HalfOpen())
		}
	})
}

// TestGrace: a handshake under way keeps its place for a second, then it goes
// when the place is needed; a surplus connection is closed at once.
func TestGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate()
		first := firstMessageOf(t, ModePair)
		var wg sync.WaitGroup
		reasons := make(chan Reason, 100)
		for range maxHalfOpen { // each stops behind message 1
			device, box := pipeFrom(t, "10.0.0.1")
			ticket, err := g.Admit(box)
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() { device.Write(first); io.Copy(io.Discard, device) })
			wg.Go(func() {
				_, err := ticket.Accept(context.Background(), serverConfig())
				reason, _ := ReasonOf(err)
				reasons <- reason
			})
		}
		synctest.Wait()
		device, box := pipeFrom(t, "10.0.0.2")
		if _, err := g.Admit(box); err == nil {
			t.Fatal("a seventeenth connection was admitted at once")
		} else {
			wantReason(t, "surplus", err, ReasonBusy)
		}
		if _, err := device.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the surplus connection was left open: %v", err)
		}
		time.Sleep(graceTime)
		if err := attempt(t, g, "10.0.0.2", knocks(clientConfig(ModeLink))); err != nil {
			t.Errorf("after the grace time: %v", err)
		}
		synctest.Wait()
		if len(reasons) != 1 || <-reasons != ReasonDisplaced {
			t.Error("no slow connection was displaced")
		}
		time.Sleep(HandshakeTimeout)
		wg.Wait()
	})
}

// TestRanks: an address that has authenticated displaces those that have not,
// and those of a network with failures go first. The clock stands still, so that
// no failure is forgotten however slow the test is.
func TestRanks(t *testing.T) {
	g := NewGate()
	now := time.Now()
	g.now = func() time.Time { return now }
	if err := attempt(t, g, "10.9.9.9", knocks(clientConfig(ModeLink))); err != nil {
		t.Fatal(err)
	}
	for range int(sourceRate) {
		attempt(t, g, "10.0.0.1", sendsGarbage)
	}
	admit := func(addr string, proven bool) *Ticket {
		_, box := pipeFrom(t, addr)
		ticket, err := g.Admit(box)
		if err != nil {
			return nil
		}
		ticket.proven = proven
		return ticket
	}
	var places []*Ticket
	for i := range maxHalfOpen {
		addr := fmt.Sprintf("10.1.%d.1", i)
		if i == 7 {
			addr = "10.0.0.5"
		}
		places = append(places, admit(addr, true))
	}
	if places[7].rank != rankLimited || places[8].rank != rankUnknown {
		t.Fatalf("ranks are %v and %v", places[7].rank, places[8].rank)
	}
	if admit("10.2.0.1", true) == nil || !places[7].displaced {
		t.Error("the limited connection was not displaced first")
	}
	if admit("10.2.0.1", true) != nil {
		t.Error("an unknown connection displaced one of its rank that is young")
	}
	if admit("10.0.0.6", true) != nil {
		t.Error("a limited connection displaced one of a higher rank")
	}
	if admit("10.9.9.9", true) == nil || !places[0].displaced {
		t.Error("a known address did not get a place")
	}
}

// TestGateMemory: what the gate remembers of a million networks is bounded.
func TestGateMemory(t *testing.T) {
	g := NewGate()
	now := time.Now()
	g.now = func() time.Time { return now }
	n := 200_000
	if testing.Short() {
		n = 20_000
	}
	for i := range n {
		a := netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 1})
		g.mu.Lock()
		g.chargeLocked(a)
		if i%100 == 0 {
			g.rememberLocked(a)
		}
		g.mu.Unlock()
		if i%1000 == 0 {
			now = now.Add(time.Millisecond)
		}
	}
	if len(g.sources) > maxSources || len(g.known) > maxKnown {
		t.Errorf("%d networks and %d addresses are remembered", len(g.sources), len(g.known))
	}
	// They are forgotten once they have nothing against them any more.
	now = now.Add(time.Second)
	g.mu.Lock()
	g.sweepLocked(now)
	g.mu.Unlock()
	if len(g.sources) != 0 {
		t.Errorf("%d networks are remembered after a quiet second", len(g.sources))
	}
}

// counts is the Refused of a test server.
type counts struct {
	mu sync.Mutex
	n  map[Reason]int
}

func (c *counts) refused(r Reason, _ net.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[Reason]int{}
	}
	c.n[r]++
}

func (c *counts) total() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.n {
		n += k
	}
	return n
}

// TestHostileConnections opens ten thousand connections that say nothing, or
// nonsense, while a member is served, and looks at the member and the memory.
func TestHostileConnections(t *testing.T) {
	total := 10_000
	if testing.Short() {
		total = 500
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var refused counts
	gate := NewGate()
	server := &Server{Config: serverConfig(), Gate: gate, Refused: refused.refused,
		Handle: func(ctx context.Context, c *Conn) {
			context.AfterFunc(ctx, func() { c.Close() })
			buf := make([]byte, 100)
			for {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				c.Write(buf[:n])
				if c.Flush() != nil {
					return
				}
			}
		}}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, ln) }()

	dialMember := func() *Conn {
		t.Helper()
		for range 50 {
			nc, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			c, err := Dial(ctx, nc, clientConfig(ModeLink))
			if err == nil {
				return c
			}
		}
		t.Fatal("a member did not get in in fifty attempts")
		return nil
	}
	echo := func(c *Conn) {
		t.Helper()
		c.Write([]byte("hello"))
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
			t.Fatalf("the member was disturbed: %v", err)
		}
	}
	member := dialMember()
	defer member.Close()
	echo(member)

	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	open := make(chan net.Conn, 400) // so many stay open on the hostile side
	most := uint64(0)
	for i := range total {
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			nc.Write(bytes.Repeat([]byte{byte(i)}, 100))
		}
		select {
		case open <- nc:
		default:
			(<-open).Close()
			open <- nc
		}
		if n := gate.HalfOpen(); n > maxHalfOpen {
			t.Fatalf("%d connections are half-open", n)
		}
		if i%(total/5) == 0 {
			echo(member)
			runtime.ReadMemStats(&after)
			most = max(most, after.HeapInuse+after.StackInuse)
		}
	}
	if grown := int64(most) - int64(before.HeapInuse+before.StackInuse); grown > 16<<20 {
		t.Errorf("memory grew by %d bytes", grown)
	}
	// In the middle of it all another member can come.
	late := dialMember()
	echo(late)
	late.Close()
	for len(open) > 0 {
		(<-open).Close()
	}
	member.Close()
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	// Every connection was either served or counted; the kernel may not have
	// handed over the last few before the end.
	if n := refused.total(); n < total-500 {
		t.Errorf("%d refusals for %d hostile connections: %v", n, total, refused.n)
	}
}

// TestServeStops: Serve waits for what it has started, and ends with its listener.
func TestServeStops(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	started, done := make(chan bool), false
	var refused counts
	server := &Server{Config: serverConfig(), Refused: refused.refused, Handle: func(ctx context.Context, c *Conn) {
		started <- true
		<-ctx.Done()
		done = true
	}}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, ln) }()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := Dial(ctx, nc, clientConfig(ModeLink))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	<-started
	half, err := net.Dial("tcp", ln.Addr().String()) // a handshake under way is cut short
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	half.Write([]byte("CoBox"))
	start := time.Now()
	cancel()
	if err := <-served; err != nil || !done {
		t.Errorf("Serve: %v, handler done: %v", err, done)
	}
	if took := time.Since(start); took > HandshakeTimeout/2 {
		t.Errorf("stopping took %v", took)
	}

	ln, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := server.Serve(context.Background(), ln); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve on a closed listener: %v", err)
	}
}

// brokenListener fails a few times, as with too many open files.
type brokenListener struct {
	net.Listener
	left int
}

func (b *brokenListener) Accept() (net.Conn, error) {
	if b.left != 0 {
		b.left--
		return nil, errors.New("too many open files")
	}
	return nil, net.ErrClosed
}
func (b *brokenListener) Close() error { return nil }

func TestServeSurvivesListenerErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &Server{Config: serverConfig()}
		ln := &brokenListener{left: 20}
		start := time.Now()
		if err := server.Serve(context.Background(), ln); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
		if took := time.Since(start); took != 20*acceptPause {
			t.Errorf("20 errors took %v", took)
		}
		ln = &brokenListener{left: -1}
		if err := server.Serve(context.Background(), ln); err == nil {
			t.Error("Serve returned no error for a listener that is broken for good")
		}
	})
}
