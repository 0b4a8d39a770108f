// Package datadir owns the layout of a box's data directory.
//
//	FORMAT        number of the layout, one line: "cobox-box 1"
//	LOCK          flock of the process that has the directory open, and who it is
//	identity      the box's two private keys (0600); see FORMAT.md
//	db/           everything else: replicas, roster, receipts, events
//	peers         who may connect, for times in which db is elsewhere (0600)
//	moved         says that db was moved to a disk of its own, and to which
//	coboxd.toml   settings, written by people only
//	provision     identity and pairing secret made elsewhere; taken once, then removed
//	pairing.png   the pairing code, as long as the box is unclaimed (0600)
//	pairing.txt
//	update        a bundle on its way to the other slot of the system (0600)
//
// Start at [Open]; a [Dir] is held by one process at a time. Files are replaced
// as a whole: after a crash each is as it was before or as it is after, and what
// an interrupted write leaves (a name that ends in ".tmp") is removed at the
// next start.
package datadir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Format is the number of the layout that this program writes.
const Format = 1

const (
	formatName    = "FORMAT"
	formatPrefix  = "cobox-box "
	lockName      = "LOCK"
	identityName  = "identity"
	provisionName = "provision"
	storeName     = "db"
	peersName     = "peers"
	movedName     = "moved"
	settingsName  = "coboxd.toml"
	pictureName   = "pairing.png"
	textName      = "pairing.txt"
	tmpSuffix     = ".tmp"
	maxSmallFile  = 1 << 20
)

// An InUseError says that another process has the directory open.
type InUseError struct {
	Path   string
	Holder string // what the other process wrote about itself, or ""
}

func (e *InUseError) Error() string {
	holder := e.Holder
	if holder == "" {
		holder = "another process"
	}
	return fmt.Sprintf("datadir: %s is in use by %s", e.Path, holder)
}

// A NewerError says that a later version of the program wrote the directory.
type NewerError struct {
	Path  string
	Found uint64
}

func (e *NewerError) Error() string {
	return fmt.Sprintf("datadir: %s has format %d; this program knows formats up to %d", e.Path, e.Found, Format)
}

// A MovedError says that the box's data was moved to a disk of its own. What is
// left in the directory must not become an empty box.
type MovedError struct {
	Path string
	Disk string // its id, 32 hexadecimal digits; "" if the mark is damaged
}

func (e *MovedError) Error() string {
	disk := "a disk of its own"
	if e.Disk != "" {
		disk = "the disk " + e.Disk
	}
	return fmt.Sprintf("datadir: the data of %s was moved to %s, which is not here", e.Path, disk)
}

// ErrNoBox is returned by Open without Create when there is no box in the
// directory.
var ErrNoBox = errors.New("datadir: there is no box in this directory")

// Options say how to open a directory.
type Options struct {
	// Create makes the directory and its FORMAT if they are not there.
	Create bool
	// Waiting opens a directory whose data is elsewhere. Then only Identity and
	// Peers are of use.
	Waiting bool
	// Holder is what others are told while the lock is held; "pid N" is added.
	Holder string
}

// Dir is an open data directory. Its methods are not for concurrent use.
type Dir struct {
	path     string
	root     *os.Root
	lock     *os.File
	readOnly bool // the file system is; nothing can be changed
	waiting  bool // the data is elsewhere
}

// Open locks the directory at path and checks its format. It returns an
// *[InUseError], a *[NewerError], a *[MovedError] or [ErrNoBox] where those are
// the reason.
func Open(path string, o Options) (*Dir, error) {
	if o.Create {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return nil, fmt.Errorf("datadir: making the data directory: %w", err)
		}
		if err := syncPath(filepath.Dir(path)); err != nil {
			return nil, fmt.Errorf("datadir: making the data directory: %w", err)
		}
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		if !o.Create && errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s", ErrNoBox, path)
		}
		return nil, fmt.Errorf("datadir: opening the data directory: %w", err)
	}
	d := &Dir{path: path, root: root, waiting: o.Waiting}
	if err := d.open(o); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Dir) open(o Options) error {
	found, err := d.format()
	if err != nil {
		return err
	}
	if found == 0 && !o.Create {
		return fmt.Errorf("%w: %s", ErrNoBox, d.path)
	}
	if err := d.takeLock(o.Holder); err != nil {
		return err
	}
	// Read again: only the holder of the lock writes it.
	if found, err = d.format(); err != nil {
		return err
	}
	if err := d.moved(); err != nil {
		return err
	}
	if found == 0 {
		if err := d.checkEmpty(); err != nil {
			return err
		}
		if err := d.write(formatName, []byte(formatPrefix+strconv.Itoa(Format)+"\n"), 0o644); err != nil {
			return err
		}
	}
	return d.removeUnfinished()
}

