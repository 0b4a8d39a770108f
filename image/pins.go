package image

// The kernel and the firmware are Go modules without code: only their files are
// used. They are imported so that go.mod pins them and go.sum holds their hashes;
// nothing else would keep them there.
import (
	_ "github.com/gokrazy/firmware"
	_ "github.com/gokrazy/kernel.rpi"
)

const (
	kernelModule   = "github.com/gokrazy/kernel.rpi"
	firmwareModule = "github.com/gokrazy/firmware"
)
