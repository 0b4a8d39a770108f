package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"cobox/appliance/admin"
	"cobox/cmd/cobox/device"
	"cobox/cmd/cobox/ui"
	"cobox/image/bundle"
	"cobox/netlink/replicate"
)

const (
	// updateLimit is how long a box may take from its restart to the end of its
	// trial. It gives up by itself before that.
	updateLimit = 15 * time.Minute
	// updateAsk is the pause between two looks at the box.
	updateAsk = 2 * time.Second
	// updateStuck is how long a box may run on after it has agreed to restart.
	updateStuck = time.Minute
)

// The states of updateEvent; the last one that a command sees is in its summary.
const (
	updateWritten    = "written"
	updateRestarting = "restarting"
	updateTrying     = "trying"
	updatePromoted   = "promoted"
)

// updateEvent says that an update has come to another state.
type updateEvent struct {
	Box     string `json:"box"`
	BoxName string `json:"box_name"`
	Version string `json:"version"` // of the update
	Number  uint32 `json:"number"`
	State   string `json:"state"`
}

func (updateEvent) Type() string { return "update" }
func (e updateEvent) Text() string {
	name := ui.Printable(e.BoxName)
	switch e.State {
	case updateWritten:
		return fmt.Sprintf("%s has CoBox %s and restarts to try it.", name, ui.Printable(e.Version))
	case updateRestarting:
		return name + " is restarting."
	}
	return fmt.Sprintf("%s runs CoBox %s on trial. If all is well it stays, which takes some minutes; else the box goes back by itself.",
		name, ui.Printable(e.Version))
}

type updateSummary struct {
	Box     string  `json:"box"`
	BoxName string  `json:"box_name"`
	Version string  `json:"version"` // of the update
	Number  uint32  `json:"number"`
	State   string  `json:"state"`
	Seconds float64 `json:"seconds"`
}

func (updateSummary) Type() string { return "summary" }
func (e updateSummary) Text() string {
	if e.State == updateWritten {
		return "What comes of it tells: cobox box status"
	}
	return fmt.Sprintf("%s runs CoBox %s, and stays with it.", ui.Printable(e.BoxName), ui.Printable(e.Version))
}

