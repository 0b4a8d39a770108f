package replica

import (
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// minFree and minFreeDivisor: new data is refused below 1 GiB or 2 % free,
	// whichever is more, so that there is always room to compact and to drop.
	minFree        = 1 << 30
	minFreeDivisor = 50

	ballastName = "ballast"
	ballastSize = 64 << 20
	// ballastBelow: the reserve is set aside when there is less free than so
	// many times what is kept free anyway. Before that it would only take room.
	ballastBelow = 4

	spaceInterval = time.Second
	spaceBytes    = 16 << 20 // and after so many bytes at the latest
)

// space watches how much of the disk is free.
type space struct {
	mu    sync.Mutex
	asked time.Time
	bytes int
	low   bool
	known bool
	free  uint64
}

// check returns ErrNoSpace if new data is to be refused.
func (p *space) check(s *Store) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bytes += 64 << 10; p.bytes >= spaceBytes {
		p.lookLocked(s, time.Now())
	} else {
		p.freshLocked(s)
	}
	if p.low {
		return ErrNoSpace
	}
	return nil
}

// freshLocked looks unless that has just been done.
func (p *space) freshLocked(s *Store) {
	if now := time.Now(); p.asked.IsZero() || now.Sub(p.asked) >= spaceInterval {
		p.lookLocked(s, now)
	}
}

func (p *space) lookLocked(s *Store, now time.Time) {
	p.asked, p.bytes = now, 0
	was := p.low
	p.refresh(s)
	if p.low != was {
		s.opts.Logger.Warn("free disk space changed", "refusing_new_data", p.low, "free_bytes", p.free)
	}
}

// Full reports whether new data is refused for lack of space. It is as new as
// the question, also where nothing has been written for a long time.
func (s *Store) Full() bool {
	p := &s.space
	p.mu.Lock()
	defer p.mu.Unlock()
	p.freshLocked(s)
	return p.low
}

// refresh asks how much is free. What cannot be asked is not limited.
func (p *space) refresh(s *Store) {
	free, total, err := s.freeSpace()
	p.known = err == nil
	if err != nil {
		p.low = false
		return
	}
	p.free = free
	kept := max(minFree, total/minFreeDivisor)
	p.low = free < kept
	if free < ballastBelow*kept && !p.low && !s.readOnly && !s.opts.NoBallast {
		s.addBallast()
	}
	if free < ballastSize/2 && !s.readOnly && !s.opts.NoBallast {
		// Somebody else filled the disk. This is what the ballast is for.
		if s.opts.FS.Remove(s.opts.FS.PathJoin(s.dir, ballastName)) == nil {
			s.opts.Logger.Error("the disk is full; the reserve was released", "free_bytes", free)
		}
	}
}

func (s *Store) freeSpace() (free, total uint64, err error) {
	if s.opts.FreeSpace != nil {
		return s.opts.FreeSpace()
	}
	u, err := s.opts.FS.GetDiskUsage(s.dir)
	return u.AvailBytes, u.TotalBytes, err
}

// addBallast sets the reserve aside if there is none. It is allocated, not
// written, where the file system can do that; a store without it works as well,
// until the disk is full.
func (s *Store) addBallast() {
	fs := s.opts.FS
	path := fs.PathJoin(s.dir, ballastName)
	if _, err := fs.Stat(path); err == nil {
		return
	}
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		s.opts.Logger.Warn("no reserve for a full disk", "error", err)
		return
	}
	err = f.Preallocate(0, ballastSize)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		s.opts.Logger.Warn("no reserve for a full disk", "error", err)
		fs.Remove(path)
	}
}
