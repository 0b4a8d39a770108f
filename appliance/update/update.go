// Package update takes a new system in and has it tried.
//
// A bundle comes over a member's link. [Receiver.Receive] verifies it while it
// writes it to a file in the data directory, so that what is refused is refused
// as early as possible: a bundle that not enough release keys have signed after
// its first kilobytes. Then the first process of the box is asked to write the
// system to the slot that does not run. It trusts nobody: it opens the file by
// itself and verifies everything again.
//
// [Receiver.Run] has the box restart into the new system, a moment after the
// administrator has been told. What happens then is the first process's alone.
//
// One update at a time is under way, and the file is removed whatever happens.
package update

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"cobox/appliance/admin"
	"cobox/appliance/machine"
	"cobox/netlink/replicate"
)

// KeysFile is where the image has the public keys of those who may release it.
const KeysFile = "/etc/cobox-release.pub"

const (
	// tryAfter is what the answer to the administrator gets to arrive before the
	// box restarts.
	tryAfter = time.Second
	// tryTimeout is how long the first process may take to agree to that.
	tryTimeout = time.Minute
)

// Config is what a Receiver needs.
type Config struct {
	Machine *machine.Client
	Dir     string // coboxd's data directory
	Keys    string // file of the public release keys; "": KeysFile
	Logger  *slog.Logger
}

// Receiver takes updates in, one at a time. Its methods may be called from any
// goroutine.
type Receiver struct {
	cfg  Config
	path string
	busy chan struct{} // holds a token while an update is under way
	try  chan struct{} // an update waits to be tried; it is under way until then
}

// New returns a Receiver, after it has removed what an update that was cut off
// has left.
func New(cfg Config) *Receiver {
	if cfg.Keys == "" {
		cfg.Keys = KeysFile
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Receiver{cfg: cfg, path: filepath.Join(cfg.Dir, machine.UpdateFile), busy: make(chan struct{}, 1), try: make(chan struct{}, 1)}
	r.clean()
	return r
}

// clean removes the file where nobody can be told if that fails. A box without
// room is better than no box.
func (r *Receiver) clean() {
	if err := r.remove(); err != nil {
		r.cfg.Logger.Error("a file is left over", "error", err)
	}
}

// remove removes the file, if there is one.
func (r *Receiver) remove() error {
	if err := os.Remove(r.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("update: removing what an update has left: %w", err)
	}
	return nil
}

// Run has what was received tried, until ctx ends.
func (r *Receiver) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.try:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(tryAfter):
		}
		asked, cancel := context.WithTimeout(ctx, tryTimeout)
		err := r.cfg.Machine.Try(asked)
		cancel()
		if err == nil {
			r.cfg.Logger.Info("the box restarts to try its update")
			continue // nothing else is begun in these last moments
		}
		r.cfg.Logger.Error("the box does not restart to try its update", "error", err)
		<-r.busy
	}
}

// Receive takes a bundle of so many bytes in and has it written to the slot that
// does not run. A moment after it has returned without an error, Run has the box
// restart. A refusal is a *replicate.Error with a message for people.
func (r *Receiver) Receive(ctx context.Context, b Bundle, progress func(admin.UpdateProgress)) (*machine.Release, error) {
	select {
	case r.busy <- struct{}{}:
	default:
		return nil, refuse(replicate.CodeBusy, "another update of this box is under way")
	}
	release, err := r.receive(ctx, b, progress)
	if err != nil {
		<-r.busy
		return nil, err
	}
	r.try <- struct{}{} // has room: whoever is busy comes here once
	return release, nil
}

func (r *Receiver) receive(ctx context.Context, b Bundle, progress func(admin.UpdateProgress)) (*machine.Release, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, receiveTimeout,
		refuse(replicate.CodeTimeout, "the update has not come within %v", receiveTimeout))
	defer cancel()
	state, err := r.cfg.Machine.State(ctx)
	if err != nil {
		return nil, r.machineRefusal("how the system is", err)
	}
	if state.Trying {
		return nil, refuse(replicate.CodeBusy, "the box is trying CoBox %s; another update can follow once it has proved itself, in some minutes",
			state.Release.Version)
	}
	defer r.clean()
	if err := r.store(ctx, b, state, progress); err != nil {
		return nil, err
	}
	release, err := r.cfg.Machine.Install(ctx, func(p machine.InstallProgress) {
		progress(admin.UpdateProgress{Step: admin.UpdateWriting, Done: p.Done, Total: p.Total})
	})
	if err != nil {
		return nil, r.machineRefusal("writing the update", err)
	}
	if ctx.Err() != nil {
		// Whoever asked has gone, so nobody expects the box to restart.
		return nil, fmt.Errorf("update: %w", context.Cause(ctx))
	}
	return release, nil
}

// machineRefusal makes what the administrator gets of an error of the first
// process.
func (r *Receiver) machineRefusal(what string, err error) error {
	var e *machine.Error
	switch {
	case errors.As(err, &e):
	case errors.Is(err, machine.ErrClosed):
		r.cfg.Logger.Error("the first process does not answer", "asked", what, "error", err)
		return refuse(replicate.CodeInternal, "a part of the box does not answer; pull its plug, put it in again and repeat this")
	default:
		return fmt.Errorf("update: %s: %w", what, err)
	}
	r.cfg.Logger.Warn("the first process refused", "asked", what, "code", e.Code, "error", e.Message)
	switch e.Code {
	case machine.CodeBusy:
		return refuse(replicate.CodeBusy, "%s", e.Message)
	case machine.CodeRefused, machine.CodeInvalid:
		return refuse(replicate.CodeInvalid, "%s", e.Message)
	}
	return refuse(replicate.CodeInternal, "%s", e.Message)
}

func refuse(code replicate.Code, format string, args ...any) *replicate.Error {
	return &replicate.Error{Code: code, Message: fmt.Sprintf(format, args...)}
}
