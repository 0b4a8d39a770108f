package spool

import (
	"fmt"
	"strconv"
	"strings"
	"sync"

	"cobox/storage/merklelog"
)

const (
	partSuffix   = ".part"   // being written, or not synced since: its blocks are checked at Open
	blocksSuffix = ".blocks" // synced and complete when it got this name
)

// segment is a file of consecutive sealed blocks, and of nothing else.
type segment struct {
	first uint64 // index of the first block
	end   uint64 // no block of this or a higher index is ever put here
	fresh bool   // written by this process, so its blocks need no checking

	// Under Spool.mu.
	count    uint64            // blocks
	bad      []merklelog.Range // blocks found not to match their leaves
	busy     bool              // a block is being written that count does not count yet
	released bool

	// mu guards the handle: held for reading while the file is read or written,
	// for writing while it is opened, renamed or removed.
	mu    sync.RWMutex
	fs    FS
	f     File
	clean bool // synced, and named .blocks
	gone  bool
}

func segmentName(first uint64, clean bool) string {
	suffix := partSuffix
	if clean {
		suffix = blocksSuffix
	}
	return fmt.Sprintf("%016x%s", first, suffix)
}

// parseSegmentName returns what segmentName was given.
func parseSegmentName(name string) (first uint64, clean, ok bool) {
	digits, clean := strings.CutSuffix(name, blocksSuffix)
	if !clean {
		digits, ok = strings.CutSuffix(name, partSuffix)
		if !ok {
			return 0, false, false
		}
	}
	first, err := strconv.ParseUint(digits, 16, 64)
	if err != nil || segmentName(first, clean) != name || first >= merklelog.MaxSize {
		return 0, false, false
	}
	return first, clean, true
}

// newSegment creates the file for the block of index first and those after it,
// up to the next multiple of blocks.
func newSegment(fs FS, first, blocks uint64) (*segment, error) {
	f, err := fs.Open(segmentName(first, false), true)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(0); err != nil { // left over from a removal that failed
		f.Close()
		return nil, err
	}
	return &segment{first: first, end: (first/blocks + 1) * blocks, fresh: true, fs: fs, f: f}, nil
}

// write puts a block at its place. Only the holder of Spool.writing calls it.
func (g *segment) write(index uint64, block []byte) error {
	g.mu.RLock()
	defer g.mu.RUnlock()
	_, err := g.f.WriteAt(block, int64(index-g.first)*merklelog.BlockSize)
	return err
}

// read fills dst with a block.
func (g *segment) read(index uint64, dst []byte) error {
	if err := g.rlock(); err != nil {
		return err
	}
	defer g.mu.RUnlock()
	return readFull(g.f, dst, int64(index-g.first)*merklelog.BlockSize)
}

// rlock locks the handle for reading with the file open, or returns ErrNotHere
// if the file was removed.
func (g *segment) rlock() error {
	for {
		g.mu.RLock()
		switch {
		case g.gone:
			g.mu.RUnlock()
			return ErrNotHere
		case g.f != nil:
			return nil
		}
		g.mu.RUnlock()
		if err := g.reopen(); err != nil {
			return err
		}
	}
}

func (g *segment) reopen() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.f != nil || g.gone {
		return nil
	}
	f, err := g.fs.Open(segmentName(g.first, g.clean), false)
	if err != nil {
		return err
	}
	g.f = f
	return nil
}

// sync makes the blocks written so far durable, except for the directory entry.
func (g *segment) sync() error {
	if err := g.rlock(); err != nil {
		if err == ErrNotHere {
			return nil
		}
		return err
	}
	defer g.mu.RUnlock()
	if g.clean {
		return nil
	}
	return g.f.Sync()
}

// seal gives a synced segment, to which nothing is added any more, the name that
// says so. That the name is not durable yet costs a check after a power cut. A
// segment with bad blocks keeps its name: only the check at Open finds them again.
func (s *Spool) seal(g *segment) error {
	s.mu.Lock()
	bad := len(g.bad) > 0
	s.mu.Unlock()
	if bad {
		return nil
	}
	return g.seal()
}

func (g *segment) seal() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.clean || g.gone {
		return nil
	}
	if g.f != nil {
		// Windows renames no open file.
		err := g.f.Close()
		g.f = nil
		if err != nil {
			return err
		}
	}
	if err := g.fs.Rename(segmentName(g.first, false), segmentName(g.first, true)); err != nil {
		return err
	}
	g.clean = true
	return nil
}

// finish is for Close: it cuts off blocks from size on and syncs what is left,
// so that it can be sealed, or removes the file if nothing is.
func (g *segment) finish(size uint64) error {
	if g.first >= size {
		return g.remove()
	}
	if !g.fresh || g.clean {
		return nil // as it was found, or done
	}
	if g.first+g.count > size {
		if err := g.truncate(size - g.first); err != nil {
			return err
		}
	}
	return g.sync()
}

// truncate cuts the file to a number of blocks.
func (g *segment) truncate(count uint64) error {
	if err := g.rlock(); err != nil {
		return err
	}
	defer g.mu.RUnlock()
	return g.f.Truncate(int64(count) * merklelog.BlockSize)
}

// remove closes and removes the file. Readers get ErrNotHere from now on.
func (g *segment) remove() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone {
		return nil
	}
	g.gone = true
	if g.f != nil {
		g.f.Close() // nothing in it is wanted any more
		g.f = nil
	}
	return g.fs.Remove(segmentName(g.first, g.clean))
}

// close closes the handle; read opens it again.
func (g *segment) close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.f == nil {
		return nil
	}
	err := g.f.Close()
	g.f = nil
	return err
}
