package bundle

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"cobox/image/layout"
)

// BoardRPi names the boards that all run the same slot: Raspberry Pi 3, 4, 5 and
// Zero 2 W.
const BoardRPi = "rpi-arm64"

// Manifest says what a slot consists of. Its text is what release keys sign.
//
//	cobox-slot 1
//	version TEXT
//	number N
//	floor N
//	board NAME
//	file SIZE SHA256 PATH      one line a file, ordered by the bytes of the path
type Manifest struct {
	// Version is for people: 1 to 64 printable ASCII characters without spaces.
	Version string
	// Number orders releases; it grows with each, from 1.
	Number uint32
	// Floor is the lowest number that may be installed once this release runs. It
	// is at most Number, so that a release can always be installed again.
	Floor uint32
	// Board is the kind of board that the slot runs on.
	Board string
	// Files are all files of the slot but the manifest and its signatures.
	Files []File
}

// File is one file of a slot.
type File struct {
	Path   string // relative, with slashes
	Size   int64
	SHA256 [32]byte
}

const (
	manifestName    = "cobox-slot"
	manifestVersion = 1
)

// Append appends the text of m, or says why m cannot be one.
func (m *Manifest) Append(b []byte) ([]byte, error) {
	if err := m.validate(); err != nil {
		return nil, fmt.Errorf("bundle: manifest: %w", err)
	}
	return m.append(b), nil
}

func (m *Manifest) append(b []byte) []byte {
	b = fmt.Appendf(b, "%s %d\nversion %s\nnumber %d\nfloor %d\nboard %s\n",
		manifestName, manifestVersion, m.Version, m.Number, m.Floor, m.Board)
	for _, f := range m.Files {
		b = fmt.Appendf(b, "file %d %x %s\n", f.Size, f.SHA256, f.Path)
	}
	return b
}

// ParseManifest reads what Append writes, and nothing else. A manifest of a
// later version gives ErrNewer.
func ParseManifest(text []byte) (*Manifest, error) {
	if len(text) > MaxManifest {
		return nil, fmt.Errorf("bundle: manifest: %d bytes, at most %d are allowed", len(text), MaxManifest)
	}
	l := &lines{rest: string(text)}
	v := l.number(manifestName)
	if l.err == nil && v > manifestVersion {
		return nil, fmt.Errorf("%w: manifest version %d, this program reads %d", ErrNewer, v, manifestVersion)
	}
	m := &Manifest{
		Version: l.field("version"),
		Number:  l.number("number"),
		Floor:   l.number("floor"),
		Board:   l.field("board"),
	}
	for l.err == nil && l.rest != "" {
		if len(m.Files) == MaxFiles {
			l.fail(errTooMany)
			break
		}
		if f := l.file(); l.err == nil {
			m.Files = append(m.Files, f)
		}
	}
	if l.err != nil {
		return nil, fmt.Errorf("bundle: manifest: line %d: %w", l.n, l.err)
	}
	if err := m.validate(); err != nil {
		return nil, fmt.Errorf("bundle: manifest: %w", err)
	}
	// Numbers with leading zeros, capital letters in a hash and the like.
	if string(m.append(nil)) != string(text) {
		return nil, errors.New("bundle: manifest: not in canonical form")
	}
	return m, nil
}

var errTooMany = fmt.Errorf("more than %d files", MaxFiles)

func (m *Manifest) validate() error {
	switch {
	case CheckVersion(m.Version) != nil:
		return CheckVersion(m.Version)
	case !isText(m.Board, maxBoard, func(c byte) bool { return c == '-' || isDigit(c) || isLower(c) }):
		return fmt.Errorf("%.80q is no name of a board", m.Board)
	case m.Number == 0:
		return errors.New("the number is 0; releases are counted from 1")
	case m.Floor > m.Number:
		return fmt.Errorf("the floor %d is above the number %d", m.Floor, m.Number)
	case len(m.Files) == 0:
		return errors.New("there are no files")
	case len(m.Files) > MaxFiles:
		return errTooMany
	}
	return validateFiles(m.Files)
}

