package replicate

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// noise returns n bytes that nothing repeats.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

// uploadBox is a box that answers an upload by handle.
func uploadBox(handle func(ctx context.Context, r *Request) ([]byte, error)) *testBox {
	box := newTestBox(newMemStore(), "alice")
	box.serve = handle
	return box
}

// readAll is a handler that returns what it was sent.
func readAll(_ context.Context, r *Request) ([]byte, error) { return io.ReadAll(r.Upload) }

// noJobs fails the test if the box still holds a place for a request.
func noJobs(t *testing.T, s *Session) {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.jobs) != 0 || s.calling != 0 {
		t.Errorf("%d requests are still open, %d counted", len(s.jobs), s.calling)
	}
}

func TestUpload(t *testing.T) {
	for _, n := range []int{0, 1, maxPart - 1, maxPart, maxPart + 1, uploadWindow * maxPart, MaxReply} {
		synctest.Test(t, func(t *testing.T) {
			want := noise(n)
			box := uploadBox(func(ctx context.Context, r *Request) ([]byte, error) {
				if r.Method != "update" || string(r.Body) != "{}" || r.Upload == nil {
					t.Errorf("asked for %q with %q", r.Method, r.Body)
				}
				r.Progress(map[string]int{"done": 0})
				return readAll(ctx, r)
			})
			dev, srv := startPair(t, deviceConfig(), box.config("alice"))
			for range 2 {
				seen := 0
				got, err := dev.Upload(t.Context(), "update", []byte("{}"), bytes.NewReader(want), func([]byte) { seen++ })
				if err != nil || !bytes.Equal(got, want) || seen != 1 {
					t.Errorf("%d bytes: got %d, %v, %d reports", n, len(got), err, seen)
				}
			}
			noJobs(t, srv.Session)
			stopPair(t, dev, srv)
		})
	}
}

// TestUploadByteByByte has a source and a handler that take small steps.
func TestUploadByteByByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := noise(3 * maxPart)
		box := uploadBox(func(_ context.Context, r *Request) ([]byte, error) {
			return io.ReadAll(iotest.OneByteReader(r.Upload))
		})
		dev, srv := startPair(t, deviceConfig(), box.config("alice"))
		got, err := dev.Upload(t.Context(), "update", nil, iotest.HalfReader(bytes.NewReader(want)), nil)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
		stopPair(t, dev, srv)
	})
}

// endless gives bytes for ever and counts them.
type endless struct{ n int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.n += int64(len(p))
	return len(p), nil
}

// TestUploadIsPulled: a handler that does not read is sent nothing, and one that
// has read a little is sent no more than the window.
func TestUploadIsPulled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan int)
		box := uploadBox(func(_ context.Context, r *Request) ([]byte, error) {
			for n := range release {
				if _, err := io.CopyN(io.Discard, r.Upload, int64(n)); err != nil {
					return nil, err
				}
			}
			return nil, &Error{Code: CodeInvalid, Message: "enough"}
		})
		dev, srv := startPair(t, deviceConfig(), box.config("alice"))
		src := new(endless)
		end := make(chan error, 1)
		go func() {
			_, err := dev.Upload(t.Context(), "update", nil, src, nil)
			end <- err
		}()
		synctest.Wait()
		if src.n != 0 {
			t.Errorf("%d bytes were read before anybody wanted them", src.n)
		}
		read := int64(0)
		for range 20 {
			release <- 5 * maxPart
			read += 5 * maxPart
			synctest.Wait()
			if ahead := src.n - read; ahead < 0 || ahead > uploadWindow*maxPart {
				t.Errorf("%d bytes are ahead of the handler", ahead)
			}
			u := srv.openUpload(1)
			u.mu.Lock()
			if held := len(u.waiting) + u.credit; held > uploadWindow {
				t.Errorf("%d parts wait or may come", held)
			}
			u.mu.Unlock()
		}
		close(release)
		if err := <-end; codeOf(err) != CodeInvalid {
			t.Error(err)
		}
		noJobs(t, srv.Session)
		stopPair(t, dev, srv)
	})
}

// TestUploadRefused refuses before, in the middle of, and after an upload. The
// answer counts at once; the session and its places for requests go on.
func TestUploadRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := uploadBox(func(_ context.Context, r *Request) ([]byte, error) {
			n := int64(len(r.Body)) * maxPart
			if _, err := io.CopyN(io.Discard, r.Upload, n); err != nil {
				return nil, err
			}
			return nil, &Error{Code: CodeNoSpace, Message: "the disk is full"}
		})
		dev, srv := startPair(t, deviceConfig(), box.config("alice"))
		for n := range 3 * maxCalls {
			_, err := dev.Upload(t.Context(), "update", make([]byte, n), new(endless), nil)
			if codeOf(err) != CodeNoSpace {
				t.Errorf("after %d parts: %v", n, err)
			}
		}
		noJobs(t, srv.Session)
		stopPair(t, dev, srv)
	})
}

