package fstree

import (
	"errors"
	"testing"
)

// A file system that tells only at closing that it could not store what was
// written tells it of a file that the pool has closed, too.
func TestPoolKeepsErrorsOfClosing(t *testing.T) {
	p := newPool(1)
	full := errors.New("no room")
	var a, b pooled
	for _, h := range []*pooled{&a, &b, &a} { // each closes the one before
		opened := h == &a && a.err == nil
		if err := p.acquire(h, func() (func() error, error) {
			return func() error {
				if opened {
					return full
				}
				return nil
			}, nil
		}); err != nil {
			t.Fatal(err)
		}
		p.release(h)
	}
	if err := p.forget(&a); err != full {
		t.Errorf("a was forgotten with %v", err)
	}
	if err := p.forget(&b); err != nil {
		t.Errorf("b was forgotten with %v", err)
	}
}
