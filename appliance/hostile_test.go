package appliance_test

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"cobox/appliance/admin"
	"cobox/appliance/boxtest"
	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
	"cobox/netlink/replicate"
)

// tap is a man in the middle: it passes connections on to a box, remembers what
// the last client sent, and can change it on the way.
type tap struct {
	ln     net.Listener
	target string

	mu     sync.Mutex
	newest int    // number of the last client
	sent   []byte // by the last client
	tamper func(offset int, b []byte)
}

func newTap(t *testing.T, target string) *tap {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{ln: ln, target: target}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.pass(c) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return p
}

func (p *tap) pass(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	p.mu.Lock()
	p.newest++
	number := p.newest
	p.sent = nil
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer server.Close()
		var sent []byte // by this client; one before it may still be ending
		buf := make([]byte, 32<<10)
		for {
			n, err := client.Read(buf)
			p.mu.Lock()
			if p.tamper != nil {
				p.tamper(len(sent), buf[:n])
			}
			sent = append(sent, buf[:n]...)
			if p.newest == number {
				p.sent = sent
			}
			p.mu.Unlock()
			if _, werr := server.Write(buf[:n]); err != nil || werr != nil {
				return
			}
		}
	})
	io.Copy(client, server)
	client.Close()
	wg.Wait()
}

func (p *tap) addr() string { return p.ln.Addr().String() }

func (p *tap) setTamper(f func(offset int, b []byte)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tamper = f
}

// say connects, says something, and waits until the box hangs up.
func say(t *testing.T, addr string, b []byte) (answer []byte) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	c.Write(b)
	c.(*net.TCPConn).CloseWrite()
	answer, _ = io.ReadAll(c)
	return answer
}

// refusedTotal adds all reasons up.
func (b *box) refused(reasons ...noiseconn.Reason) (n int) {
	b.t.Helper()
	for _, r := range reasons {
		v, err := strconv.Atoi(b.metric(`cobox_handshakes_refused_total{reason="` + string(r) + `"}`))
		if err != nil {
			b.t.Fatalf("reason %s: %v", r, err)
		}
		n += v
	}
	return n
}

// eventually waits until a counter that another goroutine moves has moved.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Errorf("%s did not happen", what)
}

