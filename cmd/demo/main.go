// Demo shows the main job with nothing faked: a real box and the real member's
// program, paired through the picture of a QR code, talk over loopback; the
// box is killed in the middle of a backup, the device loses everything, and
// what is restored from the recovery phrase is compared byte for byte, with
// modes and times.
//
//	demo -bin bin [-tree DIR] [-keep]
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cobox/storage/archive/fstree"
)

func main() {
	bin := flag.String("bin", "bin", "folder with coboxd and cobox")
	tree := flag.String("tree", "", "tree to back up (default: the Go source tree)")
	keep := flag.Bool("keep", false, "keep the scratch folder")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	start := time.Now()
	if err := run(ctx, *bin, *tree, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "demo: FAILED:", err)
		os.Exit(1)
	}
	fmt.Printf("\nDone in %.0f s. Everything that was backed up came back, byte for byte.\n", time.Since(start).Seconds())
}

type demo struct {
	ctx    context.Context
	bin    string
	dir    string // scratch
	step   int
	box    *exec.Cmd
	exited chan struct{} // closed when box has been waited for
	listen string
	http   string
}

func run(ctx context.Context, bin, tree string, keep bool) (err error) {
	if bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	if tree == "" {
		out, err := exec.Command("go", "env", "GOROOT").Output()
		if err != nil {
			return fmt.Errorf("finding the Go source tree: %w", err)
		}
		tree = filepath.Join(strings.TrimSpace(string(out)), "src")
	}
	dir, err := os.MkdirTemp("", "cobox-demo-")
	if err != nil {
		return err
	}
	if keep {
		fmt.Println("scratch folder:", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	d := &demo{ctx: ctx, bin: bin, dir: dir}
	defer d.kill()

	for _, s := range []struct {
		what string
		do   func() error
	}{
		{"Copy a real tree to work on", func() error { return d.copyTree(tree) }},
		{"Start a box on loopback; it shows the QR code of its pairing secret", d.startBox},
		{"Make an account; the recovery phrase goes to a file", func() error {
			return d.cobox("init", "--phrase-out", d.path("phrase.txt"))
		}},
		{"Pair by the picture of the QR code", func() error { return d.cobox("pair", d.path("box", "pairing.png")) }},
		{"First backup", d.backup},
		{"Change, add, rename and delete files", d.change},
		{"Second backup: only what changed", d.backup},
		{"Third backup; the box is killed in the middle of it", d.killedBackup},
		{"Start the box again and run the same backup again: it goes on", func() error {
			if err := d.startBox(); err != nil {
				return err
			}
			return d.backup()
		}},
		{"Check every replica on the box, over the link", func() error { return d.cobox("box", "check") }},
		{"Lose the device: all of its state is deleted", d.lose},
		{"Recover from the phrase and the recovery sheet", func() error {
			return d.cobox("recover", "--phrase-file", d.path("phrase.txt"), "--box", d.path("recovery-sheet.png"))
		}},
		{"Restore", func() error { return d.cobox("restore", "--target", d.path("restored")) }},
		{"Compare contents, modes and times", d.compare},
		{"The recovered device backs up again, into a log of its own", d.backup},
		{"Some of the box's metrics", d.metrics},
		{"Stop the box and check its replicas once more, offline", d.stopAndCheck},
	} {
		d.step++
		fmt.Printf("\n== %2d. %s\n", d.step, s.what)
		began := time.Now()
		if err := s.do(); err != nil {
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			d.boxLog()
			return fmt.Errorf("step %d (%s): %w", d.step, s.what, err)
		}
		fmt.Printf("   %.1f s\n", time.Since(began).Seconds())
	}
	return nil
}

func (d *demo) path(elem ...string) string {
	return filepath.Join(append([]string{d.dir}, elem...)...)
}

// cobox runs the member's program on the device's state and shows what it says.
func (d *demo) cobox(args ...string) error {
	cmd := d.command(args...)
	show(args)
	cmd.Stdout, cmd.Stderr = indent{os.Stdout}, indent{os.Stdout}
	return cmd.Run()
}

func (d *demo) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(d.ctx, filepath.Join(d.bin, "cobox"), args...)
	cmd.Env = append(os.Environ(), "COBOX_HOME="+d.path("device"))
	return cmd
}

func show(args []string) { fmt.Println("   $ cobox", strings.Join(args, " ")) }

// indent sets the output of programs apart from the demo's own.
type indent struct{ w io.Writer }

func (i indent) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		fmt.Fprintf(i.w, "     | %s\n", bytes.TrimRight(line, "\n"))
	}
	return len(p), nil
}

