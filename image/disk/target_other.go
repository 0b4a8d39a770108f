//go:build !linux

package disk

import "os"

func targetFlags(bool) int { return os.O_WRONLY }

// sizeUnknown says that a size of 0 means nothing.
const sizeUnknown = true

// checkTarget cannot tell here what a disk is, so it takes only files unless it
// is forced.
func checkTarget(device string, force bool) (*Target, error) {
	info, err := os.Stat(device)
	if err != nil {
		return nil, missing(device, err)
	}
	if info.Mode().IsRegular() || force {
		return &Target{Device: device, File: info.Mode().IsRegular()}, nil
	}
	return nil, &RefusedError{Device: device, Reason: "a disk that this system tells too little about", Overridable: true}
}

// forget has nothing to do: there is no common way.
func forget(*os.File) error { return nil }
