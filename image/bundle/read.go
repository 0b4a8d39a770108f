package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"
)

// A Reader gives the files of a bundle in turn. It is for one goroutine, and
// ends at its first error, which every later call returns as well.
type Reader struct {
	manifest *Manifest
	text     []byte
	sigs     []Signature
	signers  []KeyID

	src    *source
	chunks *chunkReader
	zstd   *zstd.Decoder
	next   int // the file that Next returns
	file   *fileReader
	err    error
}

// Open reads the head of a bundle and says whether this box may take it. The
// order is: what it is (ErrNotBundle, ErrNewer), who signed the manifest
// (ErrSignature), what the manifest says (ErrNewer, ErrBoard, ErrTooOld). What
// is cut short or senseless is ErrDamaged. Nothing of the manifest is used
// before it is known to be signed, nothing of the files before all of that.
//
// A Reader takes about 10 MB, most of it the window of zstd. Close frees it.
func Open(r io.Reader, keys *Keys, current State) (*Reader, error) {
	b, err := open(r, keys)
	if err != nil {
		return nil, err
	}
	if err := current.Check(b.manifest); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// Inspect is Open for whoever does not install the bundle: any board and any
// number will do.
func Inspect(r io.Reader, keys *Keys) (*Reader, error) { return open(r, keys) }

func open(r io.Reader, keys *Keys) (*Reader, error) {
	src := &source{r: r, hash: sha256.New()}
	manifestSize, sigSize, err := readHeader(src)
	if err != nil {
		return nil, err
	}
	b := &Reader{src: src, text: make([]byte, manifestSize)}
	if _, err := io.ReadFull(src, b.text); err != nil {
		return nil, src.failed("the manifest", err)
	}
	sigText := make([]byte, sigSize)
	if _, err := io.ReadFull(src, sigText); err != nil {
		return nil, src.failed("the signatures", err)
	}
	if b.sigs, err = ParseSignatures(sigText); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrSignature, err)
	}
	if b.signers, err = keys.Verify(b.text, b.sigs); err != nil {
		return nil, err
	}
	if b.manifest, err = ParseManifest(b.text); err != nil {
		if !errors.Is(err, ErrNewer) {
			err = fmt.Errorf("%w: %v", ErrDamaged, err)
		}
		return nil, err
	}
	b.chunks = &chunkReader{src: src}
	b.zstd, err = zstd.NewReader(b.chunks, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, fmt.Errorf("bundle: zstd: %w", err)
	}
	return b, nil
}

func readHeader(src *source) (manifest, sigs uint32, err error) {
	var head [headerSize]byte
	n, err := io.ReadFull(src, head[:])
	switch {
	case src.err != nil:
		return 0, 0, src.failed("the header", err)
	case n < len(magic) || string(head[:len(magic)]) != magic:
		return 0, 0, ErrNotBundle
	case err != nil:
		return 0, 0, src.failed("the header", err)
	}
	numbers := head[len(magic):]
	v := binary.BigEndian.Uint32(numbers)
	manifest, sigs = binary.BigEndian.Uint32(numbers[4:]), binary.BigEndian.Uint32(numbers[8:])
	switch {
	case v == 0:
		return 0, 0, ErrNotBundle
	case v > version:
		return 0, 0, fmt.Errorf("%w: version %d, this program reads %d", ErrNewer, v, version)
	case manifest > MaxManifest:
		return 0, 0, fmt.Errorf("%w: a manifest of %d bytes", ErrDamaged, manifest)
	case sigs > maxSigBytes:
		return 0, 0, fmt.Errorf("%w: %d bytes of signatures", ErrDamaged, sigs)
	}
	return manifest, sigs, nil
}

// Manifest returns what the bundle installs.
func (b *Reader) Manifest() *Manifest { return b.manifest }

// ManifestText returns the bytes that are signed.
func (b *Reader) ManifestText() []byte { return bytes.Clone(b.text) }

// Signatures returns the signatures, those of unknown keys as well.
func (b *Reader) Signatures() []Signature { return append([]Signature(nil), b.sigs...) }

// Signers returns the keys of the set that have signed.
func (b *Reader) Signers() []KeyID { return append([]KeyID(nil), b.signers...) }

// Next returns the next file and a reader of its bytes, which ends with io.EOF
// only if size and SHA-256 are those of the manifest; until then the bytes may
// be anything. What was left of the file before is read and checked. After the
// last file, io.EOF says that the bundle is complete and undamaged.
func (b *Reader) Next() (File, io.Reader, error) {
	if b.err == nil && b.file != nil {
		if _, err := io.Copy(io.Discard, b.file); err == nil {
			b.file = nil // else it has set b.err
		}
	}
	if b.err != nil {
		return File{}, nil, b.err
	}
	if b.next == len(b.manifest.Files) {
		if b.err = b.finish(); b.err == nil {
			b.err = io.EOF
		}
		return File{}, nil, b.err
	}
	f := b.manifest.Files[b.next]
	b.next++
	b.file = &fileReader{b: b, file: f, left: f.Size, hash: sha256.New()}
	return f, b.file, nil
}

