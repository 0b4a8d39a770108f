package fstree

import (
	"container/list"
	"sync"
)

// A pool bounds how many handles are open. What is not in use is closed, the
// longest unused first, and opened again when it is needed.
type pool struct {
	mu    sync.Mutex
	limit int
	idle  list.List // of *pooled, the longest unused first
	open  int
	done  bool // nothing stays open that is not in use
}

func newPool(limit int) *pool { return &pool{limit: limit} }

// A pooled is a handle that may be closed while nobody uses it.
type pooled struct {
	opening sync.Mutex // held while it is being opened

	// Under pool.mu.
	close func() error // nil while closed
	err   error        // the first that closing it has returned
	users int
	elem  *list.Element
}

// acquire makes sure that h is open, by open if need be, and keeps it so until
// release.
func (p *pool) acquire(h *pooled, open func() (close func() error, err error)) error {
	if p.take(h) {
		return nil
	}
	h.opening.Lock()
	defer h.opening.Unlock()
	if p.take(h) {
		return nil
	}
	c, err := open()
	if err != nil {
		return err
	}
	p.mu.Lock()
	h.close = c
	h.users = 1
	p.open++
	p.shrink()
	p.mu.Unlock()
	return nil
}

func (p *pool) take(h *pooled) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h.close == nil {
		return false
	}
	h.users++
	if h.elem != nil {
		p.idle.Remove(h.elem)
		h.elem = nil
	}
	return true
}

func (p *pool) release(h *pooled) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h.users--; h.users == 0 && h.close != nil {
		h.elem = p.idle.PushBack(h)
		if p.done {
			p.drop(h)
		}
		p.shrink()
	}
}

// forget closes h for good; nobody may be using it. It returns the first error
// that closing h has ever returned: some file systems tell only then that what
// was written could not be stored.
func (p *pool) forget(h *pooled) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(h)
	return h.err
}

func (p *pool) shrink() {
	for p.open > p.limit && p.idle.Len() > 0 {
		p.drop(p.idle.Front().Value.(*pooled))
	}
}

func (p *pool) drop(h *pooled) {
	if h.elem != nil {
		p.idle.Remove(h.elem)
		h.elem = nil
	}
	if h.close != nil {
		if err := h.close(); h.err == nil {
			h.err = err
		}
		h.close = nil
		p.open--
	}
}

func (p *pool) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = true
	for p.idle.Len() > 0 {
		p.drop(p.idle.Front().Value.(*pooled))
	}
}
