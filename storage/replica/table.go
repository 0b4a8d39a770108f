package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"cobox/storage/replica/bulkfile"
)

// incomingDir holds tables until they are ingested.
const incomingDir = "incoming"

// writeCategory is under which the file system counts the bytes of our tables.
const writeCategory vfs.DiskWriteCategory = "cobox-blocks"

// tableWriter is an sstable of blocks under consecutive arrival numbers.
type tableWriter struct {
	s     *Store
	path  string
	first uint64 // arrival of the first block
	count uint32
	w     *sstable.Writer
	key   [blockKeySize]byte
}

// createTable begins an sstable file in the directory of incoming tables.
// bulk says that it will be a large one.
func (s *Store) createTable(name string, bulk bool) (*sstable.Writer, string, error) {
	fs := s.opts.FS
	path := fs.PathJoin(s.dir, incomingDir, name)
	f, err := fs.Create(path, writeCategory)
	if err != nil {
		return nil, "", fmt.Errorf("creating a table: %w", noSpace(err))
	}
	o := tableOptions(s.db.FormatMajorVersion())
	if bulk {
		if w, ok := bulkfile.New(f); ok {
			return sstable.NewWriter(w, o), path, nil
		}
		f = vfs.NewSyncingFile(f, vfs.SyncingFileOptions{BytesPerSync: bytesPerSync})
	}
	return sstable.NewWriter(objstorageprovider.NewFileWritable(f), o), path, nil
}

func (s *Store) newTable(first uint64) (*tableWriter, error) {
	w, path, err := s.createTable(fmt.Sprintf("%016x.sst", first), true)
	if err != nil {
		return nil, err
	}
	return &tableWriter{s: s, path: path, first: first, w: w}, nil
}

// add copies a block into the table.
func (t *tableWriter) add(log uint32, index uint64, block []byte) error {
	k := t.key[:]
	k[0] = prefixBlock
	binary.BigEndian.PutUint64(k[1:], t.first+uint64(t.count))
	binary.BigEndian.PutUint32(k[9:], log)
	binary.BigEndian.PutUint64(k[13:], index)
	if err := t.w.Set(k, block); err != nil {
		return fmt.Errorf("writing a table: %w", noSpace(err))
	}
	t.count++
	return nil
}

// finish completes the file and syncs it.
func (t *tableWriter) finish() error {
	w := t.w
	t.w = nil
	if err := w.Close(); err != nil {
		return fmt.Errorf("finishing a table: %w", noSpace(err))
	}
	return nil
}

// abandon gives up the table. A file that cannot be removed is removed at the
// next start.
func (t *tableWriter) abandon() {
	if t.w != nil {
		t.w.Close()
		t.w = nil
	}
	t.s.opts.FS.Remove(t.path)
}

// ingest makes a synced table part of the database, which is durable when it
// returns.
func (s *Store) ingest(path string) (err error) {
	if err := s.writable(); err != nil {
		return err
	}
	defer func() {
		if r := recover(); r != nil {
			s.fatal(fmt.Errorf("ingesting: %v", r))
		}
	}()
	if err := s.db.Ingest(s.ctx, []string{path}); err != nil {
		return fmt.Errorf("ingesting a table: %w", noSpace(err))
	}
	return nil
}

// deleteArrivals hides blocks by a table of range tombstones. Written through
// the WAL they would end up in one table with the small keys, which would
// overlap every table of blocks that came later.
func (s *Store) deleteArrivals(ranges []garbage) error {
	if len(ranges) == 0 {
		return nil
	}
	w, path, err := s.createTable(fmt.Sprintf("%016x.del.sst", ranges[0].first), false)
	if err != nil {
		return err
	}
	for _, g := range ranges {
		if err := w.DeleteRange(arrivalKey(prefixBlock, g.first), arrivalKey(prefixBlock, g.end())); err != nil {
			w.Close()
			return fmt.Errorf("writing tombstones: %w", noSpace(err))
		}
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("finishing tombstones: %w", noSpace(err))
	}
	return s.ingest(path)
}

func tableOptions(v pebble.FormatMajorVersion) sstable.WriterOptions {
	o := new(pebble.Options)
	setLevels(o)
	o.EnsureDefaults()
	return o.MakeWriterOptions(0, v.MaxTableFormat())
}

// noSpace makes ErrNoSpace of what the operating system says of a full disk.
func noSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}
