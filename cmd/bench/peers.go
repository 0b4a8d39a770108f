package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A peer is a backup program with its server.
type peer interface {
	name() string
	start(dir string) error // fresh store, server running, client set up
	stop()
	pid() int // of the server; 0 if there is none
	env() []string
	backup(src string) []string
	restore(out string) []string
	dropCache() error
	stored(*measurement) error // fills in what the store takes
	compare(src, out string) error
}

type dataset struct {
	dir   string
	bytes int64
}

// dataset generates the set once and keeps it.
func (o options) dataset(set string) (dataset, error) {
	dir := filepath.Join(o.work, "data", fmt.Sprintf("%s-%g", set, o.scale))
	d := dataset{dir: dir}
	if _, err := os.Stat(dir + ".done"); err != nil {
		os.RemoveAll(dir)
		fmt.Fprintf(os.Stderr, "generating %s\n", set)
		cmd := exec.Command(filepath.Join(o.bin, "bench-gen"), "-kind", set, "-out", dir, "-scale", fmt.Sprint(o.scale))
		if out, err := cmd.CombinedOutput(); err != nil {
			return d, fmt.Errorf("generate %s: %v\n%s", set, err, out)
		}
		if err := os.WriteFile(dir+".done", nil, 0o644); err != nil {
			return d, err
		}
	}
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		fi, err := e.Info()
		if err == nil {
			d.bytes += fi.Size()
		}
		return err
	})
	return d, err
}

// warm reads every file once, so that no peer pays for the disk.
func warm(dir string) error {
	return filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(io.Discard, f)
		return err
	})
}

// cobox is CoBox: a real box, one device, paired through the picture.
type cobox struct {
	o   options
	dir string
	cmd *exec.Cmd

	listen, http string // addresses of the box
}

func (c *cobox) name() string { return "cobox" }
func (c *cobox) pid() int     { return c.cmd.Process.Pid }
func (c *cobox) env() []string {
	return append(os.Environ(), "COBOX_HOME="+filepath.Join(c.dir, "home"))
}

func (c *cobox) start(dir string) error {
	c.dir = dir
	if err := c.startBox(); err != nil {
		return err
	}
	if err := c.member("home", "init", "--phrase-out", filepath.Join(dir, "phrase")); err != nil {
		return err
	}
	return c.member("home", "pair", filepath.Join(dir, "box", "pairing.png"))
}

func (c *cobox) startBox() error {
	var err error
	if c.listen, err = freeAddr(); err != nil {
		return err
	}
	if c.http, err = freeAddr(); err != nil {
		return err
	}
	c.cmd = exec.Command(filepath.Join(c.o.bin, "coboxd"), "run", "--data", filepath.Join(c.dir, "box"), "--listen", c.listen, "--http", c.http)
	log, err := os.Create(filepath.Join(c.dir, "box.log"))
	if err != nil {
		return err
	}
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := c.cmd.Start(); err != nil {
		return err
	}
	return waitHTTP("http://" + c.http + "/healthz")
}

// member runs cobox as the device whose state is in the folder home.
func (c *cobox) member(home string, args ...string) error {
	cmd := exec.Command(filepath.Join(c.o.bin, "cobox"), args...)
	cmd.Env = append(os.Environ(), "COBOX_HOME="+filepath.Join(c.dir, home))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cobox %s: %w\n%s", args[0], err, out)
	}
	return nil
}

func (c *cobox) stop() { stopProcess(c.cmd) }

func (c *cobox) backup(src string) []string {
	return []string{filepath.Join(c.o.bin, "cobox"), "backup", "--json", src}
}

func (c *cobox) restore(out string) []string {
	return []string{filepath.Join(c.o.bin, "cobox"), "restore", "--json", "--target", out}
}

func (c *cobox) dropCache() error { return os.RemoveAll(filepath.Join(c.dir, "home", "cache")) }

// stored takes the number of blocks from the backup's summary and the disk
// space from the box's data folder.
func (c *cobox) stored(m *measurement) error {
	line, err := lastJSONLine(filepath.Join(c.dir, "out.log"), "summary")
	if err != nil {
		return err
	}
	var s struct {
		Blocks  int64 `json:"blocks"`
		Padding int64 `json:"blocks_padding"`
	}
	if err := json.Unmarshal(line, &s); err != nil {
		return err
	}
	m.Blocks, m.Padding = s.Blocks, s.Padding
	m.Stored = (s.Blocks - s.Padding) * 65536
	m.Disk, err = diskUse(filepath.Join(c.dir, "box"))
	return err
}

