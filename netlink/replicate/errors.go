package replicate

import (
	"context"
	"errors"
	"fmt"

	"cobox/storage/merklelog"
)

// Code says why a request, an offer or a session was refused. Codes travel;
// their numbers are frozen.
type Code uint16

const (
	CodeNone        Code = 0  // no error: an offer or session that ended as it should
	CodeInternal    Code = 1  // a fault at the peer that is nobody else's
	CodeProtocol    Code = 2  // the receiver of the code broke the protocol or sent what does not verify
	CodeBusy        Code = 3  // too much at once; later it may work
	CodeNotAllowed  Code = 4  // the receiver may not do this
	CodeUnknownLog  Code = 5  // no such log here
	CodeQuota       Code = 6  // the account's quota is full; what is held stays
	CodeNoSpace     Code = 7  // the disk is full
	CodeFrozen      Code = 8  // the log's writer forked it; a fork message came before
	CodeTooLarge    Code = 9  // something is over a limit of the peer
	CodeDamaged     Code = 10 // what was asked for is damaged there
	CodeNotHeld     Code = 11 // what was asked for is not there
	CodeUnsupported Code = 12 // a version or method that the peer does not know
	CodeCanceled    Code = 13 // the receiver canceled it
	CodeShutdown    Code = 14 // the peer is stopping; connect again later
	CodeInvalid     Code = 15 // a request that is well formed but makes no sense
	CodeTimeout     Code = 16 // nothing was heard for too long
	CodeReadOnly    Code = 17 // the peer takes in nothing now, but still serves
	CodeWaiting     Code = 18 // the peer waits for its data, which is not lost; later it works again
)

var codeNames = [...]string{
	"none", "internal", "protocol", "busy", "not allowed", "unknown log", "quota",
	"no space", "frozen", "too large", "damaged", "not held", "unsupported",
	"canceled", "shutdown", "invalid", "timeout", "read only", "waiting for its data",
}

// String returns the code in words.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("code %d", uint16(c))
}

// Error is a refusal by the peer, or one that an Authorizer or Admin wants the
// peer to get. Any other error that they return reaches the peer as
// CodeInternal without its text, which is for the log of this side only.
type Error struct {
	Code    Code
	Message string // at most 1,024 bytes, for people
}

func (e *Error) Error() string {
	if e.Message == "" {
		return "replicate: peer: " + e.Code.String()
	}
	return "replicate: peer: " + e.Code.String() + ": " + e.Message
}

// Is makes errors.Is(err, &Error{Code: c}) compare the code alone.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Message == ""
}

// ViolationError ends a session: the peer sent what no honest peer sends.
type ViolationError struct {
	Doing string
	Err   error
}

func (e *ViolationError) Error() string {
	return "replicate: peer broke the protocol: " + e.Doing + ": " + e.Err.Error()
}

func (e *ViolationError) Unwrap() error { return e.Err }

func violation(doing string, err error) error { return &ViolationError{Doing: doing, Err: err} }

func violationf(doing, format string, args ...any) error {
	return violation(doing, fmt.Errorf(format, args...))
}

// RegressionError says that the peer holds a checkpoint of our own log, signed
// by our own key, that we do not have: longer than ours, or of another history.
// The device must leave the log and start a new one.
type RegressionError struct {
	Own  merklelog.Checkpoint // what the source has
	Peer merklelog.Checkpoint // what the peer has; its signature was verified
}

func (e *RegressionError) Error() string {
	return fmt.Sprintf("replicate: the peer holds log %v up to %d, which this device does not know (it has %d)",
		e.Own.Log, e.Peer.Size, e.Own.Size)
}

// ReceiptError says that a receipt is signed, but not for what was offered: the
// box is at fault, and what it receipted does not count.
type ReceiptError struct {
	Receipt Receipt
	Reason  string
}

func (e *ReceiptError) Error() string {
	return fmt.Sprintf("replicate: receipt for log %v at size %d: %s", e.Receipt.Log, e.Receipt.Size, e.Reason)
}

// HolesError says that the peer receipted the log but lacks blocks that the
// source does not have (any more) either.
type HolesError struct {
	Receipt   Receipt
	Holes     []merklelog.Range // below the size that was waited for
	Truncated bool              // there are more holes than those listed
}

func (e *HolesError) Error() string {
	return fmt.Sprintf("replicate: the peer lacks %d ranges of blocks of log %v that are not here either", len(e.Holes), e.Receipt.Log)
}

// NotHeldError says which of the blocks asked for the peer could not give. All
// others were delivered.
type NotHeldError struct {
	Log     merklelog.LogID
	Indexes []uint64
	Damaged int // how many of them the peer holds, but damaged
}

func (e *NotHeldError) Error() string {
	return fmt.Sprintf("replicate: the peer lacks %d blocks of log %v (%d of them damaged), the first is %d",
		len(e.Indexes), e.Log, e.Damaged, e.Indexes[0])
}

// ErrClosed means that the session has ended. What ended it is the result of Run.
var ErrClosed = errors.New("replicate: session is closed")

// ErrNoUploads means that the peer's program is too old to take uploads.
var ErrNoUploads = errors.New("replicate: the peer's program is too old for this: it takes no uploads")

var (
	// ErrNotHere is returned by a Source or a Store for a block that it does
	// not have.
	ErrNotHere = errors.New("replicate: block is not here")
	// ErrUnknownLog is returned by a Store for a log that it does not hold.
	ErrUnknownLog = errors.New("replicate: log is not held here")
)

const maxMessage = 1024 // bytes of text in an error

// Refusal turns any error into what the peer may know of it.
func refusal(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return &Error{Code: e.Code, Message: cleanText(e.Message, maxMessage)}
	}
	if errors.Is(err, context.Canceled) {
		return &Error{Code: CodeCanceled}
	}
	return &Error{Code: CodeInternal}
}
