//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"testing"
	"time"
)

// TestAskTime asks a server that answers, and one that does not. Each is named more
// than once, for a computer that has much else to do.
func TestAskTime(t *testing.T) {
	listen := func() (net.PacketConn, string) {
		t.Helper()
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c, c.LocalAddr().String()
	}
	good, address := listen()
	ahead := 42 * time.Hour
	go serveTime(good, ahead)
	offset, server, err := askTime(t.Context(), []string{"127.0.0.1:0", address, address, address})
	if err != nil || server != address || (offset-ahead).Abs() > time.Hour {
		t.Errorf("%v by %q, %v", offset, server, err)
	}

	// A box that stops does not wait for servers that say nothing.
	silent, address := listen()
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan error, 1)
	go func() {
		_, _, err := silent.ReadFrom(make([]byte, 512))
		cancel()
		asked <- err
	}()
	if _, _, err := askTime(ctx, []string{address, address, address}); !errors.Is(err, context.Canceled) {
		t.Errorf("the box stops: %v", err)
	}
	if err := <-asked; err != nil {
		t.Fatal(err)
	}
}

// serveTime answers as a time server whose clock is ahead (RFC 5905, section 7.3).
func serveTime(c net.PacketConn, ahead time.Duration) {
	b := make([]byte, 512)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		if n < 48 {
			continue
		}
		now := time.Now().Add(ahead)
		const epoch = 2_208_988_800 // seconds from 1900 to 1970
		stamp := uint64(now.Unix()+epoch)<<32 | uint64(now.Nanosecond())<<32/1e9
		answer := make([]byte, 48)
		answer[0], answer[1] = 4<<3|4, 1 // version 4, a server; stratum 1
		copy(answer[24:], b[40:48])
		for _, at := range []int{16, 32, 40} {
			binary.BigEndian.PutUint64(answer[at:], stamp)
		}
		c.WriteTo(answer, from)
	}
}
