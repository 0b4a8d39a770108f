package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"cobox/cmd/cobox/device"
)

// metric BOX NAME [OP VALUE]: compares the sum of a metric of the box, with
// labels or without, with a number: = < <= > >=.
func metricCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: metric BOX NAME OP VALUE")
	}
	want, err := strconv.ParseFloat(strings.ReplaceAll(args[3], "_", ""), 64)
	ts.Check(err)
	var got float64
	for end := time.Now().Add(atMost); ; time.Sleep(20 * time.Millisecond) {
		if got, err = boxOf(ts, args[0]).metric(args[1]); err == nil && compare(got, args[2], want) {
			return
		}
		// Some metrics follow what they count a little later.
		if time.Now().After(end) || args[2] == "=" && got > want {
			ts.Fatalf("metric %s is %v (%v), want %s %v", args[1], got, err, args[2], want)
		}
	}
}

func compare(a float64, op string, b float64) bool {
	switch op {
	case "=":
		return a == b
	case "<":
		return a < b
	case "<=":
		return a <= b
	case ">":
		return a > b
	case ">=":
		return a >= b
	}
	panic("unknown comparison " + op)
}

func (b *box) metric(name string) (float64, error) {
	resp, err := http.Get("http://" + b.http + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	sum, found := 0.0, false
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, name) {
			continue
		}
		rest := strings.TrimPrefix(line, name)
		if !strings.HasPrefix(rest, " ") && !strings.HasPrefix(rest, "{") {
			continue
		}
		f := strings.Fields(line)
		v, err := strconv.ParseFloat(f[len(f)-1], 64)
		if err != nil {
			return 0, err
		}
		sum, found = sum+v, true
	}
	if !found {
		return 0, fmt.Errorf("there is no metric %s", name)
	}
	return sum, nil
}

// command is a program of the script's, with what it writes.
func command(ts *testscript.TestScript, args []string) (*exec.Cmd, *bytes.Buffer) {
	path := args[0]
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if p := filepath.Join(dir, args[0]); path == args[0] && isFile(p) {
			path = p
		}
	}
	cmd := exec.Command(path, args[1:]...)
	cmd.Args[0] = args[0]
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "COBOX_HOME", "TZ"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, &out
}

func isFile(p string) bool {
	fi, err := os.Stat(p)
	return err == nil && fi.Mode().IsRegular()
}

// exitCode waits for a program; -1 is the end by a signal.
func exitCode(cmd *exec.Cmd) (int, error) {
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

// meanwhile BOX BYTES interrupt|kill|killbox CODE PROGRAM ARG...: runs the
// program, and once the box has taken in so many bytes more, interrupts it,
// kills it or kills the box. The program must end with the code; -1 is killed.
func meanwhileCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 5 {
		ts.Fatalf("usage: meanwhile BOX BYTES ACTION CODE PROGRAM ARG...")
	}
	b := boxOf(ts, args[0])
	before, err := b.metric("cobox_replica_bytes")
	ts.Check(err)
	cmd, out := command(ts, args[4:])
	ts.Check(cmd.Start())
	var code int
	done := make(chan error, 1) // what waiting failed with; then code is set
	go func() {
		var err error
		code, err = exitCode(cmd)
		done <- err
	}()
	for end := time.Now().Add(atMost); ; time.Sleep(5 * time.Millisecond) {
		now, err := b.metric("cobox_replica_bytes")
		if err == nil && now-before >= float64(number(ts, args[1])) {
			break
		}
		select {
		case err := <-done:
			ts.Check(err)
			ts.Fatalf("%v ended too early, with code %d, after %v bytes\n%s", args[4:], code, now-before, out)
		default:
		}
		if time.Now().After(end) {
			_ = cmd.Process.Kill()
			ts.Fatalf("the box took in only %v bytes\n%s", now-before, out)
		}
	}
	switch args[2] {
	case "interrupt":
		ts.Check(cmd.Process.Signal(os.Interrupt))
	case "kill":
		ts.Check(cmd.Process.Kill())
	case "killbox":
		cmd, exited := b.process()
		ts.Check(cmd.Process.Kill())
		<-exited
	default:
		ts.Fatalf("what is %s?", args[2])
	}
	ts.Check(<-done)
	ts.Logf("%s", out)
	if fmt.Sprint(code) != args[3] {
		ts.Fatalf("%v ended with code %d, want %s", args[4:], code, args[3])
	}
}

// killed TIMES FROM TO PROGRAM ARG...: runs the program so many times and each
// time sends SIGKILL after a random time between the two. It may end before
// that, but only with code 0; the next are then killed sooner, however fast this
// computer is.
func killedCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 {
		ts.Fatalf("usage: killed TIMES FROM TO PROGRAM ARG...")
	}
	from, err := time.ParseDuration(args[1])
	ts.Check(err)
	to, err := time.ParseDuration(args[2])
	ts.Check(err)
	kills := 0
	for range number(ts, args[0]) {
		cmd, out := command(ts, args[3:])
		ts.Check(cmd.Start())
		after := from + rand.N(to-from)
		kill := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		code, err := exitCode(cmd)
		ts.Check(err)
		kill.Stop()
		ts.Logf("SIGKILL after %v: code %d", after, code)
		switch code {
		case -1:
			kills++
		case 0:
			to = from + (to-from)/2 + 1
		default:
			ts.Fatalf("%v ended with code %d\n%s", args[3:], code, out)
		}
	}
	if kills == 0 {
		ts.Fatalf("nothing was killed: the times are too long")
	}
}

