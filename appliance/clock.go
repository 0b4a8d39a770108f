package appliance

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"cobox/appliance/roster"
	"cobox/storage/replica"
)

// Names of the tables in the store, and of the keys in the table of the box.
const (
	boxTable     = "box"
	rosterTable  = "roster"
	receiptTable = "receipts"
	eventTable   = "events"

	clockKey    = "clock"
	sequenceKey = "sequence"
)

// clockEvery is how often the clock is stored when nothing else is.
const clockEvery = time.Minute

// memory is what a box remembers besides logs: small tables in the store. All
// changes go through update, and each stores the box's clock with it: so the
// clock is never behind anything that was recorded by it, whenever the power
// went.
//
// The clock counts the milliseconds that the box has been running in its whole
// life. No setting of the time of day moves it. After a crash it is behind by at
// most clockEvery, and it is never ahead: what should expire does so a little
// later and never sooner.
//
//	offset  bytes   of the key "clock", and of "sequence" with the last receipt's number
//	     0      1  version, 1
//	     1      8  milliseconds u64
type memory struct {
	store   *replica.Store
	table   *replica.Table
	base    time.Duration
	started time.Time

	mu sync.Mutex // held while a change is made, so that clocks are stored in order
}

func openMemory(s *replica.Store) (*memory, error) {
	m := &memory{store: s, table: s.Table(boxTable), started: time.Now()}
	ms, err := m.number(clockKey)
	if err != nil {
		return nil, err
	}
	if ms > uint64(1<<63-1)/uint64(time.Millisecond) {
		return nil, fmt.Errorf("appliance: reading the box's clock: %d ms is no time", ms)
	}
	m.base = time.Duration(ms) * time.Millisecond
	return m, nil
}

// number reads a key of the box's table; 0 if there is none.
func (m *memory) number(key string) (uint64, error) {
	b, err := m.table.Get([]byte(key))
	if errors.Is(err, replica.ErrNotFound) {
		return 0, nil
	}
	if err == nil {
		var n uint64
		if n, err = parseNumber(b); err == nil {
			return n, nil
		}
	}
	return 0, fmt.Errorf("appliance: reading the box's %s: %w", key, err)
}

// elapsed is the box's own time.
func (m *memory) elapsed() time.Duration { return m.base + time.Since(m.started) }

// uptime is how long this run has lasted.
func (m *memory) uptime() time.Duration { return time.Since(m.started) }

func (m *memory) options() roster.Options {
	return roster.Options{Elapsed: m.elapsed, Wall: time.Now}
}

// update makes changes durable, all or none, and the clock with them.
func (m *memory) update(fn func(*replica.TableBatch)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.store.Update(func(b *replica.TableBatch) {
		fn(b)
		b.Put(m.table, []byte(clockKey), appendNumber(nil, uint64(m.elapsed().Milliseconds())))
	})
}

// run stores the clock now and then, and at the end.
func (m *memory) run(ctx context.Context) error {
	if m.store.ReadOnly() {
		return nil
	}
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return m.update(func(*replica.TableBatch) {})
		case <-tick.C:
			if err := m.update(func(*replica.TableBatch) {}); err != nil {
				return fmt.Errorf("appliance: storing the box's clock: %w", err)
			}
		}
	}
}

const numberVersion = 1

func appendNumber(b []byte, n uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, numberVersion), n)
}

func parseNumber(b []byte) (uint64, error) {
	if len(b) != 9 || b[0] != numberVersion {
		return 0, fmt.Errorf("%d bytes that are no number of version %d", len(b), numberVersion)
	}
	return binary.BigEndian.Uint64(b[1:]), nil
}

// rosterStore is the table that the roster lives in.
type rosterStore struct {
	m     *memory
	table *replica.Table
}

func (s rosterStore) Get(key []byte) ([]byte, error) {
	b, err := s.table.Get(key)
	if errors.Is(err, replica.ErrNotFound) {
		return nil, nil
	}
	return b, err
}

func (s rosterStore) Scan(prefix []byte, fn func(key, value []byte) error) error {
	for e, err := range s.table.Scan(prefix) {
		if err == nil {
			err = fn(e.Key, e.Value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s rosterStore) Commit(changes []roster.Change) error {
	return s.m.update(func(b *replica.TableBatch) {
		for _, c := range changes {
			if c.Value == nil {
				b.Delete(s.table, c.Key)
			} else {
				b.Put(s.table, c.Key, c.Value)
			}
		}
	})
}
