package fstree

import (
	"time"

	"github.com/zeebo/blake3"
)

// A Stat is what the system says of a directory entry without opening it.
type Stat struct {
	Kind       Kind
	Mode       uint16 // permission, set-id and sticky bits
	UID, GID   uint32
	Size       uint64 // as the system gives it; for a file its length
	Blocks     uint64 // of 512 bytes that it takes up; 0 where unknown
	ModTime    Time
	ChangeTime Time // of the inode; where unknown, ModTime
	Device     uint64
	Inode      uint64 // 0 where unknown
	Links      uint64 // names; 1 where unknown
	Rdev       Device // of a block or character device
}

// Link returns what all names of this file have in common, or zero if it has
// only one name or is a directory.
func (s *Stat) Link() LinkID {
	if s.Links < 2 || s.Kind == Directory || s.Inode == 0 {
		return LinkID{}
	}
	return LinkID{s.Device, s.Inode}
}

// SameFile reports whether s and t are of one inode and kind.
func (s *Stat) SameFile(t *Stat) bool {
	return s.Kind == t.Kind && s.Device == t.Device && s.Inode == t.Inode
}

// SameContent reports whether s and t are of one file that has not been
// written to, nor had its attributes changed, between the two, as far as
// times tell. See RacyAt.
func (s *Stat) SameContent(t *Stat) bool {
	return s.SameFile(t) && s.Size == t.Size && s.ModTime == t.ModTime && s.ChangeTime == t.ChangeTime
}

// racyWindow is longer than the step of the times of the usual Linux file
// systems (at most 10 ms) and of most others.
const racyWindow = 2 * time.Second

// RacyAt reports whether the entry was changed so shortly before start, or in
// the day after, that a later change may leave it with the same times: file
// systems stamp with a step of some milliseconds. Do not conclude from equal
// times with a Stat for which this is true that nothing was written since. A
// change time further in the future comes from a clock that was wrong then,
// and a change under today's clock gets another.
func (s *Stat) RacyAt(start time.Time) bool {
	return s.ChangeTime.Compare(TimeOf(start.Add(-racyWindow))) >= 0 &&
		s.ChangeTime.Compare(TimeOf(start.Add(24*time.Hour))) < 0
}

// fingerprint digests names and stat data. Left out are what does not reach a
// node (blocks, a directory's own size) and device numbers where they are no
// part of a link number, because they change when a disk is mounted again.
func (d *Dir) fingerprint() [32]byte {
	b := make([]byte, 0, 128*len(d.Entries)+8)
	flag := func(v bool) byte {
		if v {
			return 1
		}
		return 0
	}
	b = append(b, 1, flag(d.Partial), flag(d.Incomplete))
	for i := range d.Entries {
		e := &d.Entries[i]
		b = be.AppendUint16(b, uint16(len(e.Name)))
		b = append(b, e.Name...)
		b = append(b, byte(e.Kind), flag(e.Dir != 0))
		b = be.AppendUint16(b, e.Mode)
		b = be.AppendUint32(b, e.UID)
		b = be.AppendUint32(b, e.GID)
		size := e.Size
		if e.Kind == Directory {
			size = 0
		}
		b = be.AppendUint64(b, size)
		b = appendTime(appendTime(b, e.ModTime), e.ChangeTime)
		b = be.AppendUint64(b, e.Inode)
		l := e.Link()
		b = be.AppendUint64(be.AppendUint64(b, l.Device), l.Inode)
		b = be.AppendUint32(be.AppendUint32(b, e.Rdev.Major), e.Rdev.Minor)
	}
	return blake3.Sum256(b)
}

func appendTime(b []byte, t Time) []byte {
	return be.AppendUint32(be.AppendUint64(b, uint64(t.Sec)), t.Nsec)
}
