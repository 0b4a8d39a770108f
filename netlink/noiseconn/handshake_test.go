package noiseconn

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestHandshake(t *testing.T) {
	for _, mode := range bothModes {
		client, server := pipeConns(t, mode)
		if client.Mode() != mode || server.Mode() != mode {
			t.Errorf("modes are %v and %v, want %v", client.Mode(), server.Mode(), mode)
		}
		if client.Version() != Version || server.Version() != Version {
			t.Errorf("versions are %d and %d, want %d", client.Version(), server.Version(), Version)
		}
		if !client.Remote().Equal(testBox.Public()) || !server.Remote().Equal(testDevice.Public()) {
			t.Errorf("%v: remote keys are wrong: %v, %v", mode, client.Remote(), server.Remote())
		}
		wantPeer := any(nil)
		if mode == ModeLink {
			wantPeer = "the device"
		}
		if server.Peer() != wantPeer || client.Peer() != nil {
			t.Errorf("%v: peers are %v and %v, want %v and nil", mode, server.Peer(), client.Peer(), wantPeer)
		}
	}
}

func TestRefusals(t *testing.T) {
	other := StaticPrivate{9}
	tests := []struct {
		name   string
		mode   Mode
		change func(*Config, *ServerConfig)
		reason Reason
		dial   error
	}{
		{"wrong secret", ModePair, func(c *Config, s *ServerConfig) { c.PSK[0]++ }, ReasonBadSecret, ErrNoAnswer},
		{"unknown invite", ModePair, func(c *Config, s *ServerConfig) { c.Invite[0]++ }, ReasonUnknownInvite, ErrNoAnswer},
		{"no pairing here", ModePair, func(c *Config, s *ServerConfig) { s.PairingPSK = nil }, ReasonUnknownInvite, ErrNoAnswer},
		{"other box", ModePair, func(c *Config, s *ServerConfig) { s.Static = other }, ReasonMAC, ErrNoAnswer},
		{"wrong PSK", ModeLink, func(c *Config, s *ServerConfig) { c.PSK[0]++ }, ReasonTruncated, ErrBadAnswer},
		{"unknown device", ModeLink, func(c *Config, s *ServerConfig) { c.Static = other }, ReasonUnknownPeer, ErrNoAnswer},
		{"no links here", ModeLink, func(c *Config, s *ServerConfig) { s.LinkPSK = nil }, ReasonUnknownPeer, ErrNoAnswer},
		{"box without PSK", ModeLink, func(c *Config, s *ServerConfig) {
			s.LinkPSK = func(StaticPublic) (PSK, any, bool) { return PSK{}, nil, true }
		}, ReasonUnknownPeer, ErrNoAnswer},
		{"other box", ModeLink, func(c *Config, s *ServerConfig) { s.Static = other }, ReasonMAC, ErrNoAnswer},
		{"low-order key of the box", ModePair, func(c *Config, s *ServerConfig) { c.Remote = StaticPublic{1} }, ReasonTruncated, nil},
	}
	for _, tt := range tests {
		t.Run(tt.mode.String()+" "+tt.name, func(t *testing.T) {
			cc, sc := clientConfig(tt.mode), serverConfig()
			tt.change(&cc, &sc)
			a, b := net.Pipe()
			answer := &recordConn{Conn: b}
			_, _, cerr, serr := shake(a, answer, cc, sc)
			if reason, _ := ReasonOf(serr); reason != tt.reason {
				t.Errorf("accept: %v, want reason %q", serr, tt.reason)
			}
			if cerr == nil || tt.dial != nil && !errors.Is(cerr, tt.dial) {
				t.Errorf("dial: %v, want %v", cerr, tt.dial)
			}
			if len(answer.sent) > 0 && tt.reason != ReasonTruncated {
				t.Errorf("a refused peer was sent %d bytes", len(answer.sent))
			}
			if _, err := b.Write([]byte{0}); err == nil {
				t.Error("the box left the connection open")
			}
		})
	}
}

