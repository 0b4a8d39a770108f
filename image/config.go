package image

import (
	"fmt"
	"regexp"
	"time"

	"cobox/image/bundle"
)

// Defaults of a Config.
const (
	DefaultName = "cobox"
	DefaultInit = "cobox/cmd/cobox-init"
	DefaultBox  = "cobox/cmd/coboxd"
)

// Config says what to build.
type Config struct {
	// Source is the directory of the module cobox; empty means this one.
	Source string
	// Out is the directory for what is made, which must exist.
	Out string
	// Name begins the names of all files; empty means DefaultName.
	Name string
	// Version is what the programs and the box say of themselves, one line.
	Version string
	// Number orders releases, from 1, and Floor is the lowest number that may be
	// installed once this one has proved itself. Zero means 1, and Number.
	Number, Floor uint32
	// ReleaseKeys is the text of the public keys whose holders may release what
	// this system takes as an update; empty means the project's.
	ReleaseKeys []byte
	// Signatures is the text of the signatures of the slots' manifest, which is
	// known once the same was built without them; empty means that the image is
	// not released.
	Signatures []byte
	// Time is that of every file in the image, to the second, and what a box
	// takes for the earliest that it can be. The time of the commit is right.
	Time time.Time
	// URL is the address of the directory where the image will be published, for
	// Raspberry Pi Imager; empty means that it is filled in later.
	URL string
	// Init and Box are the packages of the two programs; empty means DefaultInit
	// and DefaultBox.
	Init, Box string
	// Progress, if it is there, is told what is done now.
	Progress func(what string)
}

var (
	plainName    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)
	plainVersion = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}$`)
)

// withDefaults returns the config as it is meant, or an error that names the
// field.
func (c Config) withDefaults() (Config, error) {
	for _, d := range []struct {
		field *string
		value string
	}{{&c.Source, "."}, {&c.Out, "."}, {&c.Name, DefaultName}, {&c.Init, DefaultInit}, {&c.Box, DefaultBox}} {
		if *d.field == "" {
			*d.field = d.value
		}
	}
	if c.Number == 0 {
		c.Number = 1
	}
	if c.Floor == 0 {
		c.Floor = c.Number
	}
	if len(c.ReleaseKeys) == 0 {
		for _, k := range bundle.ReleaseKeys().Public() {
			c.ReleaseKeys = k.Append(c.ReleaseKeys)
		}
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	c.Time = c.Time.UTC().Truncate(2 * time.Second) // FAT has no odd seconds
	switch {
	case !plainName.MatchString(c.Name):
		return c, fmt.Errorf("image: Name %q: letters, digits, dots, hyphens and underscores, please", c.Name)
	case !plainVersion.MatchString(c.Version):
		return c, fmt.Errorf("image: Version %q: letters, digits, dots, hyphens, underscores and plus signs, please", c.Version)
	case c.Time.Year() < 2020 || c.Time.Year() >= 2100:
		return c, fmt.Errorf("image: Time %v: not between 2020 and 2100", c.Time)
	}
	if c.Floor > c.Number {
		return c, fmt.Errorf("image: Floor %d: above the Number %d", c.Floor, c.Number)
	}
	if _, err := c.keys(); err != nil {
		return c, fmt.Errorf("image: ReleaseKeys: %w", err)
	}
	if _, err := bundle.ParseSignatures(c.Signatures); err != nil {
		return c, fmt.Errorf("image: Signatures: %w", err)
	}
	return c, nil
}

// keys returns the keys that the system will ask for, as it reads them itself.
func (c *Config) keys() (*bundle.Keys, error) {
	keys, err := bundle.ParsePublicKeys(c.ReleaseKeys)
	if err != nil {
		return nil, err
	}
	return bundle.NewKeys(bundle.ReleaseThreshold, keys...)
}
