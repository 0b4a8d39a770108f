package noiseconn

import (
	"bytes"
	"net"
	"testing"
	"time"
)

// TestTrustLocal lets this machine in past a flood, and only while it is asked for.
// The clock stands still, so that nothing of the flood is forgotten however slow
// the test is.
func TestTrustLocal(t *testing.T) {
	g := NewGate()
	now := time.Now()
	g.now = func() time.Time { return now }
	flood := func() {
		t.Helper()
		for range int(totalRate) + 5 {
			if err := attempt(t, g, "127.0.0.1", sendsGarbage); err == nil {
				t.Fatal("garbage was taken")
			}
			if err := attempt(t, g, "192.0.2.7", sendsGarbage); err == nil {
				t.Fatal("garbage was taken")
			}
		}
	}
	rankOf := func(addr string) rank {
		t.Helper()
		_, box := pipeFrom(t, addr)
		ticket, err := g.Admit(box)
		if err != nil {
			t.Fatal(err)
		}
		box.Close()
		ticket.Accept(t.Context(), serverConfig()) // gives the place back
		return ticket.rank
	}
	flood()
	if r := rankOf("127.0.0.1"); r != rankLimited {
		t.Errorf("nobody has asked, and this machine has rank %d", r)
	}
	first, second := g.TrustLocal(), g.TrustLocal()
	flood()
	for _, addr := range []string{"127.0.0.1", "::1", "127.9.9.9"} {
		if r := rankOf(addr); r != rankKnown {
			t.Errorf("%s has rank %d", addr, r)
		}
	}
	if r := rankOf("192.0.2.7"); r != rankLimited {
		t.Errorf("another machine has rank %d", r)
	}
	// All places are taken by others.
	for range maxHalfOpen {
		a, b := net.Pipe()
		t.Cleanup(func() { a.Close(); b.Close() })
		if _, err := g.Admit(from(b, "192.0.2.8")); err != nil {
			t.Fatal(err)
		}
		go a.Write(bytes.Repeat([]byte("x"), openingSize-1))
	}
	if r := rankOf("127.0.0.1"); r != rankKnown {
		t.Errorf("with all places taken it has rank %d", r)
	}
	first()
	first()
	if r := rankOf("::1"); r != rankKnown {
		t.Errorf("another check goes on, and it has rank %d", r)
	}
	second()
	if r := rankOf("127.0.0.1"); r != rankLimited {
		t.Errorf("no check goes on any more, and it has rank %d", r)
	}
}
