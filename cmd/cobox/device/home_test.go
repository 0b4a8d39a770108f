package device

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFindHome(t *testing.T) {
	t.Setenv("HOME", "/home/ana")
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	inHome := Home{"/home/ana/.config/cobox", "/home/ana/.local/share/cobox", "/home/ana/.cache/cobox"}
	for name, c := range map[string]struct {
		flag string
		env  map[string]string
		want Home
	}{
		"nothing":       {"", nil, inHome},
		"empty is none": {"", map[string]string{"COBOX_HOME": "", "XDG_CONFIG_HOME": "", "XDG_DATA_HOME": "", "XDG_CACHE_HOME": ""}, inHome},
		"xdg":           {"", map[string]string{"XDG_CONFIG_HOME": "/c", "XDG_DATA_HOME": "/d", "XDG_CACHE_HOME": "/h"}, Home{"/c/cobox", "/d/cobox", "/h/cobox"}},
		"one of xdg":    {"", map[string]string{"XDG_DATA_HOME": "/d"}, Home{inHome.Config, "/d/cobox", inHome.Cache}},
		"relative xdg":  {"", map[string]string{"XDG_CONFIG_HOME": "c"}, inHome},
		"variable":      {"", map[string]string{"COBOX_HOME": "/x", "XDG_DATA_HOME": "/d"}, Home{"/x/config", "/x/data", "/x/cache"}},
		"flag":          {"/y", map[string]string{"COBOX_HOME": "/x"}, Home{"/y/config", "/y/data", "/y/cache"}},
		"relative flag": {"y", nil, Home{cwd + "/y/config", cwd + "/y/data", cwd + "/y/cache"}},
	} {
		got, err := FindHome(c.flag, func(name string) string { return c.env[name] })
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, c.want)
		}
	}
	t.Setenv("HOME", "")
	if h, err := FindHome("", func(string) string { return "" }); err == nil {
		t.Errorf("without a home folder: %+v", h)
	}
	if _, err := FindHome("/y", func(string) string { return "" }); err != nil {
		t.Errorf("a flag needs no home folder: %v", err)
	}
}

func testHome(t *testing.T) Home {
	dir := t.TempDir()
	return Home{filepath.Join(dir, "c"), filepath.Join(dir, "d"), filepath.Join(dir, "h")}
}

func TestLock(t *testing.T) {
	h := testHome(t)
	unlock, err := h.Lock("backup")
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.Lock("verify")
	var locked *LockedError
	if !errors.As(err, &locked) || locked.PID != os.Getpid() || locked.Command != "backup" || time.Since(locked.Since) > time.Minute {
		t.Fatalf("%v", err)
	}
	if want := fmt.Sprintf("cobox backup (process %d) is writing since ", os.Getpid()); !strings.HasPrefix(locked.Error(), want) {
		t.Errorf("message: %s", locked)
	}
	for _, name := range []string{"LOCK", "LOCK.holder"} {
		if fi, err := os.Stat(filepath.Join(h.Data, name)); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, fi, err)
		}
	}
	// Who holds it is only for the message.
	for _, bad := range []string{"", "x", "1\nbackup", "a\nb\nc\n", "1\nbackup\n-\n", strings.Repeat("9", 300)} {
		if err := os.WriteFile(filepath.Join(h.Data, "LOCK.holder"), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Lock("verify"); err == nil || err.Error() != "another cobox command is writing" {
			t.Errorf("with %q: %v", bad, err)
		}
	}
	unlock()
	again, err := h.Lock("verify")
	if err != nil {
		t.Fatalf("after unlocking: %v", err)
	}
	again()
	if _, err := os.Stat(filepath.Join(h.Data, "LOCK.holder")); err == nil {
		t.Error("the name of the holder stays")
	}
}

// A process that ends without unlocking leaves no lock behind.
func TestLockOfTheDead(t *testing.T) {
	if dir := os.Getenv("COBOX_TEST_LOCK"); dir != "" {
		if _, err := (Home{Data: dir}).Lock("backup"); err != nil {
			t.Fatal(err)
		}
		fmt.Println("locked")
		select {}
	}
	h := testHome(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestLockOfTheDead$")
	cmd.Env = append(os.Environ(), "COBOX_TEST_LOCK="+h.Data)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	var locked *LockedError
	if _, err := h.Lock("verify"); !errors.As(err, &locked) || locked.PID != cmd.Process.Pid {
		t.Errorf("while it lives: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	unlock, err := h.Lock("verify")
	if err != nil {
		t.Fatalf("after its death: %v", err)
	}
	unlock()
}