// TestUploadCanceled cancels by the context, and by a source that fails.
func TestUploadCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		box := uploadBox(func(ctx context.Context, r *Request) ([]byte, error) {
			_, err := io.Copy(io.Discard, r.Upload)
			if ctx.Err() == nil && err != nil {
				t.Error("the handler's context has not ended")
			}
			ended <- err
			return nil, err
		})
		dev, srv := startPair(t, deviceConfig(), box.config("alice"))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err := dev.Upload(ctx, "update", nil, slowly{new(endless)}, nil)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: %v", err)
		}
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the handler got %v", err)
		}
		broken := errors.New("the disk is gone")
		for _, bad := range []error{broken, io.ErrUnexpectedEOF} {
			src := io.MultiReader(bytes.NewReader(noise(100_000)), iotest.ErrReader(bad))
			if _, err := dev.Upload(t.Context(), "update", nil, src, nil); !errors.Is(err, bad) {
				t.Errorf("a source that fails: %v", err)
			}
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("the handler got %v", err)
			}
		}
		noJobs(t, srv.Session)
		stopPair(t, dev, srv)
	})
}

type slowly struct{ io.Reader }

func (s slowly) Read(p []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return s.Reader.Read(p)
}

// TestUploadToOldBox is refused here, before anything is sent.
func TestUploadToOldBox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := newRawPeer(t, deviceConfig()) // whose hello has no features
		_, err := s.Upload(t.Context(), "update", nil, strings.NewReader("x"), nil)
		if !errors.Is(err, ErrNoUploads) {
			t.Error(err)
		}
		p.leave(s)
		for f := range p.got {
			if f.kind == kindUpload {
				t.Error("it was sent all the same")
			}
		}
	})
}

// TestUploadSessionEnds ends the session in the middle, from either side: the
// handler's read and the caller both learn of it.
func TestUploadSessionEnds(t *testing.T) {
	for name, end := range map[string]func(dev, srv *running){
		"device": func(dev, _ *running) { dev.Close() },
		"box":    func(_, srv *running) { srv.Close() },
		"wire":   func(dev, _ *running) { dev.conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended := make(chan error, 1)
				box := uploadBox(func(_ context.Context, r *Request) ([]byte, error) {
					_, err := io.Copy(io.Discard, r.Upload)
					ended <- err
					return nil, err
				})
				dev, srv := startPair(t, deviceConfig(), box.config("alice"))
				time.AfterFunc(time.Second, func() { end(dev, srv) })
				if _, err := dev.Upload(t.Context(), "update", nil, slowly{new(endless)}, nil); !errors.Is(err, ErrClosed) {
					t.Errorf("Upload: %v", err)
				}
				if err := <-ended; err == nil {
					t.Error("the handler read to the end of an endless upload")
				}
				<-dev.end
				<-srv.end
			})
		})
	}
}

// TestUploadStalls: a peer that keeps its session and sends nothing is given up.
func TestUploadStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := uploadBox(readAll)
		p, s := newRawPeer(t, box.config("alice"))
		start := time.Now()
		p.send(kindUpload, 1, appendRequest(nil, &request{"update", nil}))
		p.want(kindTake)
		answered := make(chan struct{})
		go func() {
			for {
				select {
				case <-answered:
					return
				case <-time.After(20 * time.Second):
					p.send(kindPing, 0, nil)
				}
			}
		}()
		if e := must(parseError(p.want(kindError).body)); e.Code != CodeTimeout {
			t.Errorf("answered by %v", e)
		}
		close(answered)
		if d := time.Since(start); d != 75*time.Second {
			t.Errorf("after %v", d)
		}
		p.send(kindCancel, 1, nil)
		noJobs(t, s.Session)
		p.leave(s)
	})
}

// TestUploadCrossesAnswer: what the peer sent before it knew of the answer is
// dropped, and its place is kept until it has ended its part.
func TestUploadCrossesAnswer(t *testing.T) {
	for name, last := range map[string]func(p *rawPeer){
		"last part": func(p *rawPeer) { p.send(kindPart, 1, appendReply(nil, &reply{})) },
		"cancel":    func(p *rawPeer) { p.send(kindCancel, 1, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				box := uploadBox(func(_ context.Context, r *Request) ([]byte, error) {
					_, err := r.Upload.Read(make([]byte, 1))
					return []byte("thanks"), err
				})
				p, s := newRawPeer(t, box.config("alice"))
				p.send(kindUpload, 1, appendRequest(nil, &request{"update", nil}))
				if n := must(parseTake(p.want(kindTake).body)); n != uploadWindow {
					t.Errorf("%d parts are taken at first", n)
				}
				part := appendReply(nil, &reply{true, make([]byte, maxPart)})
				p.send(kindPart, 1, part)
				p.want(kindReply)
				for range uploadWindow - 2 {
					p.send(kindPart, 1, part)
				}
				synctest.Wait()
				u := s.openUpload(1)
				if u == nil || len(u.waiting) != 0 || u.credit != 1 {
					t.Errorf("the upload is %+v", u)
				}
				last(p)
				noJobs(t, s.Session)
				// The id is free again.
				p.send(kindUpload, 1, appendRequest(nil, &request{"update", nil}))
				p.want(kindTake)
				p.leave(s)
			})
		})
	}
}

