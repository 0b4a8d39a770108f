package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// boxLimits measures what belongs to the box alone: its memory with eight
// members at once and under hostile connections. Its cost was compared with the
// floor in each round.
func boxLimits(o options, rep *report) error {
	rep.compareFloor()
	dir := filepath.Join(o.work, "run")
	steps := []struct {
		name string
		f    func(options, string, *report) error
	}{
		{"eight members", eightMembers}, {"hostile connections", hostile},
	}
	for _, s := range steps {
		fmt.Fprintln(os.Stderr, "box:", s.name)
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := s.f(o, dir, rep); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return os.RemoveAll(dir)
}

// floor measures the least possible cost of taking in the big set, in CPU
// seconds a GiB.
func floor(o options) (float64, error) {
	db := filepath.Join(o.work, "floor")
	if err := os.MkdirAll(db, 0o755); err != nil {
		return 0, err
	}
	defer os.RemoveAll(db)
	out, err := exec.Command(filepath.Join(o.bin, "bench-floor"), "-blocks", fmt.Sprint(int(32768*o.scale)), "-dir", db).Output()
	if err != nil {
		return 0, fmt.Errorf("floor: %w", err)
	}
	var f struct {
		CPU   float64 `json:"cpu_s"`
		Bytes float64 `json:"bytes"`
	}
	if err := json.Unmarshal(out, &f); err != nil {
		return 0, fmt.Errorf("floor: %w", err)
	}
	perGiB := f.CPU / (f.Bytes / (1 << 30))
	fmt.Fprintf(os.Stderr, "  floor %.2f CPU-s/GiB\n", perGiB)
	return perGiB, nil
}

// eightMembers lets eight devices of eight accounts back up incompressible
// data at the same time and reads the box's peak memory.
func eightMembers(o options, dir string, rep *report) error {
	const members = 8
	c := &cobox{o: o}
	if err := c.start(dir); err != nil {
		return err
	}
	defer c.stop()
	for i := range members {
		home := fmt.Sprintf("home%d", i)
		src := filepath.Join(dir, fmt.Sprintf("src%d", i))
		if err := randomFile(src, int64(256*o.scale)<<20); err != nil {
			return err
		}
		invite := filepath.Join(dir, fmt.Sprintf("invite%d.png", i))
		if err := c.member("home", "box", "invite", "member", "--quota", "10GiB", "--out", invite); err != nil {
			return err
		}
		if err := c.member(home, "init", "--phrase-out", filepath.Join(dir, fmt.Sprintf("phrase%d", i))); err != nil {
			return err
		}
		if err := c.member(home, "join", invite); err != nil {
			return err
		}
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", c.pid()), []byte("5"), 0); err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, members)
	start := time.Now()
	for i := range members {
		wg.Go(func() {
			errs[i] = c.member(fmt.Sprintf("home%d", i), "backup", filepath.Join(dir, fmt.Sprintf("src%d", i)))
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	hwm, err := procField(c.pid(), "status", "VmHWM")
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "  %d members took %.1f s\n", members, time.Since(start).Seconds())
	rep.limit("box memory, 8 members at once, MB", float64(hwm)/1024, 64, "%.0f")
	return nil
}

// hostile opens ten thousand connections that send random bytes or nothing.
func hostile(o options, dir string, rep *report) error {
	const connections = 10000
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return err
	}
	lim.Cur = lim.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return err
	}
	c := &cobox{o: o}
	if err := c.start(dir); err != nil {
		return err
	}
	defer c.stop()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", c.pid()), []byte("5"), 0); err != nil {
		return err
	}
	var open []net.Conn
	defer func() {
		for _, n := range open {
			n.Close()
		}
	}()
	junk := make([]byte, 4096)
	rand.Read(junk)
	for i := range connections {
		n, err := net.Dial("tcp", c.listen)
		if err != nil {
			continue // refused: that is the box's right
		}
		open = append(open, n)
		if i%2 == 0 {
			n.SetWriteDeadline(time.Now().Add(time.Second))
			n.Write(junk[:1+i%len(junk)]) // the box may have hung up already
		}
	}
	if len(open) < connections/2 {
		return fmt.Errorf("only %d of %d connections were opened", len(open), connections)
	}
	hwm, err := procField(c.pid(), "status", "VmHWM")
	if err != nil {
		return err
	}
	rep.limit("box memory, 10,000 hostile connections, MB", float64(hwm)/1024, 96, "%.0f")
	// The member's own link must still work.
	src := filepath.Join(dir, "src")
	if err := randomFile(src, 1<<20); err != nil {
		return err
	}
	return c.member("home", "backup", src)
}

func randomFile(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for n := int64(0); n < size; n += int64(len(buf)) {
		rand.Read(buf)
		if _, err := f.Write(buf); err != nil {
			return err
		}
	}
	return f.Close()
}
