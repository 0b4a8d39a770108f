// Cobox is the member's program: it sets up a device, pairs it with boxes,
// backs up into end-to-end encrypted logs and brings everything back.
//
// A command is one file, named after it. What commands share is app (this
// file), fleet.go (the connected boxes) and space.go (a space ready to be
// written or read). State on disk is cmd/cobox/device; what is said, in text
// or JSON, goes through cmd/cobox/ui.
package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"cobox/cmd/cobox/device"
	"cobox/cmd/cobox/ui"
	"cobox/cmd/console"
)

var version = "unknown" // set by the build

func main() { os.Exit(run(os.Args[1:], time.Now)) }

// app is one run of the program.
type app struct {
	ui      *ui.UI
	home    device.Home
	log     *slog.Logger
	now     func() time.Time // what the computer's clock says, which may be wrong by years
	exit    int              // of a command that is done, but not wholly
	began   bool
	flags   globalFlags
	profile func()
	locked  bool // this command holds the lock
}

type globalFlags struct {
	home    string
	json    bool
	verbose bool
	profile string
}

const rootHelp = `CoBox backs up your folders to boxes of your own co-op and of friendly ones.
Everything is encrypted here, before it leaves; a box cannot read what it holds.

Start with:
  cobox init
  cobox pair photo-of-the-box.jpg
  cobox backup ~/Documents`

const rootExit = `
Exit codes:
  0    done
  1    failed
  2    wrong use
  3    done, but some files could not be read or restored
  4    no box reachable; the backup is kept here and sent with the next one
  130  interrupted; the same command goes on where it stopped
`

func run(args []string, now func() time.Time) int {
	// A backup makes garbage faster than it keeps data: collect late while
	// the heap is small, early when it is not. GOGC and GOMEMLIMIT still win.
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(110 << 20)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{now: now}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(os.Stdout)
	root.SetErr(os.Stderr)
	// Before the flags are parsed, a failure must already know its form.
	a.ui = ui.New(console.WantsJSON(args))
	_, err := root.ExecuteContextC(ctx)
	if a.profile != nil {
		a.profile()
	}
	if err == nil {
		return a.exit
	}
	f := a.failure(ctx, err)
	a.ui.Fail(f)
	return f.Exit
}

func (a *app) failure(ctx context.Context, err error) *ui.Failure {
	var f *ui.Failure
	if !a.began && !errors.As(err, &f) {
		// Only the command line has been looked at so far.
		return ui.Usagef("See 'cobox help' or 'cobox COMMAND --help'.", "%s", err)
	}
	if ctx.Err() != nil {
		return ui.AsFailure(ctx.Err())
	}
	return explain(err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "cobox",
		Short:         "Back up to the boxes of your co-op",
		Long:          rootHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return ui.Usagef("See 'cobox help' for the commands.", "there is no command %q", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return a.begin()
		},
	}
	root.SetHelpTemplate("{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}\n{{end}}\n{{.UsageString}}" +
		"{{if not .HasParent}}" + rootExit + "{{end}}")
	p := root.PersistentFlags()
	p.StringVar(&a.flags.home, "home", "", "keep all state below this folder (or COBOX_HOME)")
	p.BoolVar(&a.flags.json, "json", false, "write lines of JSON to standard output")
	p.BoolVar(&a.flags.verbose, "verbose", false, "tell on standard error what the program does inside")
	p.StringVar(&a.flags.profile, "cpuprofile", "", "write a CPU profile to this file")
	p.Lookup("cpuprofile").Hidden = true
	root.AddCommand(
		a.initCommand(), a.pairCommand(), a.joinCommand(), a.boxCommand(), a.sheetCommand(),
		a.boxesCommand(), a.forgetCommand(), a.statusCommand(),
		a.backupCommand(), a.snapshotsCommand(), a.lsCommand(), a.restoreCommand(), a.verifyCommand(),
		a.recoverCommand(), a.versionCommand(),
	)
	a.helpers(root)
	return root
}

// begin runs when the command line has been understood.
func (a *app) begin() error {
	a.began = true
	a.ui = ui.New(a.flags.json)
	level := slog.LevelError + 4
	if a.flags.verbose {
		level = slog.LevelDebug
	}
	a.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	var err error
	if a.home, err = device.FindHome(a.flags.home, os.Getenv); err != nil {
		return err
	}
	return a.startProfile()
}

// open reads the device's state.
func (a *app) open() (*device.State, error) { return device.Open(a.home) }

// openLocked makes this the one command that writes, and reads the state.
func (a *app) openLocked(command string) (*device.State, func(), error) {
	if !device.Exists(a.home) {
		return nil, nil, device.ErrNotSetUp
	}
	unlock, err := a.home.Lock(command)
	if err != nil {
		return nil, nil, err
	}
	st, err := a.open()
	if err != nil {
		unlock()
		return nil, nil, err
	}
	a.locked = true
	return st, func() { a.locked = false; unlock() }, nil
}

// readInput reads a small file, or standard input for "-".
func readInput(path string, limit int64) ([]byte, error) {
	var r io.Reader = os.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = errors.New("the file is too large")
	}
	return b, err
}

func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		if n == 0 {
			return ui.Usagef("See '"+cmd.CommandPath()+" --help'.", "%s takes no arguments, but was given %s", cmd.CommandPath(), strings.Join(args, " "))
		}
		if len(args) > n {
			return ui.Usagef("See '"+cmd.CommandPath()+" --help'.", "%s needs only %s, but was given %s", cmd.CommandPath(), what, strings.Join(args, " "))
		}
		return ui.Usagef("See '"+cmd.CommandPath()+" --help'.", "%s needs %s", cmd.CommandPath(), what)
	}
}
