package update

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cobox/appliance/admin"
	"cobox/appliance/machine"
	"cobox/image/bundle"
	"cobox/netlink/replicate"
)

const (
	// receiveTimeout is how long an update may be under way. Over the slowest
	// link that anybody backs up over, a bundle takes minutes.
	receiveTimeout = time.Hour
	// spareSpace stays free when a bundle is written, for the store's own needs.
	spareSpace = 16 << 20
	// reportEvery is the least time between two reports of progress.
	reportEvery = 200 * time.Millisecond
	writeBuffer = 64 << 10
	maxKeys     = 64 << 10 // bytes of the file of keys
)

// Bundle is one that comes.
type Bundle struct {
	Size int64 // as announced
	io.Reader
}

// store verifies a bundle and writes it to the file.
func (r *Receiver) store(ctx context.Context, b Bundle, state *machine.State, progress func(admin.UpdateProgress)) error {
	keys, err := readKeys(r.cfg.Keys)
	if err != nil {
		r.cfg.Logger.Error("no update can be verified", "error", err)
		return refuse(replicate.CodeInternal, "the box cannot read the keys of those who may release CoBox: its system is damaged")
	}
	switch {
	case b.Size <= 0:
		return refuse(replicate.CodeInvalid, "an update of %d bytes is no update of CoBox", b.Size)
	case b.Size > bundle.MaxSize:
		return refuse(replicate.CodeTooLarge, "an update has at most %d bytes, and this has %d", bundle.MaxSize, b.Size)
	}
	if err := r.remove(); err != nil {
		return err
	}
	if err := checkSpace(r.cfg.Dir, b.Size); err != nil {
		return err
	}
	// A name that is taken would be somebody's trap.
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return diskError(err)
	}
	in := &incoming{ctx: ctx, r: b, report: func(done int64) {
		progress(admin.UpdateProgress{Step: admin.UpdateReceiving, Done: done, Total: b.Size})
	}}
	out := &outgoing{f: f}
	err = verify(in, out, keys, bundle.State{Board: state.Board, Floor: state.Floor})
	if err == nil && in.done != b.Size {
		err = refuse(replicate.CodeInvalid, "%d bytes were announced, and %d came", b.Size, in.done)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = syncDir(r.cfg.Dir)
	}
	switch {
	case err == nil:
		return nil
	case out.err != nil:
		return diskError(out.err)
	case in.err != nil:
		return fmt.Errorf("update: receiving: %w", in.err)
	}
	return refusal(err, state)
}

// verify reads the bundle to its end and writes what it has read. It returns
// without an error only if all of it is right and written.
func verify(in io.Reader, out io.Writer, keys *bundle.Keys, state bundle.State) error {
	// Small pieces cost time on a memory card.
	buffered := bufio.NewWriterSize(out, writeBuffer)
	r, err := bundle.Open(io.TeeReader(bufio.NewReaderSize(in, writeBuffer), buffered), keys, state)
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		_, content, err := r.Next()
		if errors.Is(err, io.EOF) {
			return buffered.Flush()
		}
		if err == nil {
			_, err = io.Copy(io.Discard, content)
		}
		if err != nil {
			return err
		}
	}
}

// incoming is what comes, counted. It remembers what it failed with.
type incoming struct {
	ctx    context.Context
	r      Bundle
	report func(done int64)

	done int64
	told time.Time
	err  error
}

func (in *incoming) Read(p []byte) (int, error) {
	if in.err != nil {
		return 0, in.err
	}
	if in.err = context.Cause(in.ctx); in.err != nil {
		return 0, in.err
	}
	n, err := in.r.Read(p)
	in.done += int64(n)
	if in.done > in.r.Size {
		err = refuse(replicate.CodeInvalid, "%d bytes were announced, and more came", in.r.Size)
	}
	if now := time.Now(); now.Sub(in.told) >= reportEvery {
		in.told = now
		in.report(in.done)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		in.err = err
		n = 0 // nothing of this counts any more
	}
	return n, err
}

// outgoing is the file. It remembers what it failed with.
type outgoing struct {
	f   *os.File
	err error
}

func (out *outgoing) Write(p []byte) (int, error) {
	n, err := out.f.Write(p)
	if err != nil {
		out.err = err
	}
	return n, err
}

// refusal makes what the administrator gets of a bundle that is not taken.
func refusal(err error, state *machine.State) error {
	var e *replicate.Error
	switch {
	case errors.As(err, &e):
		return err
	case errors.Is(err, bundle.ErrNotBundle):
		return refuse(replicate.CodeInvalid, "this is no update of CoBox")
	case errors.Is(err, bundle.ErrNewer):
		return refuse(replicate.CodeInvalid, "this update is of a newer kind than CoBox %s can read; install an update from between the two first", state.Release.Version)
	case errors.Is(err, bundle.ErrSignature):
		return refuse(replicate.CodeInvalid, "this update is not signed by enough of the people who may release CoBox; it was not made by them, or changed since")
	case errors.Is(err, bundle.ErrBoard):
		return refuse(replicate.CodeInvalid, "this update is for another kind of board than this box has (%s)", state.Board)
	case errors.Is(err, bundle.ErrTooOld):
		return refuse(replicate.CodeInvalid, "this update is older than what this box takes: its number must be %d or higher", state.Floor)
	case errors.Is(err, bundle.ErrDamaged):
		return refuse(replicate.CodeInvalid, "this update is damaged or cut short; get it again and compare its checksum")
	case isFull(err):
		return diskError(err)
	}
	return fmt.Errorf("update: %w", err)
}

// readKeys reads the keys that releases are signed with.
func readKeys(path string) (*bundle.Keys, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("update: the release keys: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeys))
	if err != nil {
		return nil, fmt.Errorf("update: the release keys: %w", err)
	}
	public, err := bundle.ParsePublicKeys(text)
	if err != nil {
		return nil, fmt.Errorf("update: the release keys: %w", err)
	}
	keys, err := bundle.NewKeys(bundle.ReleaseThreshold, public...)
	if err != nil {
		return nil, fmt.Errorf("update: the release keys: %w", err)
	}
	return keys, nil
}

// checkSpace refuses what the disk has no room for. What cannot be asked shows
// when it is written.
func checkSpace(dir string, size int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil
	}
	if free := uint64(st.Bavail) * uint64(st.Bsize); free < uint64(size)+spareSpace {
		return noSpace(size + spareSpace - int64(free))
	}
	return nil
}

func noSpace(missing int64) error {
	return refuse(replicate.CodeNoSpace, "the box's disk has no room for the update: %d bytes more would be needed", missing)
}

func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// diskError makes what the administrator gets if the file cannot be written.
func diskError(err error) error {
	if isFull(err) {
		return refuse(replicate.CodeNoSpace, "the box's disk has no room for the update")
	}
	return fmt.Errorf("update: writing the bundle: %w", err)
}

func syncDir(dir string) error {
	d, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
