package replicate

const (
	maxMethod  = 64
	maxRequest = maxBody - 1 - maxMethod // of a request's own body
	maxPart    = maxBody - 1             // of a reply in one message
	// MaxReply is the longest reply to a request, in bytes.
	MaxReply = 1 << 20
)

// request asks for something by the name of a method. Body and answers are
// JSON, but this package does not look into them.
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

// reply is one part of the answer to a request.
//
//	offset  bytes
//	     0      1  1 if another part follows, else 0
//	     1         bytes; all parts together are at most 1,048,576 bytes
type reply struct {
	more bool
	part []byte
}

func appendReply(dst []byte, r *reply) []byte { return append(appendFlag(dst, r.more), r.part...) }

func parseReply(b []byte) (*reply, error) {
	s := scanner{what: "reply", b: b}
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
