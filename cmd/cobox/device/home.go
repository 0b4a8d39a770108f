// Package device keeps the state of one device: its keys, the boxes that it
// is paired with, the spaces that it writes and the keys of their logs.
//
// Start with [FindHome], then [Create] on a new machine or [Open] on one that
// has been set up; a command that writes takes [Home.Lock] first. Everything
// secret is in one file, device.json in the configuration directory, mode
// 0600, replaced as a whole so that a crash leaves the old state or the new.
//
//	config/device.json       keys, boxes, spaces (this package)
//	data/logs/<log>/         the device's own copy of each log it writes (spool)
//	data/LOCK                held by the one command that writes
//	cache/<space>/           indexes; deleting them costs time, never data
//
// The phrase and the account's secret are never here.
package device

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// Home is where the state lies.
type Home struct {
	Config string // keys
	Data   string // logs
	Cache  string // may be deleted
}

// FindHome finds the directories: one of the --home flag, COBOX_HOME, or the
// three XDG base directories. An empty variable counts as unset.
func FindHome(flag string, getenv func(string) string) (Home, error) {
	if flag == "" {
		flag = getenv("COBOX_HOME")
	}
	if flag != "" {
		dir, err := filepath.Abs(flag)
		if err != nil {
			return Home{}, fmt.Errorf("device: finding the home folder: %w", err)
		}
		return Home{Config: filepath.Join(dir, "config"), Data: filepath.Join(dir, "data"), Cache: filepath.Join(dir, "cache")}, nil
	}
	var h Home
	for _, d := range []struct {
		dst      *string
		variable string
		fallback string
	}{
		{&h.Config, "XDG_CONFIG_HOME", ".config"},
		{&h.Data, "XDG_DATA_HOME", ".local/share"},
		{&h.Cache, "XDG_CACHE_HOME", ".cache"},
	} {
		base := getenv(d.variable)
		// The specification asks for absolute paths and for others to be ignored.
		if base == "" || !filepath.IsAbs(base) {
			home, err := os.UserHomeDir()
			if err != nil {
				return Home{}, fmt.Errorf("device: finding the home folder: %w", err)
			}
			base = filepath.Join(home, filepath.FromSlash(d.fallback))
		}
		*d.dst = filepath.Join(base, "cobox")
	}
	return h, nil
}

// Dirs lists the three directories, for a backup to leave out.
func (h Home) Dirs() []string { return []string{h.Config, h.Data, h.Cache} }

// LogDir is the folder of one log that the device writes.
func (h Home) LogDir(log fmt.Stringer) string { return filepath.Join(h.Data, "logs", log.String()) }

// CacheDir is the folder of one space's indexes.
func (h Home) CacheDir(space fmt.Stringer) string { return filepath.Join(h.Cache, space.String()) }

// LockedError says who holds the lock.
type LockedError struct {
	PID     int    // 0 if unknown
	Command string // such as "backup"
	Since   time.Time
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return "another cobox command is writing"
	}
	return fmt.Sprintf("cobox %s (process %d) is writing since %s", e.Command, e.PID, e.Since.Format("15:04:05"))
}

// Lock makes the caller the one command that writes. A *LockedError tells who
// does already. The kernel lets go of the lock when the process ends, however
// it ends.
func (h Home) Lock(command string) (unlock func(), err error) {
	if err := os.MkdirAll(h.Data, 0o700); err != nil {
		return nil, fmt.Errorf("device: taking the lock: %w", err)
	}
	path := filepath.Join(h.Data, "LOCK")
	l := flock.New(path, flock.SetPermissions(0o600))
	ok, err := l.TryLock()
	if err != nil {
		return nil, fmt.Errorf("device: taking the lock: %w", err)
	}
	holder := filepath.Join(h.Data, "LOCK.holder")
	if !ok {
		return nil, readHolder(holder)
	}
	text := fmt.Sprintf("%d\n%s\n%d\n", os.Getpid(), command, time.Now().Unix())
	// Only for the message of others; without it they name nobody.
	_ = os.WriteFile(holder, []byte(text), 0o600)
	return func() {
		_ = os.Remove(holder)
		_ = l.Unlock()
	}, nil
}

func readHolder(path string) *LockedError {
	b, err := os.ReadFile(path)
	if err != nil || len(b) > 256 {
		return &LockedError{}
	}
	f := strings.Split(string(b), "\n")
	if len(f) < 3 {
		return &LockedError{}
	}
	pid, err1 := strconv.Atoi(f[0])
	since, err2 := strconv.ParseInt(f[2], 10, 64)
	if errors.Join(err1, err2) != nil {
		return &LockedError{}
	}
	return &LockedError{PID: pid, Command: f[1], Since: time.Unix(since, 0)}
}
