package noiseconn

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Limits of a Gate. They are part of the protocol: see PROTOCOL.md.
const (
	maxHalfOpen = 16
	// graceTime is how long a connection that has shown the right MAC keeps its
	// place against others of its rank; an honest handshake takes two round trips.
	graceTime = time.Second

	sourceRate = 5.0  // failed handshakes a second from one /24 or /56
	totalRate  = 20.0 // and in all

	maxSources = 4096 // networks whose failures are remembered
	maxKnown   = 256  // addresses remembered for having authenticated
)

// Gate decides which connections may try a handshake. It bounds what strangers
// cost: places, time and handshakes that fail. Its zero value is not usable;
// make it with NewGate. All methods may be called from several goroutines.
//
// Only failed handshakes use up the rates. A network, or everybody, above its
// rate is not shut out but limited: its connections must first show by the MAC
// that they know the box, may not pair, and come to the public-key operations of
// a link only as often as totalRate allows. So a known peer gets in past a flood
// from its own network. An address that has authenticated lately is not limited
// by what others do; its own failures, and those of all such addresses, have a
// count of their own.
type Gate struct {
	now func() time.Time

	mu      sync.Mutex
	places  []*Ticket // oldest first
	total   bucket
	spared  bucket // failures of known addresses, which do not count in total
	trials  bucket // handshakes tried by limited connections
	sources map[netip.Prefix]*bucket
	swept   time.Time             // when sources was last cleared of what is over
	known   map[netip.Addr]uint64 // when last seen, in steps of seen
	seen    uint64
	local   int // calls of TrustLocal that have not ended
}

// NewGate makes a Gate with the limits of the protocol.
func NewGate() *Gate {
	g := &Gate{
		now:     time.Now,
		total:   bucket{rate: totalRate},
		spared:  bucket{rate: totalRate},
		trials:  bucket{rate: totalRate},
		sources: make(map[netip.Prefix]*bucket),
		known:   make(map[netip.Addr]uint64),
	}
	for _, b := range []*bucket{&g.total, &g.spared, &g.trials} {
		b.fill(g.now())
	}
	return g
}

// rank orders connections when there are too few places.
type rank int

const (
	rankLimited rank = iota // from where too many failures came
	rankUnknown
	rankKnown // from an address that authenticated lately
)

// Ticket is the place of one half-open connection. Its Accept must be called,
// once, to give the place back.
type Ticket struct {
	gate *Gate
	conn net.Conn
	addr netip.Addr
	rank rank
	from time.Time

	proven    bool // has shown the right MAC; under gate.mu
	link      bool // and wants a link; under gate.mu
	displaced bool // under gate.mu
}

// Admit gives nc a place for its handshake, or closes it and returns a
// *RefusedError. It never waits for the network. If all places are taken, one
// connection may have to go: the oldest of a lower rank, or else the oldest that
// has not shown the right MAC yet (an honest peer sends that with its first
// packet), or else the oldest that has had graceTime.
func (g *Gate) Admit(nc net.Conn) (*Ticket, error) {
	t := &Ticket{gate: g, conn: nc, addr: addrOf(nc)}
	if !g.place(t) {
		nc.Close()
		return nil, &RefusedError{ReasonBusy, nil}
	}
	return t, nil
}

func (g *Gate) place(t *Ticket) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	t.from = g.now()
	t.rank = g.rankLocked(t.addr, t.from)
	if len(g.places) >= maxHalfOpen {
		victim := g.victimLocked(t)
		if victim == nil {
			return false
		}
		g.removeLocked(victim)
		victim.displaced = true
		victim.conn.Close() // its Accept fails now
	}
	g.places = append(g.places, t)
	return true
}

// TrustLocal ranks connections from this machine itself as those of known addresses,
// whatever others do, until end is called: who checks whether it can be reached does
// not want to hear how many are knocking.
func (g *Gate) TrustLocal() (end func()) {
	g.addLocal(1)
	return sync.OnceFunc(func() { g.addLocal(-1) })
}

func (g *Gate) addLocal(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.local += n
}

func (g *Gate) rankLocked(a netip.Addr, now time.Time) rank {
	if g.local > 0 && a.IsLoopback() {
		return rankKnown
	}
	if _, ok := g.known[a]; ok && g.spared.has(now) {
		return rankKnown
	}
	if b := g.sources[network(a)]; b != nil && !b.has(now) || !g.total.has(now) {
		return rankLimited
	}
	return rankUnknown
}

