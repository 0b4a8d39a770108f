//go:build race

package replica

// Under the race detector a history takes ten times as long: the long tests
// run some of them there, and all of them without it (see `make test`).
const raceEnabled = true
