package noiseconn

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

// A record on the wire.
//
//	offset  size  field
//	     0     2  n, length of what follows: 16 to 16,400
//	     2     n  ChaCha20-Poly1305 of n-16 bytes of the stream, nonce = number of
//	              the record in its direction, no additional data
//
// The initiator's record 0 in a link is empty and confirms the handshake. Any
// other empty record is the end of its direction.
const (
	// MaxPlaintext is the most bytes of the stream that one record carries.
	MaxPlaintext = 16 << 10

	lengthSize = 2
	tagSize    = chacha20poly1305.Overhead
	maxBody    = MaxPlaintext + tagSize
	maxRecord  = lengthSize + maxBody

	// maxRecords is the number of records after which a direction ends. It is
	// 16 PiB of full records, far below what the cipher bears under one key
	// and beyond any connection, as peers reconnect daily. So there is no rekeying.
	maxRecords = 1 << 40
)

// Buffers. A Conn that is idle or moves only small messages makes do with the
// small ones, which are part of it; the large ones come with the first bulk
// transfer and go after quietRounds small transfers in a row.
const (
	smallBuffer = 1 << 10
	largeBuffer = 8 * maxRecord // eight full records to a system call
	quietRounds = 16
)

// Conn is an authenticated, encrypted byte stream. Read and Write may be called
// at the same time, and each of them by several goroutines. Write only collects:
// what was written is certain to leave with the next Flush.
//
// Conn is a net.Conn. After an error other than a read timeout it is dead.
type Conn struct {
	nc      net.Conn
	mode    Mode
	version uint8
	remote  StaticPublic
	invite  InviteID
	peer    any

	rx receiver
	tx sender
}

func newConn(nc net.Conn, m Mode, version uint8, remote StaticPublic, send, recv cipher.AEAD) *Conn {
	c := &Conn{nc: nc, mode: m, version: version, remote: remote}
	c.rx.record.aead, c.tx.record.aead = recv, send
	c.rx.buf, c.tx.buf = c.rx.small[:], c.tx.small[:0]
	return c
}

// Remote is the peer's authenticated static key.
func (c *Conn) Remote() StaticPublic { return c.remote }

// Peer is what ServerConfig.LinkPSK told of the peer; nil when pairing or dialling.
func (c *Conn) Peer() any { return c.peer }

// Invite names the secret that was used; zero in a link.
func (c *Conn) Invite() InviteID { return c.invite }

// Mode is what the connection is for.
func (c *Conn) Mode() Mode { return c.mode }

// Version is the protocol version that both sides authenticated.
func (c *Conn) Version() uint8 { return c.version }

// Read reads from the stream. It returns io.EOF only after the peer's
// CloseWrite; a connection that just ends gives io.ErrUnexpectedEOF. A slice of
// MaxPlaintext bytes or more is decrypted into directly. After a read timeout
// the stream can be read on.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.rx.read(c.nc, p)
	if err != nil && err != io.EOF && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.nc.Close()
	}
	return n, err
}

// Write adds p to the stream. It sends what fills the buffer and keeps the rest
// for Flush. It does not hold on to p.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.tx.write(c.nc, p)
	c.closeAfter(err)
	return n, err
}

// Flush sends all that has been written.
func (c *Conn) Flush() error {
	err := c.tx.flush(c.nc)
	c.closeAfter(err)
	return err
}

// Buffered is the number of bytes that await a Flush, as they will be on the wire.
func (c *Conn) Buffered() int {
	c.tx.mu.Lock()
	defer c.tx.mu.Unlock()
	return len(c.tx.buf)
}

// CloseWrite flushes and tells the peer that the stream ends here, so that its
// Read returns io.EOF. Reading goes on.
func (c *Conn) CloseWrite() error {
	err := c.tx.end(c.nc)
	c.closeAfter(err)
	return err
}

// closeAfter ends the connection after a failed write, but not after a write
// that came behind CloseWrite.
func (c *Conn) closeAfter(err error) {
	if err != nil && !errors.Is(err, net.ErrClosed) {
		c.nc.Close()
	}
}

// Close closes the connection at once. What was not flushed is lost.
func (c *Conn) Close() error {
	err := c.nc.Close() // first, so that a Read or Write under way lets go of its lock
	c.rx.destroy(net.ErrClosed)
	c.tx.destroy(net.ErrClosed)
	return err
}

func (c *Conn) LocalAddr() net.Addr  { return c.nc.LocalAddr() }
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

func (c *Conn) SetDeadline(t time.Time) error      { return c.nc.SetDeadline(t) }
func (c *Conn) SetReadDeadline(t time.Time) error  { return c.nc.SetReadDeadline(t) }
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.nc.SetWriteDeadline(t) }

// recordState is the cipher of one direction and the number of its next record.
type recordState struct {
	aead  cipher.AEAD // nil once destroyed
	n     uint64
	nonce [chacha20poly1305.NonceSize]byte
}