// withlock CODE PROGRAM ARG...: runs the program while this process holds the
// lock of the device, as a backup does.
func withLockCmd(ts *testscript.TestScript, neg bool, args []string) {
	home, err := device.FindHome(ts.Getenv("COBOX_HOME"), func(string) string { return "" })
	ts.Check(err)
	unlock, err := home.Lock("backup")
	ts.Check(err)
	defer unlock()
	codeCmd(ts, neg, args)
}

// terminal CODE ANSWER PROGRAM ARG...: runs the program on a terminal. The
// answer says what is typed when it asks for words of the phrase: right, wrong
// or nothing; when it asks for a yes, the answer itself.
func terminalCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: terminal CODE ANSWER PROGRAM ARG...")
	}
	pty, tty := openTerminal(ts)
	defer pty.Close()
	cmd, _ := command(ts, args[2:])
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: syscall.SIGKILL}
	ts.Check(cmd.Start())
	tty.Close()
	kill := time.AfterFunc(atMost, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()

	word := regexp.MustCompile(`(?m)(\d+)\. ([a-z]+)`)
	question := regexp.MustCompile(`Type (?:word (\d+)|yes to go on): $`)
	var shown []byte // since the last answer
	words := map[string]string{}
	var all bytes.Buffer
	buf := make([]byte, 4096)
	for {
		n, err := pty.Read(buf)
		shown = append(shown, buf[:n]...)
		all.Write(buf[:n])
		for _, m := range word.FindAllSubmatch(shown, -1) {
			words[string(m[1])] = string(m[2])
		}
		if m := question.FindSubmatch(shown); m != nil {
			shown = nil
			answer := args[1]
			if m[1] != nil {
				answer = map[string]string{"right": strings.ToUpper(words[string(m[1])]), "wrong": "xylophone"}[args[1]]
			}
			_, werr := fmt.Fprintln(pty, answer)
			ts.Check(werr)
		}
		if err != nil {
			break // EIO: the program has closed it
		}
	}
	code, err := exitCode(cmd)
	ts.Check(err)
	fmt.Fprint(ts.Stdout(), all.String())
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("%v ended with code %d, want %s\n%s", args[2:], code, args[0], all.String())
	}
}

func openTerminal(ts *testscript.TestScript) (pty, tty *os.File) {
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	ts.Check(err)
	n, err := unix.IoctlGetInt(int(pty.Fd()), unix.TIOCGPTN)
	ts.Check(err)
	ts.Check(unix.IoctlSetPointerInt(int(pty.Fd()), unix.TIOCSPTLCK, 0))
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	ts.Check(err)
	ts.Check(unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}))
	return pty, tty
}

// nobody CODE PROGRAM ARG...: runs the program as a user without privileges,
// to whom it gives all that is in $WORK.
func nobodyCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: nobody CODE PROGRAM ARG...")
	}
	if os.Geteuid() != 0 {
		codeCmd(ts, neg, args)
		return
	}
	const uid = 65534
	work := ts.Getenv("WORK")
	ts.Check(os.Chmod(filepath.Dir(work), 0o755)) // to pass through
	ts.Check(filepath.WalkDir(work, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, uid, uid)
	}))
	cmd, out := command(ts, args[1:])
	// The programs lie in a folder that only root can pass.
	own := filepath.Join(work, ".tmp", args[1])
	b, err := os.ReadFile(cmd.Path)
	ts.Check(err)
	// A program that another script starts meanwhile would take the open file with it
	// for a moment, and what is open for writing cannot be run.
	syscall.ForkLock.RLock()
	err = os.WriteFile(own, b, 0o755)
	syscall.ForkLock.RUnlock()
	ts.Check(err)
	cmd.Path = own
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid, NoSetGroups: true}
	ts.Check(cmd.Start())
	code, err := exitCode(cmd)
	ts.Check(err)
	fmt.Fprint(ts.Stdout(), out)
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("%v ended with code %d, want %s\n%s", args[1:], code, args[0], out)
	}
}

// flip BOX: flips one bit in the middle of the largest table of a box that is
// stopped.
func flipCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: flip BOX")
	}
	var name string
	var size int64
	files, err := filepath.Glob(filepath.Join(boxOf(ts, args[0]).data, "db", "*.sst"))
	ts.Check(err)
	for _, f := range files {
		if fi, err := os.Stat(f); err == nil && fi.Size() > size {
			name, size = f, fi.Size()
		}
	}
	if size < 1<<20 {
		ts.Fatalf("no table of %s is larger than %d bytes", args[0], size)
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

// smalldisk DIR BYTES: mounts a disk of so many bytes on the directory, until
// the script ends.
func smallDiskCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: smalldisk DIR BYTES")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	ts.Check(mountSmall(dir, number(ts, args[1])))
	ts.Defer(func() { ts.Check(unix.Unmount(dir, unix.MNT_DETACH)) })
}

func mountSmall(dir string, size int) error {
	return unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("size=%d,mode=0700", size))
}

// canMount tries whether this process may mount anything.
func canMount(dir string) bool {
	if mountSmall(dir, 1<<20) != nil {
		return false
	}
	return unix.Unmount(dir, unix.MNT_DETACH) == nil
}

// fill FILE LEFT: makes the file as large as its disk allows, but for so many
// bytes.
func fillCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: fill FILE LEFT")
	}
	path := ts.MkAbs(args[0])
	var st unix.Statfs_t
	ts.Check(unix.Statfs(filepath.Dir(path), &st))
	size := int64(st.Bavail)*st.Bsize - int64(number(ts, args[1]))
	if size < 0 {
		ts.Fatalf("only %d bytes are free", int64(st.Bavail)*st.Bsize)
	}
	ts.Check(os.WriteFile(path, make([]byte, size), 0o600))
}
