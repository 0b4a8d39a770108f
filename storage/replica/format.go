package replica

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/atomicfs"
)

const (
	// Format is the number of the format that this version writes. Upgrades go
	// from one number to the next and never back.
	Format = 1

	formatName   = "FORMAT"
	formatPrefix = "cobox-replica "

	// pebbleFormat is part of our format: raising it is an upgrade.
	pebbleFormat = pebble.FormatValueSeparation
)

// checkFormat reads the format number. A directory without one gets it, unless
// there is a database in it that is not ours.
func (s *Store) checkFormat() error {
	fsys := s.opts.FS
	path := fsys.PathJoin(s.dir, formatName)
	f, err := fsys.Open(path)
	if err == nil {
		text, err := io.ReadAll(io.LimitReader(f, 64))
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("reading the format number: %w", err)
		}
		n, err := parseFormat(text)
		if err != nil {
			return err
		}
		if n > Format {
			return fmt.Errorf("%w: %d, this version knows %d", ErrNewerFormat, n, Format)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) || s.readOnly {
		return fmt.Errorf("reading the format number: %w", err)
	}
	if has, err := s.hasDatabase(); err != nil {
		return err
	} else if has {
		return errors.New("there is a database without a format number")
	}
	// A crash before the rename leaves nothing, after it all.
	temp := path + ".new"
	if f, err = fsys.Create(temp, vfs.WriteCategoryUnspecified); err != nil {
		return err
	}
	_, err = f.Write(appendFormat(nil, Format))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(fsys, s.dir)
}

// markDatabase gives a database that is yet to be made the format that it is to
// have. Pebble would make it in the oldest format that it knows and raise it
// step by step, with three syncs each. A crash before this leaves a directory
// without a database, one after it the mark alone, and Pebble makes the database
// at the next start.
func (s *Store) markDatabase() error {
	if has, err := s.hasDatabase(); err != nil || has {
		return err
	}
	mark, _, err := atomicfs.LocateMarker(s.opts.FS, s.dir, "format-version")
	if err != nil {
		return err
	}
	return errors.Join(mark.Move(pebbleFormat.String()), mark.Close())
}

// hasDatabase reports whether Pebble has begun a database in the directory.
func (s *Store) hasDatabase() (bool, error) {
	names, err := s.opts.FS.List(s.dir)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(names, func(name string) bool {
		return strings.HasPrefix(name, "MANIFEST-") || strings.HasPrefix(name, markerPrefix)
	}), nil
}

func appendFormat(dst []byte, n int) []byte {
	return append(strconv.AppendInt(append(dst, formatPrefix...), int64(n), 10), '\n')
}

// parseFormat reads what appendFormat wrote: "cobox-replica 1\n".
func parseFormat(b []byte) (int, error) {
	text, ok := bytes.CutPrefix(b, []byte(formatPrefix))
	if ok {
		if n, err := strconv.Atoi(strings.TrimSuffix(string(text), "\n")); err == nil && n > 0 && bytes.Equal(appendFormat(nil, n), b) {
			return n, nil
		}
	}
	return 0, fmt.Errorf("the format number %q cannot be read", b)
}
