package admin

// Release is one system of a box.
type Release struct {
	Version string `json:"version"` // for people
	Number  uint32 `json:"number"`  // it grows with every release; 0: unknown
}

// Machine is how things are with the system of a box that runs CoBox's own. A
// box that is a plain program on somebody's computer has none.
type Machine struct {
	Slot    string      `json:"slot"`             // that runs, "a" or "b"; "": unknown
	Trying  bool        `json:"trying"`           // the release that runs has to prove itself
	Release Release     `json:"release"`          // that runs
	Board   string      `json:"board"`            // that updates must be for
	Floor   uint32      `json:"floor"`            // the lowest number that can be installed
	Update  *LastUpdate `json:"update,omitempty"` // the last one, if there was any
}

// UpdateResult is how far an update has come, and how it ended.
type UpdateResult string

// The results.
const (
	UpdateWritten  UpdateResult = "written"  // to the other slot; the box has not restarted yet
	UpdateTrying   UpdateResult = "trying"   // it runs, and has to prove itself
	UpdatePromoted UpdateResult = "promoted" // it has, and stays
	UpdateFellBack UpdateResult = "fellback" // it has not; the system before runs again
)

// LastUpdate is what became of the last update.
type LastUpdate struct {
	Release
	Result UpdateResult `json:"result"`
	Reason string       `json:"reason,omitempty"` // for people, of a fall back
}

// UpdateRequest announces a bundle, which comes as the request's upload.
type UpdateRequest struct {
	Size int64 `json:"size"` // of the bundle
}

// The steps of UpdateProgress, in their order.
const (
	UpdateReceiving = "receiving" // and verifying
	UpdateWriting   = "writing"   // to the slot that does not run
)

// UpdateProgress says how far an update is.
type UpdateProgress struct {
	Step  string `json:"step"`
	Done  int64  `json:"done"` // bytes of the bundle
	Total int64  `json:"total"`
}

// Updated says that an update is written. A moment later the box restarts and
// tries it for some minutes; Status tells the rest.
type Updated struct {
	Release Release `json:"release"` // that is going to be tried
}
