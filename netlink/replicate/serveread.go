package replicate

import (
	"fmt"
	"math/bits"
	"sync/atomic"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// readJob is a read or a list that the peer asked for.
type readJob struct {
	id       uint32
	read     *read      // nil for a list
	who      account.ID // of a list
	canceled atomic.Bool
}

func (j *readJob) cancel() (over bool) {
	j.canceled.Store(true)
	return false
}

// readAsked queues a read of the peer.
func (s *Session) readAsked(id uint32, body []byte) error {
	r, err := parseRead(body)
	if err != nil {
		return violation("reading a read", err)
	}
	return s.enqueueRead(&readJob{id: id, read: r})
}

// logsAsked queues a list of the logs of an account.
//
//	offset  bytes
//	     0     32  account
func (s *Session) logsAsked(id uint32, body []byte) error {
	c := scanner{what: "logs", b: body}
	j := &readJob{id: id}
	c.copy(j.who[:])
	if err := c.done(); err != nil {
		return violation("reading a request", err)
	}
	return s.enqueueRead(j)
}

func (s *Session) enqueueRead(j *readJob) error {
	if s.cfg.Box == nil {
		s.send(message(appendError(newMessage(kindError, j.id), &Error{Code: CodeNotAllowed, Message: "this side serves no reads"})).finish())
		return nil
	}
	s.mu.Lock()
	_, twice := s.jobs[j.id]
	full := s.reading >= maxRequests
	if !twice && !full {
		s.jobs[j.id] = j
		s.reading++
	}
	s.mu.Unlock()
	if twice || full {
		return violationf("reading a request", "request %d is open already, or too many are", j.id)
	}
	s.reads <- j // has room for maxRequests
	return nil
}

// serveReads is the goroutine that answers reads and lists, in turn.
func (s *Session) serveReads() {
	for {
		select {
		case j := <-s.reads:
			err := s.serveRead(j)
			if s.ctx.Err() != nil {
				return
			}
			// The peer may use the id again once it has the last answer.
			s.mu.Lock()
			delete(s.jobs, j.id)
			s.reading--
			s.mu.Unlock()
			if err != nil {
				e := s.storeError("serving a read", err)
				s.sendBulk(s.ctx, classRestore, outgoing{msg: message(appendError(newMessage(kindError, j.id), e)).finish()})
			}
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *Session) serveRead(j *readJob) error {
	if j.canceled.Load() {
		return &Error{Code: CodeCanceled}
	}
	if j.read == nil {
		return s.serveLogs(j)
	}
	r := j.read
	if err := s.mayRead(r); err != nil {
		return err
	}
	for _, t := range r.paths {
		msg, err := s.makePath(j.id, r, t)
		if err != nil {
			return err
		}
		if err := s.sendBulk(s.ctx, classRestore, outgoing{msg: msg}); err != nil {
			return err
		}
	}
	for _, i := range r.indexes {
		if j.canceled.Load() {
			return &Error{Code: CodeCanceled}
		}
		out, err := s.makeData(j.id, r.log, i)
		if err != nil {
			return err
		}
		if err := s.sendBulk(s.ctx, classRestore, out); err != nil {
			s.free(out.buf)
			return err
		}
	}
	return nil
}

// mayRead checks that the peer may read the log and that paths to the size can
// be made. It asks the store once, and again only for a larger size: whoever
// removes a member or a log ends its sessions too.
func (s *Session) mayRead(r *read) error {
	leaves, ok := s.readChecked[r.log]
	if ok && r.size <= leaves {
		return nil
	}
	box := s.cfg.Box
	state, err := box.Store.Log(r.log)
	if err != nil {
		return err
	}
	if err := box.Authorizer.MayRead(s.ctx, s.cfg.Peer, r.log, state.Manifest); err != nil {
		return err
	}
	if len(s.readChecked) >= 1024 {
		clear(s.readChecked)
	}
	s.readChecked[r.log] = state.Leaves
	if r.size > state.Leaves {
		return &Error{Code: CodeNotHeld, Message: fmt.Sprintf("only %d leaves of the log are here", state.Leaves)}
	}
	return nil
}

// makePath makes the answer for one subtree. Its leaves tell their own inner
// nodes, so only the part of the path above it is sent.
func (s *Session) makePath(id uint32, r *read, t subtree) (message, error) {
	store := s.cfg.Box.Store
	n := t.count(r.size)
	leaves, err := store.Leaves(r.log, t.first, n)
	if err != nil {
		return nil, err
	}
	if len(leaves) != n {
		return nil, fmt.Errorf("replicate: store gave %d leaves of %d", len(leaves), n)
	}
	proof, err := store.Inclusion(r.log, t.first, r.size)
	if err != nil {
		return nil, err
	}
	inner := bits.Len(uint(n - 1))
	if len(proof) < inner {
		return nil, fmt.Errorf("replicate: store gave an inclusion path of %d hashes", len(proof))
	}
	p := path{first: t.first, leaves: leaves, proof: proof[inner:]}
	return message(appendPath(newMessage(kindPath, id), &p)).finish(), nil
}

// makeData makes the answer for one block.
func (s *Session) makeData(id uint32, log merklelog.LogID, i uint64) (outgoing, error) {
	box := s.cfg.Box
	buf := s.cfg.Limits.get()
	err := box.Store.ReadBlock(log, i, buf.block())
	if err == nil {
		putBlockHeader(buf, kindData, id, i)
		return outgoing{buf: buf}, nil
	}
	s.free(buf)
	a := absent{index: i, code: s.code(err)}
	switch a.code {
	case CodeNotHeld:
	case CodeDamaged, CodeInternal:
		// What lies on a bad sector is damaged as well, and the next block may be whole.
		a.code = CodeDamaged
		s.cfg.Logger.Error("a block that was asked for is damaged or cannot be read", "log", log, "index", i, "error", err)
	default:
		return outgoing{}, err
	}
	return outgoing{msg: message(appendAbsent(newMessage(kindAbsent, id), a)).finish()}, nil
}

func (s *Session) serveLogs(j *readJob) error {
	box := s.cfg.Box
	if box.Logs == nil {
		return &Error{Code: CodeUnsupported}
	}
	if err := box.Authorizer.MayList(s.ctx, s.cfg.Peer, j.who); err != nil {
		return err
	}
	n := uint32(0)
	for e, err := range box.Logs(s.ctx, j.who) {
		switch {
		case err != nil:
			return err
		case j.canceled.Load():
			return &Error{Code: CodeCanceled}
		case n == maxLogs:
			return &Error{Code: CodeTooLarge, Message: "too many logs for one list"}
		}
		msg := message(appendLogEntry(newMessage(kindLog, j.id), e)).finish()
		if err := s.sendBulk(s.ctx, classRestore, outgoing{msg: msg}); err != nil {
			return err
		}
		n++
	}
	msg := message(appendLogsEnd(newMessage(kindLogsEnd, j.id), n)).finish()
	return s.sendBulk(s.ctx, classRestore, outgoing{msg: msg})
}
