package archive

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// cacheDir keeps copies of what the logs hold, so that it need not be fetched
// again. Each file ends with a keyed hash of its name and contents; one that
// does not match is as good as absent. A nil *cacheDir holds nothing.
//
//	footer-LOG            footer of a log with its block (see putFooter)
//	segment-LOG-BLOCK-OFF contents of a segment record
//	scan                  see scanCache
//
// LOG is the first 16 hexadecimal digits of the log's id.
type cacheDir struct {
	dir string
	key hashKey
}

const cacheSum = 16

func newCacheDir(dir string, key hashKey) (*cacheDir, error) {
	if dir == "" {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("archive: making cache directory: %w", err)
	}
	return &cacheDir{dir, key}, nil
}

func (c *cacheDir) path(name string) string { return filepath.Join(c.dir, name) }

func (c *cacheDir) sum(name string, parts ...[]byte) (sum [cacheSum]byte) {
	h := c.key.h.Clone()
	h.WriteString("cobox/v1/cache\x00" + name + "\x00")
	for _, p := range parts {
		h.Write(p)
	}
	h.Digest().Read(sum[:])
	return sum
}

// get returns the contents of a file, or nil if there is none that is whole.
func (c *cacheDir) get(name string) []byte {
	if c == nil {
		return nil
	}
	b, err := os.ReadFile(c.path(name))
	if err != nil || len(b) < cacheSum {
		return nil
	}
	b, sum := b[:len(b)-cacheSum], b[len(b)-cacheSum:]
	if want := c.sum(name, b); subtle.ConstantTimeCompare(want[:], sum) != 1 {
		return nil
	}
	return b
}

// put writes a file whole or not at all. It does not sync: after a power cut
// the hash tells.
func (c *cacheDir) put(name string, contents []byte) error {
	if c == nil {
		return nil
	}
	sum := c.sum(name, contents)
	f, err := os.CreateTemp(c.dir, "tmp-*")
	if err != nil {
		return fmt.Errorf("archive: writing cache: %w", err)
	}
	_, err = f.Write(contents)
	if err == nil {
		_, err = f.Write(sum[:])
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), c.path(name))
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("archive: writing cache: %w", err)
	}
	return nil
}

// keep removes the files with the prefix whose names are not in live.
func (c *cacheDir) keep(prefix string, live map[string]bool) {
	if c == nil {
		return
	}
	list, err := os.ReadDir(c.dir)
	if err != nil {
		return
	}
	for _, e := range list {
		if strings.HasPrefix(e.Name(), prefix) && !live[e.Name()] {
			if err := os.Remove(c.path(e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return
			}
		}
	}
}

func footerName(v *logView) string { return fmt.Sprintf("footer-%x", v.id[:8]) }

func segmentName(v *logView, s *segmentRef) string {
	return fmt.Sprintf("segment-%x-%d-%d", v.id[:8], s.loc.block, s.loc.off)
}

// getFooter returns the footer that ends block at, if it is cached.
func (c *cacheDir) getFooter(v *logView, at uint64) *footer {
	b := c.get(footerName(v))
	if len(b) < 36 || string(b[:32]) != string(v.id[:]) || uint64(be.Uint32(b[32:])) != at {
		return nil
	}
	f, err := parseFooter(b[36:], uint32(at))
	if err != nil {
		return nil
	}
	return f
}

// putFooter stores LogID 32 ‖ block u32 ‖ footer.
func (c *cacheDir) putFooter(v *logView, at uint64, f *footer) error {
	if c == nil {
		return nil
	}
	b := append([]byte(nil), v.id[:]...)
	b = be.AppendUint32(b, uint32(at))
	return c.put(footerName(v), appendFooter(b, f))
}
