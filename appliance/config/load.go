package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// FileName is the settings file in the data directory.
const FileName = "coboxd.toml"

// maxFile bounds what is read of it.
const maxFile = 1 << 20

// Flags are the settings of the command line; nil means not given.
type Flags struct {
	Data, Listen, HTTP, Name *string
	Advertise                *[]string
	Discovery                *bool
}

// file mirrors coboxd.toml. The data directory is no key of it: the file lies
// in that directory.
type file struct {
	Listen    *string   `toml:"listen"`
	HTTP      *string   `toml:"http"`
	Name      *string   `toml:"name"`
	Advertise *[]string `toml:"advertise"`
	Discovery *bool     `toml:"discovery"`
}

// Load puts the settings together and validates them. getenv is os.Getenv
// outside of tests. The data directory need not exist.
func Load(flags Flags, getenv func(string) string) (Config, error) {
	c := Config{Listen: DefaultListen, HTTP: DefaultHTTP, Discovery: true}
	source := make(map[string]string)

	c.Data = DataDir(flags, getenv)
	parsed, err := readFile(filepath.Join(c.Data, FileName))
	if err != nil {
		return Config{}, err
	}
	c.take(source, FileName, parsed)

	var env file
	for _, v := range []struct {
		name string
		dst  **string
	}{
		{"COBOXD_LISTEN", &env.Listen},
		{"COBOXD_HTTP", &env.HTTP},
		{"COBOXD_NAME", &env.Name},
	} {
		if s := getenv(v.name); s != "" {
			*v.dst = &s
		}
	}
	if s := getenv("COBOXD_ADVERTISE"); s != "" {
		list := strings.Split(s, ",")
		for i := range list {
			list[i] = strings.TrimSpace(list[i])
		}
		env.Advertise = &list
	}
	if s := getenv("COBOXD_DISCOVERY"); s != "" {
		on, err := strconv.ParseBool(s)
		if err != nil {
			return Config{}, &FieldError{Field: "discovery", Source: "COBOXD_DISCOVERY", Problem: fmt.Sprintf("%q is neither true nor false", s)}
		}
		env.Discovery = &on
	}
	c.take(source, "environment", env)
	c.take(source, "flag", file{flags.Listen, flags.HTTP, flags.Name, flags.Advertise, flags.Discovery})

	if err := c.Validate(); err != nil {
		var fe *FieldError
		if errors.As(err, &fe) {
			switch source[fe.Field] {
			case "flag":
				fe.Source = "--" + fe.Field
			case "environment":
				fe.Source = "COBOXD_" + strings.ToUpper(fe.Field)
			default:
				fe.Source = source[fe.Field]
			}
		}
		return Config{}, err
	}
	return c, nil
}

// take lays the settings that f gives over those of c.
func (c *Config) take(source map[string]string, from string, f file) {
	for _, s := range []struct {
		field    string
		dst, src *string
	}{
		{"listen", &c.Listen, f.Listen},
		{"http", &c.HTTP, f.HTTP},
		{"name", &c.Name, f.Name},
	} {
		if s.src != nil {
			*s.dst, source[s.field] = *s.src, from
		}
	}
	if f.Advertise != nil {
		c.Advertise, source["advertise"] = *f.Advertise, from
	}
	if f.Discovery != nil {
		c.Discovery, source["discovery"] = *f.Discovery, from
	}
}

// DataDir tells which data directory the flags and the environment name:
// --data, COBOXD_DATA, the first of systemd's STATE_DIRECTORY, /var/lib/coboxd
// for root, and for anybody else coboxd below XDG_DATA_HOME.
func DataDir(flags Flags, getenv func(string) string) string {
	if flags.Data != nil {
		return *flags.Data
	}
	if d := getenv("COBOXD_DATA"); d != "" {
		return d
	}
	if d, _, _ := strings.Cut(getenv("STATE_DIRECTORY"), ":"); d != "" {
		return d
	}
	if os.Geteuid() == 0 {
		return "/var/lib/coboxd"
	}
	if d := getenv("XDG_DATA_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "coboxd")
	}
	if home := getenv("HOME"); home != "" {
		return filepath.Join(home, ".local", "share", "coboxd")
	}
	return "/var/lib/coboxd"
}

func readFile(path string) (file, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return file{}, nil
	}
	if err == nil && info.Size() > maxFile {
		return file{}, fmt.Errorf("config: %s has %d bytes; a settings file has at most %d", path, info.Size(), maxFile)
	}
	if err != nil {
		return file{}, fmt.Errorf("config: reading the settings: %w", err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return file{}, fmt.Errorf("config: reading the settings: %w", err)
	}
	f, err := parseFile(text)
	if err != nil {
		return file{}, fmt.Errorf("config: %s: %w", path, err)
	}
	return f, nil
}

// parseFile reads the text of a settings file. Its errors begin with the line.
func parseFile(text []byte) (file, error) {
	var f file
	d := toml.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	err := d.Decode(&f)
	var unknown *toml.StrictMissingError
	var syntax *toml.DecodeError
	switch {
	case err == nil:
		return f, nil
	case errors.As(err, &unknown):
		first := unknown.Errors[0]
		line, _ := first.Position()
		return file{}, fmt.Errorf("line %d: unknown key %q; known are listen, http, name, advertise and discovery",
			line, strings.Join(first.Key(), "."))
	case errors.As(err, &syntax):
		line, column := syntax.Position()
		return file{}, fmt.Errorf("line %d, column %d: %w", line, column, err)
	default:
		return file{}, err
	}
}
