package replicate

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"cobox/storage/merklelog"
)

// rawPeer speaks frames to a session, honest or not.
type rawPeer struct {
	t    testing.TB
	conn net.Conn
	got  chan frame // everything that the session sends
	mu   sync.Mutex // of writes
}

type frame struct {
	header
	body []byte
}

// newRawPeer starts a session with this configuration and returns what speaks to it.
func newRawPeer(t testing.TB, cfg Config) (*rawPeer, *running) {
	t.Helper()
	a, b := net.Pipe()
	s := startSession(t, a, cfg)
	p := &rawPeer{t: t, conn: b, got: make(chan frame, 100000)}
	go p.receive()
	p.send(kindHello, 0, appendHello(nil, &Hello{Version: Version, Name: "raw"}))
	p.want(kindHello)
	return p, s
}

func (p *rawPeer) receive() {
	defer close(p.got)
	for {
		var head [headerSize]byte
		if _, err := io.ReadFull(p.conn, head[:]); err != nil {
			return
		}
		h, err := parseHeader(head[:])
		if err != nil {
			p.t.Error(err)
			return
		}
		body := make([]byte, h.length)
		if _, err := io.ReadFull(p.conn, body); err != nil {
			return
		}
		p.got <- frame{h, body}
	}
}

// send writes a message; an error is only that the session has ended.
func (p *rawPeer) send(k kind, id uint32, body []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := appendHeader(nil, header{k, id, uint32(len(body))})
	_, err := p.conn.Write(append(b, body...))
	return err
}

// want returns the next message of a kind and skips others.
func (p *rawPeer) want(k kind) frame {
	p.t.Helper()
	for f := range p.got {
		if f.kind == k {
			return f
		}
	}
	p.t.Fatalf("the session ended without a %v", k)
	return frame{}
}

// wantViolation waits until the session ends because the peer misbehaved, and
// checks that it said so.
func (p *rawPeer) wantViolation(s *running) {
	p.t.Helper()
	for f := range p.got {
		if f.kind == kindGoodbye {
			if e, err := parseError(f.body); err != nil || e.Code != CodeProtocol {
				p.t.Errorf("goodbye %v, %v", e, err)
			}
			break
		}
	}
	p.conn.Close()
	err := <-s.end
	var v *ViolationError
	if !errors.As(err, &v) {
		p.t.Errorf("the session ended with %v, want a violation", err)
	} else if testing.Verbose() {
		p.t.Log(err)
	}
}

// leave ends the conversation in order.
func (p *rawPeer) leave(s *running) {
	p.t.Helper()
	p.send(kindGoodbye, 0, appendError(nil, &Error{}))
	p.conn.Close()
	if err := <-s.end; err != nil {
		p.t.Errorf("the session ended with %v", err)
	}
}

func (p *rawPeer) offer(id uint32, log *TestLog) {
	p.send(kindOffer, id, appendOffer(nil, &offer{log.Checkpoint(), log.manifest}))
}

// batch returns leaves as an honest peer would send them.
func batch(log *TestLog, first uint64, n int, size uint64) merklelog.Batch {
	return merklelog.Batch{First: first, Leaves: must(log.Leaves(first, n)), Proof: must(log.Consistency(first+uint64(n), size))}
}

func blockBodyOf(log *TestLog, i uint64) []byte {
	b := make([]byte, blockBody)
	b[7], b[6] = byte(i), byte(i>>8)
	log.fill(i, b[8:])
	return b
}

// upTo leads an honest conversation up to some message and returns with a log
// of 40 blocks of which all are wanted.
func (p *rawPeer) upToWant(log *TestLog) {
	p.t.Helper()
	p.offer(1, log)
	p.want(kindKnown)
	w := must(parseWantLeaves(p.want(kindWantLeaves).body))
	p.send(kindLeaves, 1, merklelog.AppendBatch(nil, batch(log, w.first, int(w.count), w.size)))
	p.want(kindWant)
}
