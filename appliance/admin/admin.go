// Package admin holds the requests that administer a box over a link, and
// their answers, as both ends see them: the box serves them, the member's
// program sends them.
//
// A request is a method, one of the Method constants, and a JSON object as its
// body; so is an answer. Sizes are bytes, durations milliseconds, wall times
// seconds since 1970 as the box knows them, and "elapsed" is how long the box
// has been running in its whole life, in milliseconds. Nothing here decides
// who may ask what; that is the roster's.
//
// A box refuses a request with fields that it does not know (see [Decode]),
// since a field that is silently dropped may be the one that matters. A member's
// program ignores what it does not know in an answer.
package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"cobox/storage/account"
)

// The methods. Status answers every member, with more for an administrator;
// Devices tells every member of its own account;
// DeviceRegister answers only a login with the recovery phrase; the others
// answer administrators.
const (
	MethodStatus         = "status"          // StatusRequest, Status
	MethodMembers        = "members"         // MembersRequest, Members
	MethodInviteCreate   = "invite.create"   // InviteRequest, Invited
	MethodInviteCancel   = "invite.cancel"   // CancelRequest, Empty
	MethodQuotaSet       = "quota.set"       // QuotaRequest, Empty
	MethodMemberRemove   = "member.remove"   // RemoveRequest, Empty
	MethodCheck          = "check"           // CheckRequest, CheckProgress…, CheckReport
	MethodLog            = "log"             // LogRequest, Log
	MethodDeviceRegister = "device.register" // RegisterRequest, Registered
	MethodDevices        = "devices"         // DevicesRequest, Devices
	MethodUpdate         = "update"          // UpdateRequest and a bundle as upload, UpdateProgress…, Updated
	MethodDisks          = "disks"           // DisksRequest, Disks
	MethodDiskUse        = "disk.use"        // DiskUseRequest, CopyProgress…, Empty
)

// Methods lists all methods.
func Methods() []string {
	return []string{MethodStatus, MethodMembers, MethodInviteCreate, MethodInviteCancel, MethodQuotaSet,
		MethodMemberRemove, MethodCheck, MethodLog, MethodDeviceRegister, MethodDevices, MethodUpdate,
		MethodDisks, MethodDiskUse}
}

// Empty is a body without anything in it.
type Empty struct{}

// Quota is a number of bytes, or none at all.
type Quota struct {
	Unlimited bool   `json:"unlimited,omitempty"`
	Bytes     uint64 `json:"bytes"`
}

// StatusRequest asks for Status.
type StatusRequest struct{}

// Status is what a box says of itself.
type Status struct {
	Name      string     `json:"name"`
	Version   string     `json:"version"`
	Key       string     `json:"key"`       // static key, "noise:" and hex
	Signer    string     `json:"signer"`    // key of its receipts, "box:" and hex
	Addresses []string   `json:"addresses"` // where it can be reached now
	Elapsed   int64      `json:"elapsed"`
	Wall      int64      `json:"wall"`
	ReadOnly  bool       `json:"read_only"` // it takes in nothing, and still serves
	You       You        `json:"you"`
	Box       *BoxStatus `json:"box,omitempty"`     // for administrators
	Machine   *Machine   `json:"machine,omitempty"` // for administrators of a box that runs CoBox's own system
	Data      *Data      `json:"data,omitempty"`    // for administrators of a box that knows its disks

	// Waiting says, for people, what the box waits for. It then has none of its
	// data, knows nothing that lies there, and answers only requests about that;
	// "": it has it.
	Waiting string `json:"waiting,omitempty"`
}

// You is what a box says of the account that asks.
type You struct {
	Administrator bool   `json:"administrator"`
	Quota         Quota  `json:"quota"`
	Used          uint64 `json:"used"`
}

// BoxStatus is what only administrators see.
type BoxStatus struct {
	Uptime    int64  `json:"uptime"`     // of this run
	Members   int    `json:"members"`    // without removed ones
	Logs      int    `json:"logs"`       //
	Bytes     uint64 `json:"bytes"`      // of blocks held
	Damaged   uint64 `json:"damaged"`    // blocks found bad in this run
	Sessions  int    `json:"sessions"`   // links open now
	Free      uint64 `json:"free"`       // of the disk
	DiskBytes uint64 `json:"disk_bytes"` // what the store occupies on it
	DiskLow   bool   `json:"disk_low"`   // new data is refused for lack of space
}

// MembersRequest asks for members, in the order in which they joined.
type MembersRequest struct {
	After *account.ID `json:"after,omitempty"` // begin behind this one
}

// Members is a part of the list of members.
type Members struct {
	Members []Member `json:"members"`
	Invites []Invite `json:"invites"` // with the first part
	More    bool     `json:"more"`    // ask again, after the last one
}