// What a stranger or a man in the middle sends gets a closed connection and a
// counter, changes nothing, and does not disturb a member's session.
func TestHostileNetwork(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	b := start(t, t.TempDir())
	for _, r := range noiseconn.Reasons() {
		if got := b.metric(`cobox_handshakes_refused_total{reason="` + string(r) + `"}`); got != "0" {
			t.Errorf("reason %s is %s at first", r, got)
		}
	}
	boss := b.device(ctx, b.info.Code)
	member := b.link(ctx, boss)
	log := b.log(boss, 10)
	undisturbed := func(what string) {
		t.Helper()
		if err := log.Append(3); err != nil {
			t.Fatal(err)
		}
		if _, err := member.Backup(ctx, log); err != nil {
			t.Fatalf("the member's session after %s: %v", what, err)
		}
	}
	undisturbed("nothing")

	// Wrong secret, unknown invite, used invite, unknown device. They come first:
	// after a flood the gate lets nobody from its network pair for a while.
	code, err := pairing.ParseCode(b.info.Code)
	if err != nil {
		t.Fatal(err)
	}
	stranger := newMemberDevice(t)
	wrong := *code
	wrong.Secret[0] ^= 1
	refusedPairing(t, ctx, "wrong secret", stranger, &wrong, nil)
	unknown := *code
	unknown.Invite[0] ^= 1
	refusedPairing(t, ctx, "unknown invite", stranger, &unknown, nil)
	refusedPairing(t, ctx, "claimed box", stranger, code, &pairing.RefusedError{Refusal: pairing.RefusedClaimed})
	inv := b.invite(ctx, member, 1<<20)
	b.device(ctx, inv.Code)
	used, err := pairing.ParseCode(inv.Code)
	if err != nil {
		t.Fatal(err)
	}
	refusedPairing(t, ctx, "used invite", stranger, used, &pairing.RefusedError{Refusal: pairing.RefusedUsed})
	stranger.LinkPSK = boss.LinkPSK
	if _, err := stranger.Link(ctx, b.addr(), b.info.Key); err == nil {
		t.Error("an unknown device has logged in")
	}
	for reason, want := range map[noiseconn.Reason]int{noiseconn.ReasonBadSecret: 1, noiseconn.ReasonUnknownInvite: 1, noiseconn.ReasonUnknownPeer: 1} {
		eventually(t, string(reason), func() bool { return b.refused(reason) >= want })
	}
	eventually(t, "counting the used secret", func() bool { return b.metric(`cobox_pairings_total{result="used"}`) == "1" })
	var members admin.Members
	b.ask(ctx, member, admin.MethodMembers, admin.MembersRequest{}, &members)
	if len(members.Members) != 2 {
		t.Errorf("%d members", len(members.Members))
	}
	undisturbed("strangers")
	sessions := b.metric(`cobox_sessions_total{peer="device"}`)

	random := make([]byte, 5000)
	rand.Read(random)
	for n := 1; n < len(random); n *= 3 {
		if answer := say(t, b.addr(), random[:n]); len(answer) > 0 {
			t.Errorf("the box answered %d bytes to %d random ones", len(answer), n)
		}
	}
	eventually(t, "refusal of random bytes", func() bool { return b.refused(noiseconn.ReasonMagic, noiseconn.ReasonTruncated) >= 8 })
	undisturbed("random bytes")

	// A port scan.
	for range 20 {
		c, err := net.Dial("tcp", b.addr())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	undisturbed("a port scan")

	// A first message that is replayed: nothing changes.
	p := newTap(t, b.addr())
	l, err := boss.Link(ctx, p.addr(), b.info.Key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.PeerHello(ctx); err != nil {
		t.Fatal(err)
	}
	l.Close()
	p.mu.Lock()
	first := append([]byte(nil), p.sent...)
	p.mu.Unlock()
	sessions2 := b.metric(`cobox_sessions_total{peer="device"}`)
	if sessions2 == sessions {
		t.Error("the link through the tap is not counted")
	}
	before := b.refused(noiseconn.Reasons()...)
	for range 5 {
		say(t, b.addr(), first)       // with all records that followed
		say(t, b.addr(), first[:128]) // the message alone
	}
	eventually(t, "refusal of replays", func() bool { return b.refused(noiseconn.Reasons()...) >= before+10 })
	if got := b.metric(`cobox_sessions_total{peer="device"}`); got != sessions2 {
		t.Errorf("replays made sessions: %s, before %s", got, sessions2)
	}
	undisturbed("replays")

	// One bit changed anywhere in what the device sends first, a byte in three.
	for i := 0; i < 128+18; i += 3 {
		p.setTamper(func(offset int, b []byte) {
			if k := i - offset; k >= 0 && k < len(b) {
				b[k] ^= 1 << (i % 8)
			}
		})
		l, err := boss.Link(ctx, p.addr(), b.info.Key)
		if err == nil {
			// The last bytes confirm the handshake: the device notices later.
			_, err = l.PeerHello(ctx)
			l.Close()
		}
		if err == nil {
			t.Errorf("byte %d was changed, and nobody noticed", i)
		}
	}
	p.setTamper(nil)
	if got := b.metric(`cobox_sessions_total{peer="device"}`); got != sessions2 {
		t.Errorf("tampered handshakes made sessions: %s, before %s", got, sessions2)
	}
	undisturbed("tampering")

}

func newMemberDevice(t *testing.T) *boxtest.Device {
	t.Helper()
	m, err := boxtest.NewMember()
	if err != nil {
		t.Fatal(err)
	}
	d, err := m.NewDevice()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// refusedPairing tries a code. Without a refusal to want, the box must hang up
// without a word.
func refusedPairing(t *testing.T, ctx context.Context, what string, d *boxtest.Device, code *pairing.Code, want *pairing.RefusedError) {
	t.Helper()
	text, err := code.Text()
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Pair(ctx, text)
	var refused *pairing.RefusedError
	switch {
	case err == nil:
		t.Errorf("%s: taken in", what)
	case want == nil && !errors.Is(err, noiseconn.ErrNoAnswer):
		t.Errorf("%s: got %v, want no answer", what, err)
	case want != nil && (!errors.As(err, &refused) || *refused != *want):
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

// Senders who are slow on purpose lose their place after ten seconds at the
// latest, and meanwhile neither a member's session nor a new login waits.
func TestSlowSenders(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the handshake's deadline")
	}
	ctx := testContext(t)
	b := start(t, t.TempDir())
	boss := b.device(ctx, b.info.Code)
	member := b.link(ctx, boss)
	log := b.log(boss, 1)

	// They come from another network than the member.
	elsewhere := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 9, 9, 9)}}
	var slow sync.WaitGroup
	for range 40 {
		c, err := elsewhere.DialContext(ctx, "tcp", b.addr())
		if err != nil {
			t.Fatal(err)
		}
		slow.Go(func() {
			defer c.Close()
			go func() {
				for _, x := range "CoBox\x00\x02\x01 and then ever so slowly" {
					time.Sleep(500 * time.Millisecond)
					if _, err := c.Write([]byte{byte(x)}); err != nil {
						return
					}
				}
			}()
			began := time.Now()
			c.SetReadDeadline(began.Add(20 * time.Second))
			if _, err := c.Read(make([]byte, 1)); errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 15*time.Second {
				t.Errorf("a slow sender was kept for %v", time.Since(began))
			}
		})
	}
	// Whoever waited for the slow ones would wait for the whole handshake's time,
	// 10 s, in the first round. What a round takes else is up to the machine.
	const limit = noiseconn.HandshakeTimeout - time.Second
	for range 10 {
		began := time.Now()
		if err := log.Append(5); err != nil {
			t.Fatal(err)
		}
		if _, err := member.Backup(ctx, log); err != nil {
			t.Fatal(err)
		}
		b.link(ctx, boss).Close()
		if took := time.Since(began); took > limit {
			t.Errorf("a backup and a login took %v", took)
		}
	}
	slow.Wait()
	eventually(t, "the end of slow handshakes", func() bool {
		return b.refused(noiseconn.ReasonTimeout, noiseconn.ReasonBusy, noiseconn.ReasonDisplaced, noiseconn.ReasonRate, noiseconn.ReasonTruncated) >= 40
	})
	if got := b.metric("cobox_handshakes_half_open"); got != "0" {
		t.Errorf("%s handshakes are half open", got)
	}
}

// More links than the box takes are refused with a reason, and those that are
// open go on.
func TestTooManyLinks(t *testing.T) {
	ctx := testContext(t)
	b := start(t, t.TempDir())
	boss := b.device(ctx, b.info.Code)
	first := b.link(ctx, boss)
	if _, err := first.PeerHello(ctx); err != nil {
		t.Fatal(err)
	}
	busy := 0
	for range 20 {
		l, err := boss.Link(ctx, b.addr(), b.info.Key)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Close)
		if err := l.Ask(ctx, admin.MethodStatus, admin.StatusRequest{}, nil); err != nil {
			wantCode(t, "link", l.Wait(), replicate.CodeBusy)
			busy++
		}
	}
	if busy != 20-15 {
		t.Errorf("%d of 20 further links were refused, want 5", busy)
	}
	b.ask(ctx, first, admin.MethodStatus, admin.StatusRequest{}, nil)
}
