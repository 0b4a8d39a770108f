// Package cmd_test holds the architecture: which packages there are, in which
// order they may import one another, and what must never reach what.
package cmd_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "cobox"

// order is every package of the module, a layer a line. A package may import
// those of the lines above its own, never those of its own or below. A new
// package gets its place here.
var order = [][]string{
	{"storage"}, // documentation only
	{"storage/merklelog"},
	{"storage/account"},
	{"storage/seal"},
	{"storage/chunker"},
	{"storage/archive/fstree"},
	{"storage/archive"},
	{"storage/archive/spool"},
	{"storage/replica/bulkfile"},
	{"storage/replica"},
	{"netlink"}, // documentation only
	{"netlink/discover"},
	{"netlink/discover/nettest"}, // Linux only; networks for tests
	{"netlink/noiseconn"},
	{"netlink/pairing"},
	{"netlink/pairing/picture"},
	{"netlink/replicate"},
	{"image/layout"},
	{"image/holds"},
	{"image/initrd"},
	{"image/bundle"},
	{"image/fat32"},
	{"image/slot"},
	{"image/bundle/bundletest"}, // signs for the tests of updates
	{"image/disk", "image/label"},
	{"image/imagetest"}, // systems of other keys and numbers, for tests that boot them
	{"image"},
	{"appliance/config", "appliance/admin", "appliance/datadir", "appliance/machine"},
	{"appliance/roster", "appliance/update"},
	{"appliance"},
	{"appliance/boxtest"}, // a member for the tests of the box
	{"cmd/cobox/ui"},
	{"cmd/cobox/device"},
	{"cmd/cobox/sheet"},
	{"cmd/console"},
	{"cmd/cobox", "cmd/coboxd", "cmd/coboximg"},
	{"cmd/cobox-init/screen"},
	{"cmd/cobox-init"}, // Linux only
	{"cmd/bench/meas"},
	{"cmd/bench/floor", "cmd/bench/gen"},
	{"cmd/bench", "cmd/demo"},
	{"image/boottest", "cmd"}, // tests only
}

// A rule says what the packages from must not import (direct) or reach (by any
// number of steps). Names are paths within the module or whole import paths;
// one that ends in "/..." means everything below it as well.
type rule struct {
	why    string
	from   []string
	except []string
	direct bool
	never  []string
}

var rules = []rule{
	{
		why:   "invariant 16: a box cannot open what it holds",
		from:  []string{"cmd/coboxd", "appliance/...", "storage/replica", "netlink/..."},
		never: []string{"storage/archive/...", "storage/seal", "storage/chunker"},
	},
	{
		why:   "the member's program holds no replicas",
		from:  []string{"cmd/cobox/...", "storage/archive/...", "storage/seal", "storage/chunker"},
		never: []string{"storage/replica", "github.com/cockroachdb/pebble/..."},
	},
	{
		why:   "finding a box takes no key: who is found proves that later",
		from:  []string{"netlink/discover/..."},
		never: []string{"storage/...", "netlink/noiseconn", "netlink/pairing"},
	},
	{
		why:    "networks of their own are for tests",
		from:   []string{"..."},
		direct: true,
		never:  []string{"netlink/discover/nettest"},
	},
	{
		why:   "a session knows the store only by the interface that it declares",
		from:  []string{"netlink/..."},
		never: []string{"storage/replica"},
	},
	{
		why:    "one package keeps the box's data in Pebble",
		from:   []string{"..."},
		except: []string{"storage/replica", "cmd/bench/floor"}, // the floor is measured on Pebble itself
		direct: true,
		never:  []string{"github.com/cockroachdb/pebble/..."},
	},
	{
		why:    "one package speaks Noise",
		from:   []string{"..."},
		except: []string{"netlink/noiseconn", "cmd/bench/floor"}, // the floor is measured on Noise itself
		direct: true,
		never:  []string{"github.com/flynn/noise/..."},
	},
	{
		why:   "a box checks who released the system, and holds nothing that could sign a release",
		from:  []string{"image/bundle", "image/slot", "appliance/...", "cmd/coboxd", "cmd/cobox-init"},
		never: []string{"aead.dev/minisign/...", "image/bundle/bundletest"},
	},
	{
		why:    "what ships is not made of tests",
		from:   []string{"..."},
		except: []string{"netlink/discover/nettest"}, // which nothing that ships imports
		direct: true,
		never: []string{
			"testing/...", "net/http/httptest", "github.com/stretchr/testify/...",
			"go.uber.org/goleak/...", "github.com/rogpeppe/go-internal/...",
		},
	},
	{
		why:   "what is made with keys that everybody knows does not ship",
		from:  []string{"image", "image/disk", "cmd/coboximg", "cmd/cobox/..."},
		never: []string{"image/imagetest", "image/bundle/bundletest"},
	},
	{
		why:   "what builds an image stays on the computer that builds it",
		from:  []string{"appliance/...", "netlink/...", "storage/...", "cmd/coboxd", "cmd/cobox/...", "cmd/cobox-init/..."},
		never: []string{"image", "image/disk"},
	},
	{
		why:   "a box draws codes and reads none",
		from:  []string{"appliance/...", "cmd/coboxd", "cmd/cobox-init/..."},
		never: []string{"netlink/pairing/picture", "github.com/makiuchi-d/gozxing/..."},
	},
	{
		why:   "the log's rules are pure: no socket and no process",
		from:  []string{"storage/merklelog", "storage/account"},
		never: []string{"net", "os/exec"},
	},
}

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

