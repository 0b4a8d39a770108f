// Package roster keeps who may do what on a box: its name, its members with
// their quotas and devices, its administrators and the invites that are open.
//
// Start at [Open]. Whoever connects is looked up with [Roster.Link]; the
// [Peer] that it returns is what a session carries, and [Roster.Allowed],
// [Roster.Administers] and the Admit methods decide about it anew each time, so
// that a removal counts at once.
//
// The roster promises:
//
//   - A change is one synced batch of its [Store], so after a crash it has
//     happened or it has not. A method that returned nil has happened. After a
//     failed commit nobody can tell, so the roster refuses further changes until
//     it is opened again.
//   - A used invite stays used, for ever and after any crash; the device that
//     used it may repeat and gets the same answer.
//   - No clock that is wrong opens anything: ages are counted in time that the
//     box itself has been running (see Options.Elapsed), and wall times are kept
//     for people to read.
//   - What it holds is bounded (see the Max constants), whatever peers do.
//
// It is safe for concurrent use. The records are specified in FORMAT.md.
package roster

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
	"cobox/storage/account"
)

// Limits of what a roster holds.
const (
	MaxMembers     = 1024 // accounts, removed ones too
	MaxDevices     = 64   // not revoked, of one account
	MaxRevocations = 256  // of one account
	MaxOpenInvites = 256
	MaxInvites     = 512 // with those that are used, expired or cancelled: the oldest of these go
	MaxKeys        = 64  // bare administrator keys
)

// Unlimited is the quota of a member without limit.
const Unlimited = math.MaxUint64

// Store is what the roster needs of the box's store.
type Store interface {
	// Get returns the value of a key, or nil if there is none.
	Get(key []byte) ([]byte, error)
	// Scan calls fn for each key that begins with prefix, in order. The slices
	// are only good during the call.
	Scan(prefix []byte, fn func(key, value []byte) error) error
	// Commit makes all changes or none. They are durable when it returns nil.
	Commit(changes []Change) error
}

// Change is one key to be set, or deleted if Value is nil.
type Change struct{ Key, Value []byte }

// Options are the clocks of a roster, both of which are required, and who is
// told of changes.
type Options struct {
	// Elapsed is how long the box has been running in its whole life. It never
	// goes back, also not across restarts, and no setting of a clock moves it.
	Elapsed func() time.Duration
	// Wall is the time of day as far as the box knows it.
	Wall func() time.Time
	// Changed is called after each change, when it is durable and visible. It
	// must not block or change the roster. It may be nil.
	Changed func()
}

// ErrBroken is returned for every change after a commit that failed.
var ErrBroken = errors.New("roster: an earlier change could not be stored; restart the box")

// Roster is an open roster.
type Roster struct {
	o     Options
	store Store

	// changing is held during a change, from its first look at the maps to its
	// commit; so only one goroutine at a time is about to write.
	changing sync.Mutex
	broken   bool

	// mu guards the maps. It is never held during I/O, so that a handshake does
	// not wait for a disk.
	mu         sync.RWMutex
	name       string
	members    map[account.ID]*memberRecord
	devices    map[account.DeviceKey]*deviceRecord
	byNoise    map[account.NoiseKey]account.DeviceKey
	byRecovery map[account.NoiseKey]account.ID
	keys       map[account.NoiseKey]*keyRecord
	invites    map[noiseconn.InviteID]*inviteRecord
	revoked    map[certified]uint32  // number of the revocation
	newest     map[account.ID]uint32 // number of the account's newest revocation
	counters   map[certified]counterRecord
	seen       map[account.DeviceKey]seen
}

// certified names a device as one account knows it: what an account says of a
// device binds nobody else.
type certified struct {
	account account.ID
	device  account.DeviceKey
}

type seen struct {
	stamp  Stamp
	stored Stamp // what a restart would find
}

// Open loads the roster in a store; an empty store is an empty roster.
func Open(store Store, o Options) (*Roster, error) {
	r := &Roster{
		o: o, store: store,
		members:    make(map[account.ID]*memberRecord),
		devices:    make(map[account.DeviceKey]*deviceRecord),
		byNoise:    make(map[account.NoiseKey]account.DeviceKey),
		byRecovery: make(map[account.NoiseKey]account.ID),
		keys:       make(map[account.NoiseKey]*keyRecord),
		invites:    make(map[noiseconn.InviteID]*inviteRecord),
		revoked:    make(map[certified]uint32),
		newest:     make(map[account.ID]uint32),
		counters:   make(map[certified]counterRecord),
		seen:       make(map[account.DeviceKey]seen),
	}
	if err := store.Scan(nil, r.load); err != nil {
		return nil, fmt.Errorf("roster: loading: %w", err)
	}
	for key, d := range r.devices {
		if r.members[d.Account] == nil {
			return nil, fmt.Errorf("roster: loading: device %v belongs to no member", key)
		}
	}
	return r, nil
}

