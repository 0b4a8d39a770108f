package discover

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// Limits of a message.
const (
	// maxMessage is what is read of a message. A longer question is cut, which
	// only loses answers that the sender knows already; a longer answer is none
	// of a box.
	maxMessage   = 1500
	maxQuestions = 32 // of a message, before it is given up
	maxRecords   = 64 // of a message, before it is given up
	maxAddresses = 8  // of each family, that one message tells
)

// How long an answer may be remembered, in seconds: that of a host name
// (RFC 6762, section 10), and at most what a plain resolver may be told
// (section 6.7).
const (
	ttl       = 120
	ttlLegacy = 10
)

// topBit marks, in the class of a question, that the answer is wanted by unicast
// (section 5.4), and in that of a record, that it replaces older ones
// (section 10.2).
const topBit = 1 << 15

// hostName makes the wire form of "cobox-ab3d.local".
func hostName(host string) (dnsmessage.Name, error) {
	label, ok := strings.CutSuffix(host, Domain)
	if !ok || label == "" || len(label) > 63 || strings.Contains(label, ".") {
		return dnsmessage.Name{}, fmt.Errorf("discover: %q is not one name and %q", host, Domain)
	}
	name, err := dnsmessage.NewName(host + ".")
	if err != nil {
		return name, fmt.Errorf("discover: name %q: %w", host, err)
	}
	return name, nil
}

// same compares names as DNS does, without regard to case. The library refuses
// labels with a dot inside, so equal text is equal labels.
func same(a, b *dnsmessage.Name) bool {
	return a.Length == b.Length && bytes.EqualFold(a.Data[:a.Length], b.Data[:b.Length])
}

// query is what a message asks about one name.
type query struct {
	id        uint16
	questions []dnsmessage.Question // those about the name, at most two
	v4, v6    bool                  // which addresses are wanted
	unicast   bool                  // the answer is wanted by unicast
}

// parseQuery reads what a message asks about name. It reports false for anything
// that is no question about it.
func parseQuery(msg []byte, name *dnsmessage.Name) (q query, ok bool) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || h.Response || h.OpCode != 0 || h.RCode != 0 {
		return q, false
	}
	q.id = h.ID
	for range maxQuestions {
		question, err := p.Question()
		if err != nil {
			break // the end, or the part behind it is cut off
		}
		if !same(&question.Name, name) || question.Class&^topBit != dnsmessage.ClassINET && question.Class&^topBit != dnsmessage.ClassANY {
			continue
		}
		v4 := question.Type == dnsmessage.TypeA || question.Type == dnsmessage.TypeALL
		v6 := question.Type == dnsmessage.TypeAAAA || question.Type == dnsmessage.TypeALL
		if !(v4 && !q.v4) && !(v6 && !q.v6) {
			continue // another type, or asked before
		}
		q.v4, q.v6 = q.v4 || v4, q.v6 || v6
		q.unicast = q.unicast || question.Class&topBit != 0
		question.Class &^= topBit
		q.questions = append(q.questions, question)
	}
	return q, q.v4 || q.v6
}

// appendQuery appends the question for all addresses of a name.
func appendQuery(b []byte, id uint16, name dnsmessage.Name) ([]byte, error) {
	m := dnsmessage.NewBuilder(b, dnsmessage.Header{ID: id})
	if err := m.StartQuestions(); err != nil {
		return nil, err
	}
	for _, t := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		if err := m.Question(dnsmessage.Question{Name: name, Type: t, Class: dnsmessage.ClassINET | topBit}); err != nil {
			return nil, err
		}
	}
	return m.Finish()
}

// appendAnswer appends the answer to q. What was not asked for goes along as
// additional records, as section 6.2 recommends. It reports false if there is
// nothing to say. A legacy answer goes to a plain resolver (section 6.7).
func appendAnswer(b []byte, q *query, name dnsmessage.Name, addresses []netip.Addr, legacy bool) ([]byte, bool) {
	h := dnsmessage.Header{Response: true, Authoritative: true}
	record := dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET | topBit, TTL: ttl}
	if legacy {
		h.ID = q.id
		record.Class, record.TTL = dnsmessage.ClassINET, ttlLegacy
	}
	m := dnsmessage.NewBuilder(b, h)
	m.EnableCompression()
	err := m.StartQuestions()
	if legacy {
		for _, question := range q.questions {
			if err == nil {
				err = m.Question(question)
			}
		}
	}
	answers := 0
	for _, asked := range []bool{true, false} {
		if err == nil && asked {
			err = m.StartAnswers()
		} else if err == nil {
			err = m.StartAdditionals()
		}
		n4, n6 := 0, 0
		for _, a := range addresses {
			wanted, n := q.v6, &n6
			if a.Is4() {
				wanted, n = q.v4, &n4
			}
			if wanted != asked || *n == maxAddresses || err != nil {
				continue
			}
			if *n++; asked {
				answers++
			}
			if a.Is4() {
				err = m.AResource(record, dnsmessage.AResource{A: a.As4()})
			} else {
				err = m.AAAAResource(record, dnsmessage.AAAAResource{AAAA: a.As16()})
			}
		}
	}
	if err != nil || answers == 0 {
		return nil, false
	}
	out, err := m.Finish()
	return out, err == nil
}

// parseAnswer returns the addresses that a message gives for name, in answer to
// the question with the number id. It leaves out what nobody can dial.
func parseAnswer(msg []byte, id uint16, name *dnsmessage.Name) []netip.Addr {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || !h.Response || h.ID != id || h.OpCode != 0 || h.RCode != dnsmessage.RCodeSuccess {
		return nil
	}
	if err := p.SkipAllQuestions(); err != nil {
		return nil
	}
	var list []netip.Addr
	n4, n6 := 0, 0
	take := func(next func() (dnsmessage.ResourceHeader, error), skip func() error) bool {
		for range maxRecords {
			r, err := next()
			if err == dnsmessage.ErrSectionDone {
				return true
			}
			if err != nil {
				return false
			}
			var a netip.Addr
			n := &n4
			switch ours := same(&r.Name, name) && r.Class&^topBit == dnsmessage.ClassINET && r.TTL > 0; {
			case ours && r.Type == dnsmessage.TypeA:
				body, err := p.AResource()
				if err != nil {
					return false
				}
				a = netip.AddrFrom4(body.A)
			case ours && r.Type == dnsmessage.TypeAAAA:
				body, err := p.AAAAResource()
				if err != nil {
					return false
				}
				a, n = netip.AddrFrom16(body.AAAA), &n6
			default:
				if err := skip(); err != nil {
					return false
				}
				continue
			}
			if dialable(a) && *n < maxAddresses {
				*n++
				list = append(list, a)
			}
		}
		return false
	}
	if take(p.AnswerHeader, p.SkipAnswer) && p.SkipAllAuthorities() == nil {
		take(p.AdditionalHeader, p.SkipAdditional)
	}
	return list
}

// dialable tells whether a could be the address of a box in this network.
func dialable(a netip.Addr) bool {
	return a.IsValid() && !a.Is4In6() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
