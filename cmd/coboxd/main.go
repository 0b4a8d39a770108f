// Command coboxd is the box: it keeps replicas of its members' encrypted logs
// and gives them back. It cannot read what it holds.
//
// main.go holds what all commands share: exit codes, output, and the words of
// error messages. Each command has a file of its own.
package main

import (
	"errors"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"cobox/appliance/config"
	"cobox/appliance/datadir"
	"cobox/cmd/console"
	"cobox/storage/replica"
)

// version is set by the linker.
var version = "unknown"

// Exit codes, as every --help lists them.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
	exitInUse  = 5
	exitNewer  = 6
)

const exitHelp = `
Exit codes: 0 done, 1 failed, 2 usage, 5 data directory in use, 6 data
directory written by a newer version.`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// program is one call of coboxd.
type program struct {
	console.Output
	data    string // --data
	running bool   // the arguments were understood
	root    *cobra.Command
}

// run runs the program and returns its exit code.
func run(args []string, stdout, stderr io.Writer) int {
	p := &program{Output: console.Output{Program: "coboxd", Stdout: stdout, Stderr: stderr}}
	p.root = &cobra.Command{
		Use:   "coboxd",
		Short: "The box: keeps encrypted backups for its members",
		Long: `coboxd is a box: it keeps replicas of its members' encrypted logs and gives
them back. It needs no other service, and cannot read what it holds.
` + exitHelp,
		Example:           "  coboxd run --data ~/box\n  coboxd qr --data ~/box",
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		PersistentPreRun:  func(*cobra.Command, []string) { p.running = true },
		Args:              console.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return &usageError{errors.New("a command is missing")}
		},
	}
	p.root.SetArgs(args)
	p.root.SetFlagErrorFunc(console.FlagError)
	p.root.SetOut(stdout)
	p.root.SetErr(stderr)
	p.root.PersistentFlags().BoolVar(&p.JSON, "json", false, "write lines of JSON to standard output")
	p.JSON = console.WantsJSON(args) // also for what is wrong before the flag is reached
	p.root.PersistentFlags().StringVar(&p.data, "data", "", "data directory (default /var/lib/coboxd, $STATE_DIRECTORY or, for a plain user, ~/.local/share/coboxd)")
	p.root.AddCommand(p.runCommand(), p.checkCommand(), p.qrCommand(), p.VersionCommand(version, exitHelp))

	cmd, err := p.root.ExecuteC()
	if err == nil {
		return exitDone
	}
	if !p.running {
		err = &usageError{err}
	}
	f := explain(err, cmd)
	p.Fail(err, f)
	return f.Exit
}

// usageError means that the arguments make no sense.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// settingError means that a setting is wrong, wherever it came from.
type settingError struct{ err error }

func (e *settingError) Error() string { return e.err.Error() }
func (e *settingError) Unwrap() error { return e.err }

// explain maps an error to its code and to what the user can do.
func explain(err error, cmd *cobra.Command) console.Failure {
	var usage *usageError
	var setting *settingError
	var field *config.FieldError
	var inUse *datadir.InUseError
	var newer *datadir.NewerError
	var moved *datadir.MovedError
	switch {
	case errors.As(err, &setting), errors.As(err, &field):
		return console.Failure{Code: "setting", Exit: exitUsage, Hint: "Correct this setting and start again."}
	case errors.As(err, &usage):
		return console.Failure{Code: "usage", Exit: exitUsage, Hint: "See: " + cmd.CommandPath() + " --help"}
	case errors.As(err, &inUse):
		f := console.Failure{Code: "in_use", Exit: exitInUse, Hint: "Stop it first, or name another directory with --data."}
		if cmd.Name() == "check" {
			f.Hint = "Stop it first, or let an administrator run: cobox box check"
		}
		return f
	case errors.Is(err, replica.ErrInUse):
		return console.Failure{Code: "in_use", Exit: exitInUse, Hint: "Stop the other process first."}
	case errors.As(err, &newer), errors.Is(err, replica.ErrNewerFormat):
		return console.Failure{Code: "newer", Exit: exitNewer, Hint: "Install the newer version again; nothing was changed."}
	case errors.As(err, &moved):
		return console.Failure{Code: "moved", Exit: exitFailed, Hint: "Start the box with that disk plugged in. It never starts empty in place of its data;\nfor a new box, name another directory with --data."}
	case errors.Is(err, datadir.ErrNoBox):
		return console.Failure{Code: "not_set_up", Exit: exitFailed, Hint: "Name the box's directory with --data, or start a new box with: coboxd run"}
	case errors.Is(err, datadir.ErrNoCode):
		return console.Failure{Code: "claimed", Exit: exitFailed, Hint: "A box shows its code from its first start until it is claimed. To let more people in, an\nadministrator runs: cobox box invite member --quota SIZE"}
	case isDamage(err):
		return console.Failure{Code: "damaged", Exit: exitFailed, Hint: "Start the box: it serves what is intact, and asks devices for the rest."}
	}
	return console.Failure{Code: "failed", Exit: exitFailed}
}

// flags returns the settings of the command line that are set.
func (p *program) flags(cmd *cobra.Command) config.Flags {
	var f config.Flags
	if cmd.Flags().Changed("data") {
		f.Data = &p.data
	}
	return f
}

// logger writes what an administrator should know to standard error.
func (p *program) logger(level slog.Level) *slog.Logger {
	o := &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		// The store's errors print pages of stack traces unless asked for their text.
		if err, ok := a.Value.Any().(error); ok {
			a.Value = slog.StringValue(err.Error())
		}
		return a
	}}
	if p.JSON {
		return slog.New(slog.NewJSONHandler(p.Stderr, o))
	}
	return slog.New(slog.NewTextHandler(p.Stderr, o))
}
