//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
)

// process is one that is not a thread of the kernel.
type process struct {
	Pid    int               `json:"pid"`
	Self   bool              `json:"self,omitempty"`
	Status map[string]string `json:"status"` // lines of /proc/PID/status
}

var wanted = []string{"Name", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "VmRSS"}

// isKernelThread is a bit of the flags in /proc/PID/stat.
const isKernelThread = 0x00200000

func tellProcesses() {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		failed("processes", err)
		return
	}
	kernel := 0
	for _, dir := range dirs {
		stat, err := os.ReadFile(dir + "/stat")
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		f := strings.Fields(rest)
		if len(f) < 7 {
			failed("processes", os.ErrInvalid)
			return
		}
		if number(f[6])&isKernelThread != 0 {
			kernel++
			continue
		}
		status, err := os.ReadFile(dir + "/status")
		if err != nil {
			continue
		}
		p := process{Pid: number(filepath.Base(dir)), Status: map[string]string{}}
		p.Self = p.Pid == os.Getpid()
		for line := range strings.Lines(string(status)) {
			key, value, _ := strings.Cut(line, ":")
			for _, w := range wanted {
				if key == w {
					p.Status[key] = strings.Join(strings.Fields(value), " ")
				}
			}
		}
		tell("process", p)
	}
	tell("kernel_threads", kernel)
}

// tellMemory tells what the kernel says of its memory, in kB.
func tellMemory() {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		failed("memory", err)
		return
	}
	m := map[string]int{}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		switch key {
		case "MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "Shmem", "Slab", "KernelStack", "PageTables", "AnonPages", "Percpu", "VmallocUsed":
			m[key] = number(strings.Fields(value)[0])
		}
	}
	// Each processor keeps free pages at hand, some MB that no line above has.
	if b, err = os.ReadFile("/proc/zoneinfo"); err != nil {
		failed("memory", err)
		return
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "count:"); ok {
			m["AtHand"] += number(strings.TrimSpace(n)) * os.Getpagesize() >> 10
		}
	}
	tell("memory", m)
}