// TestUploadCannotBeHeld: whoever may not ask for anything makes the box hold
// nothing, not even a part.
func TestUploadCannotBeHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := uploadBox(func(context.Context, *Request) ([]byte, error) {
			return nil, &Error{Code: CodeNotAllowed}
		})
		p, s := newRawPeer(t, box.config("bob"))
		for id := range uint32(maxCalls + 5) {
			p.send(kindUpload, id+1, appendRequest(nil, &request{"update", nil}))
			want := CodeNotAllowed
			if id >= maxCalls { // it never ends its uploads
				want = CodeBusy
			}
			if e := must(parseError(p.want(kindError).body)); e.Code != want {
				t.Errorf("upload %d: %v", id+1, e)
			}
		}
		p.send(kindPart, 1, appendReply(nil, &reply{true, []byte("x")}))
		p.wantViolation(s)
	})
}

// TestUploadLiars sends what no honest peer sends.
func TestUploadLiars(t *testing.T) {
	part := appendReply(nil, &reply{true, []byte("x")})
	last := appendReply(nil, &reply{false, []byte("x")})
	open := func(p *rawPeer) {
		p.send(kindUpload, 1, appendRequest(nil, &request{"update", nil}))
		p.want(kindTake)
	}
	for name, lie := range map[string]func(p *rawPeer){
		"part of nothing": func(p *rawPeer) { p.send(kindPart, 1, part) },
		"part of a plain request": func(p *rawPeer) {
			p.send(kindRequest, 1, appendRequest(nil, &request{"wait", nil}))
			p.send(kindPart, 1, part)
		},
		"part of a read":           func(p *rawPeer) { p.send(kindRead, 1, appendRead(nil, &read{size: 1})); p.send(kindPart, 1, part) },
		"upload that is malformed": func(p *rawPeer) { p.send(kindUpload, 1, []byte{3, 'A', 'B', 'C'}) },
		"upload twice":             func(p *rawPeer) { open(p); p.send(kindUpload, 1, appendRequest(nil, &request{"update", nil})) },
		"part that was not taken": func(p *rawPeer) {
			p.send(kindUpload, 1, appendRequest(nil, &request{"wait", nil}))
			p.send(kindPart, 1, part)
		},
		"part after the last":       func(p *rawPeer) { open(p); p.send(kindPart, 1, last); p.send(kindPart, 1, part) },
		"part after a cancellation": func(p *rawPeer) { open(p); p.send(kindCancel, 1, nil); p.send(kindPart, 1, part) },
		"empty part":                func(p *rawPeer) { open(p); p.send(kindPart, 1, []byte{1}) },
		"part without a body":       func(p *rawPeer) { open(p); p.send(kindPart, 1, nil) },
		"take from the peer":        func(p *rawPeer) { open(p); p.send(kindTake, 1, appendTake(nil, 1)) },
		"more than was taken": func(p *rawPeer) {
			p.send(kindUpload, 1, appendRequest(nil, &request{"once", nil}))
			p.want(kindTake)
			for range uploadWindow + 1 {
				p.send(kindPart, 1, part)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				box := uploadBox(func(ctx context.Context, r *Request) ([]byte, error) {
					if r.Upload != nil && r.Method != "wait" {
						r.Upload.Read(make([]byte, 1))
					}
					if r.Method == "update" {
						return readAll(ctx, r)
					}
					<-ctx.Done()
					return nil, ctx.Err()
				})
				p, s := newRawPeer(t, box.config("alice"))
				lie(p)
				p.wantViolation(s)
			})
		})
	}
}

// TestUploadToLiars is the same the other way round.
func TestUploadToLiars(t *testing.T) {
	for name, lie := range map[string]func(p *rawPeer){
		"take of nothing":  func(p *rawPeer) { p.send(kindTake, 9, appendTake(nil, 1)) },
		"take of no parts": func(p *rawPeer) { p.send(kindTake, 1, appendTake(nil, 0)) },
		"take of too many": func(p *rawPeer) { p.send(kindTake, 1, appendTake(nil, maxTake+1)) },
		"takes for ever": func(p *rawPeer) {
			for p.send(kindTake, 1, appendTake(nil, maxTake)) == nil {
			}
		},
		"take after the answer": func(p *rawPeer) {
			p.send(kindReply, 1, appendReply(nil, &reply{}))
			p.send(kindTake, 1, appendTake(nil, 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				s := startSession(t, a, deviceConfig())
				p := &rawPeer{t: t, conn: b, got: make(chan frame, 100000)}
				go p.receive()
				p.send(kindHello, 0, appendHello(nil, &Hello{Version: Version, Features: FeatureUploads}))
				ended := make(chan error)
				go func() {
					_, err := s.Upload(context.Background(), "update", nil, slowly{new(endless)}, nil)
					ended <- err
				}()
				p.want(kindUpload)
				go lie(p)
				p.wantViolation(s)
				<-ended
			})
		})
	}
}
