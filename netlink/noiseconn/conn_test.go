package noiseconn

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
)

func TestSmoke(t *testing.T) {
	boxKey, _ := NewStaticPrivate(nil)
	devKey, _ := NewStaticPrivate(nil)
	psk := PSK{1}
	for _, mode := range []Mode{ModePair, ModeLink} {
		a, b := net.Pipe()
		done := make(chan *Conn)
		go func() {
			c, err := Accept(context.Background(), b, ServerConfig{Static: boxKey,
				PairingPSK: func(InviteID) (PSK, bool) { return psk, true },
				LinkPSK:    func(StaticPublic) (PSK, any, bool) { return psk, nil, true }})
			if err != nil {
				t.Error(err)
			}
			done <- c
		}()
		c, err := Dial(context.Background(), a, Config{Mode: mode, Static: devKey, Remote: boxKey.Public(), PSK: psk})
		if err != nil {
			t.Fatal(err)
		}
		s := <-done
		want := bytes.Repeat([]byte("0123456789abcdef"), 100000)
		go func() { c.Write(want[:5]); c.Write(want[5:70000]); c.Write(want[70000:]); c.CloseWrite() }()
		got, err := io.ReadAll(s)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatal(len(got), err)
		}
	}
}
