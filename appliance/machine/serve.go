package machine

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"sync"
	"time"
)

// Question is one that a Handler answers.
type Question struct {
	Method   string
	Progress func(any) // may be called at any rate until the Handler returns
	params   json.RawMessage
}

// Params reads the parameters: an *Error with CodeInvalid if they are not of
// that type.
func (q *Question) Params(into any) error {
	if q.params == nil {
		return nil
	}
	if err := decode(q.params, into); err != nil {
		return Errorf(CodeInvalid, "%v", err)
	}
	return nil
}

// Handler answers a question with a result, an *Error, or another error, which
// coboxd gets as CodeFailed. Its context ends when coboxd does not want the
// answer any more, or has gone.
type Handler func(ctx context.Context, q *Question) (any, error)

// progressEvery is the least time between two reports of one question.
const progressEvery = 200 * time.Millisecond

// writeTimeout is how long coboxd may take nothing.
const writeTimeout = 10 * time.Second

// Serve answers what comes over conn until it ends, and returns when all
// handlers have. It returns nil if coboxd has closed its end.
func Serve(ctx context.Context, conn net.Conn, handle Handler) error {
	ctx, cancel := context.WithCancel(ctx)
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	s := &server{conn: conn, handle: handle, open: map[uint64]context.CancelFunc{}}
	defer s.running.Wait()
	defer cancel()
	err := lines(conn, func(line []byte) error { return s.take(ctx, line) })
	if ctx.Err() != nil {
		return nil
	}
	return err
}

type server struct {
	conn    net.Conn
	handle  Handler
	running sync.WaitGroup

	mu   sync.Mutex // held while a line is written, too
	open map[uint64]context.CancelFunc
}

// take begins to answer a line.
func (s *server) take(ctx context.Context, line []byte) error {
	q, err := parseQuestion(line)
	if err != nil {
		return err
	}
	s.mu.Lock()
	stop, twice := s.open[q.ID]
	full := len(s.open) >= maxOpen
	if q.Cancel {
		s.mu.Unlock()
		if twice { // else question and answer crossed
			stop()
		}
		return nil
	}
	if twice {
		s.mu.Unlock()
		return errors.New("machine: two questions with one number")
	}
	if full {
		defer s.mu.Unlock()
		return s.writeLocked(answer{ID: q.ID, Error: Errorf(CodeBusy, "too many questions at once")})
	}
	qctx, stop := context.WithCancel(ctx)
	s.open[q.ID] = stop
	s.mu.Unlock()
	s.running.Go(func() {
		defer stop()
		s.answer(qctx, q)
	})
	return nil
}

func (s *server) answer(ctx context.Context, q *question) {
	var last time.Time
	asked := &Question{Method: q.Method, params: q.Params, Progress: func(v any) {
		b, err := json.Marshal(v)
		s.mu.Lock()
		defer s.mu.Unlock()
		if now := time.Now(); err == nil && now.Sub(last) >= progressEvery {
			last = now
			s.writeLocked(answer{ID: q.ID, Progress: b})
		}
	}}
	result, err := s.handle(ctx, asked)
	a := answer{ID: q.ID}
	if err == nil {
		a.Result, err = json.Marshal(result)
	}
	if err != nil {
		a.Result = nil
		if !errors.As(err, &a.Error) {
			a.Error = &Error{CodeFailed, err.Error()}
			if ctx.Err() != nil && errors.Is(err, context.Canceled) {
				a.Error.Code = CodeCanceled
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, q.ID)
	s.writeLocked(a)
}

// writeLocked writes a line. A connection that takes none is closed: half a
// line cannot be made good.
func (s *server) writeLocked(a answer) error {
	s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	b := encode(a)
	if len(b) > maxLine {
		b = encode(answer{ID: a.ID, Error: Errorf(CodeFailed, "the answer is too long")})
	}
	if _, err := s.conn.Write(b); err != nil {
		s.conn.Close()
		return err
	}
	return nil
}
