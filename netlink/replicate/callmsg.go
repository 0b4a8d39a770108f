package replicate

import (
	"encoding/binary"
	"fmt"
)

const (
	maxMethod  = 64
	maxRequest = maxBody - 1 - maxMethod // of a request's own body
	maxPart    = maxBody - 1             // of a reply or an upload in one message
	// MaxReply is the longest reply to a request, in bytes.
	MaxReply = 1 << 20
	// maxTake is how many parts of an upload may be taken and not sent yet.
	maxTake = 4096
)

// request asks for something by the name of a method. Body and answers are
// JSON, but this package does not look into them. It has one of two types: an
// upload is a request to which parts belong.
//
//	offset  bytes
//	     0      1  n, length of the method, 1 to 64
//	     1      n  method, of a-z, 0-9, '.', '-' and '_'
//	   1+n         body, at most 16,319 bytes
type request struct {
	method string
	body   []byte
}

func appendRequest(dst []byte, r *request) []byte {
	dst = append(dst, byte(len(r.method)))
	dst = append(dst, r.method...)
	return append(dst, r.body...)
}

func parseRequest(b []byte) (*request, error) {
	s := scanner{what: "request", b: b}
	r := &request{method: string(s.take(int(s.u8())))}
	r.body = s.rest()
	if s.err == nil && !r.valid() {
		s.fail("method or body")
	}
	if err := s.done(); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *request) valid() bool {
	if len(r.method) == 0 || len(r.method) > maxMethod || len(r.body) > maxRequest {
		return false
	}
	for i := range len(r.method) {
		c := r.method[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

func (r *request) check() error {
	if !r.valid() {
		return fmt.Errorf("replicate: request %q with %d bytes: the method is malformed or the body too long", r.method, len(r.body))
	}
	return nil
}

// reply is one part of the answer to a request, or of an upload.
//
//	offset  bytes
//	     0      1  1 if another part follows, else 0
//	     1         bytes, at least 1 if another part follows; all parts of an
//	               answer together are at most 1,048,576 bytes
type reply struct {
	more bool
	part []byte
}

func appendReply(dst []byte, r *reply) []byte { return append(appendFlag(dst, r.more), r.part...) }

func parseReply(b []byte) (*reply, error) { return parsePart("reply", b) }

func parseUploaded(b []byte) (*reply, error) { return parsePart("part", b) }

func parsePart(what string, b []byte) (*reply, error) {
	s := scanner{what: what, b: b}
	r := &reply{more: s.flag()}
	r.part = s.rest()
	if s.err == nil && r.more && len(r.part) == 0 {
		s.fail("empty part")
	}
	if err := s.done(); err != nil {
		return nil, err
	}
	return r, nil
}

// appendTake appends the body of a take.
//
//	offset  bytes
//	     0      4  how many further parts of the upload S takes, 1 to 4,096
func appendTake(dst []byte, n uint32) []byte { return binary.BigEndian.AppendUint32(dst, n) }

func parseTake(b []byte) (uint32, error) {
	s := scanner{what: "take", b: b}
	n := s.u32()
	if s.err == nil && (n == 0 || n > maxTake) {
		s.fail("%d parts", n)
	}
	return n, s.done()
}