// next is the nonce of the next record: 4 zero bytes and the little-endian
// number, as Noise has it for ChaChaPoly.
func (s *recordState) next() ([]byte, error) {
	if s.n >= maxRecords {
		return nil, ErrExhausted
	}
	binary.LittleEndian.PutUint64(s.nonce[4:], s.n)
	s.n++
	return s.nonce[:], nil
}

// receiver is the state of one direction. Everything is under mu.
type receiver struct {
	mu     sync.Mutex
	record recordState
	err    error // sticky

	buf   []byte // small[:] or largeBuffer bytes
	r, w  int    // buf[r:w] has been read from the network
	plain []byte // decrypted and not yet handed out; lies in buf before r
	quiet int    // reads in a row that the small buffer would have held
	small [smallBuffer]byte
}

func (x *receiver) read(nc net.Conn, p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.plain) == 0 {
		if x.err != nil {
			return 0, x.err
		}
		if len(p) == 0 {
			return 0, nil
		}
		n, err := x.readRecord(nc, p)
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				x.failLocked(err)
			}
			return 0, err
		}
		if n > 0 {
			return n, nil
		}
	}
	n := copy(p, x.plain)
	x.plain = x.plain[n:]
	return n, nil
}

// readRecord reads and opens one record, into p if that holds it, and else into
// x.plain, when it returns 0.
func (x *receiver) readRecord(nc net.Conn, p []byte) (int, error) {
	if err := x.fill(nc, lengthSize); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(x.buf[x.r:]))
	if n < tagSize || n > maxBody {
		return 0, fmt.Errorf("noiseconn: reading: record of %d bytes: %w", n, ErrTampered)
	}
	if err := x.fill(nc, lengthSize+n); err != nil {
		return 0, err
	}
	body := x.buf[x.r+lengthSize : x.r+lengthSize+n]
	dst := body
	direct := len(p) >= n-tagSize
	if direct {
		dst = p
	}
	plain, err := x.open(dst[:0], body)
	if err != nil {
		return 0, err
	}
	x.r += lengthSize + n
	if len(plain) == 0 {
		return 0, io.EOF
	}
	if direct {
		return len(plain), nil
	}
	x.plain = plain
	return 0, nil
}

func (x *receiver) open(dst, body []byte) ([]byte, error) {
	if x.record.aead == nil {
		return nil, net.ErrClosed
	}
	nonce, err := x.record.next()
	if err != nil {
		return nil, fmt.Errorf("noiseconn: reading: %w", err)
	}
	plain, err := x.record.aead.Open(dst, nonce, body, nil)
	if err != nil {
		return nil, fmt.Errorf("noiseconn: reading: %w", ErrTampered)
	}
	return plain, nil
}

// fill reads until buf[r:w] has at least need bytes. It is called only when
// nothing decrypted is left in buf.
func (x *receiver) fill(nc net.Conn, need int) error {
	for x.w-x.r < need {
		x.arrange(need)
		n, err := nc.Read(x.buf[x.w:])
		x.w += n
		if n > smallBuffer/2 {
			x.quiet = 0
		} else if n > 0 {
			x.quiet++
		}
		if err != nil && x.w-x.r < need {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("noiseconn: reading: %w", err)
		}
	}
	return nil
}

// arrange makes room for need bytes from r on, in the buffer that fits the
// traffic.
func (x *receiver) arrange(need int) {
	large := len(x.buf) > smallBuffer
	switch {
	case !large && (need > smallBuffer || x.w == smallBuffer && x.quiet == 0):
		buf := make([]byte, largeBuffer)
		x.w = copy(buf, x.buf[x.r:x.w])
		x.r, x.buf = 0, buf
	case large && x.quiet >= quietRounds && need <= smallBuffer:
		x.w = copy(x.small[:], x.buf[x.r:x.w])
		x.r, x.buf = 0, x.small[:]
	default:
		// Less than a record is left: moving it to the front is cheap, and lets
		// every system call read as much as there is room for.
		x.w = copy(x.buf, x.buf[x.r:x.w])
		x.r = 0
	}
}

// confirmed opens the initiator's record 0, which must be empty.
func (x *receiver) confirmed(record []byte) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if binary.BigEndian.Uint16(record) != tagSize {
		return ErrTampered
	}
	_, err := x.open(nil, record[lengthSize:])
	return err
}

func (x *receiver) failLocked(err error) {
	if x.err == nil {
		x.err = err
	}
	x.record.aead = nil
	x.buf, x.r, x.w = x.small[:], 0, 0
}

func (x *receiver) destroy(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	clear(x.plain)
	x.plain = nil
	x.failLocked(err)
}

// sender is the state of the other direction. Everything is under mu.
type sender struct {
	mu     sync.Mutex
	record recordState
	err    error // sticky

	// buf[:sealed] is ready to leave. The rest, if any, is the open record: room
	// for its length, then plaintext.
	buf    []byte // in small or in largeBuffer bytes
	sealed int
	quiet  int // flushes in a row that fitted the small buffer
	small  [smallBuffer]byte
}

