//go:build race

package noiseconn

const raceEnabled = true // the detector allocates
