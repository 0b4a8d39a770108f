package noiseconn

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
)

// FuzzParseHeader: what parses comes back as the same bytes.
func FuzzParseHeader(f *testing.F) {
	for _, m := range bothModes {
		f.Add(opening{m, Version, InviteID{}}.appendHeader(nil))
	}
	f.Add(opening{ModePair, 9, testInvite}.appendHeader(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := parseHeader(b)
		if err == nil && !bytes.Equal(o.appendHeader(nil), b) {
			t.Fatalf("%x parsed as %+v", b, o)
		}
	})
}

// FuzzAccept gives a box anything, as it is and with a right MAC. Nothing is
// ever accepted, and no more is read than the fixed lengths.
func FuzzAccept(f *testing.F) {
	for _, m := range bothModes {
		f.Add(firstMessageOf(f, m))
		f.Add(append(firstMessageOf(f, m), make([]byte, 200)...))
	}
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		try := func(b []byte) {
			nc := fake(t, bytes.NewReader(b))
			c, err := Accept(context.Background(), nc, serverConfig())
			if c != nil || err == nil {
				t.Fatalf("accepted %x", b)
			}
			if _, ok := ReasonOf(err); !ok {
				t.Fatalf("no reason: %v", err)
			}
			if nc.read > MaxUnauthenticated {
				t.Fatalf("read %d bytes", nc.read)
			}
		}
		try(b)
		if o, err := parseHeader(b[:min(len(b), headerSize)]); err == nil && len(b) >= openingSize+firstMessage(o.mode) {
			b = bytes.Clone(b)
			mac := openingMAC(testBox.Public(), b[:headerSize], b[openingSize:openingSize+firstMessage(o.mode)])
			copy(b[headerSize:], mac[:])
			try(b)
		}
	})
}

// FuzzDial gives a device any answer. It is never taken for the box's.
func FuzzDial(f *testing.F) {
	f.Add(make([]byte, pairMessage2), true)
	f.Add(append([]byte{9}, make([]byte, 300)...), false)
	f.Fuzz(func(t *testing.T, b []byte, pair bool) {
		mode := ModeLink
		if pair {
			mode = ModePair
		}
		nc := fake(t, bytes.NewReader(b))
		c, err := Dial(context.Background(), nc, clientConfig(mode))
		if c != nil || err == nil {
			t.Fatalf("took %x for an answer", b)
		}
		if len(b) < pairMessage2 && !errors.Is(err, ErrNoAnswer) || len(b) >= pairMessage2 && !errors.Is(err, ErrBadAnswer) {
			t.Fatalf("%d bytes: %v", len(b), err)
		}
		if nc.read > MaxUnauthenticated {
			t.Fatalf("read %d bytes", nc.read)
		}
	})
}

// FuzzRecords: what a Conn hands out is a prefix of what was sealed, whatever
// is done to the bytes on the way and however they are read.
func FuzzRecords(f *testing.F) {
	f.Add([]byte("some text to be sealed"), uint16(5), uint16(3), byte(1), uint16(100))
	f.Add(bytes.Repeat([]byte("x"), 3000), uint16(900), uint16(1000), byte(0), uint16(7))
	f.Add([]byte{}, uint16(1), uint16(0), byte(0x80), uint16(1))
	f.Fuzz(func(t *testing.T, text []byte, piece, at uint16, change byte, space uint16) {
		if len(text) > 1<<13 {
			return
		}
		size := max(1, int(piece)%MaxPlaintext)
		var wire []byte
		n := uint64(0)
		for rest := text; len(rest) > 0; n++ {
			k := min(size, len(rest))
			wire = append(wire, sealRecord(t, n, rest[:k])...)
			rest = rest[k:]
		}
		wire = append(wire, sealRecord(t, n, nil)...)
		where := int(at) % len(wire)
		wire[where] ^= change
		c := newConn(fake(t, bytes.NewReader(wire)), ModeLink, Version, StaticPublic{1}, testAEAD(t, 2), testAEAD(t, 1))
		defer c.Close()
		var got []byte
		buf := make([]byte, max(1, int(space)))
		var err error
		for err == nil {
			var k int
			k, err = c.Read(buf)
			got = append(got, buf[:k]...)
		}
		if !bytes.HasPrefix(text, got) {
			t.Fatalf("handed out what was never sealed: %x", got)
		}
		if whole := err == io.EOF; whole != (change == 0) || whole && len(got) != len(text) {
			t.Fatalf("change %#x at %d of %d: %d bytes of %d, %v", change, where, len(wire), len(got), len(text), err)
		}
	})
}

// FuzzRecordBytes reads arbitrary bytes as records.
func FuzzRecordBytes(f *testing.F) {
	f.Add(sealRecord(f, 0, []byte("text")))
	f.Add([]byte{0xFF, 0xFF, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		c := newConn(fake(t, bytes.NewReader(b)), ModeLink, Version, StaticPublic{1}, testAEAD(t, 2), testAEAD(t, 1))
		defer c.Close()
		if _, err := io.ReadAll(c); err == nil && !bytes.HasPrefix(b, sealRecord(t, 0, nil)) && !bytes.HasPrefix(b, sealRecord(t, 0, []byte("text"))) {
			t.Fatalf("%x ended well", b)
		}
		if len(c.rx.buf) > largeBuffer {
			t.Fatalf("buffer of %d bytes", len(c.rx.buf))
		}
	})
}