// load takes one record of the store into the maps.
func (r *Roster) load(key, value []byte) error {
	kind, id := splitKey(key)
	err := r.loadRecord(kind, id, value)
	if err != nil {
		return fmt.Errorf("record %q: %w", key, err)
	}
	return nil
}

func (r *Roster) loadRecord(kind byte, id, value []byte) error {
	if want, known := keySizes[kind]; !known || len(id) != want {
		return errors.New("not a key of a roster")
	}
	switch kind {
	case kindBox:
		rec, err := parseBox(value)
		if err == nil {
			r.name = rec.Name
		}
		return err
	case kindMember:
		rec, err := parseMember(value)
		if err == nil {
			r.members[account.ID(id)] = rec
			r.byRecovery[rec.Recovery] = account.ID(id)
		}
		return err
	case kindDevice:
		rec, err := parseDevice(value)
		if err == nil {
			r.devices[account.DeviceKey(id)] = rec
			r.byNoise[rec.Noise] = account.DeviceKey(id)
		}
		return err
	case kindKey:
		rec, err := parseKey(value)
		if err == nil {
			r.keys[account.NoiseKey(id)] = rec
		}
		return err
	case kindInvite:
		rec, err := parseInvite(value)
		if err == nil {
			r.invites[noiseconn.InviteID(id)] = rec
		}
		return err
	case kindRevocation:
		// The lists of positions can be long; they are read when asked for.
		rev, err := account.ParseRevocation(value)
		if err == nil {
			r.noteRevocation(rev)
		}
		return err
	case kindCounter:
		rec, err := parseCounter(value)
		if err == nil {
			r.counters[certified{account.ID(id[:32]), account.DeviceKey(id[32:])}] = *rec
		}
		return err
	case kindSeen:
		rec, err := parseSeen(value)
		if err == nil {
			r.seen[account.DeviceKey(id)] = seen{rec.At, rec.At}
		}
		return err
	}
	return nil // cards and certificates are read when asked for
}

func (r *Roster) noteRevocation(rev *account.Revocation) {
	r.newest[rev.Account] = max(r.newest[rev.Account], rev.Number)
	// The first revocation of a device is the one that counts: a later one must
	// not let it stand for more.
	key := certified{rev.Account, rev.Device}
	if old, again := r.revoked[key]; !again || rev.Number < old {
		r.revoked[key] = rev.Number
	}
}

// change is a set of changes in the making.
type change struct {
	changes []Change
	apply   []func()
}

// put sets a record and, once it is durable, calls apply under r.mu.
func (c *change) put(key, value []byte, apply func()) {
	c.changes = append(c.changes, Change{key, value})
	if apply != nil {
		c.apply = append(c.apply, apply)
	}
}

func (c *change) remove(key []byte, apply func()) { c.put(key, nil, apply) }

// change runs fn, which looks at the maps and says what is to change, and then
// makes that durable and visible, in this order. A crash before the commit has
// returned leaves everything or nothing of it.
func (r *Roster) change(fn func(*change) error) error {
	r.changing.Lock()
	defer r.changing.Unlock()
	if r.broken {
		return ErrBroken
	}
	var c change
	if err := fn(&c); err != nil {
		return err
	}
	if len(c.changes) == 0 {
		return nil
	}
	if err := r.store.Commit(c.changes); err != nil {
		r.broken = true
		return fmt.Errorf("roster: storing a change: %w", err)
	}
	r.mu.Lock()
	for _, apply := range c.apply {
		apply()
	}
	r.mu.Unlock()
	if r.o.Changed != nil {
		r.o.Changed()
	}
	return nil
}

// now is the present on both clocks.
func (r *Roster) now() Stamp {
	return Stamp{Elapsed: r.o.Elapsed().Milliseconds(), Wall: r.o.Wall().Unix()}
}

// Name returns the box's name, "" before the first SetName.
func (r *Roster) Name() string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.name
}

// SetName changes the box's name.
func (r *Roster) SetName(name string) error {
	if err := pairing.CheckName(name); err != nil {
		return &RefusedError{ReasonInvalid, fmt.Errorf("name of the box: %w", err)}
	}
	return r.change(func(c *change) error {
		if r.name != name {
			c.put(boxKey(), appendRecord(&boxRecord{V: recordVersion, Name: name}), func() { r.name = name })
		}
		return nil
	})
}
