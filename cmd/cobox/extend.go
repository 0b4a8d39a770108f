package main

import (
	"slices"

	"cobox/storage/archive/spool"
	"cobox/storage/merklelog"
)

// extendAll does for all own logs that are open what extend does for one.
func (s *space) extendAll() {
	for id, own := range s.spools {
		if err := s.extend(own); err != nil {
			s.a.log.Warn("what boxes hold of an interrupted backup cannot be read there", "log", id, "error", err)
		}
	}
}

// extend lets the blocks of an own log be read as far as boxes have its leaves.
// What a box calls readable is the newest checkpoint all of whose leaves it had
// when it gave a receipt. While a backup is sent, that may lie far behind what
// the box has receipted and this device has let go of, and it stays there if
// either is killed then. Our own tree knows the root at any size.
func (s *space) extend(own *spool.Spool) error {
	s.mu.Lock()
	list := slices.Concat(s.holders[own.ID()], s.begun[own.ID()])
	s.mu.Unlock()
	var reach []holder
	for _, h := range list {
		n := min(h.entry.Leaves, own.Checkpoint().Size)
		if n > 0 && (h.entry.Readable == nil || n > h.entry.Readable.Size) {
			root, err := own.Root(n)
			if err != nil {
				return err
			}
			cp, err := merklelog.SignCheckpoint(s.st.Keys.Signer(), own.ID(), n, root)
			if err != nil {
				return err
			}
			e := *h.entry
			e.Readable = &cp
			h.entry = &e
		}
		if h.entry.Readable != nil {
			reach = append(reach, h)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holders[own.ID()] = reach
	delete(s.begun, own.ID())
	return nil
}
