package noiseconn

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

func testAEAD(t testing.TB, first byte) cipher.AEAD {
	a, err := chacha20poly1305.New(bytes.Repeat([]byte{first}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// rawPair is a Conn and the other end of its network, with known record keys:
// what the Conn reads is sealed with key 1, what it writes with key 2.
func rawPair(t testing.TB) (*Conn, net.Conn) {
	a, b := net.Pipe()
	c := newConn(a, ModeLink, Version, StaticPublic{1}, testAEAD(t, 2), testAEAD(t, 1))
	t.Cleanup(func() { c.Close(); b.Close() })
	return c, b
}

// sealRecord is a record that a Conn of rawPair takes as number n.
func sealRecord(t testing.TB, n uint64, plain []byte) []byte {
	body := testAEAD(t, 1).Seal(nil, refNonce(n), plain, nil)
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(body))), body...)
}

// TestStream moves random data in random pieces, both ways at once.
func TestStream(t *testing.T) {
	total := 4 << 20
	if testing.Short() {
		total = 1 << 19
	}
	for _, mode := range bothModes {
		client, server := pipeConns(t, mode)
		var wg sync.WaitGroup
		for i, way := range [][2]*Conn{{client, server}, {server, client}} {
			data := make([]byte, total)
			rng := rand.NewChaCha8([32]byte{byte(i), byte(mode)})
			rng.Read(data)
			size := func(r *rand.Rand) int {
				switch r.IntN(4) {
				case 0:
					return r.IntN(20)
				case 1:
					return r.IntN(2 * smallBuffer)
				case 2:
					return MaxPlaintext - 2 + r.IntN(4)
				}
				return r.IntN(largeBuffer * 2)
			}
			wg.Go(func() {
				r := rand.New(rand.NewPCG(1, uint64(i)))
				for rest := data; len(rest) > 0; {
					n := min(size(r), len(rest))
					if got, err := way[0].Write(rest[:n]); got != n || err != nil {
						t.Errorf("Write of %d: %d, %v", n, got, err)
						return
					}
					rest = rest[n:]
					if r.IntN(3) == 0 {
						if err := way[0].Flush(); err != nil {
							t.Errorf("Flush: %v", err)
							return
						}
					}
				}
				if err := way[0].CloseWrite(); err != nil {
					t.Errorf("CloseWrite: %v", err)
				}
			})
			wg.Go(func() {
				r := rand.New(rand.NewPCG(2, uint64(i)))
				var got []byte
				for {
					buf := make([]byte, size(r))
					n, err := way[1].Read(buf)
					got = append(got, buf[:n]...)
					if err == io.EOF {
						break
					}
					if err != nil {
						t.Errorf("Read: %v", err)
						return
					}
				}
				if !bytes.Equal(got, data) {
					t.Errorf("%v, way %d: %d bytes came out, not the %d that went in", mode, i, len(got), len(data))
				}
			})
		}
		wg.Wait()
	}
}

// TestRecordSizes: all sizes that a record can have, and what is said about
// those that it cannot have.
func TestRecordSizes(t *testing.T) {
	for _, size := range []int{1, 2, 15, 16, smallBuffer - 18, smallBuffer - 17, smallBuffer, MaxPlaintext - 1, MaxPlaintext} {
		for _, space := range []int{1, size - 1, size, size + 1} {
			if space < 1 {
				continue
			}
			c, far := rawPair(t)
			want := bytes.Repeat([]byte{byte(size)}, size)
			go far.Write(sealRecord(t, 0, want))
			got := make([]byte, size)
			for n := 0; n < size; {
				k, err := c.Read(got[n:min(size, n+space)])
				if err != nil {
					t.Fatalf("record of %d read by %d: %v", size, space, err)
				}
				n += k
			}
			if !bytes.Equal(got, want) {
				t.Errorf("record of %d read by %d: wrong bytes", size, space)
			}
		}
	}
	for _, n := range []int{0, 1, tagSize - 1, maxBody + 1, 0xFFFF} {
		c, far := rawPair(t)
		go far.Write(binary.BigEndian.AppendUint16(nil, uint16(n)))
		if _, err := c.Read(make([]byte, 10)); !errors.Is(err, ErrTampered) {
			t.Errorf("record length %d: %v", n, err)
		}
		if len(c.rx.buf) > smallBuffer {
			t.Errorf("record length %d: a large buffer was allocated for it", n)
		}
	}
}

