package discover

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// What a responder spends at most, for each of the two families.
const (
	maxReads   = 1000 // messages a second
	maxUnicast = 50   // answers a second to those who ask for themselves
	// multicastEvery is how often all may be told on one interface (section 6).
	multicastEvery = time.Second
)

const (
	// interfacesEvery is how often new interfaces are looked for.
	interfacesEvery = 5 * time.Second
	// addressesFor is how long the addresses of an interface are believed.
	addressesFor = time.Second
	// openAgain is how long a responder waits before it opens its socket again.
	openAgain = 15 * time.Second
	// maxInterfaces keeps a machine with very many from costing much.
	maxInterfaces = 256
)

// Responder answers who asks for a name, with the addresses that the interface
// has on which the question came.
type Responder struct {
	// Host is the name, "cobox-ab3d.local".
	Host string
	// Serves tells which of the machine's addresses may be told; nil means all.
	Serves func(netip.Addr) bool
	// Logger gets what an administrator should know; nil discards it.
	Logger *slog.Logger
}

// Run answers until ctx ends. A socket that cannot be opened is tried again; that
// is logged, once. It fails only if the name is none.
func (r *Responder) Run(ctx context.Context) error {
	name, err := hostName(r.Host)
	if err != nil {
		return err
	}
	log := r.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var families sync.WaitGroup
	for _, network := range []string{"udp4", "udp6"} {
		families.Go(func() { r.keep(ctx, network, name, log.With("host", r.Host, "network", network)) })
	}
	families.Wait()
	return nil
}

// keep answers on one family, and goes on after errors.
func (r *Responder) keep(ctx context.Context, network string, name dnsmessage.Name, log *slog.Logger) {
	told := false
	for ctx.Err() == nil {
		s, err := listen(network)
		if err == nil {
			if told {
				log.Info("the box can be found by its name again")
				told = false
			}
			err = (&answering{socket: s, name: name, serves: r.Serves, log: log}).run(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		switch {
		case told:
		case errors.Is(err, syscall.EAFNOSUPPORT):
			log.Info("this machine lacks one of IPv4 and IPv6; the box is found by the other", "error", err)
		default:
			log.Warn("the box cannot be found by its name for now, only by its address", "error", err, "again_in", openAgain.String())
		}
		told = true
		select {
		case <-ctx.Done():
		case <-time.After(openAgain):
		}
	}
}

// answering is a responder with an open socket.
type answering struct {
	*socket
	name   dnsmessage.Name
	serves func(netip.Addr) bool
	log    *slog.Logger

	// of the goroutine that reads
	interfaces map[int]*answeringOn
	reads      pace
	unicasts   pace
}

// answeringOn is what is known of an interface on which somebody has asked.
type answeringOn struct {
	iface     *net.Interface
	looked    time.Time
	addresses []netip.Prefix
	multicast time.Time // when all were told
}

// run answers until ctx ends or the socket fails, and closes it.
func (a *answering) run(ctx context.Context) error {
	a.interfaces = make(map[int]*answeringOn)
	a.reads.most, a.unicasts.most = maxReads, maxUnicast
	ctx, stop := context.WithCancel(ctx)
	var joining sync.WaitGroup
	joining.Go(func() { a.follow(ctx) })
	defer joining.Wait()
	defer stop()
	closing := context.AfterFunc(ctx, func() { a.close() }) // ends read
	defer func() {
		if closing() {
			a.close()
		}
	}()
	buf, out := make([]byte, maxMessage), make([]byte, 0, maxMessage)
	for {
		n, p, err := a.read(buf)
		if err != nil {
			return err
		}
		a.answer(buf[:n], out, p, time.Now())
		if wait := a.reads.spend(time.Now()); wait > 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
			}
		}
	}
}

// follow joins the group on every interface, those too that come later. An
// interface that loses its cable or its addresses stays joined.
func (a *answering) follow(ctx context.Context) {
	joined := make(map[int]bool)
	tick := time.NewTicker(interfacesEvery)
	defer tick.Stop()
	for {
		all, err := net.Interfaces()
		if err != nil {
			a.log.Debug("interfaces are unknown", "error", err)
		}
		there := make(map[int]bool)
		for i := range all[:min(len(all), maxInterfaces)] {
			if !hears(&all[i]) {
				continue
			}
			if joined[all[i].Index] {
				there[all[i].Index] = true
			} else if err := a.join(&all[i]); err != nil {
				a.log.Debug("the box is not found by its name on an interface", "interface", all[i].Name, "error", err)
			} else {
				there[all[i].Index] = true
			}
		}
		if err == nil {
			joined = there
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// answer answers a message if it asks for the name.
func (a *answering) answer(msg, out []byte, p packet, now time.Time) {
	if !p.group || p.index == 0 || !p.from.IsValid() {
		return
	}
	q, ok := parseQuery(msg, &a.name)
	if !ok {
		return
	}
	on := a.on(p.index, now)
	if on == nil {
		return
	}
	// To multicast questions all may listen to the answer, except a plain
	// resolver. What comes from elsewhere than this network gets no answer of
	// its own, so a forged question makes the box send nothing to the internet.
	legacy := p.from.Port() != port
	unicast := (legacy || q.unicast) && local(p.from.Addr(), on.addresses)
	if legacy && !unicast {
		return
	}
	var list []netip.Addr
	for _, prefix := range on.addresses {
		if x := prefix.Addr(); a.serves == nil || a.serves(x) {
			list = append(list, x)
		}
	}
	reply, ok := appendAnswer(out, &q, a.name, list, legacy)
	if !ok {
		return
	}
	to := p.from
	if unicast {
		if a.unicasts.spend(now) > 0 {
			return
		}
	} else {
		if now.Sub(on.multicast) < multicastEvery {
			return
		}
		on.multicast = now
		to = netip.AddrPortFrom(a.group, port)
		if a.group.Is6() {
			to = netip.AddrPortFrom(a.group.WithZone(on.iface.Name), port)
		}
	}
	if err := a.write(reply, on.iface, to); err != nil {
		a.log.Debug("an answer was not sent", "to", to.String(), "error", err)
	}
}

// on returns what is known of an interface, with its present addresses; nil if it
// is gone.
func (a *answering) on(index int, now time.Time) *answeringOn {
	on := a.interfaces[index]
	if on != nil && now.Sub(on.looked) < addressesFor {
		return on
	}
	iface, err := net.InterfaceByIndex(index)
	if err != nil {
		delete(a.interfaces, index)
		return nil
	}
	if on == nil {
		if len(a.interfaces) >= maxInterfaces {
			clear(a.interfaces)
		}
		on = &answeringOn{}
		a.interfaces[index] = on
	}
	addresses, err := addressesOf(iface)
	if err != nil {
		return nil
	}
	on.iface, on.addresses, on.looked = iface, addresses, now
	return on
}

// local tells whether an address is of the network that an interface is in
// (section 11).
func local(a netip.Addr, of []netip.Prefix) bool {
	a = a.WithZone("").Unmap()
	if a.Is6() && a.IsLinkLocalUnicast() {
		return true
	}
	for _, p := range of {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// pace counts what is done in a second.
type pace struct {
	most  int
	began time.Time
	n     int
}

// spend counts one more, and says how long to wait if that was too many.
func (p *pace) spend(now time.Time) time.Duration {
	if age := now.Sub(p.began); age >= time.Second || age < 0 {
		p.began, p.n = now, 0
	}
	if p.n++; p.n <= p.most {
		return 0
	}
	return time.Second - now.Sub(p.began)
}
