package replicate

import (
	"encoding/binary"
	"unicode/utf8"
)

const (
	maxName      = 64
	maxAddresses = 8
	maxAddress   = 128
)

// FeatureUploads is the bit of Hello.Features of a side that takes uploads with
// requests. A session sets it by itself.
const FeatureUploads uint64 = 1 << 0

// BootID names one run of a program, so that a peer sees that it restarted.
type BootID [16]byte

// FeatureWaiting is the bit of a box that waits for its data: it answers
// requests about that and refuses all else with CodeWaiting. As far as logs go
// it is not there.
const FeatureWaiting uint64 = 1 << 1

// Hello is what each side states first.
//
//	offset  bytes
//	     0      2  protocol version
//	     2      8  features, a bit each; unknown bits are ignored
//	    10     16  boot id
//	    26      1  n, length of the name, at most 64
//	    27      n  name, UTF-8 without control characters
//	  27+n      1  number of addresses, at most 8
//	               for each: length u8 (1 to 128), host:port in printable ASCII
type Hello struct {
	Version   uint16
	Features  uint64
	Boot      BootID
	Name      string
	Addresses []string // where this side can be dialled now; a device keeps the last 8
}

func appendHello(dst []byte, h *Hello) []byte {
	dst = binary.BigEndian.AppendUint16(dst, h.Version)
	dst = binary.BigEndian.AppendUint64(dst, h.Features)
	dst = append(dst, h.Boot[:]...)
	dst = append(dst, byte(len(h.Name)))
	dst = append(dst, h.Name...)
	dst = append(dst, byte(len(h.Addresses)))
	for _, a := range h.Addresses {
		dst = append(dst, byte(len(a)))
		dst = append(dst, a...)
	}
	return dst
}

func parseHello(b []byte) (*Hello, error) {
	s := scanner{what: "hello", b: b}
	h := &Hello{Version: s.u16(), Features: s.u64()}
	s.copy(h.Boot[:])
	h.Name = string(s.take(int(s.u8())))
	n := int(s.u8())
	if n > maxAddresses {
		s.fail("%d addresses", n)
	}
	for range n {
		if s.err != nil {
			break
		}
		h.Addresses = append(h.Addresses, string(s.take(int(s.u8()))))
	}
	if err := s.done(); err != nil {
		return nil, err
	}
	if err := h.check(); err != "" {
		s.fail("%s", err)
		return nil, s.err
	}
	return h, nil
}

// check says what is wrong with a hello, or nothing.
func (h *Hello) check() string {
	if len(h.Name) > maxName || cleanText(h.Name, maxName) != h.Name {
		return "name is too long or has control characters"
	}
	if len(h.Addresses) > maxAddresses {
		return "too many addresses"
	}
	for _, a := range h.Addresses {
		if len(a) == 0 || len(a) > maxAddress {
			return "address is empty or too long"
		}
		for i := range len(a) {
			if a[i] <= ' ' || a[i] > '~' {
				return "address is not printable ASCII"
			}
		}
	}
	return ""
}

// appendError appends the body of an error, a close or a goodbye.
//
//	offset  bytes
//	     0      2  code
//	     2         message for people, at most 1,024 bytes of UTF-8 without control characters
func appendError(dst []byte, e *Error) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(e.Code))
	return append(dst, cleanText(e.Message, maxMessage)...)
}

func parseError(b []byte) (*Error, error) {
	s := scanner{what: "error", b: b}
	e := &Error{Code: Code(s.u16())}
	e.Message = string(s.rest())
	if s.err == nil && (len(e.Message) > maxMessage || cleanText(e.Message, maxMessage) != e.Message) {
		s.fail("message is too long or has control characters")
	}
	if err := s.done(); err != nil {
		return nil, err
	}
	return e, nil
}

// cleanText returns text as it may travel: valid UTF-8 without control
// characters, cut to limit bytes at a character's boundary. What a peer wrote
// ends up on terminals and in logs.
func cleanText(text string, limit int) string {
	clean := true
	for _, r := range text {
		if r < ' ' || r == utf8.RuneError || (r >= 0x7f && r < 0xa0) {
			clean = false
			break
		}
	}
	if clean && len(text) <= limit {
		return text
	}
	out := make([]byte, 0, min(len(text), limit))
	for _, r := range text {
		if r < ' ' || r == utf8.RuneError || (r >= 0x7f && r < 0xa0) {
			r = '?'
		}
		if len(out)+utf8.RuneLen(r) > limit {
			break
		}
		out = utf8.AppendRune(out, r)
	}
	return string(out)
}