// TestRecordTamper: any changed, repeated, dropped or swapped record kills the
// connection, and none of it is handed out.
func TestRecordTamper(t *testing.T) {
	one, two := sealRecord(t, 0, []byte("the first")), sealRecord(t, 1, []byte("the second"))
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	tests := map[string]struct {
		wire []byte
		want string
	}{
		"repeated": {join(one, one), "the first"},
		"dropped":  {two, ""},
		"swapped":  {join(two, one), ""},
		"foreign":  {join(one, sealRecord(t, 7, []byte("the eighth"))), "the first"},
	}
	for name, tt := range tests {
		c, far := rawPair(t)
		go far.Write(tt.wire)
		got, err := io.ReadAll(c)
		if string(got) != tt.want || !errors.Is(err, ErrTampered) {
			t.Errorf("%s: read %q, %v", name, got, err)
		}
		if _, err := c.Read(make([]byte, 10)); !errors.Is(err, ErrTampered) {
			t.Errorf("%s: the error did not stay: %v", name, err)
		}
		if _, err := far.Write([]byte{0}); err == nil {
			t.Errorf("%s: the connection was left open", name)
		}
	}
	for at := range one {
		for _, direct := range []bool{true, false} {
			c, far := rawPair(t)
			wire := join(one, two)
			wire[at] ^= 0x01
			go func() { far.Write(wire); far.Close() }()
			buf := make([]byte, 100)
			if !direct {
				buf = buf[:4]
			}
			n, err := c.Read(buf)
			if n > 0 || err == nil {
				t.Errorf("byte %d changed: read %q, %v", at, buf[:n], err)
			}
			if !bytes.Equal(buf, make([]byte, len(buf))) {
				t.Errorf("byte %d changed: something was left in the buffer: %q", at, buf)
			}
		}
	}
}

// TestEnd: only a sealed empty record is an end of the stream.
func TestEnd(t *testing.T) {
	one := sealRecord(t, 0, []byte("text"))
	for n := range len(one) + 1 {
		c, far := rawPair(t)
		go func() { far.Write(one[:n]); far.Close() }()
		got, err := io.ReadAll(c)
		if !errors.Is(err, io.ErrUnexpectedEOF) || n < len(one) && len(got) > 0 {
			t.Errorf("cut after %d bytes: read %q, %v", n, got, err)
		}
	}
	c, far := rawPair(t)
	go far.Write(append(one, sealRecord(t, 1, nil)...))
	if got, err := io.ReadAll(c); string(got) != "text" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	// The other direction goes on.
	read := make(chan []byte)
	go func() { b := make([]byte, 100); n, _ := far.Read(b); read <- b[:n] }()
	c.Write([]byte("answer"))
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b := <-read; len(b) != lengthSize+len("answer")+tagSize+lengthSize+tagSize {
		t.Errorf("the answer came as %d bytes", len(b))
	}
	if _, err := c.Write([]byte("more")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after CloseWrite: %v", err)
	}
}

// TestBuffering: nothing leaves before Flush or a full buffer.
func TestBuffering(t *testing.T) {
	client, server := pipeConns(t, ModeLink)
	for range 10 {
		if _, err := client.Write([]byte("0123456789")); err != nil { // would block on the pipe
			t.Fatal(err)
		}
	}
	if got := client.Buffered(); got != lengthSize+100 {
		t.Errorf("%d bytes are buffered", got)
	}
	go client.Flush()
	buf := make([]byte, 200)
	if n, err := server.Read(buf); n != 100 || err != nil { // one record
		t.Errorf("read %d, %v", n, err)
	}
	if _, err := client.Write(make([]byte, largeBuffer-8*(lengthSize+tagSize))); err != nil {
		t.Errorf("a full buffer was not kept: %v", err)
	}
	if n := client.Buffered(); n != largeBuffer {
		t.Errorf("%d bytes are buffered, want %d", n, largeBuffer)
	}
}

