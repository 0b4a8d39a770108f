package appliance

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"cobox/appliance/admin"
	"cobox/appliance/roster"
	"cobox/netlink/noiseconn"
	"cobox/netlink/replicate"
	"cobox/storage/merklelog"
	"cobox/storage/replica"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A store on a file system that forgets, in a crash, what was not synced.
func crashStore(t *testing.T, fs vfs.FS) (*replica.Store, *memory) {
	t.Helper()
	s, err := replica.Open("db", replica.Options{FS: fs, NoBallast: true,
		FreeSpace: func() (uint64, uint64, error) { return 1 << 40, 1 << 41, nil }})
	if err != nil {
		t.Fatal(err)
	}
	m, err := openMemory(s)
	if err != nil {
		t.Fatal(err)
	}
	return s, m
}

// afterCrash is the disk as a power cut leaves it in the worst case.
func afterCrash(fs *vfs.MemFS) *vfs.MemFS {
	return fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0})
}

// The box's own time goes on after a crash where anything was last recorded by
// it, and after a minute without a record at most a minute is lost.
func TestClockAcrossCrashes(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s, m := crashStore(t, fs)
	m.base = 100 * time.Hour
	table := s.Table("other")
	if err := m.update(func(b *replica.TableBatch) { b.Put(table, []byte("k"), []byte("v")) }); err != nil {
		t.Fatal(err)
	}
	recorded := 100 * time.Hour
	crashed := afterCrash(fs)
	s.Close()
	s, m = crashStore(t, crashed)
	defer s.Close()
	if m.base < recorded || m.base > recorded+time.Minute {
		t.Errorf("after a crash the clock starts at %v, recorded was %v", m.base, recorded)
	}
	if _, err := s.Table("other").Get([]byte("k")); err != nil {
		t.Errorf("the record that the clock went with: %v", err)
	}
}

func TestClockIgnoresTheTimeOfDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{started: time.Now(), base: time.Hour}
		time.Sleep(90 * time.Second)
		if got := m.elapsed(); got != time.Hour+90*time.Second {
			t.Errorf("elapsed %v", got)
		}
	})
}

func TestEventsTellOfACrash(t *testing.T) {
	e, m := openTestEvents(t)
	for _, orderly := range []bool{true, false, true} {
		e.started("1")
		if orderly {
			e.finish()
		}
		var err error
		if e, err = openEvents(m, e.log); err != nil {
			t.Fatal(err)
		}
	}
	list, _, err := e.list(0, 10)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"", "version 1; the last run was cut off", "version 1", "", "version 1"} {
		if list[i].Detail != want {
			t.Errorf("event %d: %q, want %q", list[i].Number, list[i].Detail, want)
		}
	}
}

func durable(key ed25519.PrivateKey, n byte, size uint64) *merklelog.Durable {
	return &merklelog.Durable{Leaves: size, Held: size, HolesDigest: merklelog.DigestRanges(nil),
		Checkpoint: merklelog.Checkpoint{Log: merklelog.LogID{n}, Size: size, Root: merklelog.Hash{n, byte(size)}}}
}

// durableNow is what is durable of any log.
type durableNow struct{ d merklelog.Durable }

func (n *durableNow) say(d *merklelog.Durable) *merklelog.Durable {
	n.d = *d
	return d
}

func (n *durableNow) now(merklelog.LogID) (merklelog.Durable, error) { return n.d, nil }

// Two sessions had their commits at the same time, and the one that saw less
// asks for its receipt last. It gets one about all that is durable.
func TestReceiptOfTheLaterState(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, m := crashStore(t, vfs.NewMem())
	defer s.Close()
	var told durableNow
	r, err := openReceipts(m, key, replicate.BootID{}, func() {}, told.now)
	if err != nil {
		t.Fatal(err)
	}
	less := durable(key, 1, 10)
	less.Held, less.HolesDigest = 8, merklelog.DigestRanges([]merklelog.Range{{First: 8, Count: 2}})
	less.Holes = []merklelog.Range{{First: 8, Count: 2}}
	for _, d := range []*merklelog.Durable{told.say(durable(key, 1, 10)), less} {
		rc, err := r.make(t.Context(), d)
		if err != nil || !rc.Complete() || len(d.Holes) != 0 {
			t.Errorf("receipt %+v for %+v (%v)", rc, d, err)
		}
	}
	if k, err := r.last(merklelog.LogID{1}); err != nil || k.receipt.Sequence != 2 || !k.receipt.Complete() {
		t.Errorf("kept %+v (%v)", k.receipt, err)
	}
}