// confirm makes record 0.
func (x *sender) confirm() []byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	record := make([]byte, lengthSize, linkConfirm)
	binary.BigEndian.PutUint16(record, tagSize)
	nonce, err := x.record.next()
	if err != nil {
		panic("noiseconn: a new connection has no records")
	}
	return x.record.aead.Seal(record, nonce, nil, nil)
}

func (x *sender) write(nc net.Conn, p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	total := 0
	for len(p) > 0 {
		if x.err != nil {
			return total, x.err
		}
		n, err := x.add(nc, p)
		if err != nil {
			x.failLocked(err)
			return total, err
		}
		total += n
		p = p[n:]
	}
	return total, x.err
}

// add takes what fits into one record.
func (x *sender) add(nc net.Conn, p []byte) (int, error) {
	open := len(x.buf) - x.sealed
	if open == 0 {
		n := min(len(p), MaxPlaintext)
		if err := x.room(nc, n); err != nil {
			return 0, err
		}
		x.buf = x.buf[:x.sealed+lengthSize]
		if n == MaxPlaintext {
			return n, x.seal(p[:n])
		}
		x.buf = append(x.buf, p[:n]...)
		return n, nil
	}
	n := min(len(p), MaxPlaintext-(open-lengthSize))
	if len(x.buf)+n+tagSize > cap(x.buf) {
		x.enlarge() // only the small buffer cannot hold a whole record
	}
	x.buf = append(x.buf, p[:n]...)
	if len(x.buf)-x.sealed == lengthSize+MaxPlaintext {
		return n, x.seal(x.buf[x.sealed+lengthSize:])
	}
	return n, nil
}

// room makes sure that a record of n bytes can be opened: in the large buffer
// one that may still grow to its full size.
func (x *sender) room(nc net.Conn, n int) error {
	if cap(x.buf) == smallBuffer {
		if x.sealed+lengthSize+n+tagSize <= smallBuffer {
			return nil
		}
		x.enlarge()
		return nil
	}
	if x.sealed+maxRecord > cap(x.buf) {
		return x.send(nc)
	}
	return nil
}

func (x *sender) enlarge() {
	buf := make([]byte, len(x.buf), largeBuffer)
	copy(buf, x.buf)
	x.buf = buf
	x.quiet = 0
}

// seal closes the open record, whose plaintext is p: either in its place in buf
// or elsewhere.
func (x *sender) seal(p []byte) error {
	nonce, err := x.record.next()
	if err != nil {
		return fmt.Errorf("noiseconn: writing: %w", err)
	}
	head := x.buf[x.sealed : x.sealed+lengthSize]
	binary.BigEndian.PutUint16(head, uint16(len(p)+tagSize))
	x.buf = x.record.aead.Seal(x.buf[:x.sealed+lengthSize], nonce, p, nil)
	x.sealed = len(x.buf)
	return nil
}

// send writes the sealed records; there is no open one.
func (x *sender) send(nc net.Conn) error {
	if x.sealed == 0 {
		return nil
	}
	if _, err := nc.Write(x.buf[:x.sealed]); err != nil {
		return fmt.Errorf("noiseconn: writing: %w", err)
	}
	x.buf, x.sealed = x.buf[:0], 0
	return nil
}

func (x *sender) flush(nc net.Conn) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err != nil {
		return x.err
	}
	if err := x.flushLocked(nc); err != nil {
		x.failLocked(err)
		return err
	}
	return nil
}

func (x *sender) flushLocked(nc net.Conn) error {
	if err := x.sealOpen(); err != nil {
		return err
	}
	if cap(x.buf) > smallBuffer {
		if x.sealed > smallBuffer {
			x.quiet = 0
		} else {
			x.quiet++
		}
	}
	if err := x.send(nc); err != nil {
		return err
	}
	if x.quiet >= quietRounds {
		x.buf, x.quiet = x.small[:0], 0
	}
	return nil
}

func (x *sender) sealOpen() error {
	if len(x.buf) == x.sealed {
		return nil
	}
	return x.seal(x.buf[x.sealed+lengthSize:])
}

// end flushes and sends an empty record. After it nothing can be written.
func (x *sender) end(nc net.Conn) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err != nil {
		return x.err
	}
	err := x.sealOpen()
	if err == nil {
		err = x.room(nc, 0)
	}
	if err == nil {
		x.buf = x.buf[:x.sealed+lengthSize]
		err = x.seal(nil)
	}
	if err == nil {
		err = x.send(nc)
	}
	if err != nil {
		x.failLocked(err)
		return err
	}
	x.failLocked(net.ErrClosed)
	return nil
}

func (x *sender) failLocked(err error) {
	if x.err == nil {
		x.err = err
	}
	x.record.aead = nil
	x.buf, x.sealed = x.small[:0], 0
}

func (x *sender) destroy(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.failLocked(err)
}
