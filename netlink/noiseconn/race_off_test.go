//go:build !race

package noiseconn

const raceEnabled = false
