// Command coboximg makes the image that turns a Raspberry Pi into a box, gives
// copies of it an identity and a label of their own, and writes it to a card.
//
// main.go holds what all commands share: exit codes, output, and the words of
// error messages. Each command has a file of its own.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"cobox/cmd/console"
	"cobox/image/disk"
	"cobox/image/layout"
)

// version is set by the linker.
var version = "unknown"

// Exit codes, as every --help lists them.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
	// exitInterrupted is what a shell says of a program that Ctrl-C has ended.
	exitInterrupted = 130
)

const exitHelp = `
Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted.`

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// program is one call of coboximg.
type program struct {
	console.Output
	stdin   *os.File
	running bool // the arguments were understood
	root    *cobra.Command
}

// run runs the program and returns its exit code.
func run(args []string, stdin *os.File, stdout, stderr io.Writer) int {
	p := &program{Output: console.Output{Program: "coboximg", Stdout: stdout, Stderr: stderr}, stdin: stdin}
	p.root = &cobra.Command{
		Use:   "coboximg",
		Short: "Make the image of a box, and cards from it",
		Long: `coboximg builds the image that turns a Raspberry Pi 3, 4, 5 or Zero 2 W into a
box, gives copies of it an identity and a label of their own, and writes an
image to a card.
` + exitHelp,
		Example:           "  coboximg build --out out\n  coboximg provision out/cobox.img --count 5\n  coboximg flash /dev/sdx --image out/cobox.img",
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
	p.root.AddCommand(p.buildCommand(), p.provisionCommand(), p.flashCommand(), p.keysCommand(), p.bundleCommand(), p.VersionCommand(version, exitHelp))

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second Ctrl-C ends the program at once
	cmd, err := p.root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	if !p.running {
		err = &usageError{err}
	}
	f := explain(err, cmd)
	if ctx.Err() != nil {
		f, err = console.Failure{Code: "interrupted", Exit: exitInterrupted}, interrupted(err)
	}
	p.Fail(err, f)
	return f.Exit
}

// interrupted says what an interruption has left behind. Whatever a program that
// was ended with us has said of it is of no interest.
func interrupted(err error) error {
	var unfinished *disk.UnfinishedError
	switch {
	case errors.As(err, &unfinished):
		return errors.New("interrupted: the card is not usable yet; write it again")
	case errors.Is(err, errUntouched):
		return errUntouched
	}
	return errors.New("interrupted")
}

// usageError means that the arguments make no sense.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// explain maps an error to its code and to what the user can do.
func explain(err error, cmd *cobra.Command) console.Failure {
	failed := func(code, hint string) console.Failure {
		return console.Failure{Code: code, Exit: exitFailed, Hint: hint}
	}
	var usage *usageError
	var refused *disk.RefusedError
	var unfinished *disk.UnfinishedError
	switch {
	case errors.As(err, &usage):
		return console.Failure{Code: "usage", Exit: exitUsage, Hint: "See: " + cmd.CommandPath() + " --help"}
	case errors.As(err, &refused) && refused.Overridable:
		return failed("disk_refused", "Nothing was changed. If it is the right disk, unmount it, or repeat with --force.")
	case errors.As(err, &refused):
		return failed("disk_refused", "Nothing was changed.")
	case errors.Is(err, disk.ErrNoTarget):
		return failed("no_disk", "To find the card, run lsblk before and after you plug it in: what is new is the card.")
	case errors.As(err, &unfinished):
		return failed("unfinished", "What is on "+unfinished.Device+" now is of no use: write it again.")
	case errors.Is(err, disk.ErrDamaged) && cmd.Name() == "flash":
		return failed("damaged", "Nothing was changed.")
	case errors.Is(err, disk.ErrReadBack):
		return failed("bad_card", "The card is broken, or smaller than it says. Use another.")
	case errors.Is(err, disk.ErrNoMke2fs):
		return failed("no_mke2fs", "On Debian: apt install e2fsprogs. On a Mac: brew install e2fsprogs, and add it to the PATH.")
	case errors.Is(err, disk.ErrNotImage), errors.Is(err, layout.ErrForeignDisk):
		return failed("not_image", "Name the .img or .img.zst that \"coboximg build\" or a release has.")
	case errors.Is(err, os.ErrPermission) && cmd.Name() == "flash":
		return failed("permission", "Writing to a disk mostly needs root: repeat with sudo.")
	}
	return failed("failed", "")
}
