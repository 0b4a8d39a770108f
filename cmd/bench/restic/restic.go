//go:build peer

// Package restic pins the peer that the benchmark compares CoBox with, in a
// module of its own so that none of its dependencies reach CoBox.
package restic

import _ "github.com/restic/restic/cmd/restic"
