package replicate

import (
	"encoding/binary"
	"fmt"

	"cobox/storage/merklelog"
)

// Version is the protocol version that this package speaks. It is stated in
// the hello, and bound into the handshake by whoever makes the connection.
const Version = 1

const (
	headerSize = 1 + 4 + 4
	// maxBody is the longest body of a message that carries no block.
	maxBody = 16384
	// blockBody is the length of the body of a message that carries a block.
	blockBody = 8 + merklelog.BlockSize
)

// kind is the type of a message. PROTOCOL.md lists them with who sends them;
// numbers without a name here are reserved and end the session.
type kind uint8

const (
	kindHello   kind = 0x01
	kindPing    kind = 0x02
	kindPong    kind = 0x03
	kindGoodbye kind = 0x04
	kindError   kind = 0x05
	kindCancel  kind = 0x06

	kindOffer      kind = 0x10
	kindKnown      kind = 0x11
	kindAdvance    kind = 0x12
	kindWantLeaves kind = 0x13
	kindLeaves     kind = 0x14
	kindWant       kind = 0x15
	kindBlock      kind = 0x16
	kindHole       kind = 0x17
	kindAsk        kind = 0x18
	kindReceipt    kind = 0x19
	kindFork       kind = 0x1a
	kindClose      kind = 0x1b

	kindRead    kind = 0x20
	kindPath    kind = 0x21
	kindData    kind = 0x22
	kindAbsent  kind = 0x23
	kindLogs    kind = 0x28
	kindLog     kind = 0x29
	kindLogsEnd kind = 0x2a

	kindRequest  kind = 0x30
	kindProgress kind = 0x31
	kindReply    kind = 0x32
	kindPart     kind = 0x33
	kindTake     kind = 0x34
	kindUpload   kind = 0x35
)

var kindNames = map[kind]string{
	kindHello: "hello", kindPing: "ping", kindPong: "pong", kindGoodbye: "goodbye",
	kindError: "error", kindCancel: "cancel",
	kindOffer: "offer", kindKnown: "known", kindAdvance: "advance",
	kindWantLeaves: "want-leaves", kindLeaves: "leaves", kindWant: "want",
	kindBlock: "block", kindHole: "hole", kindAsk: "ask", kindReceipt: "receipt",
	kindFork: "fork", kindClose: "close",
	kindRead: "read", kindPath: "path", kindData: "data", kindAbsent: "absent",
	kindLogs: "logs", kindLog: "log", kindLogsEnd: "logs-end",
	kindRequest: "request", kindProgress: "progress", kindReply: "reply",
	kindPart: "part", kindTake: "take", kindUpload: "upload",
}

func (k kind) String() string {
	if name, ok := kindNames[k]; ok {
		return name
	}
	return fmt.Sprintf("type 0x%02x", uint8(k))
}

func (k kind) carriesBlock() bool { return k == kindBlock || k == kindData }

// header stands before every body.
//
//	offset  bytes
//	     0      1  type
//	     1      4  id of the request or offer, 0 for the session itself
//	     5      4  length of the body
type header struct {
	kind   kind
	id     uint32
	length uint32
}

func appendHeader(dst []byte, h header) []byte {
	dst = append(dst, byte(h.kind))
	dst = binary.BigEndian.AppendUint32(dst, h.id)
	return binary.BigEndian.AppendUint32(dst, h.length)
}

// parseHeader refuses unknown types and lengths over the type's limit, so that
// nothing is read or allocated for a message that cannot be right.
func parseHeader(b []byte) (header, error) {
	if len(b) != headerSize {
		return header{}, fmt.Errorf("replicate: header has %d bytes, want %d", len(b), headerSize)
	}
	h := header{kind: kind(b[0]), id: binary.BigEndian.Uint32(b[1:]), length: binary.BigEndian.Uint32(b[5:])}
	if _, ok := kindNames[h.kind]; !ok {
		return header{}, fmt.Errorf("replicate: message of unknown %v", h.kind)
	}
	switch {
	case h.kind.carriesBlock():
		if h.length != blockBody {
			return header{}, fmt.Errorf("replicate: %v of %d bytes, want %d", h.kind, h.length, blockBody)
		}
	case h.length > maxBody:
		return header{}, fmt.Errorf("replicate: %v of %d bytes, the limit is %d", h.kind, h.length, maxBody)
	}
	if session := h.kind <= kindGoodbye; session != (h.id == 0) {
		return header{}, fmt.Errorf("replicate: %v with id %d", h.kind, h.id)
	}
	return h, nil
}

// message is one encoded message without a block, ready to be written.
type message []byte

// newMessage begins a message; finish sets its length once the body is there.
func newMessage(k kind, id uint32) message {
	return appendHeader(make([]byte, 0, 64), header{kind: k, id: id})
}

func (m message) finish() message {
	n := len(m) - headerSize
	if n > maxBody {
		panic(fmt.Sprintf("replicate: %v of %d bytes was made", kind(m[0]), n))
	}
	binary.BigEndian.PutUint32(m[5:], uint32(n))
	return m
}

// scanner takes the parts of a body off its front. After the first part that
// does not fit it yields zeros and done reports the error.
type scanner struct {
	what string
	b    []byte
	err  error
}

func (s *scanner) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("replicate: "+s.what+": "+format, args...)
	}
}

func (s *scanner) check(err error) {
	if err != nil && s.err == nil {
		s.err = fmt.Errorf("replicate: %s: %w", s.what, err)
	}
}

func (s *scanner) take(n int) []byte {
	if s.err != nil {
		return nil
	}
	if n > len(s.b) {
		s.fail("%d bytes where %d are needed", len(s.b), n)
		return nil
	}
	part := s.b[:n:n]
	s.b = s.b[n:]
	return part
}

func (s *scanner) rest() []byte { return s.take(len(s.b)) }

func (s *scanner) copy(dst []byte) { copy(dst, s.take(len(dst))) }

func (s *scanner) u8() uint8 {
	if b := s.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (s *scanner) u16() uint16 {
	if b := s.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (s *scanner) u32() uint32 {
	if b := s.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (s *scanner) u64() uint64 {
	if b := s.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// size takes the size of a log, 1 to merklelog.MaxSize.
func (s *scanner) size() uint64 {
	n := s.u64()
	if s.err == nil && (n == 0 || n > merklelog.MaxSize) {
		s.fail("size %d", n)
	}
	return n
}

// index takes the index of a block.
func (s *scanner) index() uint64 {
	i := s.u64()
	if s.err == nil && i >= merklelog.MaxSize {
		s.fail("index %d", i)
	}
	return i
}

func (s *scanner) checkpoint() merklelog.Checkpoint {
	b := s.take(merklelog.CheckpointSize)
	if s.err != nil {
		return merklelog.Checkpoint{}
	}
	cp, err := merklelog.ParseCheckpoint(b)
	s.check(err)
	return cp
}

func (s *scanner) proof() merklelog.Proof {
	if s.err != nil {
		return nil
	}
	p, rest, err := merklelog.CutProof(s.b)
	s.check(err)
	s.b = rest
	return p
}

func (s *scanner) leaves(n int) []merklelog.Leaf {
	b := s.take(n * merklelog.LeafSize)
	if s.err != nil {
		return nil
	}
	leaves, err := merklelog.ParseLeaves(b)
	s.check(err)
	return leaves
}

// done reports the first error, or that bytes are left over.
func (s *scanner) done() error {
	if s.err == nil && len(s.b) != 0 {
		s.fail("%d bytes too many", len(s.b))
	}
	return s.err
}
