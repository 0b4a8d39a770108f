package admin

// Data is where a box's data lies.
type Data struct {
	Disk    string `json:"disk,omitempty"`    // ID of the disk; "": on the one that the box starts from
	Problem string `json:"problem,omitempty"` // for people: why it is not there; "": it is
	Move    *Move  `json:"move,omitempty"`    // that goes on, or the last one if it failed
}

// Move is how moving the data to a disk goes on.
type Move struct {
	Disk string `json:"disk"` // ID
	CopyProgress
	Failed string `json:"failed,omitempty"` // for people: why it has ended; the data is where it was
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

// Disk is one that is plugged into a box.
type Disk struct {
	ID     string `json:"id"`    // for DiskUseRequest: the same as long as the disk is the same
	Name   string `json:"name"`  // maker and model, for people
	Bytes  uint64 `json:"bytes"` // how large it is
	Holds  Holds  `json:"holds"`
	Found  string `json:"found,omitempty"`  // for people: what is on it
	Unfit  string `json:"unfit,omitempty"`  // for people: why it cannot take the data; "": it can
	Device string `json:"device,omitempty"` // as the box's kernel names it now
}

// DisksRequest asks for the disks that are plugged into the box.
type DisksRequest struct{}

// Disks are all that are.
type Disks struct {
	Disks []Disk `json:"disks"`
	Used  uint64 `json:"used"` // bytes that the box's data has; 0: not known
}

// DiskUseRequest lets a disk take the box's data. The answer comes when the disk
// is ready; the data is then moved, for which the box waits, and Status tells how
// far it is.
type DiskUseRequest struct {
	ID string `json:"id"`
}

// CopyProgress says how far moving the data is.
type CopyProgress struct {
	Step  string `json:"step"`  // preparing, copying, comparing
	Done  uint64 `json:"done"`  // bytes
	Total uint64 `json:"total"` // 0: not known
}