// Close frees the memory. It does not close what the bundle is read from.
func (b *Reader) Close() error {
	b.zstd.Close()
	if b.err == nil {
		b.err = errors.New("bundle: read after Close")
	}
	return nil
}

// finish checks that nothing follows the last file but the end, and the
// checksum, which also covers what decompression ignores.
func (b *Reader) finish() error {
	var one [1]byte
	if n, err := io.ReadFull(b.zstd, one[:]); n > 0 {
		return fmt.Errorf("%w: there is more than the files of the manifest", ErrDamaged)
	} else if err != io.EOF {
		return b.src.failed("the end of the files", err)
	}
	if !b.chunks.done {
		return fmt.Errorf("%w: the files do not end where they should", ErrDamaged)
	}
	want := b.src.hash.Sum(nil)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(b.src, got); err != nil {
		return b.src.failed("the checksum", err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%w: the checksum does not match", ErrDamaged)
	}
	switch n, err := io.ReadFull(b.src, one[:]); {
	case n > 0:
		return fmt.Errorf("%w: something follows the end", ErrDamaged)
	case b.src.err != nil:
		return b.src.failed("the end", err)
	}
	return nil
}

// fileReader reads and checks one file.
type fileReader struct {
	b    *Reader
	file File
	left int64
	hash hash.Hash
	done bool // size and hash are right
}

func (f *fileReader) Read(p []byte) (int, error) {
	switch {
	case f.done:
		return 0, io.EOF
	case f.b.err != nil:
		return 0, f.b.err
	case f.b.file != f:
		return 0, fmt.Errorf("bundle: %s is read after the file behind it was asked for", f.file.Path)
	case len(p) == 0:
		return 0, nil
	}
	n := 0
	if f.left > 0 {
		var err error
		n, err = f.b.zstd.Read(p[:min(int64(len(p)), f.left)])
		f.hash.Write(p[:n])
		f.left -= int64(n)
		if f.left > 0 && err != nil {
			f.b.err = f.b.src.failed(f.file.Path, err)
			return n, f.b.err
		}
	}
	if f.left > 0 {
		return n, nil
	}
	// The last bytes are given out only if all were right, so that a caller who
	// reads exactly so many bytes notices too.
	if [32]byte(f.hash.Sum(nil)) != f.file.SHA256 {
		f.b.err = fmt.Errorf("%w: %s is not the file of the manifest", ErrDamaged, f.file.Path)
		return 0, f.b.err
	}
	f.done = true
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// source is what a bundle is read from, with the hash of what was read.
type source struct {
	r    io.Reader
	hash hash.Hash
	err  error // what reading failed with, if not with the end
}

func (s *source) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	s.hash.Write(p[:n])
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// failed tells a bundle that is damaged from one that could not be read.
func (s *source) failed(what string, err error) error {
	switch {
	case s.err != nil:
		return fmt.Errorf("bundle: read %s: %w", what, s.err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: cut short in %s", ErrDamaged, what)
	}
	return fmt.Errorf("%w: %s: %v", ErrDamaged, what, err)
}

// chunkReader joins the chunks that a chunkWriter has cut.
type chunkReader struct {
	src   *source
	left  int   // of this chunk
	total int64 // of all chunks so far
	short bool  // a chunk was shorter than others, so it is the last
	done  bool  // the chunk of length 0 was there
}

func (c *chunkReader) Read(p []byte) (int, error) {
	if c.done {
		return 0, io.EOF
	}
	if c.left == 0 {
		var length [4]byte
		if _, err := io.ReadFull(c.src, length[:]); err != nil {
			return 0, cut(err)
		}
		n := binary.BigEndian.Uint32(length[:])
		switch {
		case n == 0:
			c.done = true
			return 0, io.EOF
		case n > chunkSize || c.short:
			return 0, fmt.Errorf("a chunk of %d bytes", n)
		case c.total+int64(n) > maxStream:
			return 0, errors.New("it goes on for longer than any bundle does")
		}
		c.left, c.short = int(n), n < chunkSize
		c.total += int64(n)
	}
	n, err := c.src.Read(p[:min(len(p), c.left)])
	c.left -= n
	if err == io.EOF && n > 0 {
		err = nil
	}
	return n, cut(err)
}

// cut keeps an end in the middle of a bundle from looking like the end of it.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
