// Bench compares CoBox with restic on the same data, in the same run and in
// turn, and holds the box's cost against a floor measured beside it.
//
// For every set it runs rounds of: a fresh store, a first backup, a backup of
// an unchanged tree, and a restore with empty client caches. A round runs
// CoBox with a real box over loopback, restic with "rclone serve restic" over
// loopback, and restic with a local directory, so that whatever slows one
// slows all. Figures are medians over the rounds; wall time is compared with
// the faster of the two restics, CPU time with the one behind rclone.
//
// Everything is measured from outside by cmd/bench/meas: rusage of the client,
// /proc of the server. Machines are noisy: read the ratios.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

type options struct {
	bin, work, out string
	rounds         int
	sets           []string
	scale          float64
	skipPeer       bool
	skipBox        bool
}

func main() {
	var o options
	var sets string
	flag.StringVar(&o.bin, "bin", "bin", "folder with cobox, coboxd, restic, bench-gen and bench-meas")
	flag.StringVar(&o.work, "work", ".bench", "scratch folder; data sets are kept in it between runs")
	flag.StringVar(&o.out, "out", "", "also write the tables to this file")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds; medians are printed")
	flag.StringVar(&sets, "sets", "office,small,big", "data sets")
	flag.Float64Var(&o.scale, "scale", 1, "scale of the data sets, for trying the benchmark itself")
	flag.BoolVar(&o.skipPeer, "skip-peer", false, "leave restic out")
	flag.BoolVar(&o.skipBox, "skip-box", false, "leave out the box's own limits (floor, eight members, hostile connections)")
	flag.Parse()
	o.sets = strings.Split(sets, ",")
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	var err error
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return err
	}
	if o.work, err = filepath.Abs(o.work); err != nil {
		return err
	}
	if err := os.MkdirAll(o.work, 0o755); err != nil {
		return err
	}
	var rep report
	// A file system without a journal looks for a long time at each inode that
	// was freed minutes ago before it makes a file, so a tree that is removed
	// slows whatever is restored next. All stay until the end.
	outs := filepath.Join(o.work, "out")
	if err := os.RemoveAll(outs); err != nil {
		return err
	}
	if err := os.MkdirAll(outs, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(outs)
	for _, set := range o.sets {
		data, err := o.dataset(set)
		if err != nil {
			return err
		}
		for round := range o.rounds {
			fmt.Fprintf(os.Stderr, "%s, round %d of %d\n", set, round+1, o.rounds)
			peers := []peer{&cobox{o: o}}
			if !o.skipPeer {
				peers = append(peers, &restic{o: o, rclone: true}, &restic{o: o})
			}
			for _, p := range peers {
				if err := runPeer(o, p, set, data, filepath.Join(outs, fmt.Sprintf("%s-%d-%s", set, round, p.name())), &rep); err != nil {
					return fmt.Errorf("%s on %s: %w", p.name(), set, err)
				}
				if set == "big" && p.name() == "cobox" && !o.skipBox {
					f, err := floor(o)
					if err != nil {
						return err
					}
					rep.floors = append(rep.floors, f)
				}
			}
		}
	}
	if !o.skipBox {
		if err := boxLimits(o, &rep); err != nil {
			return err
		}
	}
	text := rep.tables()
	fmt.Print(text)
	if o.out != "" {
		return os.WriteFile(o.out, []byte(text), 0o644)
	}
	return nil
}

// runPeer takes one peer through a first backup, an unchanged one and a restore
// to out.
func runPeer(o options, p peer, set string, data dataset, out string, rep *report) error {
	dir := filepath.Join(o.work, "run")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := p.start(dir); err != nil {
		return err
	}
	defer p.stop()
	if err := warm(data.dir); err != nil {
		return err
	}
	ops := []struct {
		name string
		cmd  []string
	}{
		{"first backup", p.backup(data.dir)},
		{"nothing changed", p.backup(data.dir)},
		{"restore", p.restore(out)},
	}
	for _, op := range ops {
		if op.name == "restore" {
			if err := p.dropCache(); err != nil {
				return err
			}
		}
		m, err := o.measure(p, op.cmd, filepath.Join(dir, "out.log"))
		if err != nil {
			return fmt.Errorf("%s: %w", op.name, err)
		}
		m.Bytes = data.bytes
		if op.name == "first backup" {
			if err := p.stored(&m); err != nil {
				return err
			}
		}
		rep.add(set, p.name(), op.name, m)
		fmt.Fprintf(os.Stderr, "  %-14s %-16s wall %6.2f s  client %6.2f CPU-s %4.0f MB  server %6.2f CPU-s %4.0f MB\n",
			p.name(), op.name, m.Wall, m.ClientCPU, m.ClientRSS, m.ServerCPU, m.ServerRSS)
	}
	return p.compare(data.dir, out)
}
