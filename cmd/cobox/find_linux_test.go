package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cobox/netlink/discover/nettest"
	"cobox/netlink/pairing"
)

// lan is a box and a member's computer, each in a network of its own, with a
// cable between them.
type lan struct {
	t           *testing.T
	box, member *nettest.Network
	bin, data   string
	home        string
}

func newLAN(t *testing.T) *lan {
	l := &lan{t: t, box: nettest.New(t), member: nettest.New(t), data: filepath.Join(t.TempDir(), "box"), home: t.TempDir()}
	l.bin = buildBox(t)
	args := []string{"build", "-o", filepath.Join(l.bin, "cobox")}
	if raceEnabled {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "cobox/cmd/cobox")...).CombinedOutput(); err != nil {
		t.Fatalf("building cobox: %v\n%s", err, out)
	}
	nettest.Cable(l.box, "eth0", l.member, "eth0")
	l.box.Add("eth0", "192.168.77.10/24")
	l.member.Add("eth0", "192.168.77.20/24")
	return l
}

// startBox starts coboxd, which looks for its addresses itself.
func (l *lan) startBox(flags ...string) (stop func()) {
	l.t.Helper()
	cmd := exec.Command(filepath.Join(l.bin, "coboxd"), append([]string{"run", "--json", "--data", l.data}, flags...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(l.t.TempDir(), "log"))
	if err != nil {
		l.t.Fatal(err)
	}
	defer log.Close()
	said := func() string {
		b, err := os.ReadFile(log.Name())
		if err != nil {
			l.t.Error(err)
		}
		return string(b)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := l.box.Start(cmd); err != nil {
		l.t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			l.t.Errorf("coboxd: %v", err)
		}
		if l.t.Failed() || strings.Contains(said(), "DATA RACE") {
			l.t.Errorf("coboxd says:\n%s", said())
		}
	})
	l.t.Cleanup(stop)
	for end := time.Now().Add(atMost); !strings.Contains(said(), `"type":"ready"`); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatal("coboxd does not start")
		}
	}
	return stop
}

// bareCode is the box's pairing code as it stands on a label: without addresses.
func (l *lan) bareCode() string {
	l.t.Helper()
	text, err := os.ReadFile(filepath.Join(l.data, "pairing.txt"))
	if err != nil {
		l.t.Fatal(err)
	}
	code, err := pairing.ParseCode(string(text))
	if err != nil {
		l.t.Fatal(err)
	}
	code.Addresses = nil
	bare, err := code.Text()
	if err != nil {
		l.t.Fatal(err)
	}
	return bare
}

// cobox runs the member's program with a home of its own.
func (l *lan) cobox(home string, args ...string) (string, int) {
	l.t.Helper()
	cmd := exec.Command(filepath.Join(l.bin, "cobox"), append([]string{"--home", home}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := l.member.Start(cmd); err != nil {
		l.t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		l.t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

func (l *lan) must(args ...string) string {
	l.t.Helper()
	out, code := l.cobox(l.home, args...)
	if code != 0 {
		l.t.Fatalf("cobox %s: code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// TestFind: the code on a label is enough to find a box, and a box that moves is
// found again. Real programs, each in a network of its own.
func TestFind(t *testing.T) {
	l := newLAN(t)
	stop := l.startBox()
	code := l.bareCode()
	l.must("init", "--phrase-out", filepath.Join(l.home, "words"))
	l.must("pair", code)

	// Where the box was at last comes first.
	first := func(want string) {
		t.Helper()
		out := l.must("boxes", "--json")
		if m := regexp.MustCompile(`"addresses":\["([^"]*)"`).FindStringSubmatch(out); m == nil || m[1] != want {
			t.Fatalf("want %s first in\n%s", want, out)
		}
	}
	first("192.168.77.10:26269")

	// While an address answers nobody is asked for the name, so nothing waits.
	began := time.Now()
	l.must("box", "status")
	if took := time.Since(began); took > lookupAfter {
		t.Logf("a box that has not moved took %v", took)
	}

	// DHCP has given it another.
	l.box.Remove("eth0", "192.168.77.10/24")
	l.box.Add("eth0", "192.168.77.33/24")
	l.must("box", "status")
	first("192.168.77.33:26269")

	// A network without IPv4.
	l.box.Remove("eth0", "192.168.77.33/24")
	l.member.Remove("eth0", "192.168.77.20/24")
	l.must("box", "status")

	// A second cable, plugged in while the box runs.
	nettest.Cable(l.box, "eth1", l.member, "eth1")
	l.box.Add("eth1", "10.3.0.1/16")
	l.member.Add("eth1", "10.3.0.2/16")
	l.must("box", "status")

	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "a"), []byte("of the member"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.must("backup", src)

	// Recovery with nothing but the words and the label.
	if out, c := l.cobox(t.TempDir(), "recover", "--phrase-file", filepath.Join(l.home, "words"), "--box", code); c != 0 {
		t.Fatalf("recover: code %d\n%s", c, out)
	}

	stop()
	// Nobody is there, and that is what people are told.
	other := t.TempDir()
	if out, c := l.cobox(other, "init", "--phrase-out", filepath.Join(other, "words")); c != 0 {
		t.Fatal(out)
	}
	name := code[len("http://"):strings.Index(code, "/#")]
	out, c := l.cobox(other, "pair", code)
	if c != 4 || !strings.Contains(out, "the box is not found: nobody in this network answers to the name "+name) || !strings.Contains(out, "--address HOST:PORT") {
		t.Errorf("no box: code %d\n%s", c, out)
	}
	t.Log(out)
	began = time.Now()
	if out, c := l.cobox(l.home, "box", "status"); c != 4 || !strings.Contains(out, "nobody in this network answers to the name "+name) {
		t.Errorf("no box: code %d\n%s", c, out)
	} else {
		t.Logf("after %v: %s", time.Since(began), out)
	}

	// And a box that shall not be found is not.
	stop = l.startBox("--discovery=false")
	if out, c := l.cobox(other, "pair", code); c != 4 || !strings.Contains(out, "answers to the name") {
		t.Errorf("discovery is off: code %d\n%s", c, out)
	}
	stop()
}

// TestFindWithoutNetwork: a computer that is in no network says so at once.
func TestFindWithoutNetwork(t *testing.T) {
	l := newLAN(t)
	l.startBox()
	code := l.bareCode()
	l.member = nettest.New(t)
	l.must("init", "--phrase-out", filepath.Join(l.home, "words"))
	out, c := l.cobox(l.home, "pair", code)
	if c != 4 || !strings.Contains(out, "the box is not found: this computer is in no network") {
		t.Errorf("code %d\n%s", c, out)
	}
}
