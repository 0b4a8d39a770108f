package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"cobox/cmd/cobox/ui"
)

// Every command explains itself, with an example that begins like it.
func TestHelp(t *testing.T) {
	a := &app{now: time.Now, ui: ui.New(false)}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" {
			t.Errorf("%s has no short help", c.CommandPath())
		}
		var out bytes.Buffer
		c.SetOut(&out)
		if err := c.Help(); err != nil {
			t.Fatal(err)
		}
		help := out.String()
		if !c.HasParent() {
			if !strings.Contains(help, "\n  cobox backup ~/Documents\n") || !strings.Contains(help, "Exit codes:") {
				t.Errorf("the help of cobox has no example or no exit codes:\n%s", help)
			}
		} else if !strings.Contains(help, "Examples:\n  "+c.CommandPath()) {
			t.Errorf("the help of %s has no example:\n%s", c.CommandPath(), help)
		}
		for line := range strings.Lines(help) {
			if len([]rune(line)) > 140 {
				t.Errorf("%s: a line of %d characters: %s", c.CommandPath(), len(line), line)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(a.root())
}

// The help of box log explains every kind of event that there is.
func TestEventKinds(t *testing.T) {
	source, err := os.ReadFile(filepath.Join("..", "..", "appliance", "admin", "event.go"))
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, m := range regexp.MustCompile(`Kind = "([a-z-]+)"`).FindAllSubmatch(source, -1) {
		want = append(want, string(m[1]))
	}
	for _, k := range eventKinds {
		got = append(got, string(k.kind))
	}
	if len(want) < 20 || !slices.Equal(got, want) {
		t.Errorf("the help explains %q, and the kinds are %q", got, want)
	}
}

func TestPermissions(t *testing.T) {
	for mode, want := range map[uint16]string{
		0o644: "rw-r--r--", 0o755: "rwxr-xr-x", 0o6755: "rwsr-sr-x", 0o6644: "rwSr-Sr--", 0o1777: "rwxrwxrwt", 0o1666: "rw-rw-rwT", 0: "---------",
	} {
		if got := permissions(mode); got != want {
			t.Errorf("%04o: %s, want %s", mode, got, want)
		}
	}
}