// A receipt that has left the box is still known after any crash, and its
// number is never used again.
func TestReceiptsAcrossCrashes(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	fs := vfs.NewCrashableMem()
	var told durableNow
	last, elapsed := uint64(0), uint64(0)
	for run := range 5 {
		s, m := crashStore(t, fs)
		made := 0
		r, err := openReceipts(m, key, replicate.BootID{byte(run)}, func() { made++ }, told.now)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 7 {
			rc, err := r.make(context.Background(), told.say(durable(key, 1, uint64(run*10+i+1))))
			if err != nil {
				t.Fatal(err)
			}
			if err := rc.Verify(); err != nil {
				t.Fatal(err)
			}
			if rc.Sequence <= last || rc.Elapsed < elapsed {
				t.Errorf("receipt %d at %d ms after %d at %d ms", rc.Sequence, rc.Elapsed, last, elapsed)
			}
			last, elapsed = rc.Sequence, rc.Elapsed
			k, err := r.last(merklelog.LogID{1})
			if err != nil || k.receipt.Sequence != rc.Sequence || k.readable.Size != rc.Size {
				t.Errorf("kept %+v %v", k, err)
			}
		}
		if made != 7 {
			t.Errorf("%d receipts counted", made)
		}
		fs = afterCrash(fs)
		s.Close()
	}
	s, m := crashStore(t, fs)
	defer s.Close()
	r, err := openReceipts(m, key, replicate.BootID{}, func() {}, told.now)
	if err != nil {
		t.Fatal(err)
	}
	k, err := r.last(merklelog.LogID{1})
	if err != nil || k.receipt.Sequence != last || k.receipt.Size != 47 {
		t.Errorf("kept %+v %v", k.receipt, err)
	}
	// While newer leaves are missing, the last checkpoint that can be read stays.
	d := durable(key, 1, 60)
	d.Leaves, d.Held, d.HolesDigest = 50, 50, merklelog.DigestRanges([]merklelog.Range{{First: 50, Count: 10}})
	if _, err := r.make(context.Background(), told.say(d)); err != nil {
		t.Fatal(err)
	}
	if k, _ = r.last(merklelog.LogID{1}); k.receipt.Size != 60 || k.readable.Size != 47 {
		t.Errorf("kept a receipt of %d and a readable checkpoint of %d", k.receipt.Size, k.readable.Size)
	}
	if k, err := r.last(merklelog.LogID{2}); err != nil || k.receipt != nil {
		t.Errorf("a log without receipts: %+v %v", k, err)
	}
}

