package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"cobox/appliance/boxtest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cobox": coboxMain})
}

// exitLeak is the exit code of a cobox that has left goroutines behind.
const exitLeak = 99

// coboxMain is main, and looks for leaks behind it. COBOX_TEST_CLOCK says how
// far the clock is off.
func coboxMain() {
	now := time.Now
	if off, err := time.ParseDuration(os.Getenv("COBOX_TEST_CLOCK")); err == nil {
		now = func() time.Time { return time.Now().Add(off) }
	}
	code := run(os.Args[1:], now)
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, "LEAK:", err)
		os.Exit(exitLeak)
	}
	os.Exit(code)
}

// TestScripts runs the scripts of testdata/script. They drive the real
// programs, cobox and coboxd, as processes of their own that talk over
// loopback. A name that begins with slow_ is left out of a short run.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob(filepath.Join("testdata", "script", "*.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	var chosen []string
	for _, s := range scripts {
		if !testing.Short() || !strings.HasPrefix(filepath.Base(s), "slow_") {
			chosen = append(chosen, s)
		}
	}
	bin := buildBox(t)
	testscript.Run(t, testscript.Params{
		Files: chosen,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+string(filepath.ListSeparator)+e.Getenv("PATH"))
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("COBOX_HOME", filepath.Join(e.WorkDir, "device"))
			e.Setenv("TZ", "UTC")
			e.Setenv("BAD", "not utf-8 \xff")
			for _, name := range []string{"XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"} {
				e.Setenv(name, "")
			}
			boxes := &boxes{list: map[string]*box{}}
			e.Values[boxesKey{}] = boxes
			e.Defer(boxes.end)
			return os.Mkdir(filepath.Join(e.WorkDir, "home"), 0o755)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"box": boxCmd, "metric": metricCmd, "code": codeCmd, "json": jsonCmd, "capture": captureCmd,
			"tree": treeCmd, "edit": editCmd, "same": sameCmd, "special": specialCmd, "names": namesCmd,
			"mode": modeCmd, "chtime": chtimeCmd, "alloc": allocCmd, "picture": pictureCmd,
			"meanwhile": meanwhileCmd, "killed": killedCmd, "withlock": withLockCmd, "terminal": terminalCmd,
			"nobody": nobodyCmd, "flip": flipCmd, "photo": photoCmd, "smalldisk": smallDiskCmd, "fill": fillCmd,
			"system": systemCmd, "release": releaseCmd,
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Geteuid() == 0, nil
			case "mount":
				return canMount(t.TempDir()), nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// buildBox builds coboxd, whose package cannot be imported, and returns the
// folder that it is in.
func buildBox(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	args := []string{"build", "-o", dir + string(filepath.Separator)}
	if raceEnabled {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "cobox/cmd/coboxd")...).CombinedOutput()
	if err != nil {
		t.Fatalf("building coboxd: %v\n%s", err, out)
	}
	return dir
}

// atMost is how long a script waits for anything.
const atMost = 60 * time.Second

// boxes are the boxes of one script.
type boxes struct {
	list  map[string]*box
	ports []func() // each releases a port
}

type boxesKey struct{}

// box is a box in a process of its own. Its addresses stay the same when it is
// started again.
type box struct {
	name, data, log string
	listen, http    string
	program         string
	flags           []string
	first           *firstProcess // of a box with CoBox's own system; else nil

	mu     sync.Mutex // a first process starts its box again by itself
	cmd    *exec.Cmd
	exited chan struct{}
	over   bool // the script has ended
}

// process returns what runs, or ran last, and when it has ended.
func (b *box) process() (*exec.Cmd, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cmd, b.exited
}

func boxOf(ts *testscript.TestScript, name string) *box {
	b := ts.Value(boxesKey{}).(*boxes).list[name]
	if b == nil {
		ts.Fatalf("there is no box %q", name)
	}
	return b
}

