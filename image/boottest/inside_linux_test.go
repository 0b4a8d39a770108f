package boottest

import (
	"bufio"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/u-root/u-root/pkg/cpio"
)

// Findings of the program in testdata/inside.
type (
	insideSocket struct {
		Kind, Local, Remote string
		Listen              bool
		User, Seen          int
	}
	insideProcess struct {
		Pid    int
		Self   bool
		Status map[string]string
	}
	insideAttempt struct{ What, Error string }
	inside        struct {
		sockets   []insideSocket
		processes []insideProcess
		attempts  []insideAttempt
		kernel    int // threads of the kernel
		memory    map[string]int64
	}
)

// coboxdUser is the number of coboxd's user in the image.
const coboxdUser = 900

var insideLine = regexp.MustCompile(`coboxd: inside: (\{.*\})`)

// lookInside boots the image with a program in coboxd's place that tells what it
// sees and may do.
func lookInside(t testing.TB, m computer) (*vm, inside) {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "inside")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "./testdata/inside")
	build.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building what looks inside: %v\n%s", err, out)
	}
	program, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	records := readInitramfs(t, m.initrd)
	i := slices.IndexFunc(records, func(r cpio.Record) bool { return r.Name == "bin/coboxd" })
	if i < 0 {
		t.Fatal("the initramfs has no coboxd")
	}
	replaced := cpio.StaticFile("bin/coboxd", string(program), 0o755)
	replaced.Ino, replaced.NLink = records[i].Ino, 1
	records[i] = replaced
	m.initrd = writeInitramfs(t, records)
	v := start(t, m)
	v.wait(`coboxd: inside: \{"done"`, 4*time.Minute)

	var in inside
	s := bufio.NewScanner(strings.NewReader(v.log()))
	for s.Scan() {
		found := insideLine.FindSubmatch(s.Bytes())
		if found == nil {
			continue
		}
		var line struct {
			Socket  *insideSocket
			Process *insideProcess
			Attempt *insideAttempt
			Kernel  int `json:"kernel_threads"`
			Memory  map[string]int64
			Failed  string
		}
		if err := json.Unmarshal(found[1], &line); err != nil {
			t.Fatalf("%s: %v", found[1], err)
		}
		switch {
		case line.Failed != "":
			t.Errorf("inside: %s", line.Failed)
		case line.Socket != nil:
			in.sockets = append(in.sockets, *line.Socket)
		case line.Process != nil:
			in.processes = append(in.processes, *line.Process)
		case line.Attempt != nil:
			in.attempts = append(in.attempts, *line.Attempt)
		case line.Memory != nil:
			in.memory = line.Memory
		case line.Kernel > 0:
			in.kernel = line.Kernel
		}
	}
	return v, in
}

// allowed are the attempts that must work; they tell a sandbox from a program
// that tries nothing.
var allowed = []string{"write /data/coboxd/needed", "start itself"}

// known are those that the kernel has no means against.
var known = map[string]string{
	"listen without a name": "Landlock bounds what is bound by name; a port that the kernel chooses is not bound",
}

