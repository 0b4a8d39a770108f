//go:build linux

// Command inside takes coboxd's place in a box under test. It is started by the
// real first process, in the real sandbox, and runs the real box; and then it
// tells what a coboxd that somebody has taken over could see and do there: which
// sockets there are, which processes, what it may open, call and listen at.
//
// What it finds it writes to its log, a line of JSON each, and so to the
// console. It judges nothing: that is the test's.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"cobox/appliance"
	"cobox/appliance/config"
)

// watch is how long sockets are looked at: long enough for an address by DHCP
// and for the time servers.
const watch = 15 * time.Second

func main() {
	if len(os.Args) == 2 && os.Args[1] == "exit" {
		return // what an attempt starts
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(48 << 20) // as coboxd does
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	settings := config.Config{Data: option("--data"), Listen: option("--listen"), HTTP: option("--http"), Discovery: true}
	err := appliance.Run(ctx, appliance.Config{
		Settings: settings,
		Logger:   slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Ready:    func(appliance.Info) { go look(settings.Data) },
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// option finds a flag's value among the arguments, which are coboxd's.
func option(name string) string {
	for i, a := range os.Args {
		if a == name && i+1 < len(os.Args) {
			return os.Args[i+1]
		}
	}
	return ""
}

// look tells everything, and says so at the end.
func look(data string) {
	tellSockets(watch)
	tellProcesses()
	tellMemory() // before the attempts, which make the kernel and this program larger
	tellAttempts(data)
	tell("done", nil)
}

// tell writes one finding.
func tell(what string, finding any) {
	b, err := json.Marshal(map[string]any{what: finding})
	if err != nil {
		panic(err) // nothing here cannot be encoded
	}
	fmt.Fprintf(os.Stderr, "inside: %s\n", b)
	// Init lets through some lines a second, after a burst.
	time.Sleep(20 * time.Millisecond)
}

// failed tells that something could not be looked at, which the test takes for
// a failure.
func failed(what string, err error) { tell("failed", what+": "+err.Error()) }
