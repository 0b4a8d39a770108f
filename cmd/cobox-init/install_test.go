//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"cobox/appliance/machine"
	"cobox/image/bundle"
	"cobox/image/bundle/bundletest"
	"cobox/image/layout"
	"cobox/image/slot"
)

// TestInstall takes an update, and another one over it.
func TestInstall(t *testing.T) {
	c := newFakeCard(t, layout.SlotA)
	f, m, _ := testSystem(t, 1, 1)
	c.put(layout.SlotA, f, m, nil)
	s := c.start(t, layout.SlotA)
	if st := s.machineState(); st.Slot != "a" || st.Trying || st.Release != (machine.Release{Version: "v1", Number: 1}) ||
		st.Other != nil || st.Board != bundle.BoardRPi || st.Floor != 1 || st.Update != nil {
		t.Errorf("before: %+v", st)
	}
	for _, number := range []uint32{3, 2} {
		f, m, sigs := testSystem(t, number, 1, 1, 3)
		b := bundleOf(t, f, m, sigs)
		c.write("update", b)
		var last machine.InstallProgress
		release, err := s.updates.install(t.Context(), func(p machine.InstallProgress) {
			if p.Done <= last.Done || p.Total != int64(len(b)) {
				t.Errorf("progress %+v after %+v", p, last)
			}
			last = p
		})
		if err != nil || *release != (machine.Release{Version: m.Version, Number: number}) || last.Done != last.Total {
			t.Fatalf("%+v, %v, progress %+v", release, err, last)
		}
		dev, err := os.Open(c.slotDevice(layout.SlotB))
		if err != nil {
			t.Fatal(err)
		}
		if err := slot.Check(dev, layout.SlotB, m, sigs); err != nil {
			t.Error(err)
		}
		dev.Close()
		for _, s := range []*system{s, c.start(t, layout.SlotA)} { // at once, and after a restart
			st := s.machineState()
			if st.Other == nil || *st.Other != *release || st.Update == nil || st.Update.Result != machine.ResultWritten || st.Update.Release != *release {
				t.Errorf("after: %+v", st)
			}
		}
	}
	if c.chosen() != layout.SlotA || c.mounted != 0 {
		t.Errorf("slot %v would start, %d mounts are left", c.chosen(), c.mounted)
	}
}

// code returns the code of a refusal.
func code(t *testing.T, err error) machine.Code {
	t.Helper()
	var e *machine.Error
	if err != nil && !errors.As(err, &e) {
		return machine.CodeFailed // as machine.Serve answers
	}
	if e == nil {
		return ""
	}
	return e.Code
}

