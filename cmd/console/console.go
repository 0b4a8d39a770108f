// Package console is how coboxd and coboximg talk: words for people, or with
// --json lines of JSON for programs, each an object that begins with "type" and
// "v". A program embeds an [Output] and never writes anywhere else.
package console

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
)

// Output is where a program writes. Each line of JSON is one write.
type Output struct {
	Program string // its name, as people type it
	Stdout  io.Writer
	Stderr  io.Writer
	JSON    bool // lines of JSON on Stdout, and nothing on Stderr
}

// Failure is why a program has not done what it was asked for.
type Failure struct {
	Code string // one word, for programs
	Exit int    // the exit code of the process
	Hint string // what to do about it, for people; or ""
}

// Fail tells what went wrong. Programs get it in the form of cobox's errors.
func (o *Output) Fail(err error, f Failure) {
	message := strings.TrimSpace(err.Error())
	if o.JSON {
		o.Emit("error", struct {
			Code    string `json:"code"`
			Exit    int    `json:"exit"`
			Message string `json:"message"`
			Hint    string `json:"hint,omitempty"`
		}{f.Code, f.Exit, message, f.Hint})
		return
	}
	fmt.Fprintf(o.Stderr, "%s: %s\n", o.Program, message)
	if f.Hint != "" {
		fmt.Fprintln(o.Stderr, f.Hint)
	}
}

// Emit writes one line of JSON: v, which must be a struct, with the fields
// "type" and "v" before its own.
func (o *Output) Emit(kind string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(o.Program + ": output cannot be encoded: " + err.Error())
	}
	head := fmt.Sprintf(`{"type":%q,"v":1`, kind)
	if string(body) != "{}" {
		head += ","
	}
	fmt.Fprintf(o.Stdout, "%s%s\n", head, body[1:])
}

// VersionCommand is the subcommand that prints which version this is.
func (o *Output) VersionCommand(version, exitHelp string) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Long:    "version prints the version of this program.\n" + exitHelp,
		Example: "  " + o.Program + " version",
		Args:    NoArguments,
		RunE: func(*cobra.Command, []string) error {
			system := runtime.GOOS + "/" + runtime.GOARCH
			if o.JSON {
				o.Emit("summary", struct {
					Version string `json:"version"`
					Go      string `json:"go"`
					System  string `json:"system"`
				}{version, runtime.Version(), system})
				return nil
			}
			fmt.Fprintf(o.Stdout, "%s %s (%s, %s)\n", o.Program, version, runtime.Version(), system)
			return nil
		},
	}
}
