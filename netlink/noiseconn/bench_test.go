//go:build unix

package noiseconn

import (
	"context"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

// The benchmarks move messages as the replication protocol does, a short header
// and a block of 65,536 bytes, over real TCP on loopback. They report the CPU
// seconds of both ends together for each GiB of blocks.

const (
	benchHeader = 9
	benchBlock  = 1 << 16
)

func tcpPair(b testing.TB) (client, server net.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			c = nil
		}
		accepted <- c
	}()
	client, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	if server = <-accepted; server == nil {
		b.Fatal("no connection")
	}
	b.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

func connPair(b testing.TB, client, server net.Conn) (*Conn, *Conn) {
	boxKey, devKey, psk := StaticPrivate{1}, StaticPrivate{2}, PSK{3}
	type result struct {
		c   *Conn
		err error
	}
	accepted := make(chan result, 1)
	go func() {
		c, err := Accept(context.Background(), server, ServerConfig{Static: boxKey,
			LinkPSK: func(StaticPublic) (PSK, any, bool) { return psk, nil, true }})
		accepted <- result{c, err}
	}()
	c, err := Dial(context.Background(), client, Config{Mode: ModeLink, Static: devKey, Remote: boxKey.Public(), PSK: psk})
	if err != nil {
		b.Fatal(err)
	}
	r := <-accepted
	if r.err != nil {
		b.Fatal(r.err)
	}
	return c, r.c
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// transfer runs one side as a goroutine and the other here, and reports CPU.
func transfer(b *testing.B, send func(n int) error, receive func(n int) error) {
	b.SetBytes(benchBlock)
	b.ReportAllocs()
	b.ResetTimer()
	start := cpuTime()
	failed := make(chan error, 1)
	go func() { failed <- send(b.N) }()
	if err := receive(b.N); err != nil {
		b.Fatal(err)
	}
	if err := <-failed; err != nil {
		b.Fatal(err)
	}
	cpu := (cpuTime() - start).Seconds()
	b.ReportMetric(cpu/(float64(b.N)*benchBlock/(1<<30)), "cpu-s/GiB")
}

func BenchmarkConn(b *testing.B) {
	client, server := connPairTCP(b)
	header, block := make([]byte, benchHeader), make([]byte, benchBlock)
	gotHeader, gotBlock := make([]byte, benchHeader), make([]byte, benchBlock)
	transfer(b, func(n int) error {
		for range n {
			if _, err := client.Write(header); err != nil {
				return err
			}
			if _, err := client.Write(block); err != nil {
				return err
			}
		}
		return client.Flush()
	}, func(n int) error {
		for range n {
			if _, err := io.ReadFull(server, gotHeader); err != nil {
				return err
			}
			if _, err := io.ReadFull(server, gotBlock); err != nil {
				return err
			}
		}
		return nil
	})
}

func connPairTCP(b testing.TB) (*Conn, *Conn) {
	client, server := tcpPair(b)
	return connPair(b, client, server)
}

// BenchmarkFloor is what no protocol with these records can beat: the same bytes
// over the same TCP with one Seal and one Open for each 16 KiB, and nothing else.
func BenchmarkFloor(b *testing.B) {
	client, server := tcpPair(b)
	aead, err := chacha20poly1305.New(make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	const total = largeBuffer
	floor := func(seal bool) func(n int) error {
		buf := make([]byte, total)
		nonce := make([]byte, 12)
		plain := make([]byte, MaxPlaintext, maxRecord)
		return func(n int) error {
			left := n * (benchBlock + benchHeader)
			for left > 0 {
				if !seal {
					if _, err := io.ReadFull(server, buf); err != nil {
						return err
					}
				}
				for i := 0; i < total; i += maxRecord {
					body := buf[i+lengthSize : i+maxRecord]
					if seal {
						aead.Seal(body[:0], nonce, plain, nil)
					} else if _, err := aead.Open(plain[:0], nonce, body, nil); err != nil {
						return err
					}
					left -= MaxPlaintext
				}
				if seal {
					if _, err := client.Write(buf); err != nil {
						return err
					}
				}
			}
			return nil
		}
	}
	transfer(b, floor(true), floor(false))
}

// BenchmarkTCP is the copy alone.
func BenchmarkTCP(b *testing.B) {
	client, server := tcpPair(b)
	out, in := make([]byte, 2*benchBlock), make([]byte, 2*benchBlock)
	transfer(b, func(n int) error {
		for left := n * benchBlock; left > 0; left -= len(out) {
			if _, err := client.Write(out[:min(left, len(out))]); err != nil {
				return err
			}
		}
		return nil
	}, func(n int) error {
		for left := n * benchBlock; left > 0; {
			got, err := server.Read(in)
			if err != nil {
				return err
			}
			left -= got
		}
		return nil
	})
}

func BenchmarkHandshake(b *testing.B) {
	b.ReportAllocs()
	for range b.N {
		client, server := net.Pipe()
		c, s := connPair(b, client, server)
		c.Close()
		s.Close()
	}
}