// TestInstallRefuses what must not be taken. The other slot keeps its system if
// that can be known before a byte is written.
func TestInstallRefuses(t *testing.T) {
	f, m, sigs := testSystem(t, 5, 4, 1, 2)
	good := bundleOf(t, f, m, sigs)
	of := func(change func(m *bundle.Manifest), signers ...int) []byte {
		other := *m
		change(&other)
		return bundleOf(t, f, &other, sign(t, &other, signers...))
	}
	same := func(*bundle.Manifest) {}
	for _, x := range []struct {
		what   string
		bundle []byte
		change func(c *fakeCard, u *updates)
		code   machine.Code
		says   string
		kept   bool
	}{
		{"one signature", of(same, 1), nil, machine.CodeRefused, "not signed by enough", true},
		{"another board", of(func(m *bundle.Manifest) { m.Board = "toaster" }, 1, 2), nil, machine.CodeRefused, "another kind of board", true},
		{"too old", of(func(m *bundle.Manifest) { m.Number, m.Floor = 3, 3 }, 1, 2), nil, machine.CodeRefused, "older than", true},
		{"something else", []byte("#!/bin/sh\n"), nil, machine.CodeRefused, "not an update", true},
		{"nothing", nil, nil, machine.CodeRefused, "not an update", true},
		{"cut short", good[:len(good)-1], nil, machine.CodeRefused, "damaged", false},
		{"one bit", flipped(good, len(good)/2), nil, machine.CodeRefused, "damaged", false},
		{"no file", good, func(c *fakeCard, u *updates) { os.Remove(u.upload) }, machine.CodeInvalid, "send one first", true},
		{"a link", good, func(c *fakeCard, u *updates) {
			os.Rename(u.upload, u.upload+"2")
			os.Symlink(u.upload+"2", u.upload)
		}, machine.CodeFailed, "symbolic links", true},
		{"a FIFO", good, func(c *fakeCard, u *updates) { os.Remove(u.upload); unix.Mkfifo(u.upload, 0o600) }, machine.CodeInvalid, "not a file", true},
		{"no keys", good, func(c *fakeCard, u *updates) { os.Remove(u.keys) }, machine.CodeRefused, "without release keys", true},
		{"one key only", good, func(c *fakeCard, u *updates) {
			b, _ := os.ReadFile(u.keys)
			i := bytes.Index(b[1:], []byte("untrusted"))
			os.WriteFile(u.keys, b[:i+1], 0o600)
		}, machine.CodeFailed, "1 public key, but at least 2", true},
		{"on trial", good, func(c *fakeCard, u *updates) { u.chosen = layout.SlotB }, machine.CodeRefused, "on trial", true},
		{"unknown slot", good, func(c *fakeCard, u *updates) { u.running = 0 }, machine.CodeRefused, "cannot tell", true},
		{"unknown choice", good, func(c *fakeCard, u *updates) { u.chosen = 0 }, machine.CodeRefused, "cannot tell", true},
		{"about to restart", good, func(c *fakeCard, u *updates) { u.leaving = true }, machine.CodeBusy, "restart", true},
		{"no card", good, func(c *fakeCard, u *updates) { u.loaded = false }, machine.CodeBusy, "disk", true},
		{"no partition", good, func(c *fakeCard, u *updates) { os.Remove(c.slotDevice(layout.SlotB)) }, machine.CodeFailed, "open the partition", false},
		{"another one is written", good, func(c *fakeCard, u *updates) { u.changing.Lock() }, machine.CodeBusy, "already", true},
	} {
		t.Run(x.what, func(t *testing.T) {
			c := newFakeCard(t, layout.SlotA)
			f4, m4, sigs4 := testSystem(t, 4, 4, 1, 2)
			c.put(layout.SlotA, f4, m4, sigs4)
			c.put(layout.SlotB, f4, m4, sigs4)
			u := c.start(t, layout.SlotA).updates
			if u.status().Floor != 4 {
				t.Fatal("the floor of the running system does not count")
			}
			c.write("update", x.bundle)
			if x.change != nil {
				x.change(c, u)
			}
			_, err := u.install(t.Context(), nil)
			if got := code(t, err); got != x.code || !strings.Contains(err.Error(), x.says) {
				t.Errorf("code %q: %v", got, err)
			}
			if c.chosen() != layout.SlotA {
				t.Error("another slot would start")
			}
			if r, err := readRecord(u.card); r != nil || err != nil {
				t.Errorf("there is a record: %+v, %v", r, err)
			}
			_, keys := bundletest.Keys()
			if _, err := u.verify(layout.SlotB, keys, bundle.State{Board: bundle.BoardRPi}); (err == nil) != x.kept {
				t.Errorf("the system in the other slot: %v", err)
			}
		})
	}
}

func flipped(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[i] ^= 1
	return b
}

