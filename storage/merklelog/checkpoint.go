package merklelog

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

const (
	// CheckpointSize is the length of an encoded checkpoint in bytes.
	CheckpointSize = positionSize + ed25519.SignatureSize

	originPrefix  = "cobox/v1/log/"
	maxCheckpoint = 1024 // bytes of checkpoint text that are looked at; a real one has 400
)

// Checkpoint is the writer's signed statement that the tree of the log's first
// Size leaves has this root. Signing one commits the writer for ever.
//
//	offset  bytes
//	     0     32  log
//	    32      8  size, 1 to 2³²
//	    40     32  root
//	    72     64  Ed25519 signature by the writer
//
// The signature is that of the checkpoint's text (C2SP tlog-checkpoint in a
// C2SP signed-note), which is rebuilt from the 136 bytes to verify it. Its
// origin and key name are "cobox/v1/log/" and the log's identity; its version
// is that of the origin.
type Checkpoint struct {
	Log  LogID
	Size uint64
	Root Hash
	Sig  [64]byte
}

// Position returns the place in the log that c commits to.
func (c Checkpoint) Position() Position { return Position{Log: c.Log, Size: c.Size, Root: c.Root} }

// SignCheckpoint commits the log's writer, whose key is given, to the root.
func SignCheckpoint(key crypto.Signer, log LogID, size uint64, root Hash) (Checkpoint, error) {
	c := Checkpoint{Log: log, Size: size, Root: root}
	if err := checkSize(size); err != nil {
		return Checkpoint{}, err
	}
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return Checkpoint{}, fmt.Errorf("merklelog: sign checkpoint: key is a %T, want Ed25519", key.Public())
	}
	sig, err := sign(key, WriterKey(pub), c.appendBody(nil))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("merklelog: sign checkpoint: %w", err)
	}
	c.Sig = sig
	return c, nil
}

// Verify checks the writer's signature.
func (c Checkpoint) Verify(writer WriterKey) error {
	if err := checkSize(c.Size); err != nil {
		return err
	}
	if !ed25519.Verify(writer[:], c.appendBody(make([]byte, 0, 160)), c.Sig[:]) {
		return fmt.Errorf("%w: checkpoint of log %v at size %d", ErrSignature, c.Log, c.Size)
	}
	return nil
}

// appendBody appends the text that is signed: origin, size, root, a line each.
func (c Checkpoint) appendBody(dst []byte) []byte {
	dst = append(dst, originPrefix...)
	dst = hex.AppendEncode(dst, c.Log[:])
	dst = append(dst, '\n')
	dst = strconv.AppendUint(dst, c.Size, 10)
	dst = append(dst, '\n')
	dst = base64.StdEncoding.AppendEncode(dst, c.Root[:])
	return append(dst, '\n')
}

// verifier returns what the note package needs to check the writer's signature.
func verifier(log LogID, writer WriterKey) (note.Verifier, error) {
	vkey, err := note.NewEd25519VerifierKey(originPrefix+log.String(), writer[:])
	if err != nil {
		return nil, err
	}
	return note.NewVerifier(vkey)
}

// Text returns the checkpoint as a signed note, for tools that speak C2SP's
// formats. It does not verify the signature.
func (c Checkpoint) Text(writer WriterKey) []byte {
	v, err := verifier(c.Log, writer)
	if err != nil {
		panic("merklelog: no verifier for an Ed25519 key: " + err.Error()) // any 32 bytes make one
	}
	sig := binary.BigEndian.AppendUint32(nil, v.KeyHash())
	sig = append(sig, c.Sig[:]...)
	text := append(c.appendBody(nil), "\n— "...)
	text = append(text, v.Name()...)
	text = append(text, ' ')
	text = base64.StdEncoding.AppendEncode(text, sig)
	return append(text, '\n')
}

// ParseCheckpointText reads what [Checkpoint.Text] wrote for the same writer,
// and verifies the signature.
func ParseCheckpointText(text []byte, writer WriterKey) (Checkpoint, error) {
	var c Checkpoint
	if len(text) > maxCheckpoint {
		return c, fmt.Errorf("merklelog: checkpoint text has %d bytes, the limit is %d", len(text), maxCheckpoint)
	}
	origin, _, _ := strings.Cut(string(text), "\n")
	name, ok := strings.CutPrefix(origin, originPrefix)
	if !ok {
		return c, errors.New("merklelog: checkpoint text has a foreign origin")
	}
	log, err := ParseLogID(name)
	if err != nil {
		return c, err
	}
	v, err := verifier(log, writer)
	if err != nil {
		return c, fmt.Errorf("merklelog: checkpoint text: %w", err)
	}
	n, err := note.Open(text, note.VerifierList(v))
	if err != nil {
		return c, fmt.Errorf("merklelog: checkpoint text: %w", err)
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return c, errors.New("merklelog: checkpoint text has extension lines")
	}
	size, err := strconv.ParseUint(lines[1], 10, 64)
	if err != nil {
		return c, errors.New("merklelog: checkpoint text has a malformed size")
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != HashSize {
		return c, errors.New("merklelog: checkpoint text has a malformed root")
	}
	sig, err := base64.StdEncoding.DecodeString(n.Sigs[0].Base64)
	if err != nil || len(sig) != 4+len(c.Sig) {
		return c, errors.New("merklelog: checkpoint text has a malformed signature")
	}
	if err := checkSize(size); err != nil {
		return c, err
	}
	got := Checkpoint{Log: log, Size: size, Root: Hash(root), Sig: [64]byte(sig[4:])}
	if !bytes.Equal(got.Text(writer), text) {
		return c, errors.New("merklelog: checkpoint text is not in its canonical form")
	}
	return got, nil
}

// AppendCheckpoint appends the 136 bytes of c to dst.
func AppendCheckpoint(dst []byte, c Checkpoint) []byte {
	return append(AppendPosition(dst, c.Position()), c.Sig[:]...)
}

// ParseCheckpoint reads what [AppendCheckpoint] wrote. It does not verify the
// signature.
func ParseCheckpoint(b []byte) (Checkpoint, error) {
	if len(b) != CheckpointSize {
		return Checkpoint{}, fmt.Errorf("merklelog: checkpoint has %d bytes, want %d", len(b), CheckpointSize)
	}
	p, err := ParsePosition(b[:positionSize])
	if err != nil {
		return Checkpoint{}, err
	}
	return Checkpoint{Log: p.Log, Size: p.Size, Root: p.Root, Sig: [64]byte(b[positionSize:])}, nil
}
