package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"cobox/appliance/admin"
	"cobox/cmd/cobox/device"
	"cobox/cmd/cobox/ui"
	"cobox/netlink/noiseconn"
	"cobox/netlink/replicate"
	"cobox/storage/account"
)

const (
	redialFirst   = 500 * time.Millisecond
	redialLongest = 15 * time.Second
)

// fleet is the boxes that a command talks to. A link is dialled once, or again
// and again while keep is set.
type fleet struct {
	a      *app
	st     *device.State
	keep   bool // dial again when a link ends
	admin  bool // boxes that wait for their data count as reached
	limits *replicate.Limits
	boot   replicate.BootID
	links  []*link

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// link is one box and the session with it, when there is one.
type link struct {
	f   *fleet
	box *device.Box

	session *replicate.Session // of wait; a kept link gets new ones, see watch

	mu      sync.Mutex
	current *replicate.Session // nil while there is none
	err     error              // of the last attempt
	tried   chan struct{}      // closed after the first attempt
	changed chan struct{}      // closed and replaced when current changes
	used    string             // address of current
	stated  []string           // addresses that the box stated
	waits   string             // what the box said that it waits for; "" if it is well
	heard   bool               // the box has stated something
	greeted bool               // there was a session
}

func (a *app) newFleet(st *device.State, boxes []*device.Box) *fleet {
	f := &fleet{a: a, st: st, limits: replicate.NewLimits(0)}
	rand.Read(f.boot[:])
	for _, b := range boxes {
		f.links = append(f.links, &link{f: f, box: b, tried: make(chan struct{}), changed: make(chan struct{})})
	}
	return f
}

// connect begins to dial every box.
func (f *fleet) connect(ctx context.Context) {
	ctx, f.cancel = context.WithCancel(ctx)
	for _, l := range f.links {
		f.wg.Go(func() { l.run(ctx) })
	}
}

// close says goodbye to every box and remembers where they were found.
func (f *fleet) close() {
	if f.cancel == nil {
		return
	}
	for _, l := range f.links {
		if s, _ := l.now(); s != nil {
			s.Close()
		}
	}
	f.cancel()
	f.wg.Wait()
	f.cancel = nil
	f.remember()
}

// remember stores what was learnt of where boxes are and what they wait for, if
// that is not what is stored already.
func (f *fleet) remember() {
	for _, l := range f.links {
		if l.used == "" || !l.heard {
			continue
		}
		if b := *l.box; !b.Saw(l.used, l.stated) && b.Waiting == l.waits {
			continue
		}
		f.a.update(f.st, func(st *device.State) {
			for _, b := range st.Boxes {
				if b.Static == l.box.Static {
					b.Saw(l.used, l.stated)
					b.Waiting = l.waits
				}
			}
		})
	}
}

// waitTried waits until every box has been reached or has failed once.
func (f *fleet) waitTried(ctx context.Context) error {
	for _, l := range f.links {
		select {
		case <-l.tried:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// connected lists the links that have a session now.
func (f *fleet) connected() []*link {
	var list []*link
	for _, l := range f.links {
		if s, _ := l.now(); s != nil {
			list = append(list, l)
		}
	}
	return list
}

// unreachable explains why no box could be reached; nil if one is.
func (f *fleet) unreachable() error {
	if len(f.links) == 0 {
		return errNoBoxes
	}
	if len(f.connected()) > 0 {
		return nil
	}
	var errs []error
	for _, l := range f.links {
		l.mu.Lock()
		if l.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", ui.Printable(l.box.Name), l.err))
		}
		l.mu.Unlock()
	}
	err := errors.Join(errs...)
	return &ui.Failure{Exit: ui.ExitNoBox, Code: "no_box", What: "no box is reachable", Err: err, Hint: unreachableHint(err)}
}

// now returns the session, and a channel that is closed when it changes.
func (l *link) now() (*replicate.Session, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current, l.changed
}

// wait waits for the first session and leaves it in l.session.
func (l *link) wait(ctx context.Context) error {
	select {
	case <-l.tried:
	case <-ctx.Done():
		return ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == nil {
		return unreachableBox(l.box.Name, l.err)
	}
	l.session = l.current
	return nil
}

func unreachableBox(name string, err error) error {
	return &ui.Failure{Exit: ui.ExitNoBox, Code: "no_box", What: fmt.Sprintf("box %q is not reachable", name), Err: err, Hint: unreachableHint(err)}
}

func unreachableHint(err error) string {
	var waits *waitingError
	if errors.As(err, &waits) {
		return waitingHint
	}
	if errors.Is(err, noiseconn.ErrNoAnswer) {
		return hangUpHint
	}
	return "Is it on, with its cable plugged in, and in this network? 'cobox boxes' shows where it was last."
}

// run dials, and dials again while the fleet keeps its links.
func (l *link) run(ctx context.Context) {
	first := sync.OnceFunc(func() { close(l.tried) })
	defer first()
	for pause := redialFirst; ; {
		session, err := l.dial(ctx)
		if err == nil {
			pause = redialFirst
			done := make(chan error, 1)
			go func() { done <- session.Run(ctx) }()
			var waits error
			if hello, herr := session.PeerHello(ctx); herr == nil {
				if waits = l.greet(ctx, session, hello); waits == nil {
					l.set(session, nil)
					first()
				} else {
					session.Close()
				}
			}
			err = <-done
			if waits != nil {
				err = waits
			} else if err == nil {
				err = errors.New("the box ended the connection")
			}
		}
		l.f.a.log.Debug("no link", "box", l.box.Name, "error", err)
		l.set(nil, err)
		first()
		if !l.f.keep || ctx.Err() != nil {
			return
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, redialLongest)
		case <-ctx.Done():
			return
		}
	}
}

// A waitingError is a box that is there, but whose data is not: for whoever
// wants that it is out of reach.
type waitingError struct{ what string }

func (e *waitingError) Error() string { return e.what }

// greet notes what a box states. One that waits for its data is asked what for;
// unless the command is about that, it is then an error.
func (l *link) greet(ctx context.Context, session *replicate.Session, hello *replicate.Hello) error {
	waits := ""
	if hello.Features&replicate.FeatureWaiting != 0 {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		waits = "it waits for its data"
		if s, err := call[admin.Status](ctx, &link{session: session}, admin.MethodStatus, admin.StatusRequest{}, nil); err == nil && s.Waiting != "" {
			waits = s.Waiting
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stated, l.waits, l.heard = hello.Addresses, waits, true
	if waits != "" && !l.f.admin {
		return &waitingError{waits}
	}
	l.greeted = true
	return nil
}

func (l *link) set(s *replicate.Session, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current, l.err = s, err
	close(l.changed)
	l.changed = make(chan struct{})
}

// dial makes a session that is not running yet.
func (l *link) dial(ctx context.Context) (*replicate.Session, error) {
	conn, addr, err := placeOf(l.box).dial(ctx, noiseconn.Config{
		Mode: noiseconn.ModeLink, Static: noiseconn.StaticPrivate(l.f.st.Keys.Noise()),
		Remote: l.box.Static, PSK: l.box.PSK, Version: l.box.Version,
	})
	if err != nil {
		return nil, err
	}
	session, err := replicate.NewSession(conn, replicate.Config{
		Hello:  replicate.Hello{Boot: l.f.boot, Name: clipName(l.f.st.Name)},
		Peer:   replicate.Peer{Noise: account.NoiseKey(l.box.Static)},
		BoxKey: l.box.Sign, Limits: l.f.limits, Logger: l.f.a.log,
	})
	if err != nil {
		conn.Close()
		return nil, err
	}
	l.mu.Lock()
	l.used = addr
	l.mu.Unlock()
	return session, nil
}

// clipName makes a name fit the greeting.
func clipName(s string) string {
	for len(s) > 64 {
		r := []rune(s)
		s = string(r[:len(r)-1])
	}
	return s
}

// update changes what is stored of the device's state, beside what the caller
// has in memory. It is for what can be learnt again: if another command holds
// the lock, nothing is stored.
func (a *app) update(held *device.State, change func(*device.State)) {
	if held != nil && a.locked {
		change(held)
		if err := held.Save(); err != nil {
			a.log.Warn("state not stored", "error", err)
		}
		return
	}
	unlock, err := a.home.Lock("update")
	if err != nil {
		return
	}
	defer unlock()
	st, err := a.open()
	if err != nil {
		return
	}
	change(st)
	if err := st.Save(); err != nil {
		a.log.Warn("state not stored", "error", err)
	}
}

// boxesOf lists the boxes by name, for messages.
func names(links []*link) []string {
	var list []string
	for _, l := range links {
		list = append(list, ui.Printable(l.box.Name))
	}
	slices.Sort(list)
	return list
}

// state returns the session, when it changes, and why there is none.
func (l *link) state() (*replicate.Session, <-chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current, l.changed, l.err
}

// everConnected reports whether the link has had a session.
func (l *link) everConnected() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.greeted
}