// Close gives the directory up.
func (d *Dir) Close() error {
	var err error
	if d.lock != nil {
		// The file stays: removing it would let two processes lock two files of
		// one name.
		d.lock.Truncate(0)
		err = d.lock.Close()
	}
	return errors.Join(err, d.root.Close())
}

// Path returns the directory's path as it was given to Open.
func (d *Dir) Path() string { return d.path }

// Store returns the path of the store inside the directory.
func (d *Dir) Store() string { return filepath.Join(d.path, storeName) }

// format returns the number in FORMAT, 0 when there is none.
func (d *Dir) format() (uint64, error) {
	text, err := d.read(formatName)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := parseFormat(text)
	if err != nil {
		return 0, fmt.Errorf("datadir: %s: %w", filepath.Join(d.path, formatName), err)
	}
	if n > Format {
		return 0, &NewerError{Path: d.path, Found: n}
	}
	return n, nil
}

// parseFormat reads the content of FORMAT. A later format may say more after
// the first line.
func parseFormat(text []byte) (uint64, error) {
	line, _, ok := bytes.Cut(text, []byte("\n"))
	digits, isBox := strings.CutPrefix(string(line), formatPrefix)
	n, err := strconv.ParseUint(digits, 10, 32)
	if !ok || !isBox || err != nil || n == 0 || strconv.FormatUint(n, 10) != digits {
		return 0, fmt.Errorf("not the format line of a box: %.40q", line)
	}
	return n, nil
}

// checkEmpty refuses to make a box in a directory that holds something else,
// such as somebody's home directory.
func (d *Dir) checkEmpty() error {
	entries, err := fs.ReadDir(d.root.FS(), ".")
	if err != nil {
		return fmt.Errorf("datadir: reading the data directory: %w", err)
	}
	for _, e := range entries {
		switch name := e.Name(); name {
		case lockName, settingsName, provisionName, "lost+found", formatName + tmpSuffix:
		default:
			return fmt.Errorf("datadir: %s is not empty (it has %q) and is no box's data directory; name an empty one", d.path, name)
		}
	}
	return nil
}

func (d *Dir) removeUnfinished() error {
	if d.readOnly {
		return nil
	}
	for _, name := range []string{formatName, identityName, pictureName, textName, peersName, movedName} {
		if err := d.root.Remove(name + tmpSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("datadir: removing an unfinished file: %w", err)
		}
	}
	return nil
}

func (d *Dir) takeLock(holder string) error {
	f, err := d.root.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, syscall.EROFS) {
		// A dying disk is mounted read-only. What is on it can still be served.
		d.readOnly = true
		f, err = d.root.Open(lockName)
		if d.waiting && errors.Is(err, fs.ErrNotExist) {
			return nil // nobody can change what is there
		}
	}
	if err != nil {
		return fmt.Errorf("datadir: opening the lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("datadir: locking the data directory: %w", err)
		}
		who, _ := io.ReadAll(io.LimitReader(f, 200))
		return &InUseError{Path: d.path, Holder: strings.ToValidUTF8(strings.TrimSpace(string(who)), "?")}
	}
	d.lock = f
	// Who holds it is a courtesy, which a full disk must not stop.
	if f.Truncate(0) == nil {
		fmt.Fprintf(f, "%s (pid %d)\n", holder, os.Getpid())
	}
	return nil
}

func (d *Dir) read(name string) ([]byte, error) { return d.readAtMost(name, maxSmallFile) }

func (d *Dir) readAtMost(name string, limit int64) ([]byte, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("datadir: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, fmt.Errorf("datadir: reading %s: %w", name, err)
	}
	return b, nil
}

// write replaces a file as a whole and durably. A crash leaves the old file or
// the new one, and at most an unfinished NAME.tmp beside it.
func (d *Dir) write(name string, data []byte, mode fs.FileMode) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("datadir: writing %s: %w", name, err)
		}
	}()
	f, err := d.root.OpenFile(name+tmpSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode) // the file may be left from before, or the umask odd
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := d.root.Rename(name+tmpSuffix, name); err != nil {
		return err
	}
	return d.sync()
}

// remove deletes a file durably; one that is not there is fine.
func (d *Dir) remove(name string) error {
	if d.readOnly {
		return nil // it is of no use any more, and stays
	}
	if err := d.root.Remove(name); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("datadir: removing %s: %w", name, err)
	}
	return d.sync()
}

func (d *Dir) sync() error { return syncPath(d.path) }

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