// Member is one account.
type Member struct {
	Account       account.ID `json:"account"`
	Name          string     `json:"name"`
	Administrator bool       `json:"administrator"`
	Removed       bool       `json:"removed"`
	Quota         Quota      `json:"quota"`
	Used          uint64     `json:"used"`
	Logs          int        `json:"logs"`
	Joined        int64      `json:"joined"` // wall
	Devices       []Device   `json:"devices"`
}

// Device is one device of a member.
type Device struct {
	Device  account.DeviceKey `json:"device"`
	Name    string            `json:"name"`
	Joined  int64             `json:"joined"` // wall
	Seen    int64             `json:"seen"`   // wall; 0: never
	SeenAgo int64             `json:"seen_ago"`
	Revoked bool              `json:"revoked"`
	Online  bool              `json:"online"`
}

// Invite is one invite without its secret.
type Invite struct {
	ID        string             `json:"id"` // 16 hex digits
	Name      string             `json:"name"`
	Quota     Quota              `json:"quota"`
	State     string             `json:"state"`     // open, used, expired or cancelled
	Created   int64              `json:"created"`   // wall
	Remaining int64              `json:"remaining"` // until it expires, if it is open
	UsedBy    *account.DeviceKey `json:"used_by,omitempty"`
}

// InviteRequest asks for an invite for a member.
type InviteRequest struct {
	Name     string `json:"name,omitempty"` // what the member will be called
	Quota    Quota  `json:"quota"`
	Lifetime int64  `json:"lifetime,omitempty"` // 0: seven days
}

// Invited is a new invite. Code is as secret as a key: whoever has it joins.
type Invited struct {
	Invite Invite `json:"invite"`
	Code   string `json:"code"` // text of the pairing code
}

// CancelRequest closes an invite.
type CancelRequest struct {
	ID string `json:"id"`
}

// QuotaRequest changes a member's quota.
type QuotaRequest struct {
	Account account.ID `json:"account"`
	Quota   Quota      `json:"quota"`
}

// RemoveRequest ends a membership.
type RemoveRequest struct {
	Account account.ID `json:"account"`
}

// CheckRequest asks the box to verify all that it holds.
type CheckRequest struct{}

// CheckProgress says how far a check is.
type CheckProgress struct {
	Logs        uint64 `json:"logs"` // verified
	TotalLogs   uint64 `json:"total_logs"`
	Blocks      uint64 `json:"blocks"` // verified
	TotalBlocks uint64 `json:"total_blocks"`
}

// CheckReport is what a check has found.
type CheckReport struct {
	Logs        uint64    `json:"logs"`    // verified
	Leaves      uint64    `json:"leaves"`  // verified
	Blocks      uint64    `json:"blocks"`  // verified
	Damaged     []Damaged `json:"damaged"` // the first MaxDamaged
	DamageCount uint64    `json:"damage_count"`
	Missing     uint64    `json:"missing"` // blocks with a leaf that are not here: lost, or not sent yet
	Millis      int64     `json:"millis"`  // how long it took
}

// MaxDamaged is how many damages a CheckReport lists.
const MaxDamaged = 1000

// Damaged is one thing that is not what was stored.
type Damaged struct {
	Log   string `json:"log,omitempty"` // 64 hex digits; empty if it is in no log
	Index uint64 `json:"index"`         // of the block, or the first block concerned
	What  string `json:"what"`          // block, leaves, tree, checkpoint, manifest, index …
	Error string `json:"error"`         // for people
}

// LogRequest asks for events, newest first.
type LogRequest struct {
	Before uint64 `json:"before,omitempty"` // only with a lower number; 0: the newest
	Max    int    `json:"max,omitempty"`    // 0: 100; at most 500
}

// Log is a part of the box's event log.
type Log struct {
	Events []Event `json:"events"`
	More   bool    `json:"more"`
}

// RegisterRequest makes a newly certified device known.
type RegisterRequest struct {
	Card        []byte `json:"card"`        // encoded account card
	Certificate []byte `json:"certificate"` // encoded device certificate
	Name        string `json:"name,omitempty"`
}

// Registered lets the device log in from now on.
type Registered struct {
	LinkPSK []byte `json:"link_psk"` // 32 bytes, secret
	Role    string `json:"role"`
	Quota   Quota  `json:"quota"`
	Box     string `json:"box"` // name of the box
}

// DevicesRequest asks for the devices of the account that asks.
type DevicesRequest struct{}

// Devices are the devices of an account that are not revoked.
type Devices struct {
	Devices     []Certified `json:"devices"`     // in the order of their keys
	Revocations uint32      `json:"revocations"` // number of the newest; 0: none
}

// Certified is one device. Only the certificate proves anything.
type Certified struct {
	Certificate []byte `json:"certificate"` // encoded
	Name        string `json:"name"`
}

// Decode reads the body of a request. An empty body is an empty object.
func Decode(body []byte, into any) error {
	if len(body) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("admin: request: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("admin: request: more than one JSON value")
	}
	return nil
}