// TestInside looks at a running box from where an attacker would stand who has
// taken over coboxd: which sockets and processes there are, and what the sandbox
// lets through.
func TestInside(t *testing.T) {
	v, in := lookInside(t, card(t, 4<<30))

	listening, named := map[string]int{}, false
	for _, s := range in.sockets {
		t.Logf("socket %+v", s)
		switch {
		case s.Listen && strings.HasPrefix(s.Kind, "tcp"):
			listening[s.Kind+" "+s.Local] = s.User
		case s.Listen:
			t.Errorf("somebody listens: %+v", s)
		case strings.HasPrefix(s.Kind, "tcp"), s.Remote != "":
			// Connected: health, name servers, time servers.
		case s.Kind == "udp" && s.User == 0 && s.Seen == 1:
			// One that is about to be connected looks so for a moment.
		case (s.Kind == "udp" || s.Kind == "udp6") && s.User == coboxdUser && strings.HasSuffix(s.Local, ":5353"):
			// It answers for its name.
			named = true
		case s.Kind == "packet" && s.User == 0 && s.Local == "protocol 0800":
			// The first process asks for an address.
		default:
			t.Errorf("anybody can send to %+v", s)
		}
	}
	if !named {
		t.Error("the box does not answer for its name")
	}
	// On a socket of IPv6 the box listens to both.
	want := []map[string]int{
		{"tcp6 [::]:26269": coboxdUser, "tcp 127.0.0.1:26270": coboxdUser},
		{"tcp 0.0.0.0:26269": coboxdUser, "tcp6 [::]:26269": coboxdUser, "tcp 127.0.0.1:26270": coboxdUser},
	}
	if !slices.ContainsFunc(want, func(w map[string]int) bool { return maps.Equal(w, listening) }) {
		t.Errorf("the box listens at %v", listening)
	}

	if in.kernel == 0 {
		t.Error("the threads of the kernel are not seen, and so perhaps not all processes")
	}
	self := false
	for _, p := range in.processes {
		t.Logf("process %+v", p)
		user := p.Status["Uid"]
		switch {
		case p.Pid == 1 && user == "0 0 0 0":
		case p.Self:
			self = true
			for key, want := range map[string]string{
				"Uid": "900 900 900 900", "Gid": "900 900 900 900", "Groups": "", "NoNewPrivs": "1",
				"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000",
				"CapBnd": "0000000000000000", "CapAmb": "0000000000000000",
			} {
				if got := p.Status[key]; got != want {
					t.Errorf("coboxd has %s %q; want %q", key, got, want)
				}
			}
		default:
			t.Errorf("there is another process: %+v", p)
		}
	}
	if !self || len(in.processes) != 2 {
		t.Errorf("%d processes, and coboxd among them is %v", len(in.processes), self)
	}

	tried := 0
	for _, a := range in.attempts {
		why, isKnown := known[a.What]
		switch must := slices.Contains(allowed, a.What); {
		case must && a.Error != "":
			t.Errorf("%s: %s, and coboxd needs it", a.What, a.Error)
		case must:
		case a.Error == "" && isKnown:
			t.Logf("%s: allowed. %s", a.What, why)
		case a.Error == "":
			t.Errorf("%s: allowed", a.What)
		default:
			tried++
			t.Logf("%s: %s", a.What, a.Error)
		}
	}
	if tried < 60 {
		t.Errorf("only %d things were tried", tried)
	}
	checkMemory(t, in.memory)
	v.powerButton(30 * time.Second)
	v.sound()
}

// memoryAtMost is what the whole system may take of a machine of 512 MB: the
// kernel itself, its tables, the programs in memory, and what runs.
const memoryAtMost = 110_000_000

// checkMemory counts everything that an idle box could not give to a program.
// What the kernel takes for itself before it counts is in it, and what it always
// keeps free; the free pages that each processor has at hand are not. There are
// up to 5 MB of those, more at one start than at the next.
func checkMemory(t testing.TB, m map[string]int64) {
	t.Helper()
	const machine = 512 << 20
	if m["MemTotal"] == 0 || m["MemAvailable"] == 0 || m["AtHand"] == 0 {
		t.Fatalf("memory: %v", m)
	}
	taken := machine - (m["MemAvailable"]+m["AtHand"])<<10
	t.Logf("memory: %.1f MB of 512 MiB are taken; the kernel and its tables before it counts %.1f, programs' files %.1f, programs' memory %.1f, the kernel's objects %.1f",
		float64(taken)/1e6, float64(machine-m["MemTotal"]<<10)/1e6, float64(m["Cached"]<<10)/1e6, float64(m["AnonPages"]<<10)/1e6, float64(m["Slab"]<<10)/1e6)
	if taken > memoryAtMost {
		t.Errorf("the idle system takes %d bytes of memory; at most %d", taken, memoryAtMost)
	}
}