// box start NAME [FLAG...]: starts the box whose data lies in $WORK/NAME and
// waits until it serves. NAME_addr and NAME_http are its addresses.
// box kill NAME: SIGKILL.
// box stop NAME: SIGTERM; it must end with code 0.
func boxCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: box start|kill|stop NAME [FLAG...]")
	}
	name := args[1]
	all := ts.Value(boxesKey{}).(*boxes)
	switch args[0] {
	case "start":
		b := all.makeBox(ts, name)
		ts.Check(b.start(ts, args[2:]))
	case "kill":
		cmd, exited := boxOf(ts, name).process()
		ts.Check(cmd.Process.Kill())
		<-exited
	case "stop":
		b := boxOf(ts, name)
		cmd, exited := b.process()
		ts.Check(cmd.Process.Signal(syscall.SIGTERM))
		select {
		case <-exited:
		case <-time.After(atMost):
			ts.Fatalf("box %s does not stop", name)
		}
		if code := cmd.ProcessState.ExitCode(); code != 0 {
			ts.Fatalf("box %s ended with code %d\n%s", name, code, ts.ReadFile(b.log))
		}
	default:
		ts.Fatalf("box cannot %s", args[0])
	}
	if err := all.broken(); err != nil {
		ts.Fatalf("%v", err)
	}
}

// freePort returns an address that nobody else takes before the script ends.
func (all *boxes) freePort(ts *testscript.TestScript) string {
	port, release, err := boxtest.FreePort()
	ts.Check(err)
	all.ports = append(all.ports, release)
	return net.JoinHostPort("127.0.0.1", port)
}

// makeBox returns the box of a name, which is new if there is none.
func (all *boxes) makeBox(ts *testscript.TestScript, name string) *box {
	b := all.list[name]
	if b == nil {
		b = &box{name: name, data: ts.MkAbs(name), log: ts.MkAbs(name + ".log"), listen: all.freePort(ts), http: all.freePort(ts)}
		all.list[name] = b
		ts.Setenv(name+"_addr", b.listen)
		ts.Setenv(name+"_http", b.http)
	}
	return b
}

func (b *box) start(ts *testscript.TestScript, flags []string) error {
	path, err := exec.LookPath(filepath.Join(strings.Split(ts.Getenv("PATH"), ":")[0], "coboxd"))
	if err != nil {
		return err
	}
	b.program, b.flags = path, flags
	if err := b.launch(); err != nil {
		return err
	}
	if err := b.healthy(); err != nil {
		return fmt.Errorf("%w\n%s", err, ts.ReadFile(b.log))
	}
	return nil
}

// healthy waits until the program that was launched serves.
func (b *box) healthy() error {
	cmd, exited := b.process()
	for end := time.Now().Add(atMost); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		select {
		case <-exited:
			return fmt.Errorf("box %s ended: %v", b.name, cmd.ProcessState)
		default:
		}
		resp, err := http.Get("http://" + b.http + "/healthz")
		if err != nil {
			continue
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
	}
	return fmt.Errorf("box %s does not become healthy", b.name)
}

// launch starts the program, unless the script has ended.
func (b *box) launch() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return errors.New("the script has ended")
	}
	log, err := os.OpenFile(b.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	b.cmd = exec.Command(b.program, append([]string{"run", "--data", b.data, "--listen", b.listen, "--http", b.http, "--name", b.name}, b.flags...)...)
	b.cmd.Stdout, b.cmd.Stderr = log, log
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also when the test is killed
	if b.first != nil {
		if err := b.first.attach(b.cmd); err != nil {
			return err
		}
	}
	if err := b.cmd.Start(); err != nil {
		return err
	}
	for _, f := range b.cmd.ExtraFiles {
		f.Close()
	}
	b.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		_ = cmd.Wait()
		close(exited)
	}(b.cmd, b.exited)
	return nil
}

// broken reports what no box may ever write to its log.
func (all *boxes) broken() error {
	for _, b := range all.list {
		log, err := os.ReadFile(b.log)
		if err != nil {
			return err
		}
		for _, bad := range []string{"panic:", "DATA RACE", "fatal error:"} {
			if bytes.Contains(log, []byte(bad)) {
				return fmt.Errorf("box %s: %s\n%s", b.name, bad, log)
			}
		}
	}
	return nil
}

// end kills what still runs when a script has ended.
func (all *boxes) end() {
	defer func() {
		for _, release := range all.ports {
			release()
		}
	}()
	for _, b := range all.list {
		b.mu.Lock()
		b.over = true
		b.mu.Unlock()
		if cmd, exited := b.process(); exited != nil {
			_ = cmd.Process.Kill()
			<-exited
		}
		if b.first != nil {
			b.first.end()
		}
	}
	if err := all.broken(); err != nil {
		panic(err)
	}
}

// code N PROGRAM ARG...: runs the program, which must end with code N. What it
// writes can be looked at as after exec.
func codeCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N PROGRAM ARG...")
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("%s ended with code %d, want %s", strings.Join(args[1:], " "), got, args[0])
	}
}
