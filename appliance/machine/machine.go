// Package machine is how coboxd asks for what only the first process of a box
// may do: to write the other slot of the system, to try it, to look at disks and
// to take one into use. coboxd is an unprivileged program that faces the
// network; the first process is root and faces nobody but it.
//
// The two share a connected stream socket, which coboxd inherits (see
// [Inherited]). A box that is a plain program on somebody's computer has none,
// and offers none of this.
//
// Start at the Method constants, which say what can be asked and of what type
// the answers are. PROTOCOL.md has the bytes. The first process trusts nothing
// that comes: it checks signatures, disks and the state of things by itself,
// and a method is safe to be called at any time.
package machine

import (
	"errors"
	"fmt"
)

// The methods, with their parameters, reports of progress, and results.
const (
	MethodState   = "state"   // Empty → State
	MethodInstall = "install" // Install, InstallProgress… → Release: verifies a bundle and writes it to the other slot
	MethodTry     = "try"     // Empty → Empty: restarts once into the other slot, a moment after the answer
	MethodProved  = "proved"  // Empty → Empty: coboxd has checked itself; a system on trial may stay
	MethodDisks   = "disks"   // Empty → Disks
	MethodUseDisk = "usedisk" // UseDisk, CopyProgress… → Empty: a disk is ready; a moment after the answer coboxd is stopped and the data is moved
)

// Empty is nothing in particular.
type Empty struct{}

// Release is a system, as the manifest of its slot says.
type Release struct {
	Version string `json:"version"` // for people
	Number  uint32 `json:"number"`  // 0: its slot does not say
}

// State is what the first process knows of the system.
type State struct {
	Slot    string   `json:"slot"`             // that runs, "a" or "b"; "": unknown
	Trying  bool     `json:"trying"`           // this start is the one trial of a new system
	Release Release  `json:"release"`          // that runs
	Other   *Release `json:"other,omitempty"`  // in the other slot, if there is one
	Board   string   `json:"board"`            // that bundles must be for
	Floor   uint32   `json:"floor"`            // the lowest number that may be installed
	Update  *Update  `json:"update,omitempty"` // the last one, if there was any
	Data    Data     `json:"data"`
}

// Result is how far an update has come, and how it ended.
type Result string

// The results.
const (
	ResultWritten  Result = "written"  // to the other slot; it was not tried yet
	ResultTrying   Result = "trying"   // it runs, and has to prove itself
	ResultPromoted Result = "promoted" // it has, and starts from now on
	ResultFellBack Result = "fellback" // it has not; the system before runs again
)

// Update is what became of the last one.
type Update struct {
	Release
	Result Result `json:"result"`
	Reason string `json:"reason,omitempty"` // for people, of a fall back
}

// Data is where the box's data lies.
type Data struct {
	Disk    string `json:"disk,omitempty"`    // ID of the disk; "": on the disk that the system starts from
	Problem string `json:"problem,omitempty"` // for people: why it is not there; "": it is
	Away    int64  `json:"away,omitempty"`    // seconds for which it was not there before this coboxd started
	Move    *Move  `json:"move,omitempty"`    // that goes on, or the last one if it failed
}

// Move is how moving the data to a disk goes on. It begins before the answer to
// UseDisk, and so replaces one that has failed before. Meanwhile coboxd waits (see
// appliance/datadir/FORMAT.md), for there is no other way to tell members that
// nothing is lost.
type Move struct {
	Disk string `json:"disk"` // ID
	CopyProgress
	Failed string `json:"failed,omitempty"` // for people: why it has ended; the data is where it was
}

// Install asks for a bundle to be written. It lies in the file UpdateFile of
// coboxd's data directory.
type Install struct{}

// UpdateFile is where coboxd leaves a bundle, in its data directory.
const UpdateFile = "update"

// InstallProgress says how far writing a slot is.
type InstallProgress struct {
	Done  int64 `json:"done"` // bytes of the bundle
	Total int64 `json:"total"`
}

// Holds says what is on a disk.
type Holds string

// What a disk can hold.
const (
	HoldsSystem  Holds = "system"  // the box starts from it
	HoldsData    Holds = "data"    // this box's data, in use now
	HoldsOther   Holds = "cobox"   // data of a CoBox: another's, or this one's of former times
	HoldsNothing Holds = "nothing" // it is blank
	HoldsForeign Holds = "foreign" // something else, which is never touched
)

// Disk is one that is plugged in.
type Disk struct {
	ID     string `json:"id"`    // for UseDisk: the same as long as the disk is the same
	Name   string `json:"name"`  // maker and model, for people
	Bytes  uint64 `json:"bytes"` // how large it is
	Holds  Holds  `json:"holds"`
	Found  string `json:"found,omitempty"`  // for people: what is on it
	Unfit  string `json:"unfit,omitempty"`  // for people: why it cannot be used; "": it can
	Device string `json:"device,omitempty"` // as the kernel names it now
}

// Disks are all that are plugged in.
type Disks struct {
	Disks []Disk `json:"disks"`
	Used  uint64 `json:"used"` // bytes that the box's data has; 0: not known
}

// UseDisk asks for a disk to take the box's data.
type UseDisk struct {
	ID string `json:"id"`
}

// CopyProgress says how far moving the data is.
type CopyProgress struct {
	Step  string `json:"step"`  // preparing, copying, comparing
	Done  uint64 `json:"done"`  // bytes
	Total uint64 `json:"total"` // 0: not known
}

// Code says why something was refused.
type Code string

// The codes.
const (
	CodeUnknown  Code = "unknown"  // method
	CodeInvalid  Code = "invalid"  // parameters
	CodeBusy     Code = "busy"     // something else goes on; later perhaps
	CodeRefused  Code = "refused"  // by a rule: it will not do that, however often it is asked
	CodeFailed   Code = "failed"   // it was tried and went wrong
	CodeCanceled Code = "canceled" // by the asker
)

// Error is a refusal or a failure, in words for people.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

func (e *Error) Error() string { return "machine: " + e.Message }

// Errorf makes an Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{code, fmt.Sprintf(format, args...)}
}

// ErrClosed says that the other side has gone.
var ErrClosed = errors.New("machine: the first process does not answer any more")