// TestIdleMemory: buffers come with bulk and go with quiet.
func TestIdleMemory(t *testing.T) {
	client, server := pipeConns(t, ModeLink)
	move := func(n int) {
		t.Helper()
		var wg sync.WaitGroup
		wg.Go(func() { client.Write(make([]byte, n)); client.Flush() })
		if _, err := io.ReadFull(server, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
	}
	check := func(when string, want bool) {
		t.Helper()
		if tx := cap(client.tx.buf) > smallBuffer; tx != want {
			t.Errorf("%s: large sending buffer: %v", when, tx)
		}
		if rx := len(server.rx.buf) > smallBuffer; rx != want {
			t.Errorf("%s: large receiving buffer: %v", when, rx)
		}
	}
	check("new", false)
	for range 20 {
		move(500)
	}
	check("small messages", false)
	move(1 << 20)
	check("bulk", true)
	for range quietRounds + 4 {
		move(100)
	}
	check("quiet again", false)
	move(1 << 20)
	check("bulk again", true)
}

func TestNoAllocations(t *testing.T) {
	a, b := net.Pipe()
	c, s, cerr, serr := shake(a, b, clientConfig(ModeLink), serverConfig())
	if cerr != nil || serr != nil {
		t.Fatal(cerr, serr)
	}
	defer c.Close()
	defer s.Close()
	block, got := make([]byte, 1<<16), make([]byte, 1<<16)
	next, sent := make(chan bool), make(chan error)
	go func() {
		for range next {
			_, err := c.Write(block[:9])
			if err == nil {
				_, err = c.Write(block)
			}
			if err == nil {
				err = c.Flush()
			}
			sent <- err
		}
	}()
	defer close(next)
	failed := error(nil)
	allocs := testing.AllocsPerRun(200, func() {
		next <- true
		if _, err := io.ReadFull(s, got[:9]); err != nil {
			failed = err
		}
		if _, err := io.ReadFull(s, got); err != nil {
			failed = err
		}
		if err := <-sent; err != nil {
			failed = err
		}
	})
	if failed != nil {
		t.Fatal(failed)
	}
	if allocs >= 1 && !raceEnabled {
		t.Errorf("%v allocations for a block of four records", allocs)
	}
}

// TestExhaustion: a direction ends with its last record, on both sides.
func TestExhaustion(t *testing.T) {
	client, server := pipeConns(t, ModeLink)
	client.tx.record.n, server.rx.record.n = maxRecords-1, maxRecords-1
	go func() { client.Write([]byte("last")); client.Flush() }()
	buf := make([]byte, 10)
	if n, err := server.Read(buf); err != nil || string(buf[:n]) != "last" {
		t.Fatalf("the last record: %q, %v", buf[:n], err)
	}
	client.Write([]byte("one more"))
	if err := client.Flush(); !errors.Is(err, ErrExhausted) {
		t.Errorf("one record more: %v", err)
	}
	c, far := rawPair(t)
	c.rx.record.n = maxRecords
	go far.Write(sealRecord(t, maxRecords, []byte("x")))
	if _, err := c.Read(buf); !errors.Is(err, ErrExhausted) {
		t.Errorf("reading one record more: %v", err)
	}
}

// TestDeadlines: a read that timed out in the middle of a record goes on, a
// write that timed out does not.
func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		c := newConn(a, ModeLink, Version, StaticPublic{1}, testAEAD(t, 2), testAEAD(t, 1))
		wire := sealRecord(t, 0, []byte("slow"))
		go func() {
			for _, x := range wire {
				time.Sleep(time.Second)
				b.Write([]byte{x})
			}
		}()
		buf := make([]byte, 10)
		timeouts := 0
		for {
			c.SetReadDeadline(time.Now().Add(1500 * time.Millisecond))
			n, err := c.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				timeouts++
				continue
			}
			if err != nil || string(buf[:n]) != "slow" {
				t.Fatalf("read %q, %v", buf[:n], err)
			}
			break
		}
		if timeouts == 0 {
			t.Error("no read timed out")
		}
		c.SetDeadline(time.Now().Add(time.Second))
		c.Write([]byte("nobody reads this"))
		if err := c.Flush(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("flush: %v", err)
		}
		c.SetDeadline(time.Time{})
		if err := c.Flush(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("flush after a failed one: %v", err)
		}
		b.Close()
	})
}

// TestClose: Close wakes whoever reads or writes, and can be repeated.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := pipeConns(t, ModeLink)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("Read succeeded")
			}
		})
		wg.Go(func() {
			if _, err := c.Write(make([]byte, 1<<20)); err == nil {
				t.Error("Write succeeded")
			}
		})
		synctest.Wait()
		c.Close()
		c.Close()
		wg.Wait()
		if _, err := s.Read(make([]byte, 1<<20)); err == nil {
			t.Error("the other side read something")
		}
		if c.rx.record.aead != nil || c.tx.record.aead != nil {
			t.Error("keys are left after Close")
		}
		if _, err := c.Write([]byte("x")); err == nil {
			t.Error("Write after Close succeeded")
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("Read after Close succeeded")
		}
		if err := c.Flush(); err == nil {
			t.Error("Flush after Close succeeded")
		}
	})
}
