package replicate

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"cobox/storage/merklelog"
)

func TestOfferAndRead(t *testing.T) {
	for _, n := range []int{1, 2, 255, 256, 257, 700} {
		if testing.Short() && n > 300 {
			continue
		}
		synctest.Test(t, func(t *testing.T) {
			log := NewTestLog("alice", "laptop", "log").Add(n)
			box := newTestBox(newMemStore(), "alice")
			dev, srv := startPair(t, deviceConfig(), box.config("alice"))
			hello := must(dev.PeerHello(t.Context()))
			if hello.Name != "box" || len(hello.Addresses) != 1 || hello.Version != Version {
				t.Errorf("hello of the box: %+v", hello)
			}
			o := must(dev.Offer(log))
			rc, err := o.WaitReceipt(t.Context(), uint64(n))
			if err != nil {
				t.Fatal(err)
			}
			if rc.Size != uint64(n) || !rc.Complete() {
				t.Errorf("receipt %+v", rc)
			}
			if p, _ := o.Progress(); p.Sent != uint64(n) || p.DurableRun() != uint64(n) || !p.Durable(uint64(n)-1) {
				t.Errorf("progress %+v", p)
			}
			checkRead(t, dev, log)
			o.Close()
			<-o.Done()
			if err := o.Err(); err != nil {
				t.Error(err)
			}
			stopPair(t, dev, srv)
		})
	}
}

// checkRead reads all of the log and compares.
func checkRead(t *testing.T, dev *running, log *TestLog) {
	t.Helper()
	cp := log.Checkpoint()
	indexes := make([]uint64, cp.Size)
	for i := range indexes {
		indexes[i] = uint64(i)
	}
	next := 0
	want := make([]byte, merklelog.BlockSize)
	err := dev.Read(t.Context(), log.Manifest(), cp, indexes, func(i uint64, block []byte, leaf merklelog.Leaf) error {
		log.fill(i, want)
		if i != uint64(next) || !bytes.Equal(block, want) || leaf != log.leaves[i] {
			t.Errorf("block %d is wrong, or not number %d", i, next)
		}
		next++
		return nil
	})
	if err != nil || next != len(indexes) {
		t.Fatalf("read %d of %d blocks: %v", next, len(indexes), err)
	}
}

func TestLiveLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := NewTestLog("alice", "laptop", "log")
		box := newTestBox(newMemStore(), "alice")
		dev, srv := startPair(t, deviceConfig(), box.config("alice"))
		o := must(dev.Offer(log))
		synctest.Wait()
		for range 20 {
			log.Add(37)
		}
		if _, err := o.WaitReceipt(t.Context(), 740); err != nil {
			t.Fatal(err)
		}
		log.Add(1)
		synctest.Wait() // without a new ask
		for {
			p, changed := o.Progress()
			if p.DurableRun() == 741 {
				break
			}
			<-changed
		}
		stopPair(t, dev, srv)
		if err := o.Err(); !errors.Is(err, ErrClosed) {
			t.Errorf("offering ended with %v", err)
		}
	})
}

func TestRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		long := bytes.Repeat([]byte("long "), 10000)
		box.serve = func(ctx context.Context, r *Request) ([]byte, error) {
			if r.Upload != nil {
				t.Error("a request without an upload has one")
			}
			switch r.Method {
			case "echo":
				r.Progress(map[string]int{"done": 1})
				return r.Body, nil
			case "long":
				return long, nil
			case "wait":
				<-ctx.Done()
				return nil, ctx.Err()
			case "fault":
				return nil, errors.New("the disk said something private")
			}
			return nil, &Error{Code: CodeUnsupported, Message: "no method " + r.Method}
		}
		dev, srv := startPair(t, deviceConfig(), box.config("alice"))
		var seen []string
		got, err := dev.Request(t.Context(), "echo", []byte(`{"a":1}`), func(p []byte) { seen = append(seen, string(p)) })
		if err != nil || string(got) != `{"a":1}` || len(seen) != 1 || seen[0] != `{"done":1}` {
			t.Errorf("echo: %q, %v, progress %q", got, err, seen)
		}
		if got, err := dev.Request(t.Context(), "long", nil, nil); err != nil || !bytes.Equal(got, long) {
			t.Errorf("long: %d bytes, %v", len(got), err)
		}
		_, err = dev.Request(t.Context(), "nothing", nil, nil)
		var e *Error
		if !errors.As(err, &e) || e.Code != CodeUnsupported || e.Message != "no method nothing" {
			t.Errorf("unknown method: %v", err)
		}
		_, err = dev.Request(t.Context(), "fault", nil, nil)
		if !errors.As(err, &e) || e.Code != CodeInternal || e.Message != "" {
			t.Errorf("fault: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if _, err := dev.Request(ctx, "wait", nil, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: %v", err)
		}
		if _, err := dev.Request(t.Context(), "Bad Method", nil, nil); err == nil {
			t.Error("a malformed method was sent")
		}
		stopPair(t, dev, srv)
	})
}

func TestLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		dev, srv := startPair(t, deviceConfig(), box.config("alice"))
		want := make(map[merklelog.LogID]uint64)
		for i, name := range []string{"one", "two", "three"} {
			log := NewTestLog("alice", "laptop", name).Add(i + 1)
			want[log.ID()] = uint64(i + 1)
			if _, err := must(dev.Offer(log)).WaitReceipt(t.Context(), uint64(i+1)); err != nil {
				t.Fatal(err)
			}
		}
		list, err := dev.Logs(t.Context(), testAccount("alice"))
		if err != nil || len(list) != 3 {
			t.Fatalf("%d logs, %v", len(list), err)
		}
		for _, e := range list {
			if want[e.Checkpoint.Log] != e.Held || e.Readable == nil || e.Readable.Size != e.Held {
				t.Errorf("log %v: %+v", e.Checkpoint.Log, e)
			}
		}
		_, err = dev.Logs(t.Context(), testAccount("bob"))
		if !errors.Is(err, &Error{Code: CodeNotAllowed}) {
			t.Errorf("logs of another account: %v", err)
		}
		stopPair(t, dev, srv)
	})
}
