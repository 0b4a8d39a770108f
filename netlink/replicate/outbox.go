package replicate

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"
)

// Classes of service for what is long. Control messages go before all of them:
// checkpoints, receipts, wants and errors are small and never wait for data.
const (
	classRestore = iota // answers to reads, logs and requests
	classFresh          // leaves and blocks of offers
	classes
)

const (
	maxControl      = 4096    // messages that wait to be written
	maxControlBytes = 1 << 20 // bytes of them
	bulkDepth       = 2       // messages of a class that are made ahead
	goodbyeTime     = 2 * time.Second
)

// outgoing is a message of a class: either msg, or a block in buf.
type outgoing struct {
	msg message
	buf *buffer
}

// outbox collects what is to be written. Whoever sends control messages never
// waits: their number is bounded by what the peer asked for, and a peer that
// asks and does not read is cut off. So the reader can never wait for the
// writer, and two sessions cannot wait for each other in a circle.
type outbox struct {
	wake chan struct{} // holds one token while there may be something to write
	bulk [classes]chan outgoing

	mu      sync.Mutex
	control []message
	spare   []message // the slice that was control before
	bytes   int
	pong    bool
}

func newOutbox() *outbox {
	o := &outbox{wake: make(chan struct{}, 1)}
	for i := range o.bulk {
		o.bulk[i] = make(chan outgoing, bulkDepth)
	}
	return o
}

var errNotReading = errors.New("replicate: the peer asks and does not read the answers")

// send queues a control message.
func (o *outbox) send(m message) error {
	o.mu.Lock()
	full := len(o.control) >= maxControl || o.bytes+len(m) > maxControlBytes
	if !full {
		o.control = append(o.control, m)
		o.bytes += len(m)
	}
	o.mu.Unlock()
	if full {
		return errNotReading
	}
	o.poke()
	return nil
}

// sendPong queues the answer to a ping; any number of pings get one.
func (o *outbox) sendPong() {
	o.mu.Lock()
	o.pong = true
	o.mu.Unlock()
	o.poke()
}

func (o *outbox) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// takeControl returns what waits. The slice is valid until the next call.
func (o *outbox) takeControl() []message {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.pong {
		o.pong = false
		o.control = append(o.control, newMessage(kindPong, 0).finish())
	}
	batch := o.control
	clear(o.spare)
	o.control, o.spare, o.bytes = o.spare[:0], batch, 0
	return batch
}

// sendBulk queues a message of a class and waits while the class is full. On
// error the buffer is still the caller's.
func (s *Session) sendBulk(ctx context.Context, class int, m outgoing) error {
	select {
	case s.out.bulk[class] <- m:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// send queues a control message; if that fails the session ends.
func (s *Session) send(m message) {
	if err := s.out.send(m); err != nil {
		s.fail(err)
	}
}

// write is the writer goroutine. When the session ends it says goodbye and
// closes the connection.
func (s *Session) write(ctx context.Context) {
	err := s.writeAll(ctx)
	if err != nil {
		// A peer that says goodbye and closes makes writing fail before its
		// goodbye has been read, and what it says counts more.
		s.awaitReader(goodbyeTime)
		s.fail(err)
	}
	if ctx.Err() != nil {
		s.sayGoodbye(err)
	}
	s.conn.Close()
	for _, c := range s.out.bulk { // what was made and not written
		for len(c) > 0 {
			s.free((<-c).buf)
		}
	}
}

// writeAll writes until the session ends. Whatever control message was sent
// before a message of a class was queued is written before it: a close must not
// overtake what was said of its offer, nor the first part of an upload its request.
func (s *Session) writeAll(ctx context.Context) error {
	ping := time.NewTimer(s.cfg.Ping)
	defer ping.Stop()
	pings := newMessage(kindPing, 0).finish()
	flushed := true
	var m outgoing
	ok := false // m is to be written
	defer func() {
		if ok {
			s.free(m.buf)
		}
	}()
	for {
		if ctx.Err() != nil {
			return nil
		}
		if !ok {
			m, ok = s.nextBulk()
		}
		wrote := ok
		for _, m := range s.out.takeControl() {
			if err := s.writeMessage(m); err != nil {
				return err
			}
			wrote = true
		}
		if ok {
			ok = false
			if err := s.writeBulk(m); err != nil {
				return err
			}
		}
		if wrote {
			flushed = false
			continue
		}
		if !flushed {
			if err := s.conn.Flush(); err != nil {
				return err
			}
			flushed = true
			ping.Reset(s.cfg.Ping)
			continue // something may have come meanwhile
		}
		select {
		case <-s.out.wake:
		case m = <-s.out.bulk[classRestore]:
			ok = true
		case m = <-s.out.bulk[classFresh]:
			ok = true
		case <-ping.C:
			if err := s.writeMessage(pings); err != nil {
				return err
			}
			flushed = false
		case <-ctx.Done():
			return nil
		}
	}
}

// nextBulk returns the next message by order of service, if there is one.
func (s *Session) nextBulk() (outgoing, bool) {
	for _, c := range s.out.bulk {
		select {
		case m := <-c:
			return m, true
		default:
		}
	}
	return outgoing{}, false
}

func (s *Session) writeBulk(m outgoing) error {
	if m.buf == nil {
		return s.writeMessage(m.msg)
	}
	err := s.writeMessage(m.buf.b[:])
	s.free(m.buf)
	return err
}

// writeMessage writes one message. The peer has s.cfg.Drop to make room for it.
func (s *Session) writeMessage(m message) error {
	now := time.Now()
	if now.Sub(s.writeDeadlineSet) > s.cfg.Drop/16 {
		s.writeDeadlineSet = now
		if err := s.conn.SetWriteDeadline(now.Add(s.cfg.Drop)); err != nil {
			return err
		}
	}
	_, err := s.conn.Write(m)
	return err
}

// awaitReader waits until the reader has come to its end, for so long at most.
func (s *Session) awaitReader(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-s.readerDone:
	case <-s.ctx.Done():
	case <-t.C:
	}
}

// sayGoodbye tells the peer why the session ends, unless writing failed.
func (s *Session) sayGoodbye(err error) {
	bye := s.goodbye()
	if err != nil || bye == nil {
		return
	}
	s.conn.SetWriteDeadline(time.Now().Add(goodbyeTime))
	for _, m := range s.out.takeControl() { // a receipt may be among them
		if _, err := s.conn.Write(m); err != nil {
			return
		}
	}
	m := message(appendError(newMessage(kindGoodbye, 0), bye)).finish()
	if _, err := s.conn.Write(m); err == nil {
		s.conn.Flush()
	}
}

// putBlockHeader makes the buffer a message that carries the block in it.
func putBlockHeader(b *buffer, k kind, id uint32, index uint64) {
	b.b[0] = byte(k)
	binary.BigEndian.PutUint32(b.b[1:], id)
	binary.BigEndian.PutUint32(b.b[5:], blockBody)
	binary.BigEndian.PutUint64(b.b[headerSize:], index)
}
