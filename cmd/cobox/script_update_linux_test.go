package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"cobox/appliance/machine"
	"cobox/image/bundle"
	"cobox/image/bundle/bundletest"
	"cobox/image/layout"
	"cobox/image/slot"
)

// release FILE NUMBER [KEY...]: makes an update with that number, version
// 1.NUMBER.0, signed by the keys 0 to 2 that are named.
func releaseCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: release FILE NUMBER [KEY...]")
	}
	noise := make([]byte, 2_000_000)
	n := number(ts, args[1])
	rand.NewChaCha8([32]byte{byte(n)}).Read(noise)
	files := bundletest.Files{"cmdline.txt": []byte("rdinit=/init\n"), "kernel8.img": noise}
	m := &bundle.Manifest{Version: fmt.Sprintf("1.%d.0", n), Number: uint32(n), Floor: 1, Board: bundle.BoardRPi}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		m.Files = append(m.Files, bundle.File{Path: path, Size: int64(len(files[path])), SHA256: sha256.Sum256(files[path])})
	}
	private, _ := bundletest.Keys()
	var keys []*bundletest.Key
	for _, a := range args[2:] {
		keys = append(keys, private[number(ts, a)])
	}
	sigs, err := bundletest.Sign(m, keys...)
	ts.Check(err)
	var b bytes.Buffer
	ts.Check(bundle.Write(&b, m, sigs, files.Open))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b.Bytes(), 0o644))
}

// system NAME good|bad|slow: gives a box that does not run yet, or that runs
// with one, a first process, which is the test's. It writes updates to a slot in
// a file, really, and starts coboxd again for the trial, which ends well once
// coboxd has proved itself; badly; or not at all. It has disks, and moves the data
// to a blank one, well or badly (see useDisk).
func systemCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: system NAME good|bad|slow")
	}
	b := ts.Value(boxesKey{}).(*boxes).makeBox(ts, args[0])
	if b.first == nil {
		p := &firstProcess{box: b, slot: b.data + ".slot", keys: b.data + ".pub", state: machine.State{
			Slot: "a", Release: machine.Release{Version: "1.3.0", Number: 3}, Board: bundle.BoardRPi, Floor: 3}}
		p.ctx, p.stop = context.WithCancel(context.Background())
		f, err := os.Create(p.slot)
		ts.Check(err)
		ts.Check(errors.Join(f.Truncate(layout.SlotSize), f.Close()))
		var text []byte
		_, public := bundletest.Keys()
		for _, k := range public.Public() {
			text = k.Append(text)
		}
		ts.Check(os.WriteFile(p.keys, text, 0o644))
		b.first = p
	}
	b.first.mu.Lock()
	defer b.first.mu.Unlock()
	b.first.luck = args[1]
}

// firstProcess stands beside a box as the first process of the image does.
type firstProcess struct {
	box        *box
	slot, keys string // files
	ctx        context.Context
	stop       context.CancelFunc
	running    sync.WaitGroup

	mu     sync.Mutex
	luck   string
	state  machine.State
	before machine.Release // what runs again if a trial ends badly
	asked  chan struct{}   // to be closed at the next question how things are; or nil
}

// attach gives a program that is about to start its socket.
func (p *firstProcess) attach(cmd *exec.Cmd) error {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	own := os.NewFile(uintptr(pair[0]), "first process")
	conn, err := net.FileConn(own)
	own.Close()
	if err != nil {
		return err
	}
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(pair[1]), "coboxd")} // descriptor 3
	cmd.Env = append(os.Environ(), machine.Variable+"=3")
	cmd.Args = append(cmd.Args, "--release-keys", p.keys)
	p.running.Go(func() { machine.Serve(p.ctx, conn, p.handle) })
	return nil
}

func (p *firstProcess) end() {
	p.stop()
	p.running.Wait()
}

func (p *firstProcess) handle(ctx context.Context, q *machine.Question) (any, error) {
	switch q.Method {
	case machine.MethodState:
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.asked != nil {
			close(p.asked)
			p.asked = nil
		}
		return p.state, nil
	case machine.MethodInstall:
		return p.install(q)
	case machine.MethodTry:
		p.running.Go(p.restart)
		return machine.Empty{}, nil
	case machine.MethodDisks:
		return machine.Disks{Disks: p.disks(), Used: 3 << 30}, nil
	case machine.MethodUseDisk:
		return p.useDisk(q)
	case machine.MethodProved:
		p.mu.Lock()
		good := p.luck == "good"
		p.mu.Unlock()
		if good {
			p.running.Go(p.promote)
		}
		return machine.Empty{}, nil
	}
	return nil, machine.Errorf(machine.CodeUnknown, "no method %s", q.Method)
}

func (p *firstProcess) install(q *machine.Question) (any, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f, err := os.OpenFile(filepath.Join(p.box.data, machine.UpdateFile), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	_, public := bundletest.Keys()
	r, err := bundle.Open(f, public, bundle.State{Board: p.state.Board, Floor: p.state.Floor})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	dev, err := os.OpenFile(p.slot, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	other := layout.SlotB
	if p.state.Slot == "b" {
		other = layout.SlotA
	}
	m := r.Manifest()
	q.Progress(machine.InstallProgress{Done: 0, Total: 1})
	if err := slot.Write(dev, other, r); err != nil {
		return nil, err
	}
	if err := slot.Check(dev, other, m, r.Signatures()); err != nil {
		return nil, err
	}
	release := machine.Release{Version: m.Version, Number: m.Number}
	p.state.Other, p.state.Update = &release, &machine.Update{Release: release, Result: machine.ResultWritten}
	return release, nil
}

// untilSeen is longer than between two looks at the box, also of a slow computer.
const untilSeen = 6 * time.Second

// sleep waits, unless the script ends.
func (p *firstProcess) sleep(d time.Duration) {
	select {
	case <-p.ctx.Done():
	case <-time.After(d):
	}
}

// switchTo starts coboxd again, as a restart into the other slot does.
func (p *firstProcess) switchTo(r machine.Release, u machine.Update, trying bool) {
	p.box.end()
	p.mu.Lock()
	old := p.state.Release
	p.state.Slot = map[string]string{"a": "b", "b": "a"}[p.state.Slot]
	p.state.Release, p.state.Other, p.state.Update, p.state.Trying = r, &old, &u, trying
	p.mu.Unlock()
	p.sleep(untilSeen)
	if p.ctx.Err() == nil {
		p.box.launch() // its end shows as a box that does not answer
	}
}

func (p *firstProcess) restart() {
	p.sleep(200 * time.Millisecond)
	p.mu.Lock()
	luck, u := p.luck, *p.state.Update
	p.before = p.state.Release
	before := p.before
	p.mu.Unlock()
	u.Result = machine.ResultTrying
	p.switchTo(u.Release, u, true)
	if luck != "bad" {
		return
	}
	p.box.healthy() // if it is not, the script fails
	p.sleep(untilSeen)
	u.Result, u.Reason = machine.ResultFellBack, "it got no address"
	p.switchTo(before, u, false)
}

func (p *firstProcess) promote() {
	p.sleep(untilSeen)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.Trying, p.state.Update = false, &machine.Update{Release: p.state.Release, Result: machine.ResultPromoted}
}
