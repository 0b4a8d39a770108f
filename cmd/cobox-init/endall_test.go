//go:build linux

package main

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	uidOfTest  = 64901 // nobody has these
	uidOfOther = 64902
)

// TestEndAll ends a program of a user and all that it has started, also what has
// left its session and starts more and more, and nothing of anybody else. It does
// so where, if that goes wrong, there is nothing else that could be killed.
func TestEndAll(t *testing.T) {
	cmd := child(t, "end")
	cmd.Env = append(cmd.Env, "COBOX_INIT_DIR="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) {
		t.Skip("a namespace for processes needs root")
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: TestChild") {
		t.Errorf("%v\n%s", err, out)
	}
}

func endAllAlone(t *testing.T) {
	if os.Getpid() != 1 {
		t.Fatal("it is not alone")
	}
	// The namespace has a /proc of its own, seen by nobody else.
	proc := os.Getenv("COBOX_INIT_DIR")
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("proc", proc, "proc", 0, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(proc, "1")); err != nil {
		t.Fatal(err)
	}
	run := func(uid uint32, script string) *exec.Cmd {
		t.Helper()
		cmd := exec.Command("/bin/sh", "-c", script)
		cmd.Env, cmd.Dir = []string{"PATH=/bin:/usr/bin"}, "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}, Setsid: true}
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatalf("%q %v", line, err)
		}
		return cmd
	}
	run(uidOfOther, "echo up; exec sleep 600")
	run(uidOfTest, `trap '' TERM HUP INT; setsid sleep 600 & (while :; do sleep 0.2 & sleep 0.01; done) & echo up; exec sleep 600`)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		list, err := processesOf(proc, uidOfTest)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) >= 4 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("only %v run", list)
		}
	}
	err := endAll(proc, uidOfTest, func() error {
		cmd := child(t, "kill")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Logf("%s", out)
			return err
		}
		// As reaper does on a box.
		go func() {
			for {
				if _, err := unix.Wait4(-1, nil, 0, nil); errors.Is(err, unix.ECHILD) {
					return
				}
			}
		}()
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if list, err := processesOf(proc, uidOfOther); err != nil || len(list) != 1 {
		t.Errorf("another user's processes: %v %v", list, err)
	}
	if err := endAll(proc, uidOfOther, func() error { return errors.New("not now") }); err == nil {
		t.Error("a process is left, and that is no error")
	}
	if err := killAllAs(0); err == nil {
		t.Error("root may kill all")
	}
}