func (a *app) boxUpdateCommand(box *string) *cobra.Command {
	var noWait bool
	c := &cobra.Command{
		Use: "update FILE", Short: "Give a box a new version of its system", Args: exactly(1, "the file of an update"),
		Example: "  cobox box update cobox-1.4.0.cobox\n  cobox box update cobox-1.4.0.cobox --no-wait",
		Long: `Sends an update to a box that runs CoBox's own system. The box takes it only if
two of the people who may release CoBox have signed it, writes it beside the
system that runs, and restarts to try it. If the new system does not prove itself
within some minutes, or the power fails meanwhile, the box goes back to the one
before. Its data is not touched, and backups wait until it is back.

The command ends when the box stays with the update, and fails if it went back.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.updateBox(cmd.Context(), *box, args[0], noWait)
		},
	}
	c.Flags().BoolVar(&noWait, "no-wait", false, "end when the box has the update, before it has tried it")
	return c
}

func (a *app) updateBox(ctx context.Context, name, path string, noWait bool) error {
	f, size, err := openUpdate(path)
	if err != nil {
		return err
	}
	defer f.Close()
	l, done, err := a.oneBox(ctx, name)
	if err != nil {
		return err
	}
	begun := time.Now()
	release, err := a.sendUpdate(ctx, l, f, size)
	done()
	if err != nil {
		return err
	}
	w := &updateWatch{a: a, st: l.f.st, box: l.box, release: release, taken: time.Now()}
	w.tell(updateWritten)
	state := updateWritten
	if !noWait {
		if err := w.wait(ctx); err != nil {
			return err
		}
		state = updatePromoted
	}
	a.ui.Emit(updateSummary{boxID(l.box), l.box.Name, release.Version, release.Number, state, time.Since(begun).Seconds()})
	return nil
}

// openUpdate opens what looks like an update. Whether it is one is the box's to
// say.
func openUpdate(path string) (_ *os.File, size int64, err error) {
	no := func(format string, args ...any) error {
		return &ui.Failure{Exit: ui.ExitFailed, Code: "not_update", What: ui.Printable(path) + " " + fmt.Sprintf(format, args...),
			Hint: "Updates are files whose names end in .cobox. Get this one again, and compare its size."}
	}
	info, err := os.Stat(path) // first: opening a pipe would wait for its other end
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, 0, &ui.Failure{Exit: ui.ExitFailed, Code: "no_path", What: "there is no " + ui.Printable(path), Hint: "Check the path."}
	case err != nil:
		return nil, 0, err
	case !info.Mode().IsRegular():
		return nil, 0, no("is no file")
	case info.Size() == 0:
		return nil, 0, no("is empty")
	case info.Size() > bundle.MaxSize:
		return nil, 0, no("is larger than any update of CoBox")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	head := make([]byte, 64)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		f.Close()
		return nil, 0, err
	}
	if !bundle.IsBundle(head[:n]) {
		f.Close()
		return nil, 0, no("is no update of CoBox")
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// sendUpdate sends the update and waits until the box has written it.
func (a *app) sendUpdate(ctx context.Context, l *link, f *os.File, size int64) (admin.Release, error) {
	if err := canUpdate(ctx, l); err != nil {
		return admin.Release{}, err
	}
	body, err := json.Marshal(admin.UpdateRequest{Size: size})
	if err != nil {
		return admin.Release{}, err
	}
	m, writing := a.ui.Meter("Sending"), false
	src := &sourceFile{f: f}
	answer, err := l.session.Upload(ctx, admin.MethodUpdate, body, src, func(b []byte) {
		var p admin.UpdateProgress
		if json.Unmarshal(b, &p) != nil {
			return
		}
		if p.Step == admin.UpdateWriting && !writing {
			m.Done()
			m, writing = a.ui.Meter("Writing"), true
		}
		m.Update(ui.Progress{Bytes: uint64(max(0, p.Done)), TotalBytes: uint64(max(0, p.Total)), Final: true})
	})
	m.Done()
	switch {
	case src.err != nil:
		return admin.Release{}, &ui.Failure{Exit: ui.ExitFailed, Code: "not_update", What: "the update cannot be read", Err: src.err,
			Hint: "The box is as it was. Get the file again, and repeat this."}
	case err != nil:
		return admin.Release{}, updateRefused(l.box.Name, err)
	}
	var reply admin.Updated
	if err := json.Unmarshal(answer, &reply); err != nil {
		return admin.Release{}, fmt.Errorf("the box's answer to %s makes no sense: %w", admin.MethodUpdate, err)
	}
	return reply.Release, nil
}

// sourceFile remembers what reading the file failed with.
type sourceFile struct {
	f   *os.File
	err error
}

func (s *sourceFile) Read(p []byte) (int, error) {
	n, err := s.f.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// canUpdate says why a box cannot be updated from here, before anything is sent.
func canUpdate(ctx context.Context, l *link) error {
	hello, err := l.session.PeerHello(ctx)
	if err != nil {
		return err
	}
	if hello.Features&replicate.FeatureUploads == 0 {
		return &ui.Failure{Exit: ui.ExitFailed, Code: "box_too_old", What: fmt.Sprintf("the program of box %q is too old for this", l.box.Name),
			Hint: "A box with CoBox's own system needs a new image on its card once. A box that runs on another system is updated there, as other programs."}
	}
	s, err := call[admin.Status](ctx, l, admin.MethodStatus, admin.StatusRequest{}, nil)
	if err != nil {
		return err
	}
	if s.You.Administrator && s.Machine == nil {
		return noSystem(l, "Update it there, as other programs.")
	}
	return nil // whoever is no administrator is told so by the box
}

// noSystem says that a box is a plain program, and what to do instead.
func noSystem(l *link, instead string) error {
	return &ui.Failure{Exit: ui.ExitFailed, Code: "no_system", What: fmt.Sprintf("box %q does not run CoBox's own system", l.box.Name),
		Hint: "It is a program on a computer that has another system. " + instead}
}

// updateRefused explains why a box did not take an update.
func updateRefused(box string, err error) error {
	var e *replicate.Error
	switch {
	case errors.Is(err, replicate.ErrClosed):
		return &ui.Failure{Exit: ui.ExitNoBox, Code: "no_box", What: fmt.Sprintf("the connection to box %q broke before it had the update", box), Err: err,
			Hint: "The box runs on as it was. Repeat this."}
	case !errors.As(err, &e):
		return err
	}
	f := refusal(box, e)
	switch e.Code {
	case replicate.CodeNoSpace, replicate.CodeInternal, replicate.CodeTimeout:
		if e.Message != "" {
			f.What = fmt.Sprintf("box %q did not take the update: %s", box, ui.Printable(e.Message))
		}
		f.Hint = "The box runs on as it was."
		if e.Code == replicate.CodeNoSpace {
			f.Hint = "The box runs on as it was. Make room, for example by removing a member who has left, and repeat this."
		}
	case replicate.CodeInvalid, replicate.CodeTooLarge:
		f.Hint = "The box runs on as it was."
	}
	return f
}

// updateWatch follows a box from its restart to the end of the trial.
type updateWatch struct {
	a       *app
	st      *device.State
	box     *device.Box
	release admin.Release
	taken   time.Time // when the box had the update

	told    string // the last state that was told
	unheard error  // why the box could not be asked last
}

// tell says once that a state was reached.
func (w *updateWatch) tell(state string) {
	if w.told == state || w.told == updateTrying && state == updateRestarting {
		return // a box on trial that is not heard once may be heard the next time
	}
	w.told = state
	w.a.ui.Emit(updateEvent{boxID(w.box), w.box.Name, w.release.Version, w.release.Number, state})
}

// wait returns nil once the box stays with the update.
func (w *updateWatch) wait(ctx context.Context) error {
	for time.Since(w.taken) < updateLimit {
		select {
		case <-time.After(updateAsk):
		case <-ctx.Done():
			w.a.ui.Notef("The box goes on by itself. What comes of it tells: cobox box status")
			return ctx.Err()
		}
		s, err := w.ask(ctx)
		if w.unheard = err; err != nil {
			if ctx.Err() == nil {
				w.tell(updateRestarting)
			}
			continue
		}
		if done, err := w.judge(s); done || err != nil {
			return err
		}
	}
	f := &ui.Failure{Exit: ui.ExitFailed, Code: "update_open", What: fmt.Sprintf("after %s it is not known what came of the update", ui.Duration(updateLimit)),
		Hint: "See 'cobox box status' later."}
	if w.unheard != nil {
		f.Err = w.unheard
		f.Hint = "The box is not heard. Look at its screen, or pull its plug and put it in again: then it starts the system before."
	}
	return f
}

// ask asks the box how it is, over a new link.
func (w *updateWatch) ask(ctx context.Context) (*admin.Status, error) {
	return askStatus(ctx, w.a.newFleet(w.st, []*device.Box{w.box}))
}

// judge says whether the update has come to its good end.
func (w *updateWatch) judge(s *admin.Status) (done bool, err error) {
	m := s.Machine
	if m == nil || m.Update == nil {
		return false, nil // a system that is just starting may not know yet
	}
	if m.Update.Release != w.release {
		return false, &ui.Failure{Exit: ui.ExitFailed, Code: "update_other",
			What: fmt.Sprintf("the last update of box %q is another one now: CoBox %s", w.box.Name, ui.Printable(m.Update.Version)),
			Hint: "Has another administrator sent it? See 'cobox box log'."}
	}
	switch m.Update.Result {
	case admin.UpdatePromoted:
		return !m.Trying && m.Release == w.release, nil
	case admin.UpdateFellBack:
		why := m.Update.Reason
		if why == "" {
			why = "the new system did not prove itself"
		}
		return false, &ui.Failure{Exit: ui.ExitFailed, Code: "update_fell_back",
			What: fmt.Sprintf("box %q went back to CoBox %s: %s", w.box.Name, ui.Printable(m.Release.Version), ui.Printable(why)),
			Hint: "It runs on as before the update, with all its data. Tell this to whoever made the update."}
	case admin.UpdateTrying:
		if m.Trying && m.Release == w.release { // else it is about to restart
			w.tell(updateTrying)
		}
	case admin.UpdateWritten:
		// The box tells its uptime, so no clock of theirs is compared with ours.
		since := time.Since(w.taken)
		if s.Box != nil && since > updateStuck && time.Duration(s.Box.Uptime)*time.Millisecond > since {
			return false, &ui.Failure{Exit: ui.ExitFailed, Code: "update_stuck", What: fmt.Sprintf("box %q has the update and does not restart to try it", w.box.Name),
				Hint: "It runs on as it was. Pull its plug, put it in again, and repeat this."}
		}
	}
	return false, nil
}
