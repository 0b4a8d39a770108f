//go:build !linux

package disk

import (
	"fmt"
	"os"
)

func targetFlags(bool) int { return os.O_WRONLY }

// checkTarget cannot tell here what a disk is, so it takes only files unless it
// is forced.
func checkTarget(device string, force bool) error {
	info, err := os.Stat(device)
	if err != nil {
		return fmt.Errorf("disk: looking at %s: %w", device, err)
	}
	if info.Mode().IsRegular() || force {
		return nil
	}
	return &RefusedError{Device: device, Reason: "a disk that this system tells too little about", Overridable: true}
}

// forget has nothing to do: there is no common way.
func forget(*os.File) error { return nil }
