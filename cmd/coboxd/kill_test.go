package main

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"cobox/appliance/boxtest"
	"cobox/storage/merklelog"
)

// A box that is killed in the middle of a backup, again and again, has at every
// start all that it had receipted, and the backup goes on where it was.
func TestKilledInTheMiddle(t *testing.T) {
	if testing.Short() {
		t.Skip("starts and kills a real process several times")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	bin := buildRelease(t)
	data := filepath.Join(t.TempDir(), "box")
	p := startProcess(t, bin, data)
	d := newDevice(t, ctx, p.code)
	log, err := boxtest.NewLog(d, merklelog.Tag{1})
	if err != nil {
		t.Fatal(err)
	}
	var receipted uint64 // blocks from the first on, by the newest receipt that the device has
	for round := range 6 {
		if err := log.Append(1500); err != nil {
			t.Fatal(err)
		}
		l, err := d.Link(ctx, p.listen, p.key)
		if err != nil {
			t.Fatal(err)
		}
		offering, err := l.Offer(log)
		if err != nil {
			t.Fatal(err)
		}
		wait := time.After(time.Duration(50+rand.IntN(700)) * time.Millisecond)
	waiting:
		for {
			progress, changed := offering.Progress()
			receipted = max(receipted, progress.DurableRun())
			select {
			case <-wait:
				break waiting
			case <-changed:
			}
		}
		p.kill()
		l.Close()
		progress, _ := offering.Progress()
		receipted = max(receipted, progress.DurableRun())

		p = startProcess(t, bin, data)
		l, err = d.Link(ctx, p.listen, p.key)
		if err != nil {
			t.Fatal(err)
		}
		entries, err := l.Logs(ctx, log.Account())
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			if receipted > 0 {
				t.Errorf("round %d: the log is gone, of which %d blocks were receipted", round, receipted)
			}
			l.Close()
			continue
		}
		e := entries[0]
		t.Logf("round %d: killed with %d blocks receipted, %d held", round, receipted, e.Held)
		if e.Held < receipted {
			t.Errorf("round %d: %d blocks were receipted, %d are held", round, receipted, e.Held)
		}
		if receipted > 0 {
			indexes := make([]uint64, receipted)
			for i := range indexes {
				indexes[i] = uint64(i)
			}
			want := make([]byte, merklelog.BlockSize)
			err := l.Read(ctx, e.Manifest, *e.Readable, indexes, func(i uint64, block []byte, _ merklelog.Leaf) error {
				log.Block(i, want)
				if string(block) != string(want) {
					t.Errorf("round %d: block %d is another", round, i)
				}
				return nil
			})
			if err != nil {
				t.Errorf("round %d: reading what was receipted: %v", round, err)
			}
		}
		l.Close()
	}
	l, err := d.Link(ctx, p.listen, p.key)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := l.Backup(ctx, log); err != nil {
		t.Errorf("finishing the backup: %v", err)
	}
}