func (g *Gate) victimLocked(t *Ticket) *Ticket {
	for _, p := range g.places {
		if p.rank < t.rank {
			return p
		}
	}
	for _, p := range g.places {
		if p.rank == t.rank && !p.proven {
			return p
		}
	}
	for _, p := range g.places {
		if p.rank == t.rank && t.from.Sub(p.from) >= graceTime {
			return p
		}
	}
	return nil
}

func (g *Gate) removeLocked(t *Ticket) {
	for i, p := range g.places {
		if p == t {
			g.places = append(g.places[:i], g.places[i+1:]...)
			return
		}
	}
}

// Accept makes the handshake of an admitted connection, as the func Accept does,
// and gives its place back.
func (t *Ticket) Accept(ctx context.Context, cfg ServerConfig) (*Conn, error) {
	c, err := accept(ctx, t.conn, cfg, spoken(), admission{verified: t.verified})
	return c, t.done(err)
}

// verified is the admission of a connection that has shown the right MAC.
func (t *Ticket) verified(m Mode) bool {
	g := t.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	t.proven, t.link = true, m == ModeLink
	return t.rank != rankLimited || m == ModeLink && g.trials.take(g.now())
}

func (t *Ticket) done(err error) error {
	g := t.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	g.removeLocked(t)
	reason, refused := ReasonOf(err)
	switch {
	case !refused:
		// Whoever holds an old invite can still pair as far as being refused:
		// only a link makes an address known.
		if t.link {
			g.rememberLocked(t.addr)
		}
		return err
	case reason == ReasonStopped:
		return err
	case t.displaced:
		err = &RefusedError{ReasonDisplaced, nil}
	}
	if t.rank == rankKnown {
		g.spared.take(g.now())
	} else {
		g.chargeLocked(t.addr)
	}
	return err
}

// chargeLocked counts a failure.
func (g *Gate) chargeLocked(a netip.Addr) {
	now := g.now()
	g.total.take(now)
	n := network(a)
	b := g.sources[n]
	if b == nil {
		if len(g.sources) >= maxSources && now.Sub(g.swept) >= time.Second {
			g.sweepLocked(now)
		}
		if len(g.sources) >= maxSources {
			return // so many networks at once are held by the total rate
		}
		b = &bucket{rate: sourceRate}
		b.fill(now)
		g.sources[n] = b
	}
	b.take(now)
}

// sweepLocked forgets the networks that have nothing against them any more.
func (g *Gate) sweepLocked(now time.Time) {
	g.swept = now
	for n, b := range g.sources {
		if b.full(now) {
			delete(g.sources, n)
		}
	}
}

func (g *Gate) rememberLocked(a netip.Addr) {
	if !a.IsValid() {
		return
	}
	g.seen++
	g.known[a] = g.seen
	if len(g.known) <= maxKnown {
		return
	}
	oldest, when := a, g.seen
	for k, w := range g.known {
		if w < when {
			oldest, when = k, w
		}
	}
	delete(g.known, oldest)
}

// HalfOpen is the number of places taken.
func (g *Gate) HalfOpen() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.places)
}

// addrOf is the address of the peer, or the zero Addr if it has none.
func addrOf(nc net.Conn) netip.Addr {
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// network is the /24 or /56 that a belongs to.
func network(a netip.Addr) netip.Prefix {
	bits := 56
	if a.Is4() {
		bits = 24
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// bucket is a token bucket that holds one second's worth of its rate.
type bucket struct {
	rate   float64
	tokens float64
	at     time.Time
}

func (b *bucket) fill(now time.Time) { b.tokens, b.at = b.rate, now }

func (b *bucket) refill(now time.Time) {
	if d := now.Sub(b.at).Seconds(); d > 0 {
		b.tokens = min(b.rate, b.tokens+d*b.rate)
		b.at = now
	}
}

func (b *bucket) has(now time.Time) bool {
	b.refill(now)
	return b.tokens >= 1
}

func (b *bucket) full(now time.Time) bool {
	b.refill(now)
	return b.tokens >= b.rate
}

// take uses up one token, and reports whether there was one.
func (b *bucket) take(now time.Time) bool {
	if !b.has(now) {
		return false
	}
	b.tokens--
	return true
}
