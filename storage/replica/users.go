package replica

import "sync"

// users counts calls that are under way, so that Close can wait for them. A
// call made from within another, or from a loop over an iterator, is counted
// too and fails once Close has begun, instead of waiting for it for ever.
type users struct {
	mu     sync.Mutex
	closed bool
	calls  sync.WaitGroup
}

func (u *users) enter() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return ErrClosed
	}
	u.calls.Add(1)
	return nil
}

func (u *users) leave() { u.calls.Done() }

// close refuses new calls and waits for those under way.
func (u *users) close() {
	u.mu.Lock()
	u.closed = true
	u.mu.Unlock()
	u.calls.Wait()
}

// enterRead begins a call that reads, enterWrite one that writes. If they
// return nil, users.leave ends the call.
func (s *Store) enterRead() error {
	if err := s.usable(); err != nil {
		return err
	}
	return s.users.enter()
}

func (s *Store) enterWrite() error {
	if err := s.writable(); err != nil {
		return err
	}
	return s.users.enter()
}