func TestDialConfig(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"Mode":    func(c *Config) { c.Mode = 3 },
		"Static":  func(c *Config) { c.Static = StaticPrivate{} },
		"Remote":  func(c *Config) { c.Remote = StaticPublic{} },
		"PSK":     func(c *Config) { c.PSK = PSK{} },
		"Invite":  func(c *Config) { c.Invite = InviteID{1} },
		"Version": func(c *Config) { c.Version = Version + 1 },
	} {
		cfg := clientConfig(ModeLink)
		change(&cfg)
		a, b := net.Pipe()
		rec := &recordConn{Conn: a}
		if _, err := Dial(context.Background(), rec, cfg); err == nil || !bytes.Contains([]byte(err.Error()), []byte(name)) && name != "Mode" {
			t.Errorf("Dial without a good %s: %v", name, err)
		}
		if len(rec.sent) > 0 {
			t.Errorf("Dial without a good %s sent something", name)
		}
		if _, err := b.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("Dial without a good %s left the connection open: %v", name, err)
		}
	}
}

// TestVersions: a box speaks the current and the previous version, and nothing
// else. The ranges are made up, as there is one version only.
func TestVersions(t *testing.T) {
	box := versions{oldest: 2, newest: 3}
	dialler := versions{oldest: 1, newest: 4}
	for v := uint8(1); v <= 4; v++ {
		for _, mode := range bothModes {
			cc := clientConfig(mode)
			cc.Version = v
			a, b := net.Pipe()
			c, s, cerr, serr := shakeVersions(a, b, cc, serverConfig(), dialler, box)
			if box.contains(v) {
				if cerr != nil || serr != nil {
					t.Errorf("version %d: %v, %v", v, cerr, serr)
				} else if c.Version() != v || s.Version() != v {
					t.Errorf("version %d: authenticated as %d and %d", v, c.Version(), s.Version())
				}
				continue
			}
			if reason, _ := ReasonOf(serr); reason != ReasonVersion || cerr == nil {
				t.Errorf("version %d: dial: %v, accept: %v", v, cerr, serr)
			}
		}
	}
	cc := clientConfig(ModeLink)
	cc.Version = 1
	a, b := net.Pipe()
	defer b.Close()
	if _, err := dial(context.Background(), a, cc, box); err == nil {
		t.Error("dialled a version that is not spoken any more")
	}
}

// TestTamper flips a bit in each byte of the handshake, in each direction.
func TestTamper(t *testing.T) {
	step := 1
	if testing.Short() {
		step = 7
	}
	sizes := map[Mode][2]int{
		ModePair: {openingSize + pairMessage1 + pairMessage3, pairMessage2},
		ModeLink: {openingSize + linkMessage1 + linkConfirm, linkMessage2},
	}
	for _, mode := range bothModes {
		for at := 0; at < sizes[mode][0]; at += step {
			a, b := net.Pipe()
			c, s, cerr, serr := shake(&flipConn{a, at}, b, clientConfig(mode), serverConfig())
			if s != nil || serr == nil {
				t.Fatalf("%v: byte %d from the device changed, and the box accepted", mode, at)
			}
			want := ReasonBadMessage
			switch {
			case at < len(magic):
				want = ReasonMagic
			case at == 6 || at >= 8 && at < headerSize && mode == ModeLink:
				want = ReasonMode
			case at == 7:
				want = ReasonVersion
			case at < openingSize+firstMessage(mode):
				want = ReasonMAC
			}
			if reason, _ := ReasonOf(serr); reason != want {
				t.Errorf("%v: byte %d from the device changed: %v, want reason %q", mode, at, serr, want)
			}
			// The last message of the device is not answered, so only a change
			// before it can be noticed by Dial.
			if at < openingSize+firstMessage(mode) && cerr == nil {
				t.Errorf("%v: byte %d from the device changed, and Dial succeeded", mode, at)
			}
			if c != nil {
				if _, err := c.Read(make([]byte, 1)); err == nil {
					t.Errorf("%v: byte %d from the device changed, and something was read", mode, at)
				}
				c.Close()
			}
		}
		for at := 0; at < sizes[mode][1]; at += step {
			a, b := net.Pipe()
			_, _, cerr, serr := shake(a, &flipConn{b, at}, clientConfig(mode), serverConfig())
			if !errors.Is(cerr, ErrBadAnswer) {
				t.Errorf("%v: byte %d from the box changed: dial: %v", mode, at, cerr)
			}
			if reason, _ := ReasonOf(serr); reason != ReasonTruncated {
				t.Errorf("%v: byte %d from the box changed: accept: %v", mode, at, serr)
			}
		}
	}
}

