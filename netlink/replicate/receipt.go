package replicate

import (
	"crypto"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"cobox/storage/merklelog"
)

// BoxKey is the Ed25519 key with which a box signs receipts. Its text form is
// "box:" and 64 lower-case hexadecimal digits.
type BoxKey [32]byte

func (k BoxKey) String() string { return "box:" + hex.EncodeToString(k[:]) }

const (
	receiptVersion = 1
	receiptContext = "cobox/v1/receipt\x00"
	receiptBody    = 1 + 32 + 32 + 8 + 32 + 8 + 32 + 16 + 8 + 8 + 8
	// ReceiptSize is the length of an encoded receipt in bytes.
	ReceiptSize = receiptBody + ed25519.SignatureSize
)

// Receipt is a box's signed statement that the first Size blocks of a log, but
// for the holes, are durable there. Whoever has it can show it to others.
//
//	offset  bytes
//	     0      1  version, 1
//	     1     32  box: Ed25519 public key
//	    33     32  log
//	    65      8  size of the checkpoint, at least 1
//	    73     32  root of the checkpoint
//	   105      8  held: number of blocks held below size
//	   113     32  digest of the list of holes below size (merklelog.DigestRanges)
//	   145     16  boot id of the box
//	   161      8  sequence: number of the receipt, rising over the box's life
//	   169      8  elapsed: the box's own running time in milliseconds, never set back
//	   177      8  wall: milliseconds since 1970 by the box's clock, signed; for people
//	   185     64  Ed25519 signature over "cobox/v1/receipt\0" and the 185 bytes before
//	   249         end
type Receipt struct {
	Box         BoxKey
	Log         merklelog.LogID
	Size        uint64
	Root        merklelog.Hash
	Held        uint64
	HolesDigest merklelog.Hash
	Boot        BootID
	Sequence    uint64
	Elapsed     uint64
	Wall        int64
	Sig         [64]byte
}

// NewReceipt states what a store made durable. The caller fills in Boot,
// Sequence, Elapsed and Wall and signs it.
func NewReceipt(d *merklelog.Durable) Receipt {
	return Receipt{
		Log: d.Checkpoint.Log, Size: d.Checkpoint.Size, Root: d.Checkpoint.Root,
		Held: d.Held, HolesDigest: d.HolesDigest,
	}
}

// SignReceipt sets r.Box and r.Sig.
func SignReceipt(r *Receipt, key crypto.Signer) error {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return fmt.Errorf("replicate: sign receipt: key is a %T, want Ed25519", key.Public())
	}
	r.Box = BoxKey(public)
	if err := r.check(); err != nil {
		return err
	}
	sig, err := key.Sign(nil, r.message(), crypto.Hash(0))
	if err != nil {
		return fmt.Errorf("replicate: sign receipt: %w", err)
	}
	if len(sig) != ed25519.SignatureSize {
		return fmt.Errorf("replicate: sign receipt: signature of %d bytes", len(sig))
	}
	r.Sig = [64]byte(sig)
	return nil
}

// Verify checks the signature by r.Box. Whether that is the box it should be,
// and whether the root is right, is for the caller to compare.
func (r *Receipt) Verify() error {
	if err := r.check(); err != nil {
		return err
	}
	if !ed25519.Verify(r.Box[:], r.message(), r.Sig[:]) {
		return fmt.Errorf("%w: receipt of %v for log %v", merklelog.ErrSignature, r.Box, r.Log)
	}
	return nil
}

// Complete reports whether the receipt is for a log without holes.
func (r *Receipt) Complete() bool {
	return r.Held == r.Size && r.HolesDigest == merklelog.DigestRanges(nil)
}

func (r *Receipt) check() error {
	if r.Size == 0 || r.Size > merklelog.MaxSize || r.Held > r.Size {
		return fmt.Errorf("replicate: receipt of size %d for %d blocks held", r.Size, r.Held)
	}
	if (r.Held == r.Size) != (r.HolesDigest == merklelog.DigestRanges(nil)) {
		return errors.New("replicate: receipt has holes where none can be, or none where some must be")
	}
	return nil
}

func (r *Receipt) message() []byte {
	return r.appendBody(append(make([]byte, 0, len(receiptContext)+ReceiptSize), receiptContext...))
}

func (r *Receipt) appendBody(dst []byte) []byte {
	dst = append(dst, receiptVersion)
	dst = append(dst, r.Box[:]...)
	dst = append(dst, r.Log[:]...)
	dst = binary.BigEndian.AppendUint64(dst, r.Size)
	dst = append(dst, r.Root[:]...)
	dst = binary.BigEndian.AppendUint64(dst, r.Held)
	dst = append(dst, r.HolesDigest[:]...)
	dst = append(dst, r.Boot[:]...)
	dst = binary.BigEndian.AppendUint64(dst, r.Sequence)
	dst = binary.BigEndian.AppendUint64(dst, r.Elapsed)
	return binary.BigEndian.AppendUint64(dst, uint64(r.Wall))
}

// AppendReceipt appends the ReceiptSize bytes of r.
func AppendReceipt(dst []byte, r *Receipt) []byte { return append(r.appendBody(dst), r.Sig[:]...) }

// ParseReceipt reads what AppendReceipt wrote. It does not verify the signature.
func ParseReceipt(b []byte) (*Receipt, error) {
	if len(b) != ReceiptSize {
		return nil, fmt.Errorf("replicate: receipt has %d bytes, want %d", len(b), ReceiptSize)
	}
	s := scanner{what: "receipt", b: b}
	if v := s.u8(); v != receiptVersion {
		s.fail("version %d, want %d", v, receiptVersion)
	}
	r := new(Receipt)
	s.copy(r.Box[:])
	s.copy(r.Log[:])
	r.Size = s.size()
	s.copy(r.Root[:])
	r.Held = s.u64()
	s.copy(r.HolesDigest[:])
	s.copy(r.Boot[:])
	r.Sequence = s.u64()
	r.Elapsed = s.u64()
	r.Wall = int64(s.u64())
	s.copy(r.Sig[:])
	if err := s.done(); err != nil {
		return nil, err
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	return r, nil
}
