package replicate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"cobox/storage/merklelog"
)

const (
	maxOffers   = 64  // offers that a peer may have open,
	maxDraining = 256 // and refused ones: a new offer may overtake their close
	maxRequests = 64  // reads and lists that a peer may have open
	ownRequests = 48  // reads and lists that we have open: the peer counts one as open a little longer
	maxCalls    = 8   // requests by method that a peer may have open
	maxBuffers  = 6   // blocks of a session between connection and store

	offerBurst = 256 // offers that a peer may begin at once,
	offerRate  = 16  // and a second after that
)

// Conn is what a session needs of a connection: an encrypted, authenticated
// byte stream with buffered reads and writes.
type Conn interface {
	io.Reader
	io.Writer
	// Flush sends what Write has collected.
	Flush() error
	// Close may be called at any time and ends a Read or Write under way.
	Close() error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// Config says who the two sides are and what this side does for the peer. The
// zero value is a device that talks to anybody.
type Config struct {
	Hello  Hello   // what to state; Version and Features are filled in
	Peer   Peer    // whom the handshake found
	BoxKey BoxKey  // whose receipts count here; zero: those of any key
	Limits *Limits // shared by the sessions of the process; nil: own ones
	Box    *Box    // nil: hold nothing for the peer and serve nothing
	Logger *slog.Logger

	Ping            time.Duration // silence after which to ping; 0: 25 s
	Drop            time.Duration // silence after which to give up; 0: 75 s
	Stall           time.Duration // silence after which credit is lent out; 0: 15 s
	ReceiptBlocks   int           // blocks between receipts while more are coming; 0: 1,024
	ReceiptInterval time.Duration // time between them; 0: 2 s
	ReceiptQuiet    time.Duration // silence after which a complete log is receipted; 0: 250 ms
}

func (c Config) withDefaults() Config {
	if c.Limits == nil {
		c.Limits = NewLimits(0)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&c.Ping, 25*time.Second)
	setDefault(&c.Drop, 75*time.Second)
	setDefault(&c.Stall, 15*time.Second)
	setDefault(&c.ReceiptBlocks, 1024)
	setDefault(&c.ReceiptInterval, 2*time.Second)
	setDefault(&c.ReceiptQuiet, 250*time.Millisecond)
	c.Hello.Version = Version
	if c.Box != nil && c.Box.Admin != nil {
		c.Hello.Features |= FeatureUploads
	}
	return c
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Validate names what is wrong with a Config.
func (c *Config) Validate() error {
	if what := c.Hello.check(); what != "" {
		return fmt.Errorf("replicate: config: hello: %s", what)
	}
	if b := c.Box; b != nil && (b.Store == nil || b.Authorizer == nil || b.Receipt == nil || b.Code == nil) {
		return errors.New("replicate: config: a box needs a store, an authorizer, a maker of receipts and codes for the store's errors")
	}
	return nil
}

// Session is one connection between two peers. Run moves the messages; the
// other methods may be called from any goroutine, before and during Run.
type Session struct {
	cfg    Config
	conn   Conn
	out    *outbox
	credit credit
	slots  chan struct{} // a token for each block between connection and store

	ctx    context.Context // ends with the session
	cancel context.CancelCauseFunc
	ready  chan struct{} // closed when peerHello is there
	wg     sync.WaitGroup

	readerDone       chan struct{}
	writeDeadlineSet time.Time // owned by the writer
	offers           *serveQueue
	reads            chan *readJob
	ownReads         chan struct{}              // a token for each read or list that we have open
	readChecked      map[merklelog.LogID]uint64 // owned by serveReads: leaves of logs the peer may read

	mu        sync.Mutex
	peerHello *Hello
	running   bool
	closed    bool
	lastID    uint32
	offerings map[uint32]*Offering // by our ids
	calls     map[uint32]call      // by our ids
	pulls     map[uint32]*pull     // by the peer's ids
	jobs      map[uint32]job       // by the peer's ids
	reading   int                  // jobs that are reads or lists
	calling   int                  // jobs that are requests
}

// job is something that the peer asked for and may cancel.
type job interface {
	// cancel reports whether the peer's wish was all that was missing to its end.
	cancel() (over bool)
}

// NewSession returns a session over the connection, which it owns from now on.
func NewSession(conn Conn, cfg Config) (*Session, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	ctx, cancel := context.WithCancelCause(context.Background())
	s := &Session{
		cfg: cfg, conn: conn, out: newOutbox(),
		credit: credit{l: cfg.Limits}, slots: make(chan struct{}, maxBuffers),
		ctx: ctx, cancel: cancel, ready: make(chan struct{}),
		readerDone: make(chan struct{}), offers: newServeQueue(),
		reads: make(chan *readJob, maxRequests), ownReads: make(chan struct{}, ownRequests), readChecked: make(map[merklelog.LogID]uint64),
		offerings: make(map[uint32]*Offering), calls: make(map[uint32]call),
		pulls: make(map[uint32]*pull), jobs: make(map[uint32]job),
	}
	// Before anybody can send anything else.
	s.send(message(appendHello(newMessage(kindHello, 0), &s.cfg.Hello)).finish())
	return s, nil
}

var (
	errGoodbye = errors.New("replicate: goodbye")
	errRan     = errors.New("replicate: Run was called twice")
)

// Run moves messages until the context ends, Close is called, the peer says
// goodbye or something fails, and returns after every goroutine of the session
// has ended and the connection is closed.
//
// It returns nil after an orderly goodbye by either side, an *Error if the peer
// gave a reason, a *ViolationError if the peer misbehaved, the context's error
// if that ended it, or what failed.
func (s *Session) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.running {
		s.mu.Unlock()
		return errRan
	}
	s.running = true
	s.mu.Unlock()

	defer context.AfterFunc(ctx, func() { s.fail(context.Cause(ctx)) })()
	var force *time.Timer
	forced := make(chan struct{})
	context.AfterFunc(s.ctx, func() {
		now := time.Now()
		s.conn.SetReadDeadline(now.Add(goodbyeTime))
		s.conn.SetWriteDeadline(now.Add(goodbyeTime))
		force = time.AfterFunc(2*goodbyeTime, func() { s.conn.Close() })
		close(forced)
	})

	s.wg.Go(func() { s.write(s.ctx) })
	s.wg.Go(s.read)
	s.wg.Go(s.serveOffers)
	if s.cfg.Box != nil {
		s.wg.Go(s.serveReads)
	}
	<-s.ctx.Done()
	s.mu.Lock()
	s.closed = true // no goroutine is started from here on
	s.mu.Unlock()
	s.wg.Wait()
	<-forced
	force.Stop()
	s.credit.close()

	cause := context.Cause(s.ctx)
	if errors.Is(cause, errGoodbye) {
		return nil
	}
	return cause
}

// Close says goodbye. Run returns nil soon after.
func (s *Session) Close() { s.fail(errGoodbye) }

// Fail ends the session and tells the peer why.
func (s *Session) Fail(e *Error) { s.fail(e) }

// fail ends the session; the first cause counts.
func (s *Session) fail(err error) { s.cancel(err) }

// goodbye returns what to tell the peer at the end, nil if nothing.
func (s *Session) goodbye() *Error {
	cause := context.Cause(s.ctx)
	var v *ViolationError
	var e *Error
	switch {
	case errors.Is(cause, errGoodbye):
		return &Error{Code: CodeNone}
	case errors.Is(cause, errPeerLeft):
		return nil
	case errors.As(cause, &v):
		return &Error{Code: CodeProtocol, Message: v.Error()}
	case errors.As(cause, &e):
		return refusal(e)
	case errors.Is(cause, context.Canceled):
		return &Error{Code: CodeShutdown}
	case errors.Is(cause, os.ErrDeadlineExceeded):
		return &Error{Code: CodeTimeout}
	}
	return &Error{Code: CodeInternal}
}

// Done is closed when the session ends.
func (s *Session) Done() <-chan struct{} { return s.ctx.Done() }

// closedError is what the methods return once the session has ended.
func (s *Session) closedError() error {
	cause := context.Cause(s.ctx)
	if cause == nil || errors.Is(cause, errGoodbye) {
		return ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrClosed, cause)
}

// PeerHello waits for what the peer states.
func (s *Session) PeerHello(ctx context.Context) (*Hello, error) {
	select {
	case <-s.ready:
		return s.peerHello, nil
	case <-s.ctx.Done():
		return nil, s.closedError()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// start runs fn in a goroutine that Run waits for, if the session still runs.
func (s *Session) start(fn func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Go(fn)
	return true
}

// newIDLocked returns an id that none of our offers and calls has.
func (s *Session) newIDLocked() uint32 {
	for {
		s.lastID++
		if s.lastID == 0 {
			continue
		}
		if s.offerings[s.lastID] == nil && s.calls[s.lastID] == nil {
			return s.lastID
		}
	}
}

// free returns a buffer to the pool.
func (s *Session) free(b *buffer) {
	if b != nil {
		s.cfg.Limits.put(b)
	}
}

// takeIn returns a buffer for a block on its way to the store, after waiting
// until fewer than maxBuffers are.
func (s *Session) takeIn() (*buffer, error) {
	select {
	case s.slots <- struct{}{}:
		return s.cfg.Limits.get(), nil
	case <-s.ctx.Done():
		return nil, context.Cause(s.ctx)
	}
}

// takenIn ends what takeIn began.
func (s *Session) takenIn(b *buffer) {
	s.cfg.Limits.put(b)
	<-s.slots
}
