package replica

import (
	"errors"
	"fmt"
	"iter"

	"github.com/cockroachdb/pebble/v2"
)

// ErrNotFound says that a table has no such key.
var ErrNotFound = errors.New("replica: no such key")

const (
	maxTableKey   = 1 << 10
	maxTableValue = 1 << 20
)

// Table is a named map from small keys to small values in the same database,
// for what a box has to remember besides logs. Every change is durable when it
// returns.
type Table struct {
	s    *Store
	name string
}

// Table returns the table of that name, at most MaxTableName bytes. It panics
// on other names, which only a programmer chooses.
func (s *Store) Table(name string) *Table {
	if name == "" || len(name) > MaxTableName {
		panic(fmt.Sprintf("replica: table name %q", name))
	}
	return &Table{s: s, name: name}
}

// Get returns the value of a key, or ErrNotFound.
func (t *Table) Get(key []byte) (value []byte, err error) {
	if err := t.s.enterRead(); err != nil {
		return nil, err
	}
	defer t.s.users.leave()
	err = t.s.get(tableKey(t.name, key), func(v []byte) error {
		value = append([]byte{}, v...)
		return nil
	})
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("replica: read key %x of table %s: %w", key, t.name, err)
	}
	return value, nil
}

// Put sets the value of a key.
func (t *Table) Put(key, value []byte) error {
	return t.s.Update(func(b *TableBatch) { b.Put(t, key, value) })
}

// Delete removes a key. It is no error if there is none.
func (t *Table) Delete(key []byte) error {
	return t.s.Update(func(b *TableBatch) { b.Delete(t, key) })
}

// Scan yields the keys that begin with prefix, in their order, with their
// values, as they were when it began. An error ends it.
func (t *Table) Scan(prefix []byte) iter.Seq2[TableEntry, error] {
	return func(yield func(TableEntry, error) bool) {
		if err := t.s.enterRead(); err != nil {
			yield(TableEntry{}, err)
			return
		}
		defer t.s.users.leave()
		lower := tableKey(t.name, prefix)
		skip := len(tableKey(t.name, nil))
		for e, err := range t.s.scan(lower, prefixEnd(lower)) {
			if err != nil {
				yield(TableEntry{}, fmt.Errorf("replica: scan table %s: %w", t.name, err))
				return
			}
			out := TableEntry{append([]byte{}, e.key[skip:]...), append([]byte{}, e.value...)}
			if !yield(out, nil) {
				return
			}
		}
	}
}

// TableEntry is one key of a table and its value.
type TableEntry struct{ Key, Value []byte }

// TableBatch collects changes to any tables of one store.
type TableBatch struct {
	b   *pebble.Batch
	err error
}

// Update makes all changes that fn collects durable together, with one sync, or
// none of them.
func (s *Store) Update(fn func(*TableBatch)) error {
	if err := s.enterWrite(); err != nil {
		return err
	}
	defer s.users.leave()
	b := &TableBatch{b: s.db.NewBatch()}
	defer b.b.Close()
	fn(b)
	if b.err != nil {
		return b.err
	}
	if b.b.Empty() {
		return nil
	}
	if err := s.apply(b.b, true); err != nil {
		return fmt.Errorf("replica: update tables: %w", err)
	}
	return nil
}

// Put sets the value of a key.
func (b *TableBatch) Put(t *Table, key, value []byte) {
	if len(key) > maxTableKey || len(value) > maxTableValue {
		b.err = fmt.Errorf("replica: key of %d and value of %d bytes in table %s: too long", len(key), len(value), t.name)
		return
	}
	b.b.Set(tableKey(t.name, key), value, nil)
}

// Delete removes a key.
func (b *TableBatch) Delete(t *Table, key []byte) { b.b.Delete(tableKey(t.name, key), nil) }
