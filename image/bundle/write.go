package bundle

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Write writes a bundle. It takes each file of the manifest, in turn, from open
// and stops with an error at one that is not as the manifest says. Whether the
// signatures suffice is for whoever holds the keys to check.
//
// The same arguments give the same bytes as long as the version of the zstd
// library is the same.
func Write(w io.Writer, m *Manifest, sigs []Signature, open func(path string) (io.ReadCloser, error)) error {
	manifest, err := m.Append(nil)
	if err != nil {
		return err
	}
	if len(sigs) > MaxSignatures {
		return fmt.Errorf("bundle: %d signatures, at most %d are allowed", len(sigs), MaxSignatures)
	}
	signatures := AppendSignatures(nil, sigs)

	hash := sha256.New()
	out := io.MultiWriter(w, hash)
	head := append(make([]byte, 0, headerSize), magic...)
	head = binary.BigEndian.AppendUint32(head, version)
	head = binary.BigEndian.AppendUint32(head, uint32(len(manifest)))
	head = binary.BigEndian.AppendUint32(head, uint32(len(signatures)))
	for _, b := range [][]byte{head, manifest, signatures} {
		if _, err := out.Write(b); err != nil {
			return fmt.Errorf("bundle: write: %w", err)
		}
	}
	if err := writeFiles(out, m.Files, open); err != nil {
		return err
	}
	if _, err := w.Write(hash.Sum(nil)); err != nil {
		return fmt.Errorf("bundle: write: %w", err)
	}
	return nil
}

func writeFiles(w io.Writer, files []File, open func(string) (io.ReadCloser, error)) error {
	chunks := &chunkWriter{w: w, buf: make([]byte, 4, 4+chunkSize)}
	// One stream for all files: many are small and alike. On one core, so that
	// the bytes do not depend on the machine.
	z, err := zstd.NewWriter(chunks, zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithWindowSize(maxWindow), zstd.WithEncoderConcurrency(1), zstd.WithZeroFrames(true))
	if err != nil {
		return fmt.Errorf("bundle: zstd: %w", err)
	}
	for _, f := range files {
		if err := writeFile(z, f, open); err != nil {
			return fmt.Errorf("bundle: write %s: %w", f.Path, err)
		}
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("bundle: write: %w", err)
	}
	if err := chunks.close(); err != nil {
		return fmt.Errorf("bundle: write: %w", err)
	}
	return nil
}

func writeFile(w io.Writer, f File, open func(string) (io.ReadCloser, error)) error {
	r, err := open(f.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, hash), io.LimitReader(r, f.Size+1))
	switch {
	case err != nil:
		return err
	case n != f.Size:
		return fmt.Errorf("the file does not have the %d bytes that the manifest says", f.Size)
	case [32]byte(hash.Sum(nil)) != f.SHA256:
		return fmt.Errorf("the file is not the one of the manifest")
	}
	return nil
}

// chunkWriter cuts the compressed files into chunks, so that a reader knows
// where they end before it knows how long they are:
//
//	length u32 ‖ as many bytes     65,536 in each chunk but the last
//	0 u32                          the end
type chunkWriter struct {
	w   io.Writer
	buf []byte // a length, then the bytes of a chunk so far
}

func (c *chunkWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		take := min(len(p), cap(c.buf)-len(c.buf))
		c.buf = append(c.buf, p[:take]...)
		if len(c.buf) == cap(c.buf) {
			if err := c.flush(); err != nil {
				return n, err
			}
		}
		n, p = n+take, p[take:]
	}
	return n, nil
}

func (c *chunkWriter) flush() error {
	binary.BigEndian.PutUint32(c.buf, uint32(len(c.buf)-4))
	_, err := c.w.Write(c.buf)
	c.buf = c.buf[:4]
	return err
}

func (c *chunkWriter) close() error {
	if len(c.buf) > 4 {
		if err := c.flush(); err != nil {
			return err
		}
	}
	return c.flush() // of length 0
}
