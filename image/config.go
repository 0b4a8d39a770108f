package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
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
	// Source is the directory of the module cobox, or one in it; empty means this
	// one.
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
	// this system takes as an update; empty means those of the Source, KeysFile.
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

// CheckName says why files cannot have names that begin so: a *[ConfigError].
func CheckName(name string) error {
	if !plainName.MatchString(name) {
		return &ConfigError{"Name", fmt.Sprintf("%q: letters, digits, dots, hyphens and underscores, please", name)}
	}
	return nil
}

// CheckVersion says why a box cannot have such a version: a *[ConfigError].
func CheckVersion(version string) error {
	if !plainVersion.MatchString(version) {
		return &ConfigError{"Version", fmt.Sprintf("%q: up to 64 letters, digits, dots, hyphens, underscores and plus signs, please", version)}
	}
	return nil
}

// KeysFile is where the source has the public keys whose holders may release
// updates for what is built from it.
const KeysFile = "image/bundle/release.pub"

// ErrNotSource says that a directory is not in the module cobox.
var ErrNotSource = errors.New("image: not CoBox's source")

// A ConfigError says which field of a Config makes no sense, and why.
type ConfigError struct{ Field, Reason string }

func (e *ConfigError) Error() string { return "image: " + e.Field + " " + e.Reason }

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
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	c.Time = c.Time.UTC().Truncate(2 * time.Second) // FAT has no odd seconds
	if err := errors.Join(CheckName(c.Name), CheckVersion(c.Version)); err != nil {
		return c, err
	}
	switch {
	case c.Time.Year() < 2020 || c.Time.Year() >= 2100:
		return c, fmt.Errorf("image: Time %v: not between 2020 and 2100", c.Time)
	}
	if c.Floor > c.Number {
		return c, &ConfigError{"Floor", fmt.Sprintf("%d is above the number %d", c.Floor, c.Number)}
	}
	if err := c.findKeys(); err != nil {
		return c, err
	}
	if _, err := c.keys(); err != nil {
		return c, fmt.Errorf("image: ReleaseKeys: %w", err)
	}
	if _, err := bundle.ParseSignatures(c.Signatures); err != nil {
		return c, fmt.Errorf("image: Signatures: %w", err)
	}
	return c, nil
}

// FindSource returns the root of the module cobox that a directory is in, or
// [ErrNotSource].
func FindSource(dir string) (root string, err error) {
	start, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("image: finding the source: %w", err)
	}
	for root = start; ; root = filepath.Dir(root) {
		mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
		line, _, _ := strings.Cut(string(mod), "\n")
		switch {
		case err == nil && strings.TrimSpace(line) == "module cobox":
			return root, nil
		case err == nil, errors.Is(err, fs.ErrNotExist) && root == filepath.Dir(root):
			return "", fmt.Errorf("%w: %s", ErrNotSource, start)
		case !errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("image: finding the source: %w", err)
		}
	}
}

// findKeys finds the source and, unless others are given, the release keys in it.
func (c *Config) findKeys() error {
	root, err := FindSource(c.Source)
	if err != nil {
		return err
	}
	if len(c.ReleaseKeys) > 0 {
		return nil
	}
	// Not those that are built into this program: it may be older than the source.
	if c.ReleaseKeys, err = os.ReadFile(filepath.Join(root, filepath.FromSlash(KeysFile))); err != nil {
		return fmt.Errorf("image: reading the release keys: %w", err)
	}
	if len(c.ReleaseKeys) == 0 {
		return fmt.Errorf("image: reading the release keys: %s is empty", KeysFile)
	}
	return nil
}

// keys returns the keys that the system will ask for, as it reads them itself.
func (c *Config) keys() (*bundle.Keys, error) {
	keys, err := bundle.ParsePublicKeys(c.ReleaseKeys)
	if err != nil {
		return nil, err
	}
	return bundle.NewKeys(bundle.ReleaseThreshold, keys...)
}
