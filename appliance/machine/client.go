package machine

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
)

// Variable is the environment variable with the number of the descriptor that
// coboxd inherits.
const Variable = "COBOX_MACHINE"

// Client is coboxd's side. Its methods may be called from any goroutine; each
// returns an *Error if the first process refused or failed, ErrClosed if it has
// gone, or the context's error.
type Client struct {
	conn    net.Conn
	writing sync.Mutex    // held while a line is written; the reader never waits for it
	gone    chan struct{} // closed when nothing comes any more

	mu    sync.Mutex
	next  uint64
	calls map[uint64]chan *answer
}

// Inherited returns the connection that the process was started with; nil, if
// with none.
func Inherited(getenv func(string) string) (*Client, error) {
	text := getenv(Variable)
	if text == "" {
		return nil, nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n < 3 {
		return nil, fmt.Errorf("machine: %s=%q is no descriptor", Variable, text)
	}
	f := os.NewFile(uintptr(n), "machine")
	defer f.Close()
	conn, err := net.FileConn(f) // a copy, which no child inherits
	if err != nil {
		return nil, fmt.Errorf("machine: descriptor %d: %w", n, err)
	}
	return NewClient(conn), nil
}

// NewClient returns a client over a connection, which it owns from now on.
func NewClient(conn net.Conn) *Client {
	c := &Client{conn: conn, gone: make(chan struct{}), calls: map[uint64]chan *answer{}}
	go c.read()
	return c
}

// Close ends the connection.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.gone
	return err
}

func (c *Client) read() {
	defer close(c.gone)
	defer c.conn.Close()
	lines(c.conn, func(line []byte) error {
		a, err := parseAnswer(line)
		if err != nil {
			return err
		}
		c.mu.Lock()
		to := c.calls[a.ID]
		if a.Progress == nil {
			delete(c.calls, a.ID)
		}
		c.mu.Unlock()
		if to == nil {
			return nil // whoever asked has given up
		}
		if a.Progress != nil {
			select {
			case to <- a:
			default: // whoever asked is slow
			}
			return nil
		}
		// Progress that nobody has taken makes room for what counts.
		for {
			select {
			case to <- a:
				return nil
			default:
			}
			select {
			case <-to:
			default:
			}
		}
	})
}

// call asks and waits for the result. progress may be nil.
func (c *Client) call(ctx context.Context, method string, params, result any, progress func([]byte) error) error {
	b, err := json.Marshal(params)
	if err != nil {
		return fmt.Errorf("machine: %w", err)
	}
	got := make(chan *answer, 16)
	c.mu.Lock()
	c.next++
	id := c.next
	c.calls[id] = got
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.calls, id)
		c.mu.Unlock()
	}()
	if c.write(question{ID: id, Method: method, Params: b}) != nil {
		return ErrClosed
	}
	done := ctx.Done()
	for {
		select {
		case a := <-got:
			switch {
			case a.Error != nil:
				if ctx.Err() != nil && a.Error.Code == CodeCanceled {
					return context.Cause(ctx)
				}
				return a.Error
			case a.Progress != nil:
				if progress != nil {
					if err := progress(a.Progress); err != nil {
						return err
					}
				}
			default:
				return decode(a.Result, result)
			}
		case <-c.gone:
			select {
			case a := <-got: // it came just before the end
				got <- a
				continue
			default:
			}
			return ErrClosed
		case <-done:
			done = nil // the answer still comes, and says whether it was in time
			if c.write(question{ID: id, Cancel: true}) != nil {
				return context.Cause(ctx)
			}
		}
	}
}

func (c *Client) write(q question) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err := c.conn.Write(encode(q))
	return err
}

// reports makes reports of a type from lines of progress.
func reports[T any](to func(T)) func([]byte) error {
	if to == nil {
		return nil
	}
	return func(b []byte) error {
		var v T
		if err := decode(b, &v); err != nil {
			return err
		}
		to(v)
		return nil
	}
}

// State asks how things are.
func (c *Client) State(ctx context.Context) (*State, error) {
	s := new(State)
	return s, c.call(ctx, MethodState, Empty{}, s, nil)
}

// Install lets the bundle in UpdateFile be verified and written to the slot that
// does not run.
func (c *Client) Install(ctx context.Context, progress func(InstallProgress)) (*Release, error) {
	r := new(Release)
	return r, c.call(ctx, MethodInstall, Install{}, r, reports(progress))
}

// Try lets the machine restart once into the other slot.
func (c *Client) Try(ctx context.Context) error {
	return c.call(ctx, MethodTry, Empty{}, &Empty{}, nil)
}

// Proved says that coboxd has checked itself and found all well.
func (c *Client) Proved(ctx context.Context) error {
	return c.call(ctx, MethodProved, Empty{}, &Empty{}, nil)
}

// Disks lists what is plugged in.
func (c *Client) Disks(ctx context.Context) (*Disks, error) {
	d := new(Disks)
	return d, c.call(ctx, MethodDisks, Empty{}, d, nil)
}

// UseDisk makes a disk ready to take the box's data. A moment after it has
// returned nil coboxd is stopped.
func (c *Client) UseDisk(ctx context.Context, id string, progress func(CopyProgress)) error {
	return c.call(ctx, MethodUseDisk, UseDisk{ID: id}, &Empty{}, reports(progress))
}
