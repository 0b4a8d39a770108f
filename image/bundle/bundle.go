// Package bundle is the format of a signed update: what a release of the system
// consists of, who vouches for it, and the one file that carries it to a box.
//
//	manifest    the text that names every file of a slot by size and SHA-256,
//	            with the release's number; it lies in every slot as manifest.txt
//	signatures  minisign signatures of that text; two of the three release keys
//	            must have signed, and anybody can check them with minisign
//	bundle      manifest, signatures and the files, in one stream
//
// A box reads a bundle with [Open], which looks at signatures, board and number
// before it uses a byte of a file, and then takes the files in turn. Nothing of
// a bundle counts until [Reader.Next] has returned io.EOF: only then is every
// byte known to be there and right. Whoever makes a release builds a [Manifest],
// has it signed and calls [Write].
//
// This package only checks signatures; what makes them belongs to the release
// tool. The bytes are specified in FORMAT.md. Boxes keep for years what they
// were made with, so version 1 is read for ever.
package bundle

import (
	"crypto/sha256"
	"errors"
)

// Why a bundle is refused. Each error of Open and of a Reader wraps one of them,
// unless reading itself failed.
var (
	ErrNotBundle = errors.New("bundle: not an update of CoBox")
	ErrNewer     = errors.New("bundle: made for a newer version of the update format")
	ErrSignature = errors.New("bundle: not signed by enough release keys")
	ErrBoard     = errors.New("bundle: made for another kind of board")
	ErrTooOld    = errors.New("bundle: older than what this box may go back to")
	ErrDamaged   = errors.New("bundle: damaged")
)

// Limits. A reader takes no more memory than they say, whatever it is given.
const (
	// MaxManifest is more than the longest manifest takes.
	MaxManifest = 1 << 20
	// MaxFiles is the most files that a slot has.
	MaxFiles = 2000
	// MaxPath is the longest path, in bytes.
	MaxPath = 255
	// MaxSignatures is the most signatures that a bundle has.
	MaxSignatures = 8

	maxDepth   = 8         // names in a path
	maxVersion = 64        // bytes of a version
	maxBoard   = 32        // bytes of a board's name
	maxComment = 512       // bytes of a comment in a key or signature
	maxWindow  = 8 << 20   // of zstd
	chunkSize  = 64 << 10  // of the compressed files
	maxStream  = 100 << 20 // compressed; what does not compress grows by less than 4 MiB
)

// The header of a bundle.
const (
	magic       = "cobox-bundle"
	version     = 1
	headerSize  = len(magic) + 4 + 4 + 4
	maxSigBytes = MaxSignatures * 2 * 1024
)

// MaxSize is the most bytes that a bundle has.
const MaxSize int64 = int64(headerSize) + MaxManifest + maxSigBytes + maxStream + 4*(maxStream/chunkSize+2) + sha256.Size

// IsBundle says whether a file that begins like this says that it is a bundle,
// of whatever version.
func IsBundle(head []byte) bool { return len(head) >= len(magic) && string(head[:len(magic)]) == magic }
