package noiseconn

import "errors"

// Reason says why a box closed a connection before it was authenticated. The
// peer never learns it; it is a label for metrics.
type Reason string

// The reasons. Reasons lists them all.
const (
	ReasonMagic         Reason = "magic"          // not this protocol
	ReasonMode          Reason = "mode"           // neither pair nor link
	ReasonVersion       Reason = "version"        // a version that this box does not speak
	ReasonMAC           Reason = "mac"            // made without this box's public key
	ReasonUnknownInvite Reason = "unknown_invite" // no such pairing secret here
	ReasonBadSecret     Reason = "bad_secret"     // first message of a pairing made with another secret
	ReasonUnknownPeer   Reason = "unknown_peer"   // static key that this box does not know
	ReasonBadMessage    Reason = "bad_message"    // a later handshake message that does not verify
	ReasonTruncated     Reason = "truncated"      // peer closed, or the network failed, in the handshake
	ReasonTimeout       Reason = "timeout"        // handshake not finished in time
	ReasonBusy          Reason = "busy"           // too many half-open connections
	ReasonDisplaced     Reason = "displaced"      // half-open and slow when its place was needed
	ReasonRate          Reason = "rate"           // too many failures from this network or in all
	ReasonStopped       Reason = "stopped"        // the box is shutting down
)

// Reasons lists every Reason, so that a metric can show each of them at 0.
func Reasons() []Reason {
	return []Reason{
		ReasonMagic, ReasonMode, ReasonVersion, ReasonMAC, ReasonUnknownInvite, ReasonBadSecret,
		ReasonUnknownPeer, ReasonBadMessage, ReasonTruncated, ReasonTimeout, ReasonBusy,
		ReasonDisplaced, ReasonRate, ReasonStopped,
	}
}

// RefusedError is what Accept returns for a connection that it closed.
type RefusedError struct {
	Reason Reason
	Err    error // cause, may be nil
}

func (e *RefusedError) Error() string {
	s := "noiseconn: handshake refused: " + string(e.Reason)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *RefusedError) Unwrap() error { return e.Err }

// ReasonOf takes the reason out of an error of Accept.
func ReasonOf(err error) (Reason, bool) {
	var r *RefusedError
	if errors.As(err, &r) {
		return r.Reason, true
	}
	return "", false
}

// Errors of Dial and of an established Conn that callers tell apart.
var (
	// ErrNoAnswer: the other side closed the connection in the handshake. A box
	// does so, silently, with whoever it does not know.
	ErrNoAnswer = errors.New("noiseconn: the box closed the connection without an answer")
	// ErrBadAnswer: the answer was not made with the expected box's key and secret.
	ErrBadAnswer = errors.New("noiseconn: the answer does not verify")
	// ErrTampered: a record failed to verify. The Conn is dead.
	ErrTampered = errors.New("noiseconn: record does not verify")
	// ErrExhausted: a direction has used up its records. The Conn is dead; dial again.
	ErrExhausted = errors.New("noiseconn: record limit reached, a new connection is needed")
)