// TestTamperBehindMAC changes each byte of message 1 and puts the right MAC on
// it, as somebody who knows the box's public key can.
func TestTamperBehindMAC(t *testing.T) {
	for _, mode := range bothModes {
		first := firstMessageOf(t, mode)
		for at := range first {
			changed := bytes.Clone(first)
			changed[at] ^= 1
			if openingSize > at && at >= headerSize || at < headerSize && at != 8 {
				continue // the MAC, and header fields with refusals of their own
			}
			mac := openingMAC(testBox.Public(), changed[:headerSize], changed[openingSize:])
			copy(changed[headerSize:], mac[:])
			_, err := Accept(context.Background(), fake(t, bytes.NewReader(changed)), serverConfig())
			reason, _ := ReasonOf(err)
			switch {
			case at == 8 && mode == ModePair && reason == ReasonUnknownInvite:
			case at == 8 && mode == ModeLink && reason == ReasonMode:
			case at >= openingSize && mode == ModePair && reason == ReasonBadSecret:
			case at >= openingSize && mode == ModeLink && reason == ReasonBadMessage:
			default:
				t.Errorf("%v: byte %d: %v", mode, at, err)
			}
		}
	}
}

// firstMessageOf is the opening and message 1 of a device.
func firstMessageOf(t testing.TB, mode Mode) []byte {
	a, b := net.Pipe()
	rec := &recordConn{Conn: a}
	c, s, cerr, serr := shake(rec, b, clientConfig(mode), serverConfig())
	if cerr != nil || serr != nil {
		t.Fatal(cerr, serr)
	}
	c.Close()
	s.Close()
	return rec.sent[:openingSize+firstMessage(mode)]
}

// TestReplay: the first message of a link, played again, is answered but comes
// to nothing; so does the whole of what the device sent.
func TestReplay(t *testing.T) {
	for _, mode := range bothModes {
		a, b := net.Pipe()
		rec := &recordConn{Conn: a}
		c, s, cerr, serr := shake(rec, b, clientConfig(mode), serverConfig())
		if cerr != nil || serr != nil {
			t.Fatal(cerr, serr)
		}
		c.Close()
		s.Close()
		first := openingSize + firstMessage(mode)
		for name, sent := range map[string][]byte{"message 1": rec.sent[:first], "everything": rec.sent} {
			got, err := Accept(context.Background(), fake(t, bytes.NewReader(sent)), serverConfig())
			if got != nil || err == nil {
				t.Fatalf("%v: the replay of %s was accepted", mode, name)
			}
			want := ReasonTruncated
			if name == "everything" {
				want = ReasonBadMessage
			}
			if reason, _ := ReasonOf(err); reason != want {
				t.Errorf("%v: replay of %s: %v, want reason %q", mode, name, err, want)
			}
		}
	}
}

// TestTruncation ends the handshake after each number of bytes, on each side.
func TestTruncation(t *testing.T) {
	for _, mode := range bothModes {
		sizes := []int{openingSize + firstMessage(mode), openingSize + firstMessage(mode) + 1}
		last := pairMessage3
		if mode == ModeLink {
			last = linkConfirm
		}
		first := firstMessageOf(t, mode)
		for n := range sizes[0] + last {
			sent := append(bytes.Clone(first), make([]byte, last)...)[:n]
			nc := fake(t, bytes.NewReader(sent))
			_, err := Accept(context.Background(), nc, serverConfig())
			if reason, _ := ReasonOf(err); reason != ReasonTruncated {
				t.Errorf("%v: %d bytes: %v", mode, n, err)
			}
		}
		for n := range pairMessage2 {
			a, b := net.Pipe()
			var wg sync.WaitGroup
			wg.Go(func() {
				io.ReadFull(b, make([]byte, sizes[0]))
				b.Write(make([]byte, n))
				b.Close()
			})
			if _, err := Dial(context.Background(), a, clientConfig(mode)); !errors.Is(err, ErrNoAnswer) {
				t.Errorf("%v: answer of %d bytes: %v", mode, n, err)
			}
			wg.Wait()
		}
	}
}

