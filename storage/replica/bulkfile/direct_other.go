//go:build !linux

package bulkfile

import "errors"

// setDirect is for Linux, which boxes run.
func setDirect(uintptr, bool) error { return errors.ErrUnsupported }