// TestDependencies lists the packages for every system that something of ours
// is built for, and holds the order and each rule.
func TestDependencies(t *testing.T) {
	for _, goos := range []string{"linux", "darwin", "windows"} {
		t.Run(goos, func(t *testing.T) {
			ours := list(t, goos)
			t.Run("order", func(t *testing.T) { checkOrder(t, ours) })
			for _, r := range rules {
				t.Run(r.why, func(t *testing.T) { r.check(t, ours) })
			}
		})
	}
}

func checkOrder(t *testing.T, ours []pkg) {
	place := map[string]int{}
	for i, layer := range order {
		for _, name := range layer {
			place[module+"/"+name] = i
		}
	}
	for _, p := range ours {
		mine, ok := place[p.ImportPath]
		if !ok {
			t.Errorf("%s has no place in the order of packages", p.ImportPath)
			continue
		}
		for _, imp := range p.Imports {
			if theirs, ok := place[imp]; ok && theirs >= mine {
				t.Errorf("%s imports %s, which is not above it", p.ImportPath, imp)
			}
		}
	}
}

func (r rule) check(t *testing.T, ours []pkg) {
	for _, p := range ours {
		if !matchAny(r.from, p.ImportPath) || matchAny(r.except, p.ImportPath) {
			continue
		}
		seen := p.Deps
		if r.direct {
			seen = p.Imports
		}
		for _, dep := range seen {
			if matchAny(r.never, dep) {
				t.Errorf("%s depends on %s", p.ImportPath, dep)
			}
		}
	}
}

// TestRulesBite: a rule that names nothing would hold whatever is done.
func TestRulesBite(t *testing.T) {
	listed := list(t, "linux")
	all := map[string]bool{}
	for _, p := range listed {
		all[p.ImportPath] = true
		for _, d := range p.Deps {
			all[d] = true
		}
	}
	for _, layer := range order {
		for _, name := range layer {
			all[module+"/"+name] = true
		}
	}
	// Known only to tests, or to nobody yet.
	elsewhere := []string{
		"testing/...", "net/http/httptest", "github.com/stretchr/testify/...",
		"go.uber.org/goleak/...", "github.com/rogpeppe/go-internal/...",
	}
	for _, r := range rules {
		for _, pattern := range slices.Concat(r.from, r.except, r.never) {
			if slices.Contains(elsewhere, pattern) {
				continue
			}
			found := false
			for path := range all {
				found = found || match(pattern, path)
			}
			if !found {
				t.Errorf("%s: nothing is named %s", r.why, pattern)
			}
		}
	}
	for pattern, paths := range map[string]map[string]bool{
		"...":                    {"cobox/cmd/cobox": true, "cobox/storage": true},
		"storage/archive/...":    {"cobox/storage/archive": true, "cobox/storage/archive/spool": true, "cobox/storage/archives": false},
		"storage/seal":           {"cobox/storage/seal": true, "cobox/storage/seal/x": false, "cobox/storage/sealed": false},
		"github.com/x/noise/...": {"github.com/x/noise": true, "github.com/x/noise/v2": true, "github.com/x/noisy": false},
		"testing/...":            {"testing": true, "testing/fstest": true, "internal/testing": false},
	} {
		for path, want := range paths {
			if match(pattern, path) != want {
				t.Errorf("match(%q, %q) is not %v", pattern, path, want)
			}
		}
	}
}

// list returns the packages of the module as go list sees them for a system.
func list(t *testing.T, goos string) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-deps", "-json=ImportPath,Imports,Deps", "./...")
	cmd.Dir = ".." // the module's root
	cmd.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var ours []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal("go list:", err)
		}
		if strings.HasPrefix(p.ImportPath, module+"/") {
			ours = append(ours, p)
		}
	}
	if len(ours) < 10 {
		t.Fatalf("go list shows only %d packages of ours", len(ours))
	}
	return ours
}

func matchAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return match(p, path) })
}

// match compares an import path with a pattern. A pattern that begins with one
// of our directories is relative to the module.
func match(pattern, path string) bool {
	if first, _, _ := strings.Cut(pattern, "/"); slices.Contains([]string{"appliance", "cmd", "image", "netlink", "storage", "..."}, first) {
		pattern = module + "/" + pattern
	}
	if dir, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == dir || strings.HasPrefix(path, dir+"/")
	}
	return path == pattern
}