func (d *demo) copyTree(src string) error {
	if err := os.CopyFS(d.path("work"), os.DirFS(src)); err != nil {
		return err
	}
	files, size := 0, int64(0)
	err := filepath.WalkDir(d.path("work"), func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		files++
		size += fi.Size()
		// Times and modes of their own, to be compared later.
		if err := os.Chmod(p, []fs.FileMode{0o644, 0o600, 0o755, 0o440}[files%4]); err != nil {
			return err
		}
		t := time.Unix(int64(files)*86_400, int64(files)*1_001)
		return os.Chtimes(p, t, t)
	})
	if err != nil {
		return err
	}
	if files < 5000 {
		return fmt.Errorf("%s has only %d files; the demo wants at least 5,000", src, files)
	}
	fmt.Printf("   %d files, %d MB\n", files, size/1e6)
	return nil
}

func (d *demo) startBox() error {
	for _, a := range []*string{&d.listen, &d.http} {
		if *a != "" {
			continue
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		*a = l.Addr().String()
		l.Close()
	}
	log, err := os.OpenFile(d.path("box.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	d.box = exec.Command(filepath.Join(d.bin, "coboxd"), "run", "--data", d.path("box"), "--listen", d.listen, "--http", d.http, "--name", "shelf")
	d.box.Stdout, d.box.Stderr = log, log
	if err := d.box.Start(); err != nil {
		return err
	}
	d.exited = make(chan struct{})
	go func(box *exec.Cmd, exited chan struct{}) {
		box.Wait()
		close(exited)
	}(d.box, d.exited)
	fmt.Println("   $ coboxd run --data box --listen", d.listen, "--http", d.http)
	deadline := time.Now().Add(30 * time.Second)
	for {
		resp, err := http.Get("http://" + d.http + "/healthz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(resp.Status)
		}
		select {
		case <-d.exited:
			return errors.New("the box ended by itself")
		case <-d.ctx.Done():
			return d.ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the box does not answer: %w", err)
		}
	}
}

// kill ends the box by its process id, as a power cut would.
func (d *demo) kill() {
	if d.box != nil {
		d.box.Process.Kill()
		<-d.exited
		d.box = nil
	}
}

func (d *demo) boxLog() {
	b, err := os.ReadFile(d.path("box.log"))
	if err == nil {
		fmt.Println("   the box's log ends with:")
		indent{os.Stdout}.Write(b[max(0, len(b)-3000):])
	}
}

func (d *demo) backup() error { return d.cobox("backup", d.path("work")) }

// change edits some files, adds a few special ones and takes some away.
func (d *demo) change() error {
	n := 0
	var touched, gone int
	err := filepath.WalkDir(d.path("work"), func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		switch n++; {
		case n%97 == 0:
			touched++
			if err := os.Chmod(p, 0o644); err != nil {
				return err
			}
			f, err := os.OpenFile(p, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(f, "// line %d\n", n)
			return errors.Join(err, f.Close())
		case n%501 == 0:
			gone++
			return os.Remove(p)
		}
		return nil
	})
	if err != nil {
		return err
	}
	special := d.path("work", "special")
	if err := os.Mkdir(special, 0o750); err != nil {
		return err
	}
	sparse, err := os.Create(filepath.Join(special, "sparse.img"))
	if err != nil {
		return err
	}
	_, err = sparse.WriteAt([]byte("in the middle"), 1<<30)
	if err := errors.Join(err, sparse.Truncate(3<<30), sparse.Close()); err != nil {
		return err
	}
	name := "grüße"
	if runtime.GOOS == "linux" {
		name = "not utf-8 \xff\xfe" // names are bytes
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(special, name), []byte("bytes are bytes\n"), 0o604),
		os.WriteFile(filepath.Join(special, "empty"), nil, 0o600),
		os.Symlink("../does/not/exist", filepath.Join(special, "dangling")),
		os.Link(filepath.Join(special, "empty"), filepath.Join(special, "hard link")),
	); err != nil {
		return err
	}
	fmt.Printf("   %d files changed, %d deleted, a folder of special files added\n", touched, gone)
	return nil
}

// killedBackup adds data that takes a while to send, and kills the box when
// it has taken in a part of it.
func (d *demo) killedBackup() error {
	if err := randomFile(d.path("work", "special", "video.bin"), 400<<20); err != nil {
		return err
	}
	before, err := d.metric("cobox_replica_bytes")
	if err != nil {
		return err
	}
	args := []string{"backup", d.path("work")}
	cmd := d.command(args...)
	show(args)
	cmd.Stdout, cmd.Stderr = indent{os.Stdout}, indent{os.Stdout}
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	deadline := time.After(60 * time.Second)
	for {
		now, err := d.metric("cobox_replica_bytes")
		if err == nil && now-before > 64<<20 {
			fmt.Printf("   SIGKILL to the box after it took in %d MB\n", int64(now-before)/1e6)
			break
		}
		select {
		case err := <-done:
			return fmt.Errorf("the backup ended before the box could be killed: %v", err)
		case <-deadline:
			return errors.New("the box took in nothing")
		case <-d.ctx.Done():
			return d.ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	d.kill()
	err = <-done
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 4 {
		return fmt.Errorf("the backup without a box ended with %v, want exit code 4", err)
	}
	fmt.Println("   cobox ended with exit code 4: kept here until a box is back")
	return nil
}

func randomFile(path string, size int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.Reader, int64(size))
	return errors.Join(err, f.Close())
}

// lose keeps what a member has on paper and deletes the rest.
func (d *demo) lose() error {
	if err := d.cobox("sheet", "--out", d.path("recovery-sheet")); err != nil {
		return err
	}
	fmt.Println("   $ rm -r device")
	return os.RemoveAll(d.path("device"))
}

func (d *demo) compare() error {
	// The restored tree has the absolute path below the target.
	diffs, err := fstree.Diff(d.ctx, d.path("work"), filepath.Join(d.path("restored"), d.path("work")), fstree.DiffOptions{})
	if err != nil {
		return err
	}
	for i, x := range diffs {
		if i == 10 {
			break
		}
		fmt.Println("   differs:", x)
	}
	if len(diffs) > 0 {
		return fmt.Errorf("%d differences", len(diffs))
	}
	fmt.Println("   no difference")
	return nil
}

func (d *demo) metrics() error {
	for _, m := range []string{"cobox_replica_bytes", "cobox_receipts_total", "cobox_handshakes_refused_total"} {
		lines, err := d.scrape(m)
		if err != nil {
			return err
		}
		for _, l := range lines {
			fmt.Println("  ", l)
		}
	}
	return nil
}

// scrape returns the samples of one metric.
func (d *demo) scrape(name string) ([]string, error) {
	resp, err := http.Get("http://" + d.http + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, name+"{") || strings.HasPrefix(line, name+" ") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the box has no metric %s", name)
	}
	return out, nil
}

func (d *demo) metric(name string) (float64, error) {
	lines, err := d.scrape(name)
	if err != nil {
		return 0, err
	}
	f := strings.Fields(lines[0])
	return strconv.ParseFloat(f[len(f)-1], 64)
}

func (d *demo) stopAndCheck() error {
	if err := d.box.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-d.exited:
	case <-time.After(30 * time.Second):
		return errors.New("the box does not stop")
	}
	if code := d.box.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("the box ended with exit code %d", code)
	}
	d.box = nil
	fmt.Println("   $ coboxd check --data box")
	cmd := exec.CommandContext(d.ctx, filepath.Join(d.bin, "coboxd"), "check", "--data", d.path("box"))
	cmd.Stdout, cmd.Stderr = indent{os.Stdout}, indent{os.Stdout}
	return cmd.Run()
}
