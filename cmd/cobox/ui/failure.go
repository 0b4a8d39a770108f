package ui

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Exit codes of the program. They are a contract with scripts and are listed
// in the help of the root command.
const (
	ExitDone        = 0
	ExitFailed      = 1
	ExitUsage       = 2
	ExitPartial     = 3   // done, but some files could not be read or restored
	ExitNoBox       = 4   // no box reachable; what was backed up waits in the spool
	ExitInterrupted = 130 // interrupted; the same command goes on
)

// Failure is an error as the user is told it: what failed, why, and what to
// do next.
type Failure struct {
	Exit int    // process exit code
	Code string // for programs: one word, part of the JSON contract
	What string // what failed: "cannot pair with the box"
	Err  error  // why; may be nil when What says it all
	Hint string // what to do next
}

func (f *Failure) Error() string {
	if f.Err == nil {
		return f.What
	}
	return f.What + ": " + f.Err.Error()
}

func (f *Failure) Unwrap() error { return f.Err }

// packages are the names with which our packages begin their errors. They help
// whoever reads the code, and nobody else.
var packages = regexp.MustCompile(`(^|: )(?:(?:account|archive|chunker|device|discover|fstree|merklelog|noiseconn|pairing|replica|replicate|seal|sheet|spool): )+`)

// Plain is an error as people are told it: without the names of packages, on
// one line, and safe for a terminal.
func Plain(message string) string {
	return Printable(strings.ReplaceAll(packages.ReplaceAllString(message, "$1"), "\n", "; "))
}

// Usagef is a failure of how the program was called.
func Usagef(hint, format string, args ...any) *Failure {
	return &Failure{Exit: ExitUsage, Code: "usage", What: fmt.Sprintf(format, args...), Hint: hint}
}

// Fail wraps err with what failed and what to do next. A nil err gives nil.
// A failure that err carries already keeps its code, exit and hint.
func Fail(err error, code, what, hint string) error {
	if err == nil {
		return nil
	}
	var f *Failure
	if errors.As(err, &f) {
		return err
	}
	return &Failure{Exit: ExitFailed, Code: code, What: what, Err: err, Hint: hint}
}

// AsFailure turns any error into what the user is told.
func AsFailure(err error) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	if errors.Is(err, context.Canceled) {
		return &Failure{Exit: ExitInterrupted, Code: "interrupted", What: "interrupted", Hint: "Run the same command again: it goes on where it stopped."}
	}
	return &Failure{Exit: ExitFailed, Code: "failed", What: err.Error()}
}