func (c *cobox) compare(src, out string) error { return compareTrees(src, filepath.Join(out, src)) }

// restic is restic 0.18, behind rclone or with a local repository.
type restic struct {
	o      options
	rclone bool
	dir    string
	cmd    *exec.Cmd
	repo   string
}

func (r *restic) name() string {
	if r.rclone {
		return "restic"
	}
	return "restic local"
}

func (r *restic) pid() int {
	if r.cmd == nil {
		return 0
	}
	return r.cmd.Process.Pid
}

func (r *restic) env() []string {
	return append(os.Environ(), "RESTIC_PASSWORD=x", "RESTIC_REPOSITORY="+r.repo,
		"RESTIC_CACHE_DIR="+filepath.Join(r.dir, "cache"), "RESTIC_PROGRESS_FPS=1")
}

func (r *restic) start(dir string) error {
	r.dir = dir
	r.repo = filepath.Join(dir, "repo")
	if r.rclone {
		addr, err := freeAddr()
		if err != nil {
			return err
		}
		if err := os.MkdirAll(r.repo, 0o755); err != nil {
			return err
		}
		r.cmd = exec.Command("rclone", "serve", "restic", "--addr", addr, r.repo)
		if err := r.cmd.Start(); err != nil {
			return fmt.Errorf("rclone (Debian package rclone): %w", err)
		}
		if err := waitTCP(addr); err != nil {
			return err
		}
		r.repo = "rest:http://" + addr + "/"
	}
	cmd := exec.Command(filepath.Join(r.o.bin, "restic"), "init")
	cmd.Env = r.env()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("restic init: %w\n%s", err, out)
	}
	return nil
}

func (r *restic) stop() {
	if r.cmd != nil {
		stopProcess(r.cmd)
	}
}

func (r *restic) backup(src string) []string {
	return []string{filepath.Join(r.o.bin, "restic"), "backup", "--quiet", src}
}

func (r *restic) restore(out string) []string {
	return []string{filepath.Join(r.o.bin, "restic"), "restore", "latest", "--quiet", "--target", out}
}

func (r *restic) dropCache() error { return os.RemoveAll(filepath.Join(r.dir, "cache")) }

func (r *restic) stored(m *measurement) error {
	var err error
	dir := filepath.Join(r.dir, "repo")
	if m.Disk, err = diskUse(dir); err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		fi, err := e.Info()
		if err == nil {
			m.Stored += fi.Size()
		}
		return err
	})
}

func (r *restic) compare(src, out string) error { return compareTrees(src, filepath.Join(out, src)) }

// compareTrees fails unless both trees hold the same files with the same bytes.
func compareTrees(a, b string) error {
	out, err := exec.Command("diff", "-rq", a, b).CombinedOutput()
	if err != nil {
		return fmt.Errorf("the restored tree differs: %w\n%.2000s", err, out)
	}
	return nil
}

func diskUse(dir string) (int64, error) {
	syscall.Sync()
	var total int64
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // a file that the running box has just replaced
			}
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(p, &st); err == nil {
			total += st.Blocks * 512
		}
		return nil
	})
	return total, err
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func waitHTTP(url string) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		resp, err := http.Get(url)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(resp.Status)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s did not answer: %w", url, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func waitTCP(addr string) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			return c.Close()
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// stopProcess ends a server by its own process id and waits for it.
func stopProcess(cmd *exec.Cmd) {
	if cmd == nil || cmd.Process == nil {
		return
	}
	cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		cmd.Process.Kill()
		<-done
	}
}

func lastJSONLine(path, typ string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var last []byte
	sc := bufio.NewScanner(bytes.NewReader(b))
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		var t struct {
			Type string `json:"type"`
		}
		if json.Unmarshal(sc.Bytes(), &t) == nil && t.Type == typ {
			last = bytes.Clone(sc.Bytes())
		}
	}
	if last == nil {
		return nil, fmt.Errorf("no %s line in the program's output", typ)
	}
	return last, sc.Err()
}

// procField reads one number of a /proc file, such as VmHWM in kB.
func procField(pid int, file, key string) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			return strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		}
	}
	return 0, fmt.Errorf("no %s in /proc/%d/%s", key, pid, file)
}
