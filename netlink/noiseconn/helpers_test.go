package noiseconn

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The keys of the tests.
var (
	testBox    = StaticPrivate{1, 31: 1}
	testDevice = StaticPrivate{2, 31: 2}
	testPSK    = PSK{3, 31: 3}
	testInvite = InviteID{4, 5, 6}
)

func clientConfig(m Mode) Config {
	cfg := Config{Mode: m, Static: testDevice, Remote: testBox.Public(), PSK: testPSK}
	if m == ModePair {
		cfg.Invite = testInvite
	}
	return cfg
}

func serverConfig() ServerConfig {
	return ServerConfig{
		Static: testBox,
		PairingPSK: func(id InviteID) (PSK, bool) {
			return testPSK, id == testInvite
		},
		LinkPSK: func(k StaticPublic) (PSK, any, bool) {
			return testPSK, "the device", k.Equal(testDevice.Public())
		},
	}
}

var bothModes = []Mode{ModePair, ModeLink}

// shake runs one handshake over the two ends and waits for both sides.
func shake(client, server net.Conn, cc Config, sc ServerConfig) (c, s *Conn, cerr, serr error) {
	return shakeVersions(client, server, cc, sc, spoken(), spoken())
}

func shakeVersions(client, server net.Conn, cc Config, sc ServerConfig, cv, sv versions) (c, s *Conn, cerr, serr error) {
	var wg sync.WaitGroup
	wg.Go(func() { s, serr = accept(context.Background(), server, sc, sv, admission{}) })
	c, cerr = dial(context.Background(), client, cc, cv)
	wg.Wait()
	return
}

// pipeConns is an established pair over net.Pipe.
func pipeConns(t testing.TB, m Mode) (client, server *Conn) {
	a, b := net.Pipe()
	c, s, cerr, serr := shake(a, b, clientConfig(m), serverConfig())
	if cerr != nil || serr != nil {
		t.Fatalf("handshake in mode %v: dial: %v, accept: %v", m, cerr, serr)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c, s
}

// flipConn flips one bit of the byte at offset at of what is written through it.
type flipConn struct {
	net.Conn
	at int
}

func (f *flipConn) Write(p []byte) (int, error) {
	if 0 <= f.at && f.at < len(p) {
		p = append([]byte(nil), p...)
		p[f.at] ^= 0x40
	}
	f.at -= len(p)
	return f.Conn.Write(p)
}

// recordConn keeps what is written through it.
type recordConn struct {
	net.Conn
	sent []byte
}

func (r *recordConn) Write(p []byte) (int, error) {
	r.sent = append(r.sent, p...)
	return r.Conn.Write(p)
}

// fakeConn is a net.Conn that reads from r and forgets what is written.
type fakeConn struct {
	net.Conn
	r    io.Reader
	read int
}

func (f *fakeConn) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	f.read += n
	return n, err
}
func (f *fakeConn) Write(p []byte) (int, error) { return len(p), nil }

// fake makes a fakeConn whose deadlines and addresses work.
func fake(t testing.TB, r io.Reader) *fakeConn {
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	return &fakeConn{Conn: a, r: r}
}