// TestUnauthenticatedBytes: whatever comes, a box reads no more than the fixed
// lengths of somebody it does not know, and these stay below the limit.
func TestUnauthenticatedBytes(t *testing.T) {
	most := 0
	for _, mode := range bothModes {
		sent := append(firstMessageOf(t, mode), make([]byte, 1<<20)...)
		nc := fake(t, bytes.NewReader(sent))
		if _, err := Accept(context.Background(), nc, serverConfig()); err == nil {
			t.Fatal("accepted garbage")
		}
		most = max(most, nc.read)
	}
	if most > MaxUnauthenticated || most != openingSize+linkMessage1+linkConfirm {
		t.Errorf("read %d bytes before the peer was authenticated", most)
	}
}

// TestSlowSender: a peer that sends one byte a second, or none, is gone after
// ten seconds, whichever side it is on.
func TestSlowSender(t *testing.T) {
	for _, mode := range bothModes {
		for _, pause := range []time.Duration{time.Second, time.Hour} {
			synctest.Test(t, func(t *testing.T) {
				var wg sync.WaitGroup
				defer wg.Wait()
				slow := func(nc net.Conn, bytes []byte) {
					for _, b := range bytes {
						time.Sleep(pause)
						if _, err := nc.Write([]byte{b}); err != nil {
							return
						}
					}
				}
				a, b := net.Pipe()
				first := opening{mode, Version, InviteID{}}.appendHeader(nil)
				wg.Go(func() { slow(a, append(first, make([]byte, 500)...)) })
				start := time.Now()
				_, err := Accept(context.Background(), b, serverConfig())
				if reason, _ := ReasonOf(err); reason != ReasonTimeout {
					t.Errorf("%v, pause %v: accept: %v", mode, pause, err)
				}
				if took := time.Since(start); took != HandshakeTimeout {
					t.Errorf("%v, pause %v: accept took %v", mode, pause, took)
				}

				client, box := net.Pipe()
				wg.Go(func() { io.Copy(io.Discard, box) })
				wg.Go(func() { slow(box, make([]byte, 500)) })
				start = time.Now()
				if _, err = Dial(context.Background(), client, clientConfig(mode)); err == nil || errors.Is(err, ErrNoAnswer) {
					t.Errorf("%v, pause %v: dial: %v", mode, pause, err)
				}
				if took := time.Since(start); took != HandshakeTimeout {
					t.Errorf("%v, pause %v: dial took %v", mode, pause, took)
				}
			})
		}
	}
}

// TestContext: the end of the context ends a handshake at once, and does nothing
// to a connection that is established.
func TestContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("the cause")
		ctx, cancel := context.WithCancelCause(context.Background())
		a, b := net.Pipe()
		go io.Copy(io.Discard, b)
		time.AfterFunc(time.Second, func() { cancel(cause) })
		start := time.Now()
		if _, err := Dial(ctx, a, clientConfig(ModeLink)); !errors.Is(err, cause) {
			t.Errorf("dial: %v", err)
		}
		b.Close()

		ctx, cancel = context.WithCancelCause(context.Background())
		a, b = net.Pipe()
		time.AfterFunc(time.Second, func() { cancel(cause) })
		_, err := Accept(ctx, b, serverConfig())
		if reason, _ := ReasonOf(err); reason != ReasonStopped || !errors.Is(err, cause) {
			t.Errorf("accept: %v", err)
		}
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("both took %v", took)
		}
		a.Close()

		ctx, cancel = context.WithCancelCause(context.Background())
		a, b = net.Pipe()
		done := make(chan *Conn)
		go func() {
			c, err := Accept(ctx, b, serverConfig())
			if err != nil {
				t.Error(err)
			}
			done <- c
		}()
		c, err := Dial(ctx, a, clientConfig(ModeLink))
		if err != nil {
			t.Fatal(err)
		}
		s := <-done
		cancel(cause)
		time.Sleep(time.Minute)
		go func() { c.Write([]byte("still here")); c.Flush() }()
		buf := make([]byte, 100)
		if n, err := s.Read(buf); err != nil || string(buf[:n]) != "still here" {
			t.Errorf("after the context ended: %q, %v", buf[:n], err)
		}
		c.Close()
		s.Close()
	})
}
