package fstree

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// An Overwrite says what a restore does where a name is taken already.
type Overwrite uint8

const (
	// OverwriteRefuse wants a target that is new or empty, or in which a
	// restore of the same snapshot was interrupted; that one it continues.
	OverwriteRefuse Overwrite = iota
	// OverwriteAlways replaces.
	OverwriteAlways
	// OverwriteIfChanged replaces unless kind, size and modification time
	// (for links the target, for devices the number) are those of the node.
	OverwriteIfChanged
	// OverwriteNever leaves what is there, a directory's own metadata too.
	OverwriteNever
)

// TargetOptions are the choices of a restore.
type TargetOptions struct {
	// Snapshot identifies what is restored, so that an interrupted restore
	// is recognised.
	Snapshot [32]byte
	// InPlace restores to where things were: links above what was backed up
	// are followed, and no marker file is written.
	InPlace   bool
	Overwrite Overwrite
	// Delete removes what is in a restored directory but was not asked for,
	// never in a partial one nor in the target itself.
	Delete bool
	// DryRun changes nothing and counts what would be done.
	DryRun bool
	// Holds, if set, reports whether the file f, which an interrupted restore may
	// have left, has the contents of n. Its size and time prove nothing: a power cut,
	// or pulling out a stick, can leave those and not what was written.
	Holds func(n *Node, f io.ReaderAt) bool
	// MaxOpen bounds the files and directories held open; 0 means 256.
	MaxOpen int
	// Note, if set, is told what cannot be returned by a method. It is called
	// from the goroutines that use the target.
	Note func(Note)
}

// A NoteKind says what a Note is about.
type NoteKind uint8

const (
	NoteFailed  NoteKind = iota + 1 // an entry, or a directory's metadata, is not as it should be
	NoteXattr                       // an extended attribute was refused by the system
	NoteSpecial                     // a device, or a socket, was not made
	NoteDeleted                     // removed because of Delete, or would be
)

// A Note is something worth telling about one path of a target.
type Note struct {
	Kind NoteKind
	Path string // relative to the target
	Err  error  // nil for NoteDeleted
}

// TargetStats counts what a restore did, or would do in a dry run.
type TargetStats struct {
	Files, Bytes uint64 // made or replaced, with content
	Links        uint64 // further names of files
	Dirs         uint64 // made
	Others       uint64 // symbolic links, devices, fifos
	Unchanged    uint64 // found as they should be (OverwriteIfChanged)
	Kept         uint64 // found and left (OverwriteNever)
	Deleted      uint64
	Failed       uint64 // told by NoteFailed
	// What the system or missing privilege did not allow; no failures.
	OwnersSkipped, SetIDDropped, XattrsSkipped, SpecialsSkipped uint64
}

var (
	// ErrNotEmpty means that the target holds something and no overwrite
	// policy was given.
	ErrNotEmpty = errors.New("fstree: target is not empty")
	// ErrTargetBusy means that another restore into the target is running.
	ErrTargetBusy = errors.New("fstree: another restore into this target is running")
	// ErrInTheWay means that a directory which is not empty stands where
	// something else belongs, or something that must not be overwritten where
	// a directory belongs.
	ErrInTheWay = errors.New("fstree: something else is in the way")
)

// MarkerName is the file in a target that says, while a restore is not
// finished, which snapshot is being restored. An entry of this name at the top
// of a snapshot is refused.
const MarkerName = ".cobox-restore"

const markerHead = "cobox restore 1\n"

// tempPrefix begins the names under which files are written before they are
// complete. The snapshot and the run follow, so that leftovers of an
// interrupted restore are found by the next.
const tempPrefix = ".cobox-"

// A Target is a directory being restored to. Its methods, and those of its
// directories, may be called from several goroutines; those of one TargetFile
// too, except that Commit or Abort comes last.
type Target struct {
	o          TargetOptions
	root       *TargetDir
	pool       *pool
	privileged bool
	self       owner // of what this process creates
	resumed    bool
	marker     *markerFile
	tempOld    string // prefix of temporary names for this snapshot
	tempNew    string // and of this run
	temps      atomic.Uint64

	mu       sync.Mutex
	stats    TargetStats
	links    map[LinkID]*linkSet
	open     int // directories not yet finished
	late     []lateMode
	finished bool
}

type owner struct{ uid, gid uint32 }

// OpenTarget makes or opens the directory dir as the target of a restore. dir
// itself may be reached through links; below it none is followed, except above
// what was backed up if InPlace.
func OpenTarget(dir string, o TargetOptions) (*Target, error) {
	if o.MaxOpen <= 0 {
		o.MaxOpen = 256
	}
	var run [4]byte
	rand.Read(run[:])
	t := &Target{o: o, pool: newPool(o.MaxOpen), links: make(map[LinkID]*linkSet)}
	t.privileged, t.self = processOwner()
	t.tempOld = tempPrefix + hex.EncodeToString(o.Snapshot[:8]) + "-"
	t.tempNew = t.tempOld + hex.EncodeToString(run[:]) + "-"
	made := false
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && !o.InPlace {
		if o.DryRun {
			t.root = &TargetDir{t: t, node: Node{Partial: true}, absent: true, fresh: true, refs: 1}
			t.open = 1
			return t, nil
		}
		// Only the owner can enter what is made here: what is restored may
		// have been protected by a directory above it that is not.
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("fstree: making target: %w", err)
		}
		made = true
	}
	p, err := openPlace(dir)
	if err != nil {
		return nil, fmt.Errorf("fstree: opening target %s: %w", dir, err)
	}
	t.root = &TargetDir{t: t, node: Node{Partial: true}, fresh: made, refs: 1}
	t.open = 1
	t.root.adopt(p)
	if err := t.prepare(p); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// prepare checks what the target holds, and claims it.
