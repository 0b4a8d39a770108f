package main

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// measurement is one run of one command. Times in seconds, memory in MB (10^6
// bytes as /proc and rusage count KiB: MB here is MiB), sizes in bytes.
type measurement struct {
	Wall        float64 `json:"wall_s"`
	ClientCPU   float64 `json:"client_cpu_s"`
	ClientRSS   float64 `json:"client_rss_mb"`
	ServerCPU   float64 `json:"server_cpu_s"`
	ServerRSS   float64 `json:"server_rss_mb"`
	ServerWrite float64 `json:"server_write_mb"`
	Error       string  `json:"error"`

	Bytes   int64 `json:"-"` // of the data set
	Stored  int64 `json:"-"` // blocks without padding × 65,536; for restic the bytes of its files
	Disk    int64 `json:"-"` // what the store takes on disk
	Blocks  int64 `json:"-"`
	Padding int64 `json:"-"`
}

// measure runs cmd under cmd/bench/meas; its output goes to logPath.
func (o options) measure(p peer, cmd []string, logPath string) (measurement, error) {
	args := []string{"-peer", p.name(), "-log", logPath}
	if p.pid() != 0 {
		args = append(args, "-server", strconv.Itoa(p.pid()))
	}
	c := exec.Command(filepath.Join(o.bin, "bench-meas"), append(append(args, "--"), cmd...)...)
	c.Env = p.env()
	out, err := c.Output()
	var m measurement
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(out, &m); err != nil {
		return m, err
	}
	if m.Error != "" {
		tail, _ := exec.Command("tail", "-n", "20", logPath).Output()
		return m, fmt.Errorf("%s: %s\n%s", strings.Join(cmd, " "), m.Error, tail)
	}
	return m, nil
}

type key struct{ set, peer, op string }

type report struct {
	order []key
	runs  map[key][]measurement
	extra []row

	floors []float64 // CPU seconds a GiB, one for each of the box's rounds with the big set
}

// row is one line of the table of limits: what, the number reached, the limit.
type row struct {
	what, reached, limit string
	ok                   bool
}

func (r *report) add(set, peer, op string, m measurement) {
	k := key{set, peer, op}
	if r.runs == nil {
		r.runs = make(map[key][]measurement)
	}
	if _, ok := r.runs[k]; !ok {
		r.order = append(r.order, k)
	}
	r.runs[k] = append(r.runs[k], m)
}

func (r *report) limit(what string, reached, limit float64, format string) {
	r.extra = append(r.extra, row{what, fmt.Sprintf(format, reached), fmt.Sprintf("≤ "+format, limit), reached <= limit})
}

// compareFloor compares the box's cost in each round with the floor measured
// right after it, since machines change their pace within minutes.
func (r *report) compareFloor() {
	var v []float64
	for i, m := range r.runs[key{"big", "cobox", "first backup"}] {
		if i < len(r.floors) {
			v = append(v, perGiB(m)/r.floors[i])
		}
	}
	if len(v) > 0 {
		r.limit("box, taking in the big set, of the floor", median(v), 1.2, "%.2f")
	}
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

func (r *report) med(set, peer, op string, f func(measurement) float64) (float64, bool) {
	var v []float64
	for _, m := range r.runs[key{set, peer, op}] {
		v = append(v, f(m))
	}
	return median(v), len(v) > 0
}

func wall(m measurement) float64      { return m.Wall }
func clientCPU(m measurement) float64 { return m.ClientCPU }
func clientRSS(m measurement) float64 { return m.ClientRSS }

// tables renders every median and then each limit with what was reached.
func (r *report) tables() string {
	var b strings.Builder
	b.WriteString("| set | operation | program | wall s | client CPU s | client MB | server CPU s | server MB | server written MB | stored MB | on disk MB |\n|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, k := range r.order {
		f := func(get func(measurement) float64, format string) string {
			v, _ := r.med(k.set, k.peer, k.op, get)
			if v == 0 {
				return "–"
			}
			return fmt.Sprintf(format, v)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", k.set, k.op, k.peer,
			f(wall, "%.2f"), f(clientCPU, "%.2f"), f(clientRSS, "%.0f"),
			f(func(m measurement) float64 { return m.ServerCPU }, "%.2f"),
			f(func(m measurement) float64 { return m.ServerRSS }, "%.0f"),
			f(func(m measurement) float64 { return m.ServerWrite }, "%.0f"),
			f(func(m measurement) float64 { return float64(m.Stored) / 1e6 }, "%.0f"),
			f(func(m measurement) float64 { return float64(m.Disk) / 1e6 }, "%.0f"))
	}
	r.compare()
	b.WriteString("\n| what | reached | limit | |\n|---|---|---|---|\n")
	for _, x := range r.extra {
		mark := "yes"
		if !x.ok {
			mark = "**no**"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", x.what, x.reached, x.limit, mark)
	}
	return b.String()
}

// compare turns the medians into the limits that CoBox sets itself.
func (r *report) compare() {
	ratio := func(what, set, op string, f func(measurement) float64, limit float64, fastest bool) {
		a, ok1 := r.med(set, "cobox", op, f)
		p, ok2 := r.med(set, "restic", op, f)
		if l, ok := r.med(set, "restic local", op, f); ok && fastest {
			p = min(p, l)
		}
		if ok1 && ok2 && p > 0 {
			r.limit(what+", of restic's", a/p, limit, "%.2f")
		}
	}
	value := func(what, set, op string, f func(measurement) float64, limit float64, format string) {
		if a, ok := r.med(set, "cobox", op, f); ok {
			r.limit(what, a, limit, format)
		}
	}
	ratio("first backup, office: client CPU", "office", "first backup", clientCPU, 0.6, false)
	ratio("first backup, office: wall", "office", "first backup", wall, 1, true)
	ratio("first backup, big: client CPU", "big", "first backup", clientCPU, 0.5, false)
	value("box, taking in the big set: CPU s a GiB of blocks", "big", "first backup", perGiB, 2.3, "%.2f")
	value("client memory, office, MB", "office", "first backup", clientRSS, 160, "%.0f")
	value("client memory, small, MB", "small", "first backup", clientRSS, 160, "%.0f")
	value("nothing changed, office, s", "office", "nothing changed", wall, 0.5, "%.2f")
	value("nothing changed, small, s", "small", "nothing changed", wall, 1.2, "%.2f")
	ratio("restore, office: client CPU", "office", "restore", clientCPU, 0.8, false)
	ratio("restore, office: wall", "office", "restore", wall, 1.1, true)
	for _, set := range []string{"office", "small"} {
		ratio("stored before padding, "+set, set, "first backup", func(m measurement) float64 { return float64(m.Stored) }, 1.05, false)
		ratio("on disk, "+set, set, "first backup", func(m measurement) float64 { return float64(m.Disk) }, 1.08, false)
	}
	value("write amplification on the box, big", "big", "first backup", func(m measurement) float64 {
		return m.ServerWrite * 1e6 / float64(m.Blocks*65536)
	}, 1.1, "%.3f")
}

func perGiB(m measurement) float64 {
	return m.ServerCPU / (float64(m.Blocks*65536) / (1 << 30))
}