// The roster on the real store: what a method returned for has happened, after
// every crash.
func TestRosterAcrossCrashes(t *testing.T) {
	fs := vfs.NewCrashableMem()
	var invites []noiseconn.InviteID
	for run := range 8 {
		s, m := crashStore(t, fs)
		r, err := roster.Open(rosterStore{m, s.Table(rosterTable)}, m.options())
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range invites {
			if _, ok := r.PairingSecret(id); !ok {
				t.Errorf("run %d: invite %x is lost", run, id)
			}
		}
		i, _, err := r.CreateInvite("", 1, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		invites = append(invites, i.ID)
		if run%2 == 1 {
			if err := r.SetName(fmt.Sprint("box ", run)); err != nil {
				t.Fatal(err)
			}
		} else if run > 0 && r.Name() != fmt.Sprint("box ", run-1) {
			t.Errorf("run %d: name %q", run, r.Name())
		}
		fs = afterCrash(fs)
		s.Close()
	}
}

func openTestEvents(t *testing.T) (*events, *memory) {
	t.Helper()
	s, m := crashStore(t, vfs.NewMem())
	t.Cleanup(func() { s.Close() })
	e, err := openEvents(m, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return e, m
}

func TestEventsAreBounded(t *testing.T) {
	e, m := openTestEvents(t)
	e.next, e.oldest = 5, 5 // as after others were dropped
	for range 20 {
		e.add(admin.Event{Kind: admin.EventStarted})
	}
	list, more, err := e.list(0, 3)
	if err != nil || !more || len(list) != 3 || list[0].Number != 24 || list[2].Number != 22 {
		t.Errorf("%+v %v %v", list, more, err)
	}
	list, more, err = e.list(8, 100)
	if err != nil || more || len(list) != 3 || list[0].Number != 7 {
		t.Errorf("%+v %v %v", list, more, err)
	}
	again, err := openEvents(m, e.log)
	if err != nil || again.next != 25 || again.oldest != 5 {
		t.Errorf("after a restart: %d to %d, %v", again.oldest, again.next, err)
	}
}

func TestEventsDropTheOldest(t *testing.T) {
	if testing.Short() {
		t.Skip("writes ten thousand events")
	}
	e, m := openTestEvents(t)
	for range maxEvents + 50 {
		e.add(admin.Event{Kind: admin.EventStarted})
	}
	if e.oldest != 51 || e.next != maxEvents+51 {
		t.Errorf("events %d to %d", e.oldest, e.next)
	}
	n := 0
	for _, err := range e.table.Scan(nil) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != maxEvents {
		t.Errorf("%d events are stored", n)
	}
	again, err := openEvents(m, e.log)
	if err != nil || again.oldest != 51 || again.next != e.next {
		t.Errorf("after a restart: %d to %d, %v", again.oldest, again.next, err)
	}
}

// What strangers can cause at any rate takes a bounded number of events and
// writes.
func TestRefusalsDoNotFloodTheEvents(t *testing.T) {
	e, _ := openTestEvents(t)
	e.add(admin.Event{Kind: admin.EventClaimed})
	for range 100 {
		for range 1000 {
			for _, reason := range noiseconn.Reasons() {
				e.refused(reason)
			}
		}
		e.count()
		e.flush(false)
	}
	e.finish()
	list, more, err := e.list(0, 1000)
	if err != nil || more {
		t.Fatal(more, err)
	}
	if want := 2*len(noiseconn.Reasons()) + 2; len(list) != want {
		t.Errorf("%d events, want %d", len(list), want)
	}
	total := uint64(0)
	for _, ev := range list {
		if ev.Kind == admin.EventRefused {
			total += ev.Count
		}
	}
	if want := uint64(100 * 1000 * len(noiseconn.Reasons())); total != want {
		t.Errorf("%d refusals are told, want %d", total, want)
	}
	for i := range 3 * maxRepeats {
		e.repeat(admin.Event{Kind: admin.EventDamaged, Detail: fmt.Sprint(i)}, merklelog.LogID{1})
	}
	if len(e.repeats) > maxRepeats {
		t.Errorf("%d kinds of events are counted", len(e.repeats))
	}
}

func keptExamples(t testing.TB) []*kept {
	t.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	r := replicate.NewReceipt(durable(key, 1, 5))
	r.Boot, r.Sequence, r.Elapsed, r.Wall = replicate.BootID{2}, 3, 4, 5
	if err := replicate.SignReceipt(&r, key); err != nil {
		t.Fatal(err)
	}
	return []*kept{{receipt: &r}, {receipt: &r, readable: &merklelog.Checkpoint{Log: merklelog.LogID{1}, Size: 5, Root: merklelog.Hash{6}, Sig: [64]byte{7}}}}
}

func TestKnownAnswers(t *testing.T) {
	var got bytes.Buffer
	for _, k := range keptExamples(t) {
		b := appendKept(nil, k)
		fmt.Fprintf(&got, "kept %x\n", b)
		if again, err := parseKept(b); err != nil || !bytes.Equal(appendKept(nil, again), b) {
			t.Error(err)
		}
	}
	fmt.Fprintf(&got, "number %x\n", appendNumber(nil, 0x0102030405060708))
	fmt.Fprintf(&got, "disk %x\n", appendDisk(nil, "1234abcd"))
	want, err := os.ReadFile("testdata/known.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("got\n%s", got.String())
	}
}

func FuzzParseKept(f *testing.F) {
	for _, k := range keptExamples(f) {
		f.Add(appendKept(nil, k))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := parseKept(b); err == nil && !bytes.Equal(appendKept(nil, k), b) {
			t.Error("not canonical")
		}
	})
}

func FuzzParseDisk(f *testing.F) {
	f.Add(appendDisk(nil, "1234abcd"))
	f.Add(appendDisk(nil, ""))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, err := parseDisk(b); err == nil && !bytes.Equal(appendDisk(nil, id), b) {
			t.Error("not canonical")
		}
	})
}

func FuzzParseNumber(f *testing.F) {
	f.Add(appendNumber(nil, 7))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := parseNumber(b); err == nil && !bytes.Equal(appendNumber(nil, n), b) {
			t.Error("not canonical")
		}
	})
}
