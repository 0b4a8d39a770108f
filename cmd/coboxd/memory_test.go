package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cobox/appliance/admin"
	"cobox/appliance/boxtest"
	"cobox/netlink/noiseconn"
	"cobox/storage/merklelog"
)

// process is a coboxd as it is released, running.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	listen string
	http   string
	code   string
	key    noiseconn.StaticPublic
	killed bool
}

// buildRelease builds the program as a release is built.
func buildRelease(t testing.TB) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "coboxd")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	return bin
}

// startProcess runs the program until the test ends.
func startProcess(t testing.TB, bin, data string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(bin, "run", "--json", "--data", data, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")}
	p.cmd.Stderr = t.Output()
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.killed {
			return
		}
		p.cmd.Process.Signal(syscall.SIGTERM)
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("coboxd: %v", err)
		}
	})
	var ready struct{ Listen, HTTP, Code, Key string }
	if err := json.NewDecoder(out).Decode(&ready); err != nil {
		t.Fatal(err)
	}
	p.listen, p.http, p.code = ready.Listen, ready.HTTP, ready.Code
	if p.key, err = noiseconn.ParseStaticPublic(ready.Key); err != nil {
		t.Fatal(err)
	}
	return p
}

// startRelease runs a new box.
func startRelease(t testing.TB) *process {
	t.Helper()
	if testing.Short() {
		t.Skip("builds the program and needs some time")
	}
	return startProcess(t, buildRelease(t), filepath.Join(t.TempDir(), "box"))
}

// kill ends the process as a power cut would, but for what the system has
// cached.
func (p *process) kill() {
	p.t.Helper()
	p.killed = true
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	p.cmd.Wait()
}

// proc reads one number of a file below /proc.
func (p *process) proc(file, field string) uint64 {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, file))
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			n, err := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return n
		}
	}
	p.t.Fatalf("%s has no %s", file, field)
	return 0
}

// peak returns the most memory that the process has had, in MB.
func (p *process) peak() float64 { return float64(p.proc("status", "VmHWM")) * 1024 / 1e6 }

// cpu returns the seconds that the process has computed.
func (p *process) cpu() float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	return (user + system) / 100
}

func newDevice(t testing.TB, ctx context.Context, code string) *boxtest.Device {
	t.Helper()
	m, err := boxtest.NewMember()
	if err != nil {
		t.Fatal(err)
	}
	d, err := m.NewDevice()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Pair(ctx, code); err != nil {
		t.Fatal(err)
	}
	return d
}

// newMembers claims the box and lets n-1 others join.
func (p *process) newMembers(ctx context.Context, n int) []*boxtest.Device {
	p.t.Helper()
	devices := []*boxtest.Device{newDevice(p.t, ctx, p.code)}
	l, err := devices[0].Link(ctx, p.listen, p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	defer l.Close()
	for range n - 1 {
		var got admin.Invited
		if err := l.Ask(ctx, admin.MethodInviteCreate, admin.InviteRequest{Quota: admin.Quota{Unlimited: true}}, &got); err != nil {
			p.t.Fatal(err)
		}
		devices = append(devices, newDevice(p.t, ctx, got.Code))
	}
	return devices
}

// A box that eight members fill at the same time, as fast as it can take it,
// stays below 64 MB.
func TestMemoryAtFullSpeed(t *testing.T) {
	p := startRelease(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	const members, blocks = 8, 1024
	logs := make([]*boxtest.Log, members)
	devices := p.newMembers(ctx, members)
	var wg sync.WaitGroup
	for i, d := range devices {
		log, err := boxtest.NewLog(d, merklelog.Tag{1})
		if err != nil {
			t.Fatal(err)
		}
		logs[i] = log
		if err := log.Append(blocks); err != nil {
			t.Fatal(err)
		}
	}
	start, cpu := time.Now(), p.cpu()
	for i, d := range devices {
		wg.Go(func() {
			l, err := d.Link(ctx, p.listen, p.key)
			if err != nil {
				t.Error(err)
				return
			}
			defer l.Close()
			if _, err := l.Backup(ctx, logs[i]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	gib := float64(members*blocks) * merklelog.BlockSize / (1 << 30)
	peak := p.peak()
	t.Logf("%.2f GiB in %.1f s (%.0f MB/s), %.2f CPU-s/GiB, write amplification %.3f, VmHWM %.1f MB",
		gib, took.Seconds(), gib*1073.7/took.Seconds(), (p.cpu()-cpu)/gib, float64(p.proc("io", "write_bytes"))/(gib*(1<<30)), peak)
	if peak > 64 {
		t.Errorf("the box has had %.1f MB, at most 64 are allowed", peak)
	}
}

// Ten thousand connections of strangers, up to five thousand at a time, leave the box below 96 MB, and a member goes on as if they were not there.
func TestMemoryUnderHostileConnections(t *testing.T) {
	p := startRelease(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	d := newDevice(t, ctx, p.code)
	l, err := d.Link(ctx, p.listen, p.key)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	log, err := boxtest.NewLog(d, merklelog.Tag{1})
	if err != nil {
		t.Fatal(err)
	}

	const connections, atATime = 10_000, 5_000
	elsewhere := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 9, 9, 9)}} // another network than the member's
	slots := make(chan struct{}, atATime)
	var strangers sync.WaitGroup
	for i := range connections {
		slots <- struct{}{}
		strangers.Go(func() {
			defer func() { <-slots }()
			nc, err := elsewhere.DialContext(ctx, "tcp", p.listen)
			if err != nil {
				t.Error(err)
				return
			}
			defer nc.Close()
			// A third says nothing, a third something, a third too much.
			nc.SetDeadline(time.Now().Add(20 * time.Second))
			switch i % 3 {
			case 1:
				nc.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
			case 2:
				nc.Write(make([]byte, 100_000))
			}
			nc.Read(make([]byte, 1))
		})
		if i%1000 == 999 {
			if err := log.Append(50); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			if _, err := l.Backup(ctx, log); err != nil {
				t.Fatalf("the member's backup after %d strangers: %v", i+1, err)
			}
			t.Logf("after %d strangers the member's 50 blocks took %v", i+1, time.Since(start).Round(time.Millisecond))
		}
	}
	strangers.Wait()
	// The known device also gets in anew.
	again, err := d.Link(ctx, p.listen, p.key)
	if err != nil {
		t.Fatalf("the member's next link: %v", err)
	}
	again.Close()
	peak := p.peak()
	t.Logf("VmHWM %.1f MB", peak)
	if peak > 96 {
		t.Errorf("the box has had %.1f MB, at most 96 are allowed", peak)
	}
}
