package main

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestInterrupted: Ctrl-C in the middle of writing ends with its exit code, and
// says what is left.
func TestInterrupted(t *testing.T) {
	b := newBench(t)
	if err := littleImage(b.path("box.img")); err != nil {
		t.Fatal(err)
	}
	b.write("card", nil)
	if out, err := exec.Command("go", "build", "-o", b.path("coboximg"), ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(b.path("coboximg"), "flash", b.path("card"), "--image", b.path("box.img"), "--yes")
	errs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(errs)
	first, err := lines.ReadString('\n')
	if err != nil || !strings.HasPrefix(first, "written ") {
		t.Errorf("%q, %v", first, err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(lines)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitInterrupted || !bytes.Contains(rest, []byte("interrupted: the card is not usable yet; write it again")) {
		t.Errorf("code %d: %s", code, rest)
	}
}