func (t *Target) prepare(p place) error {
	if t.o.InPlace {
		if t.o.Overwrite == OverwriteRefuse {
			return fmt.Errorf("fstree: restoring in place: %w", ErrNotEmpty)
		}
		return nil
	}
	if t.root.fresh {
		return t.mark(p)
	}
	names, err := p.names()
	if err != nil {
		return fmt.Errorf("fstree: reading target: %w", err)
	}
	same := false
	rest := len(names)
	if slices.Contains(names, MarkerName) {
		if f, err := p.openRead(MarkerName); err == nil {
			b, err := io.ReadAll(io.LimitReader(f, 1024))
			same = err == nil && bytes.Equal(b, t.markerText())
			f.Close()
		}
		rest--
	}
	switch {
	case rest == 0:
		t.root.fresh = true
	case t.o.Overwrite != OverwriteRefuse:
	case same:
		t.resumed = true
	default:
		return ErrNotEmpty
	}
	return t.mark(p)
}

func (t *Target) markerText() []byte {
	return []byte(markerHead + hex.EncodeToString(t.o.Snapshot[:]) + "\n")
}

func (t *Target) mark(p place) (err error) {
	if t.o.DryRun {
		return nil
	}
	if t.marker, err = p.claim(MarkerName, t.markerText()); err != nil {
		if errors.Is(err, ErrTargetBusy) {
			return err
		}
		return fmt.Errorf("fstree: marking target: %w", err)
	}
	return nil
}

// Root returns the target itself, as a directory that is never deleted from
// and whose metadata stays. It must be closed like any other.
func (t *Target) Root() *TargetDir { return t.root }

// Resumed reports whether an interrupted restore is being continued.
func (t *Target) Resumed() bool { return t.resumed }

// policy is what counts where a name is taken.
func (t *Target) policy() Overwrite {
	if t.resumed {
		return OverwriteIfChanged
	}
	return t.o.Overwrite
}

func (t *Target) temp() string {
	return t.tempNew + strconv.FormatUint(t.temps.Add(1), 36)
}

// leftover reports whether name is that of a temporary file of an earlier run.
func (t *Target) leftover(name string) bool {
	return strings.HasPrefix(name, t.tempOld) && !strings.HasPrefix(name, t.tempNew)
}

func (t *Target) count(f func(*TargetStats)) {
	t.mu.Lock()
	f(&t.stats)
	t.mu.Unlock()
}

func (t *Target) note(k NoteKind, path string, err error) {
	t.count(func(s *TargetStats) {
		switch k {
		case NoteFailed:
			s.Failed++
		case NoteXattr:
			s.XattrsSkipped++
		case NoteSpecial:
			s.SpecialsSkipped++
		case NoteDeleted:
			s.Deleted++
		}
	})
	if t.o.Note != nil {
		t.o.Note(Note{k, path, err})
	}
}

// Stats returns the counts so far.
func (t *Target) Stats() TargetStats {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stats
}

// Finish ends a restore that has come to its end: every directory has been
// closed and every file committed or aborted. It waits until the file system
// has everything on disk, with one call for all, and only then removes the
// marker: after a power cut the target is complete or says that it is not.
// Without the marker (in place) there is nothing to say so; every file is the
// old or the new one wherever the file system orders renames after data, as
// ext4, XFS and btrfs do.
func (t *Target) Finish() (TargetStats, error) {
	t.mu.Lock()
	open, late := t.open, t.late
	t.late = nil
	t.mu.Unlock()
	if open > 0 {
		return t.Stats(), fmt.Errorf("fstree: finishing target: %d directories are not closed", open)
	}
	if t.finished || t.o.DryRun {
		return t.Stats(), nil
	}
	for _, l := range late {
		if err := l.apply(); err != nil {
			t.note(NoteFailed, l.d.Path(), err)
		}
	}
	err := t.root.use(func(p place) error {
		if err := p.sync(); err != nil {
			return err
		}
		if t.marker != nil {
			return p.unlink(MarkerName)
		}
		return nil
	})
	if err != nil {
		return t.Stats(), fmt.Errorf("fstree: finishing target: %w", err)
	}
	t.finished = true
	return t.Stats(), nil
}

// Close releases what the target holds open. Before Finish it leaves the
// marker, so that the restore can be continued.
func (t *Target) Close() error {
	if t.root.handle.close != nil {
		t.pool.release(&t.root.handle)
	}
	t.pool.closeAll()
	if t.marker != nil {
		t.marker.close()
		t.marker = nil
	}
	return nil
}
