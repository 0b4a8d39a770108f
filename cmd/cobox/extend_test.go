package main

import (
	"log/slog"
	"testing"
	"time"

	"cobox/cmd/cobox/device"
	"cobox/netlink/replicate"
	"cobox/storage/archive/spool"
	"cobox/storage/merklelog"
	"cobox/storage/seal"
)

// newLogSpace makes a device with a space and an empty log in it.
func newLogSpace(t *testing.T) (*space, *spool.Spool) {
	t.Helper()
	home := device.Home{Config: t.TempDir(), Data: t.TempDir(), Cache: t.TempDir()}
	a := &app{home: home, log: slog.New(slog.DiscardHandler), now: time.Now}
	acct, err := seal.DeriveAccount(seal.NewEntropy())
	if err != nil {
		t.Fatal(err)
	}
	st, err := a.newDevice(acct, "laptop", 0)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.NewSpace("default")
	if err != nil {
		t.Fatal(err)
	}
	s := newSpace(a, st)
	s.sp = &device.Space{Keys: keys}
	st.Spaces = append(st.Spaces, s.sp)
	log, err := s.writingLog()
	if err != nil {
		t.Fatal(err)
	}
	own := s.spools[log.ID()]
	t.Cleanup(func() { own.Close() })
	return s, own
}

// TestExtend reads an own log from a box whose readable checkpoint was left behind
// by a backup that was killed, as far as the box has its leaves.
func TestExtend(t *testing.T) {
	s, own := newLogSpace(t)
	block := make([]byte, merklelog.BlockSize)
	var readable merklelog.Checkpoint
	var err error
	for i := range 100 {
		block[0], block[1] = byte(merklelog.Data), byte(i)
		if _, err := own.Append(t.Context(), block); err != nil {
			t.Fatal(err)
		}
		if i == 9 {
			if readable, err = own.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	newest, err := own.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	behind, first, liar, well := &link{}, &link{}, &link{}, &link{}
	entry := func(leaves uint64, cp *merklelog.Checkpoint) *replicate.LogEntry {
		return &replicate.LogEntry{Manifest: own.Manifest(), Leaves: leaves, Readable: cp}
	}
	stated := entry(80, &readable)
	s.holders[own.ID()] = []holder{{behind, stated}, {liar, entry(1<<40, &readable)}, {well, entry(100, &newest)}}
	s.begun[own.ID()] = []holder{{first, entry(50, nil)}, {&link{}, entry(0, nil)}}
	if err := s.extend(own); err != nil {
		t.Fatal(err)
	}
	want := map[*link]uint64{behind: 80, liar: 100, well: 100, first: 50}
	list := s.holdersOf(own.ID())
	if len(list) != len(want) {
		t.Errorf("%d boxes hold the log", len(list))
	}
	for _, h := range list {
		cp := *h.entry.Readable
		root, err := own.Root(cp.Size)
		if err != nil || cp.Size != want[h.link] || cp.Root != root {
			t.Errorf("read up to %d, want %d; %v", cp.Size, want[h.link], err)
		}
		if err := cp.Verify(own.Manifest().Writer); err != nil {
			t.Error(err)
		}
	}
	if stated.Readable.Size != readable.Size {
		t.Error("what the box has stated was changed")
	}
	if _, err := own.Root(101); err == nil {
		t.Error("a root of more than there is")
	}
}
