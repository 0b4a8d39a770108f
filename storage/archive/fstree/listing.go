package fstree

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// A listing is what a directory holds.
//
//	1      version, 1
//	then for each entry, in strictly ascending order of the names' bytes
//	4, n   length of the encoded node, at most 4 MiB; the node
//
// It ends with its last node: its length is known from the node of the
// directory that it belongs to.

// AppendListing appends the encoding of a directory's nodes, which must be in
// ascending order of their names, each name once.
func AppendListing(dst []byte, nodes []Node) ([]byte, error) {
	start := len(dst)
	dst = AppendListingHeader(dst)
	prev := ""
	for i := range nodes {
		n := &nodes[i]
		var err error
		if dst, err = AppendListingNode(dst, prev, n); err != nil {
			return dst[:start], err
		}
		prev = n.Name
	}
	return dst, nil
}

// AppendListingHeader appends what stands before the first node of a listing.
// With AppendListingNode a long listing is written piece by piece.
func AppendListingHeader(dst []byte) []byte { return append(dst, listingVersion) }

// AppendListingNode appends the next node of a listing; prev is the name of
// the node before, empty for the first.
func AppendListingNode(dst []byte, prev string, n *Node) ([]byte, error) {
	if err := checkNext(prev, n.Name); err != nil {
		return dst, err
	}
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst, err := AppendNode(dst, n)
	if err != nil {
		return dst[:at], err
	}
	be.PutUint32(dst[at:], uint32(len(dst)-at-4))
	return dst, nil
}

// ParseListing decodes a whole listing.
func ParseListing(b []byte) ([]Node, error) {
	if len(b) == 0 || b[0] != listingVersion {
		return nil, fmt.Errorf("%w: listing version", ErrFormat)
	}
	var nodes []Node
	prev := ""
	for b = b[1:]; len(b) > 0; {
		if len(b) < 4 || uint64(be.Uint32(b)) > uint64(len(b)-4) {
			return nil, fmt.Errorf("%w: listing ends early", ErrFormat)
		}
		size := int(be.Uint32(b))
		n, err := parseNext(b[4:4+size], prev)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
		prev = n.Name
		b = b[4+size:]
	}
	return nodes, nil
}

// A ListingReader decodes a listing node by node, for directories whose
// listing should not lie in memory whole.
type ListingReader struct {
	r     *bufio.Reader
	begun bool
	prev  string
	buf   []byte
	err   error
}

// NewListingReader reads a listing from r, to its end.
func NewListingReader(r io.Reader) *ListingReader {
	return &ListingReader{r: bufio.NewReader(r)}
}

// Next returns the next node, or io.EOF after the last. Errors are final.
func (l *ListingReader) Next() (Node, error) {
	if l.err != nil {
		return Node{}, l.err
	}
	n, err := l.next()
	if err != nil {
		l.err = err
		return Node{}, err
	}
	l.prev = n.Name
	return n, nil
}

func (l *ListingReader) next() (Node, error) {
	if !l.begun {
		v, err := l.r.ReadByte()
		if err != nil {
			return Node{}, early(err)
		}
		if v != listingVersion {
			return Node{}, fmt.Errorf("%w: listing version %d", ErrFormat, v)
		}
		l.begun = true
	}
	var head [4]byte
	if _, err := io.ReadFull(l.r, head[:]); err != nil {
		if err == io.EOF {
			return Node{}, io.EOF
		}
		return Node{}, early(err)
	}
	size := be.Uint32(head[:])
	if size > MaxNodeSize {
		return Node{}, fmt.Errorf("%w: node of %d bytes", ErrFormat, size)
	}
	// The buffer grows with what has really arrived, not with what was claimed.
	l.buf = l.buf[:0]
	for len(l.buf) < int(size) {
		step := min(int(size)-len(l.buf), max(4096, len(l.buf)))
		at := len(l.buf)
		l.buf = append(l.buf, make([]byte, step)...)
		if _, err := io.ReadFull(l.r, l.buf[at:]); err != nil {
			return Node{}, early(err)
		}
	}
	return parseNext(l.buf, l.prev)
}

func early(err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: listing ends early", ErrFormat)
	}
	return fmt.Errorf("fstree: reading listing: %w", err)
}

func parseNext(b []byte, prev string) (Node, error) {
	n, err := ParseNode(b)
	if err != nil {
		return Node{}, err
	}
	return n, checkNext(prev, n.Name)
}

func checkNext(prev, name string) error {
	if name == RootName {
		return fmt.Errorf("%w: name %q", ErrFormat, name)
	}
	if prev != "" && name <= prev {
		return fmt.Errorf("%w: %q after %q", ErrFormat, name, prev)
	}
	return nil
}