// TestInstallEnds with its context, however far it is, and the system that was
// written before does not count any more.
func TestInstallEnds(t *testing.T) {
	f, m, sigs := testSystem(t, 5, 1, 1, 2)
	b := bundleOf(t, f, m, sigs)
	for _, after := range []int64{1, int64(len(b)) / 2, int64(len(b))} {
		c := newFakeCard(t, layout.SlotA)
		u := c.start(t, layout.SlotA).updates
		c.write("update", b)
		if _, err := u.install(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		_, err := u.install(ctx, func(p machine.InstallProgress) {
			if p.Done >= after {
				cancel()
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("after %d bytes: %v", after, err)
		}
		begun := after > 1 // the first read takes the head of the bundle, and is not refused
		if st := u.status(); begun && (st.Other != nil || st.Update != nil) {
			t.Errorf("after %d bytes: %+v", after, st)
		}
		if err := u.try(t.Context()); begun && code(t, err) != machine.CodeRefused {
			t.Errorf("after %d bytes: what is left is tried: %v", after, err)
		}
	}
}

// TestTry restarts only into a system that verifies.
func TestTry(t *testing.T) {
	f, m, sigs := testSystem(t, 5, 1, 1, 2)
	for _, x := range []struct {
		what  string
		put   func(c *fakeCard)
		wrong string
	}{
		{"right", func(c *fakeCard) { c.put(layout.SlotB, f, m, sigs) }, ""},
		{"none", func(c *fakeCard) {}, "no system"},
		{"not released", func(c *fakeCard) { c.put(layout.SlotB, f, m, nil) }, "not signed"},
		{"too old", func(c *fakeCard) {
			f, m, sigs := testSystem(t, 2, 2, 1, 2)
			c.put(layout.SlotB, f, m, sigs)
		}, "older than"},
		{"damaged", func(c *fakeCard) {
			c.put(layout.SlotB, f, m, sigs)
			d, err := os.OpenFile(c.slotDevice(layout.SlotB), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			b := make([]byte, 2<<20)
			d.ReadAt(b, 0)
			i := bytes.Index(b, f[layout.KernelFile][4096:8192])
			if i < 0 {
				t.Fatal("the kernel is not found")
			}
			d.WriteAt([]byte{^b[i]}, int64(i))
		}, "not the file of the manifest"},
	} {
		t.Run(x.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newFakeCard(t, layout.SlotA)
				f3, m3, _ := testSystem(t, 3, 3)
				c.put(layout.SlotA, f3, m3, nil)
				x.put(c)
				s := c.start(t, layout.SlotA)
				written := &record{Update: machine.Update{Release: releaseOf(m), Result: machine.ResultWritten}, slot: layout.SlotB}
				if err := s.updates.keep(written); err != nil {
					t.Fatal(err)
				}
				before := time.Now()
				err := s.updates.try(t.Context())
				if x.wrong != "" {
					if code(t, err) != machine.CodeRefused || !strings.Contains(err.Error(), x.wrong) {
						t.Error(err)
					}
					time.Sleep(time.Minute)
					if r, err := readRecord(s.updates.card); err != nil || *r != *written || len(s.stop) != 0 {
						t.Errorf("record %+v, %v; %d wait to stop", r, err, len(s.stop))
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if r, err := readRecord(s.updates.card); err != nil || r.Result != machine.ResultTrying || r.slot != layout.SlotB || r.Number != 5 {
					t.Errorf("record %+v, %v", r, err)
				}
				if err := s.updates.try(t.Context()); code(t, err) != machine.CodeBusy {
					t.Errorf("again: %v", err)
				}
				if how := <-s.stop; how != tryOther || time.Since(before) != tryDelay {
					t.Errorf("%v after %v", how, time.Since(before))
				}
			})
		})
	}
}

// TestTryOnce: what was tried is not tried again, and what nobody has written never.
func TestTryOnce(t *testing.T) {
	f, m, sigs := testSystem(t, 5, 1, 1, 2)
	for _, last := range []*record{
		nil,
		{Update: machine.Update{Release: releaseOf(m), Result: machine.ResultFellBack, Reason: "it did not start"}, slot: layout.SlotB},
		{Update: machine.Update{Release: releaseOf(m), Result: machine.ResultPromoted}, slot: layout.SlotA},
		{Update: machine.Update{Release: releaseOf(m), Result: machine.ResultWritten}, slot: layout.SlotA},
	} {
		c := newFakeCard(t, layout.SlotA)
		c.put(layout.SlotB, f, m, sigs)
		s := c.start(t, layout.SlotA)
		if last != nil {
			if err := s.updates.keep(last); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.updates.try(t.Context()); code(t, err) != machine.CodeRefused || !strings.Contains(err.Error(), "send the update again") {
			t.Errorf("after %+v: %v", last, err)
		}
		if s.updates.leaving || len(s.stop) != 0 {
			t.Errorf("after %+v the box restarts", last)
		}
	}
}

// TestPlantedDirectory: what coboxd leaves as an update may be a directory.
func TestPlantedDirectory(t *testing.T) {
	c := newFakeCard(t, layout.SlotA)
	u := c.start(t, layout.SlotA).updates
	if err := os.Mkdir(filepath.Join(c.dir, "update"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := u.install(t.Context(), nil); code(t, err) != machine.CodeInvalid {
		t.Error(err)
	}
}
