package appliance_test

import (
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"cobox/netlink/noiseconn"
)

// METRICS.md lists every metric of the box with its type, and none that is not
// there; and every reason.
func TestMetricsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]string)
	for _, m := range regexp.MustCompile("(?m)^\\| `(cobox_[a-z_]+)(?:\\{[a-z,]+\\})?` \\| ([a-z]+) \\|").FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = m[2]
	}
	b := start(t, t.TempDir())
	_, page := b.get("/metrics")
	shown := make(map[string]string)
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)$`).FindAllStringSubmatch(page, -1) {
		if strings.HasPrefix(m[1], "cobox_") {
			shown[m[1]] = m[2]
		} else if !strings.HasPrefix(m[1], "go_") && !strings.HasPrefix(m[1], "process_") {
			t.Errorf("a metric that is nobody's: %s", m[1])
		}
	}
	for name, kind := range shown {
		if documented[name] != kind {
			t.Errorf("%s is a %s, documented as %q", name, kind, documented[name])
		}
	}
	for name := range documented {
		if shown[name] == "" {
			t.Errorf("%s is documented and not shown", name)
		}
	}
	for _, r := range noiseconn.Reasons() {
		if !strings.Contains(string(text), "`"+string(r)+"`") {
			t.Errorf("reason %s is not documented", r)
		}
		if !strings.Contains(page, `cobox_handshakes_refused_total{reason="`+string(r)+`"} 0`) {
			t.Errorf("reason %s is not shown at 0", r)
		}
	}
	for _, name := range []string{"cobox_replica_bytes 0", "cobox_receipts_total 0", "cobox_commit_seconds_count 0"} {
		if !strings.Contains(page, "\n"+name+"\n") {
			t.Errorf("%q is not shown", name)
		}
	}
}

// The local pages are two, and whoever talks to them badly or too long gets
// nowhere.
func TestLocalPages(t *testing.T) {
	b := start(t, t.TempDir())
	for _, path := range []string{"/", "/debug/pprof/", "/healthz/x", "/../identity", "/pairing.txt"} {
		if status, body := b.get(path); status != http.StatusNotFound {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
	resp, err := http.Post("http://"+b.info.HTTP.String()+"/healthz", "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", resp.StatusCode)
	}
	c, err := net.Dial("tcp", b.info.HTTP.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	c.Write([]byte("GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n"))
	answer := make([]byte, 32)
	n, _ := c.Read(answer)
	if got := string(answer[:n]); got != "" && !strings.HasPrefix(got, "HTTP/1.1 431") {
		t.Errorf("a megabyte of header: %q", got)
	}
	if !slices.Contains([]string{"ok\n"}, second(b.get("/healthz"))) {
		t.Error("the box is not well after that")
	}
}

func second[A, B any](_ A, b B) B { return b }
