package layout

import (
	"errors"
	"fmt"
	"strings"
)

// AutobootSize is the length of autoboot.txt, which never changes: to choose
// another slot one sector is overwritten in place, which a disk does wholly or
// not at all, and neither the directory nor the allocation table changes.
const AutobootSize = SectorSize

// Autoboot is what autoboot.txt says: the slot that starts, and the one that a
// reboot with the one-shot flag "tryboot" tries instead, which is the other.
type Autoboot struct{ Slot Slot }

// ErrAutoboot says that an autoboot.txt is not one of ours.
var ErrAutoboot = errors.New("layout: not an autoboot.txt of ours")

// Append appends the file, AutobootSize bytes: the lines, then a comment that
// fills up the sector.
func (a Autoboot) Append(b []byte) []byte {
	text := fmt.Sprintf("[all]\ntryboot_a_b=1\nboot_partition=%d\n[tryboot]\nboot_partition=%d\n",
		a.Slot.Partition(), a.Slot.Other().Partition())
	text += "#" + strings.Repeat(".", AutobootSize-len(text)-2) + "\n"
	return append(b, text...)
}

// ParseAutoboot reads what Append writes, and nothing else.
func ParseAutoboot(b []byte) (Autoboot, error) {
	for _, s := range []Slot{SlotA, SlotB} {
		if a := (Autoboot{s}); string(a.Append(nil)) == string(b) {
			return a, nil
		}
	}
	return Autoboot{}, ErrAutoboot
}
