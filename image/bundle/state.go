package bundle

import "fmt"

// State is what a box knows of itself when it judges an update.
type State struct {
	// Board is the kind of board that this is.
	Board string
	// Floor is the lowest number that may be installed: the highest floor of the
	// releases that have run here.
	Floor uint32
}

// Check says whether a release may be installed: ErrBoard or ErrTooOld.
func (s State) Check(m *Manifest) error {
	if m.Board != s.Board {
		return fmt.Errorf("%w: it is for %s, this is %s", ErrBoard, m.Board, s.Board)
	}
	if m.Number < s.Floor {
		return fmt.Errorf("%w: it is number %d (%s), and this box takes %d or higher", ErrTooOld, m.Number, m.Version, s.Floor)
	}
	return nil
}

// After returns the state once a release has proved itself here. The floor
// never sinks.
func (s State) After(m *Manifest) State {
	s.Floor = max(s.Floor, m.Floor)
	return s
}
