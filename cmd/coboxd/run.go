package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"cobox/appliance"
	"cobox/appliance/config"
	"cobox/appliance/machine"
	"cobox/appliance/update"
	"cobox/cmd/console"
	"cobox/netlink/pairing"
)

// memoryLimit is what the garbage collector aims to stay below, unless
// GOMEMLIMIT says otherwise. A box has 512 MB and other things to run.
const memoryLimit = 48 << 20

// drainTimeout is how long a box that was asked to stop may take. Sessions are
// told to go within a few seconds; what is slower than this is stuck.
const drainTimeout = 30 * time.Second

func (p *program) runCommand() *cobra.Command {
	var listen, http, name, keys, waiting string
	var advertise []string
	var discovery bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the box",
		Long: `run runs the box until it gets SIGTERM or SIGINT. It then says goodbye to its
peers, closes the store and exits with 0.

At its first start it makes its identity and shows a code. Whoever scans the
code first becomes the box's administrator: cobox pair TEXT|PICTURE

Settings come from flags, then from the environment (COBOXD_DATA, COBOXD_LISTEN,
COBOXD_HTTP, COBOXD_NAME, COBOXD_ADVERTISE, COBOXD_DISCOVERY), then from
coboxd.toml in the data directory.
` + exitHelp,
		Example: `  coboxd run --data ~/box
  coboxd run --listen 127.0.0.1:26269 --name "Bakery box"
  coboxd run --advertise box.example.org --advertise 192.0.2.7:26269`,
		Args: console.NoArguments,
	}
	flags := cmd.Flags()
	flags.StringVar(&listen, "listen", config.DefaultListen, "address to accept links at")
	flags.StringVar(&http, "http", config.DefaultHTTP, "address of the local pages /healthz and /metrics")
	flags.StringVar(&name, "name", "", "name of the box (default: the one it has, cobox-xxxx at first)")
	flags.StringArrayVar(&advertise, "advertise", nil, "address to tell others, HOST or HOST:PORT; may be repeated (default: found)")
	flags.StringVar(&keys, "release-keys", update.KeysFile, "keys that updates of the system are signed with")
	flags.MarkHidden("release-keys") // of no use but to the tests of the system
	flags.StringVar(&waiting, "waiting", "", "only tell members TEXT, because the data is elsewhere (see appliance/datadir/FORMAT.md)")
	flags.Lookup("waiting").Hidden = true // for the first process of a box
	flags.BoolVar(&discovery, "discovery", true, "answer for the box's name, cobox-xxxx.local, in the local network (not while it listens only to this machine)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		given := p.flags(cmd)
		for flag, setting := range map[string]struct {
			value *string
			into  **string
		}{"listen": {&listen, &given.Listen}, "http": {&http, &given.HTTP}, "name": {&name, &given.Name}} {
			if flags.Changed(flag) {
				*setting.into = setting.value
			}
		}
		if flags.Changed("advertise") {
			given.Advertise = &advertise
		}
		if flags.Changed("discovery") {
			given.Discovery = &discovery
		}
		settings, err := config.Load(given, os.Getenv)
		if err != nil {
			return &settingError{err}
		}
		if flags.Changed("waiting") && waiting == "" {
			return &usageError{errors.New("--waiting needs to say what the box waits for")}
		}
		return p.serve(cmd.Context(), settings, keys, waiting)
	}
	return cmd
}

// serve runs the box until a signal comes.
func (p *program) serve(ctx context.Context, settings config.Config, keys, waiting string) (err error) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	log := p.logger(slog.LevelInfo)
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	first, err := machine.Inherited(os.Getenv)
	if err != nil {
		return err
	}
	if first != nil {
		defer first.Close() // it may have gone already
	}
	stuck := make(chan struct{})
	defer close(stuck)
	context.AfterFunc(ctx, func() {
		stop() // a second signal ends the process at once
		select {
		case <-stuck:
		case <-time.After(drainTimeout):
			log.Error("the box did not stop in time and is ended; nothing that was receipted is lost")
			os.Exit(exitFailed)
		}
	})

	err = appliance.Run(ctx, appliance.Config{
		Settings:    settings,
		Version:     version,
		Logger:      log,
		Machine:     first,
		ReleaseKeys: keys,
		Waiting:     waiting,
		Ready:       p.ready,
		Claimed: func() {
			if p.JSON {
				p.Emit("claimed", struct{}{})
				return
			}
			fmt.Fprintln(p.Stdout, "\nThe box is claimed. Its code is of no use any more.")
		},
		Fatal: func(err error) {
			// Nobody knows what is on the disk now. The next start looks.
			log.Error("the box is ended because its disk failed; start it again, it verifies what it holds", "error", err)
			os.Exit(exitFailed)
		},
	})
	if err != nil {
		return err
	}
	if p.JSON {
		p.Emit("summary", struct{}{})
	}
	return nil
}

// ready shows where the box is and, while it is unclaimed, its code.
func (p *program) ready(info appliance.Info) {
	if p.JSON {
		p.Emit("ready", struct {
			Name      string   `json:"name"`
			Key       string   `json:"key"`
			Listen    string   `json:"listen"`
			HTTP      string   `json:"http"`
			Addresses []string `json:"addresses"`
			Code      string   `json:"code,omitempty"`
			Picture   string   `json:"picture,omitempty"`
			Waiting   string   `json:"waiting,omitempty"`
		}{info.Name, info.Key.String(), info.Listen.String(), info.HTTP.String(), info.Addresses, info.Code, info.Picture, info.Waiting})
		return
	}
	fmt.Fprintf(p.Stdout, "%s accepts links at %s; health and metrics are at http://%s/healthz and /metrics\n",
		info.Name, info.Listen, info.HTTP)
	if info.Waiting != "" {
		fmt.Fprintf(p.Stdout, "It does not serve, but waits: %s\n", info.Waiting)
	}
	if len(info.Addresses) == 0 {
		fmt.Fprintln(p.Stdout, "No address was found at which others can reach it; give one with --advertise.")
	}
	if info.Code != "" {
		p.showCode(info.Code, info.Picture)
	}
}

// showCode draws the pairing code and says what to do with it.
func (p *program) showCode(text, picture string) {
	if drawing, err := pairing.Draw(text); err == nil {
		fmt.Fprintf(p.Stdout, "\n%s\n", drawing.Terminal())
	}
	fmt.Fprintf(p.Stdout, `This box has no administrator yet. Whoever uses this code first becomes one:

  cobox pair '%s'

or, with the same code as a picture:

  cobox pair %s

Keep the code to yourself until you have used it.
`, text, picture)
}
