package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cobox/appliance/boxtest"
	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
	"cobox/netlink/replicate"
	"cobox/storage/merklelog"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"coboxd": main})
}

// The scripts run the real program; the commands below play a member's device.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(e *testscript.Env) error {
			e.Values[stateKey{}] = &state{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"freeport": freeport, "waitfor": waitFor, "mode": mode, "pair": pair, "backup": backup,
			"readback": readBack, "flip": flip, "jsonlines": jsonLines, "matchfile": matchFile, "term": term,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

type stateKey struct{}

// state is what the member of a script knows.
type state struct {
	device *boxtest.Device
	addr   string
	key    noiseconn.StaticPublic
	log    *boxtest.Log
}

func member(ts *testscript.TestScript) *state { return ts.Value(stateKey{}).(*state) }

const patience = 30 * time.Second

func scriptContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

// freeport NAME...: sets each variable to a TCP port that is free and that nobody
// else takes before the script ends.
func freeport(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		port, release, err := boxtest.FreePort()
		ts.Check(err)
		ts.Defer(release)
		ts.Setenv(name, port)
	}
}

// waitfor URL TEXT: waits until the page answers 200 with the text in it.
// With "!" it waits until nobody answers any more.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	text := strings.Join(args[1:], " ")
	var last string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get(args[0])
		if err != nil {
			if neg {
				return
			}
			last = err.Error()
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if last = string(body); !neg && err == nil && resp.StatusCode == http.StatusOK && strings.Contains(last, text) {
			return
		}
	}
	ts.Fatalf("%s does not show %q; it shows:\n%s", args[0], text, last)
}

// mode PERM FILE...: compares permissions.
func mode(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args[1:] {
		info, err := os.Stat(ts.MkAbs(name))
		ts.Check(err)
		if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
			ts.Fatalf("%s has mode %s, want %s", name, got, args[0])
		}
	}
}

// pair FILE: pairs a device by the code in the file. The first time it makes
// the device.
func pair(ts *testscript.TestScript, neg bool, args []string) {
	s := member(ts)
	text := strings.TrimSpace(ts.ReadFile(args[0]))
	code, err := pairing.ParseCode(text)
	ts.Check(err)
	d := s.device
	if d == nil || neg {
		m, err := boxtest.NewMember()
		ts.Check(err)
		d, err = m.NewDevice()
		ts.Check(err)
	}
	ctx, cancel := scriptContext()
	defer cancel()
	_, err = d.Pair(ctx, text)
	var refused *pairing.RefusedError
	switch {
	case neg && !errors.As(err, &refused):
		ts.Fatalf("a stranger was not refused: %v", err)
	case neg:
		return
	}
	ts.Check(err)
	s.device, s.addr, s.key = d, code.Addresses[0].String(), code.Box
}

func (s *state) link(ts *testscript.TestScript, ctx context.Context) *boxtest.Link {
	l, err := s.device.Link(ctx, s.addr, s.key)
	ts.Check(err)
	return l
}

// backup N: adds N blocks to the member's log and waits for the receipt.
func backup(ts *testscript.TestScript, _ bool, args []string) {
	s := member(ts)
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	if s.log == nil {
		s.log, err = boxtest.NewLog(s.device, merklelog.Tag{1})
		ts.Check(err)
	}
	ts.Check(s.log.Append(n))
	ctx, cancel := scriptContext()
	defer cancel()
	l := s.link(ts, ctx)
	defer l.Close()
	_, err = l.Backup(ctx, s.log)
	ts.Check(err)
}

// readback [MISSING]: reads the whole log from the box and compares. With a
// number, so many blocks are missing there.
func readBack(ts *testscript.TestScript, _ bool, args []string) {
	s := member(ts)
	ctx, cancel := scriptContext()
	defer cancel()
	l := s.link(ts, ctx)
	defer l.Close()
	entries, err := l.Logs(ctx, s.log.Account())
	ts.Check(err)
	if len(entries) != 1 || entries[0].Readable == nil {
		ts.Fatalf("the box lists %d logs", len(entries))
	}
	e := entries[0]
	indexes := make([]uint64, e.Readable.Size)
	for i := range indexes {
		indexes[i] = uint64(i)
	}
	want := make([]byte, merklelog.BlockSize)
	err = l.Read(ctx, e.Manifest, *e.Readable, indexes, func(i uint64, block []byte, _ merklelog.Leaf) error {
		if err := s.log.Block(i, want); err != nil {
			return err
		}
		if !bytes.Equal(block, want) {
			return fmt.Errorf("block %d is another", i)
		}
		return nil
	})
	missing := 0
	var notHeld *replicate.NotHeldError
	if errors.As(err, &notHeld) {
		missing, err = len(notHeld.Indexes), nil
	}
	ts.Check(err)
	if wanted := strings.Join(args, ""); strconv.Itoa(missing) != wanted && (missing > 0 || wanted != "") {
		ts.Fatalf("%d blocks are missing, want %s", missing, wanted)
	}
}

// term: sends SIGTERM to all programs that run in the background.
func term(ts *testscript.TestScript, _ bool, _ []string) {
	for _, cmd := range ts.BackgroundCmds() {
		ts.Check(cmd.Process.Signal(syscall.SIGTERM))
	}
}

// flip DIR: flips one bit in the middle of the largest table below a directory.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	var name string
	var size int64
	files, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), "*.sst"))
	ts.Check(err)
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && info.Size() > size {
			name, size = f, info.Size()
		}
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	ts.Check(err)
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], size/2)
	ts.Check(err)
	b[0] ^= 1
	_, err = f.WriteAt(b[:], size/2)
	ts.Check(err)
}

// jsonlines FILE LAST: every line is a JSON object with type and v, and the
// last one has the type LAST.
func jsonLines(ts *testscript.TestScript, _ bool, args []string) {
	var last string
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		var v struct {
			Type string `json:"type"`
			V    int    `json:"v"`
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil || v.Type == "" || v.V != 1 {
			ts.Fatalf("not a line of JSON with type and v: %s (%v)", line, err)
		}
		last = v.Type
	}
	if last != args[1] {
		ts.Fatalf("the last line is %q, want %q", last, args[1])
	}
}

// matchfile FILE1 FILE2: the first, without white space at its ends, occurs in
// the second.
func matchFile(ts *testscript.TestScript, _ bool, args []string) {
	if !strings.Contains(ts.ReadFile(args[1]), strings.TrimSpace(ts.ReadFile(args[0]))) {
		ts.Fatalf("%s does not have what is in %s:\n%s", args[1], args[0], ts.ReadFile(args[1]))
	}
}

// Every command explains itself: an example, and the exit codes.
func TestHelp(t *testing.T) {
	for _, args := range [][]string{{}, {"run"}, {"check"}, {"qr"}, {"version"}} {
		var out, errs bytes.Buffer
		if code := run(append(args, "--help"), &out, &errs); code != exitDone {
			t.Errorf("%v --help: code %d, %s", args, code, errs.String())
		}
		for _, want := range []string{"Examples:\n  coboxd", "Exit codes:", "--json"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%v --help has no %q", args, want)
			}
		}
	}
}