// validateFiles holds what a FAT file system can keep apart, and sizes that fit
// a slot.
func validateFiles(files []File) error {
	// Paths as FAT compares them, without case. A directory must be spelled the
	// same way everywhere, and must not be a file as well.
	isFile, dirs := make(map[string]bool, len(files)), map[string]string{}
	var total int64
	for i, f := range files {
		if err := validatePath(f.Path); err != nil {
			return err
		}
		if i > 0 && f.Path <= files[i-1].Path {
			return fmt.Errorf("%q does not come after %q", f.Path, files[i-1].Path)
		}
		folded := strings.ToLower(f.Path)
		if isFile[folded] {
			return fmt.Errorf("%q and another path differ only in case", f.Path)
		}
		isFile[folded] = true
		for n, c := range f.Path {
			if c != '/' {
				continue
			}
			if spelled, ok := dirs[folded[:n]]; ok && spelled != f.Path[:n] {
				return fmt.Errorf("the directories %q and %q differ only in case", spelled, f.Path[:n])
			}
			dirs[folded[:n]] = f.Path[:n]
		}
		if f.Size < 0 || f.Size > layout.SlotSize || total+f.Size > layout.SlotSize {
			return fmt.Errorf("up to %q the files are larger than a slot, %d bytes", f.Path, layout.SlotSize)
		}
		total += f.Size
	}
	for dir, spelled := range dirs {
		if isFile[dir] {
			return fmt.Errorf("%q is a file and a directory", spelled)
		}
	}
	return nil
}

// validatePath accepts what every FAT driver takes as it is: names of letters,
// digits, "-", "_", "+" and ".", where a dot is neither first nor last.
func validatePath(path string) error {
	if len(path) == 0 || len(path) > MaxPath {
		return fmt.Errorf("a path of %d bytes; 1 to %d are allowed", len(path), MaxPath)
	}
	if strings.Count(path, "/") >= maxDepth {
		return fmt.Errorf("%.300q is more than %d directories deep", path, maxDepth-1)
	}
	for name := range strings.SplitSeq(path, "/") {
		ok := isText(name, MaxPath, func(c byte) bool {
			return isDigit(c) || isLower(c) || c >= 'A' && c <= 'Z' || strings.IndexByte("-_+.", c) >= 0
		})
		if !ok || name[0] == '.' || name[len(name)-1] == '.' {
			return fmt.Errorf("%.300q is no path for a slot", path)
		}
	}
	// They describe the slot and cannot describe themselves.
	if strings.EqualFold(path, layout.ManifestFile) || strings.EqualFold(path, layout.SignaturesFile) {
		return fmt.Errorf("%q is not a file of the manifest", path)
	}
	return nil
}

// CheckVersion says why a text cannot be the version of a manifest.
func CheckVersion(version string) error {
	if !isText(version, maxVersion, func(c byte) bool { return c > ' ' && c < 0x7f }) {
		return fmt.Errorf("%.80q is no version: 1 to %d printable ASCII characters without spaces", version, maxVersion)
	}
	return nil
}

// isText says whether s has 1 to most bytes, all of which are ok.
func isText(s string, most int, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return len(s) > 0 && len(s) <= most
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isLower(c byte) bool { return c >= 'a' && c <= 'z' }

// lines takes the lines of a manifest in turn and keeps the first error.
type lines struct {
	rest string
	n    int
	err  error
}

func (l *lines) fail(err error) {
	if l.err == nil {
		l.err = err
	}
}

// field takes a line that starts with a word and a space, and returns what
// follows them.
func (l *lines) field(word string) string { return l.line(word + " ") }

// line takes a line that starts with a prefix and returns what follows it.
func (l *lines) line(prefix string) string {
	if l.err != nil {
		return ""
	}
	l.n++
	line, rest, ok := strings.Cut(l.rest, "\n")
	value, named := strings.CutPrefix(line, prefix)
	switch {
	case !ok:
		l.fail(errors.New("the text ends in the line"))
	case !named:
		l.fail(fmt.Errorf("%.40q where %q is expected", line, strings.TrimSpace(prefix)))
	}
	l.rest = rest
	return value
}

func (l *lines) number(word string) uint32 {
	value := l.field(word)
	if l.err != nil {
		return 0
	}
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil || n == 0 && word == manifestName {
		l.fail(fmt.Errorf("%.20q is no number", value))
	}
	return uint32(n)
}

func (l *lines) file() (f File) {
	value := l.field("file")
	if l.err != nil {
		return f
	}
	size, value, _ := strings.Cut(value, " ")
	sum, path, ok := strings.Cut(value, " ")
	n, err := strconv.ParseUint(size, 10, 31)
	if !ok || err != nil || len(sum) != hex.EncodedLen(len(f.SHA256)) {
		l.fail(errors.New("not a size, a SHA-256 and a path"))
		return f
	}
	if _, err := hex.Decode(f.SHA256[:], []byte(sum)); err != nil {
		l.fail(fmt.Errorf("SHA-256: %w", err))
	}
	f.Size, f.Path = int64(n), path
	return f
}
