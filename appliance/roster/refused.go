package roster

// Reason says why the roster refused something. It is a code for programs and
// for the labels of metrics.
type Reason string

// The reasons.
const (
	ReasonUnknownInvite Reason = "unknown_invite" // no such invite, or it was cancelled
	ReasonUsed          Reason = "used"           // another device has used this secret
	ReasonClaimed       Reason = "claimed"        // the box has an administrator already
	ReasonExpired       Reason = "expired"        // the invite's time is over
	ReasonInvalid       Reason = "invalid"        // what was sent is not well formed or not signed
	ReasonRevoked       Reason = "revoked"        // the account has revoked this device
	ReasonTaken         Reason = "taken"          // a key is already another's
	ReasonFull          Reason = "full"           // a limit of the roster or of logs is reached
	ReasonNotMember     Reason = "not_member"     // the account is no member here, or no more
	ReasonForbidden     Reason = "forbidden"      // this peer may not do this
	ReasonNotFound      Reason = "not_found"      // there is no such member or invite
	ReasonLast          Reason = "last"           // nobody could administer the box any more
)

// Reasons lists every Reason, so that a metric can show each of them at 0.
func Reasons() []Reason {
	return []Reason{
		ReasonUnknownInvite, ReasonUsed, ReasonClaimed, ReasonExpired, ReasonInvalid, ReasonRevoked, ReasonTaken,
		ReasonFull, ReasonNotMember, ReasonForbidden, ReasonNotFound, ReasonLast,
	}
}

// RefusedError is what a method returns when the answer is no; nothing has
// changed. Other errors are faults of the store.
type RefusedError struct {
	Reason Reason
	Err    error // what exactly; its text may be shown to the peer
}

func (e *RefusedError) Error() string { return "roster: " + string(e.Reason) + ": " + e.Err.Error() }

func (e *RefusedError) Unwrap() error { return e.Err }
