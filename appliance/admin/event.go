package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"cobox/storage/account"
)

// Kind says what happened.
type Kind string

// The kinds of events.
const (
	EventStarted        Kind = "started"    // the box started
	EventStopped        Kind = "stopped"    // the box was stopped in order
	EventClaimed        Kind = "claimed"    // somebody became the first administrator
	EventJoined         Kind = "joined"     // a member joined by an invite
	EventDevice         Kind = "device"     // a member has one more device
	EventRecovered      Kind = "recovered"  // an account logged in with its phrase
	EventInvited        Kind = "invited"    // an administrator made an invite
	EventCancelled      Kind = "cancelled"  // an administrator cancelled one
	EventQuota          Kind = "quota"      // an administrator changed a quota
	EventRemoved        Kind = "removed"    // an administrator removed a member
	EventNewLog         Kind = "log"        // a device began a log
	EventForked         Kind = "forked"     // a log was frozen because its writer forked it
	EventRefused        Kind = "refused"    // handshakes were refused; one event a reason and hour
	EventPairingRefused Kind = "pairing"    // somebody with a secret was refused
	EventFull           Kind = "quota-full" // new data was refused for lack of quota
	EventNoSpace        Kind = "disk-full"  // new data was refused for lack of disk space
	EventDamaged        Kind = "damaged"    // stored data is not what was stored
	EventChecked        Kind = "checked"    // a check has ended
	EventViolation      Kind = "violation"  // a member's device broke the protocol
	EventUpdateWritten  Kind = "update"     // an administrator had an update written; the box restarts to try it
	EventUpdatePromoted Kind = "promoted"   // an update has proved itself and stays
	EventUpdateFellBack Kind = "fell-back"  // an update has not; the system before runs again
	EventDiskUse        Kind = "disk"       // an administrator lets a disk take the data
	EventDataMoved      Kind = "data-moved" // the data lies on another disk than before
	EventDataBack       Kind = "data-back"  // the data is here again, after the box had to wait for it
)

// Event is one entry of a box's event log. It names accounts and devices, and
// holds no secret.
//
// In the box's store it is this JSON object with "v":1, in the one form that
// encoding/json gives it.
type Event struct {
	V       int                `json:"v"`
	Number  uint64             `json:"number"`
	Elapsed int64              `json:"elapsed"`
	Wall    int64              `json:"wall"`
	Kind    Kind               `json:"kind"`
	Account *account.ID        `json:"account,omitempty"`
	Device  *account.DeviceKey `json:"device,omitempty"`
	Log     string             `json:"log,omitempty"`    // 64 hex digits
	By      *account.ID        `json:"by,omitempty"`     // administrator who did it
	Detail  string             `json:"detail,omitempty"` // for people
	Count   uint64             `json:"count,omitempty"`  // of equal events in this one
}

// EventVersion is the version of Event.
const EventVersion = 1

// MaxEvent bounds an encoded event in bytes.
const MaxEvent = 4096

// AppendEvent appends the encoded event to b.
func AppendEvent(b []byte, e *Event) []byte {
	text, err := json.Marshal(e)
	if err != nil {
		panic("admin: an event cannot be encoded: " + err.Error())
	}
	return append(b, text...)
}

// ParseEvent reads what AppendEvent wrote.
func ParseEvent(b []byte) (*Event, error) {
	if len(b) > MaxEvent {
		return nil, fmt.Errorf("admin: event of %d bytes, at most %d", len(b), MaxEvent)
	}
	e := new(Event)
	if err := Decode(b, e); err != nil {
		return nil, err
	}
	switch {
	case e.V != EventVersion:
		return nil, fmt.Errorf("admin: event of version %d, want %d", e.V, EventVersion)
	case !bytes.Equal(AppendEvent(nil, e), b):
		return nil, errors.New("admin: event is not in canonical form")
	}
	return e, nil
}
