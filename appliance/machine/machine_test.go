package machine

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pair connects a client with a handler.
func pair(t *testing.T, h Handler) *Client {
	t.Helper()
	a, b := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- Serve(t.Context(), b, h) }()
	c := NewClient(a)
	t.Cleanup(func() {
		c.Close()
		if err := <-served; err != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return c
}

func TestQuestions(t *testing.T) {
	c := pair(t, func(ctx context.Context, q *Question) (any, error) {
		switch q.Method {
		case MethodState:
			return State{Slot: "b", Trying: true, Other: &Release{Version: "1", Number: 1}}, nil
		case MethodInstall:
			q.Progress(InstallProgress{1, 2})
			return Release{Version: "2", Number: 2}, nil
		case MethodUseDisk:
			var p UseDisk
			if err := q.Params(&p); err != nil {
				return nil, err
			}
			return nil, Errorf(CodeRefused, "no disk %s", p.ID)
		case MethodTry:
			return nil, errors.New("it is broken")
		case MethodProved:
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return nil, Errorf(CodeUnknown, "no method %s", q.Method)
	})
	if s, err := c.State(t.Context()); err != nil || s.Slot != "b" || !s.Trying || s.Other.Number != 1 {
		t.Errorf("state: %+v, %v", s, err)
	}
	var seen []InstallProgress
	r, err := c.Install(t.Context(), func(p InstallProgress) { seen = append(seen, p) })
	if err != nil || r.Number != 2 || len(seen) != 1 || seen[0].Total != 2 {
		t.Errorf("install: %+v, %v, %v", r, seen, err)
	}
	var e *Error
	if err := c.UseDisk(t.Context(), "x1", nil); !errors.As(err, &e) || e.Code != CodeRefused || e.Message != "no disk x1" {
		t.Errorf("use disk: %v", err)
	}
	if err := c.Try(t.Context()); !errors.As(err, &e) || e.Code != CodeFailed || e.Message != "it is broken" {
		t.Errorf("try: %v", err)
	}
	if _, err := c.Disks(t.Context()); !errors.As(err, &e) || e.Code != CodeUnknown {
		t.Errorf("disks: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Proved(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("given up: %v", err)
	}
}

// TestTooManyQuestions answers a fifth at once.
func TestTooManyQuestions(t *testing.T) {
	begun := make(chan struct{})
	c := pair(t, func(ctx context.Context, q *Question) (any, error) {
		begun <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, maxOpen)
	for range maxOpen {
		go func() { ended <- c.Try(ctx) }()
		<-begun
	}
	var e *Error
	if err := c.Try(t.Context()); !errors.As(err, &e) || e.Code != CodeBusy {
		t.Errorf("one more: %v", err)
	}
	cancel()
	for range maxOpen {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

// TestOtherSideGoes ends what waits.
func TestOtherSideGoes(t *testing.T) {
	a, b := net.Pipe()
	c := NewClient(a)
	go func() {
		b.Read(make([]byte, 100))
		b.Close()
	}()
	if err := c.Try(t.Context()); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := c.Try(t.Context()); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// TestBadLines end the connection.
func TestBadLines(t *testing.T) {
	for _, line := range []string{
		"", "x", "{}", `{"id":1}`, `{"id":0,"method":"state"}`, `{"id":1,"method":"state","cancel":true}`,
		`{"id":1,"method":"state","more":1}`, `{"id":1,"method":"state"}{}`, `{"id":1,"method":"` + strings.Repeat("x", maxLine) + `"}`,
	} {
		a, b := net.Pipe()
		served := make(chan error, 1)
		go func() {
			served <- Serve(t.Context(), b, func(context.Context, *Question) (any, error) { return Empty{}, nil })
		}()
		a.SetDeadline(time.Now().Add(10 * time.Second))
		a.Write([]byte(line + "\n"))
		if err := <-served; err == nil {
			t.Errorf("%.40q is taken", line)
		}
		a.Close()
	}
}

func TestInherited(t *testing.T) {
	env := func(v string) func(string) string {
		return func(name string) string {
			if name == Variable {
				return v
			}
			return ""
		}
	}
	if c, err := Inherited(env("")); c != nil || err != nil {
		t.Errorf("without: %v, %v", c, err)
	}
	for _, v := range []string{"x", "1", "-1", "65536"} {
		if _, err := Inherited(env(v)); err == nil {
			t.Errorf("%q is a descriptor", v)
		}
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Inherited(env(strconv.Itoa(pair[0])))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f := os.NewFile(uintptr(pair[1]), "server")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	go Serve(t.Context(), conn, func(context.Context, *Question) (any, error) { return Disks{}, nil })
	if _, err := c.Disks(t.Context()); err != nil {
		t.Error(err)
	}
}

func FuzzParseQuestion(f *testing.F) {
	f.Add([]byte(`{"id":1,"method":"state","params":{}}`))
	f.Add([]byte(`{"id":1,"cancel":true}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := parseQuestion(b); err == nil && q.ID == 0 {
			t.Error("a question without a number")
		}
	})
}

func FuzzParseAnswer(f *testing.F) {
	f.Add([]byte(`{"id":1,"result":{}}`))
	f.Add([]byte(`{"id":1,"error":{"code":"busy","message":"x"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := parseAnswer(b); err == nil && a.ID == 0 {
			t.Error("an answer without a number")
		}
	})
}
