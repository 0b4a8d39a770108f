package appliance

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"cobox/appliance/admin"
	"cobox/netlink/noiseconn"
	"cobox/storage/account"
	"cobox/storage/merklelog"
	"cobox/storage/replica"
)

const (
	// maxEvents is how many events a box keeps; the oldest go.
	maxEvents = 10_000
	// maxRepeats bounds the kinds of events that are being counted.
	maxRepeats = 1024
	// repeatEvery is how often an event of one kind and subject is recorded. What
	// anybody can cause at any rate must push nothing out of the log, and must not
	// wear a memory card out.
	repeatEvery = time.Hour
)

// events is the box's event log: what an administrator should be able to see
// afterwards. It is in the table "events" under u64 numbers, in the form of
// admin.Event.
type events struct {
	m     *memory
	table *replica.Table
	log   *slog.Logger

	mu      sync.Mutex
	next    uint64
	oldest  uint64
	last    admin.Kind // of the last run
	repeats map[repeat]*repeated

	tallyMu sync.Mutex
	tally   map[noiseconn.Reason]uint64 // handshakes refused since the last look
}

// repeat is what makes two events equal enough to be counted as one.
type repeat struct {
	kind    admin.Kind
	account account.ID
	log     merklelog.LogID
	detail  string
}

type repeated struct {
	event admin.Event
	since time.Duration // when the last one was recorded
	count uint64        // since then
}

func openEvents(m *memory, log *slog.Logger) (*events, error) {
	e := &events{m: m, table: m.store.Table(eventTable), log: log, next: 1, oldest: 1,
		repeats: make(map[repeat]*repeated), tally: make(map[noiseconn.Reason]uint64)}
	first := true
	for entry, err := range e.table.Scan(nil) {
		if err != nil {
			return nil, fmt.Errorf("appliance: reading the event log: %w", err)
		}
		if len(entry.Key) != 8 {
			continue
		}
		n := binary.BigEndian.Uint64(entry.Key)
		if first {
			e.oldest, first = n, false
		}
		e.next = n + 1
		if ev, err := admin.ParseEvent(entry.Value); err == nil {
			e.last = ev.Kind
		}
	}
	return e, nil
}

func eventKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// started records that the box runs again.
func (e *events) started(version string) {
	detail := "version " + version
	if e.last != "" && e.last != admin.EventStopped {
		detail += "; the last run was cut off"
	}
	e.add(admin.Event{Kind: admin.EventStarted, Detail: detail})
}

// add records an event. That it cannot be stored is logged and nothing more: a
// box whose disk is broken still has to answer.
func (e *events) add(ev admin.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.addLocked(ev, func(*replica.TableBatch) {})
}

// addWith records an event in one batch with another change.
func (e *events) addWith(ev admin.Event, change func(*replica.TableBatch)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.addLocked(ev, change)
}

func (e *events) addLocked(ev admin.Event, change func(*replica.TableBatch)) {
	ev.V, ev.Number = admin.EventVersion, e.next
	ev.Elapsed, ev.Wall = e.m.elapsed().Milliseconds(), time.Now().Unix()
	value := admin.AppendEvent(nil, &ev)
	oldest := e.oldest
	err := e.m.update(func(b *replica.TableBatch) {
		change(b)
		b.Put(e.table, eventKey(ev.Number), value)
		for ; e.next-oldest >= maxEvents; oldest++ {
			b.Delete(e.table, eventKey(oldest))
		}
	})
	if err != nil {
		if !e.m.store.ReadOnly() {
			e.log.Error("event was not stored", "kind", ev.Kind, "error", err)
		}
		return
	}
	e.oldest = oldest
	e.next++
}

// repeat records an event of which there may be many: the first at once, those
// of the hour after it as one.
func (e *events) repeat(ev admin.Event, log merklelog.LogID) { e.repeatN(ev, log, 1) }

func (e *events) repeatN(ev admin.Event, log merklelog.LogID, n uint64) {
	key := repeat{kind: ev.Kind, log: log, detail: ev.Detail}
	if ev.Account != nil {
		key.account = *ev.Account
	}
	if log != (merklelog.LogID{}) {
		ev.Log = log.String()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.repeats[key]
	if r == nil {
		if len(e.repeats) >= maxRepeats {
			return // there is no lack of events now
		}
		r = &repeated{event: ev, since: e.m.elapsed()}
		e.repeats[key] = r
		ev.Count = n
		e.addLocked(ev, func(*replica.TableBatch) {})
		return
	}
	r.count += n
}

// refused notes that a handshake was refused. It does not wait for the disk:
// the accept loop calls it.
func (e *events) refused(reason noiseconn.Reason) {
	e.tallyMu.Lock()
	defer e.tallyMu.Unlock()
	e.tally[reason]++
}

// count makes events of what was noted.
func (e *events) count() {
	e.tallyMu.Lock()
	tally := e.tally
	e.tally = make(map[noiseconn.Reason]uint64)
	e.tallyMu.Unlock()
	for reason, n := range tally {
		e.repeatN(admin.Event{Kind: admin.EventRefused, Detail: string(reason)}, merklelog.LogID{}, n)
	}
}

// flush records what was counted for longer than an hour, or everything.
func (e *events) flush(all bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.m.elapsed()
	for key, r := range e.repeats {
		if !all && now-r.since < repeatEvery {
			continue
		}
		if r.count == 0 {
			delete(e.repeats, key)
			continue
		}
		r.event.Count = r.count
		e.addLocked(r.event, func(*replica.TableBatch) {})
		r.since, r.count = now, 0
	}
}

// finish records all that was counted and that the box stops.
func (e *events) finish() {
	e.count()
	e.flush(true)
	e.add(admin.Event{Kind: admin.EventStopped})
}

// run records what was counted, until ctx ends, and then that the box stops:
// nothing follows that.
func (e *events) run(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			e.finish()
			return nil
		case <-tick.C:
			e.count()
			e.flush(false)
		}
	}
}

// list returns up to n events below a number (0: the newest), newest first,
// and whether there are more.
func (e *events) list(before uint64, n int) (list []admin.Event, more bool, err error) {
	e.mu.Lock()
	oldest, next := e.oldest, e.next
	e.mu.Unlock()
	if before == 0 || before > next {
		before = next
	}
	for number := before; number > oldest; {
		number--
		if len(list) == n {
			return list, true, nil
		}
		b, err := e.table.Get(eventKey(number))
		if err != nil {
			continue // dropped meanwhile, or damaged: the others count
		}
		if ev, err := admin.ParseEvent(b); err == nil {
			list = append(list, *ev)
		}
	}
	return list, false, nil
}
