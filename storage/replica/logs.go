package replica

import (
	"container/list"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// logState is what the store keeps in memory of a log that is in use.
type logState struct {
	id      merklelog.LogID
	num     uint32
	account account.ID
	writer  merklelog.WriterKey

	// Owned by logTable.mu.
	refs int
	idle *list.Element // in logTable.idle if refs is 0

	load    sync.Once
	loadErr error

	mu       sync.Mutex
	cp       merklelog.Checkpoint
	frontier merklelog.Frontier
	tail     []merklelog.Leaf  // of the last tile, as long as it is not full
	fork     *merklelog.Fork   // a frozen log's evidence
	bad      error             // why nothing of the log may be receipted
	synced   progress          // what is known to be on the disk
	removed  bool              // RemoveLog was here
	held     []merklelog.Range // indexes that extents cover
	dropped  []merklelog.Range // indexes deleted on purpose
	pending  map[uint64]bool   // indexes taken in and not yet indexed; false while PutBlock is at it
	taken    sync.Cond         // a value in pending became true, or went away
	last     *intake           // the newest that took in a block of this log
	tile     uint64            // number of the cached leaf tile
	leaves   []merklelog.Leaf  // the cached leaf tile; nil if none
	ext      extent            // the extent last read from; count 0 if none
	tree     *merklelog.Tree   // nil until the first proof
}

// progress is how far a log has come.
type progress struct {
	cp     merklelog.Checkpoint
	leaves uint64
}

func (p progress) covers(q progress) bool {
	return p.cp.Size >= q.cp.Size && p.leaves >= q.leaves
}

func (ls *logState) progressLocked() progress {
	return progress{cp: ls.cp, leaves: ls.frontier.Size()}
}

func (ls *logState) setSyncedLocked(p progress) {
	if p.cp.Size > ls.synced.cp.Size {
		ls.synced.cp = p.cp
	}
	ls.synced.leaves = max(ls.synced.leaves, p.leaves)
}

// usableLocked returns an error if the log takes in nothing any more.
func (ls *logState) usableLocked() error {
	if ls.removed {
		return ErrUnknownLog
	}
	if ls.bad != nil {
		return ls.bad
	}
	if ls.fork != nil {
		return &merklelog.ForkError{Fork: *ls.fork}
	}
	return nil
}

// logTable holds the states of the logs in use, and of a few more.
type logTable struct {
	mu   sync.Mutex
	byID map[merklelog.LogID]*logState
	idle *list.List // of *logState, the longest unused in front

	create sync.Mutex // held while a log is added
}

func (t *logTable) init() {
	t.byID = make(map[merklelog.LogID]*logState)
	t.idle = list.New()
}

// acquire returns the state of a log, which the caller releases.
func (s *Store) acquire(id merklelog.LogID) (*logState, error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	t := &s.logs
	for {
		t.mu.Lock()
		ls := t.byID[id]
		if ls == nil {
			ls = &logState{id: id}
			t.byID[id] = ls
		}
		t.holdLocked(ls)
		t.mu.Unlock()

		mine := false
		ls.load.Do(func() { mine, ls.loadErr = true, s.loadLog(ls) })
		if ls.loadErr == nil {
			return ls, nil
		}
		t.mu.Lock()
		if t.byID[id] == ls {
			delete(t.byID, id) // whoever comes next tries again
		}
		t.mu.Unlock()
		if mine {
			return nil, ls.loadErr
		}
		// Another call looked, perhaps before this one began and the log with it.
	}
}

func (t *logTable) holdLocked(ls *logState) {
	ls.refs++
	if ls.idle != nil {
		t.idle.Remove(ls.idle)
		ls.idle = nil
	}
}

// hold adds a reference to a state that the caller already has.
func (s *Store) hold(ls *logState) {
	s.logs.mu.Lock()
	s.logs.holdLocked(ls)
	s.logs.mu.Unlock()
}

// release gives back what acquire returned.
func (s *Store) release(ls *logState) {
	t := &s.logs
	t.mu.Lock()
	defer t.mu.Unlock()
	if ls.refs--; ls.refs > 0 || t.byID[ls.id] != ls {
		return
	}
	ls.idle = t.idle.PushBack(ls)
	for t.idle.Len() > s.opts.tune.idleLogs {
		old := t.idle.Remove(t.idle.Front()).(*logState)
		delete(t.byID, old.id)
	}
}

// forget takes a removed log out of the table.
func (s *Store) forget(ls *logState) {
	t := &s.logs
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[ls.id] == ls {
		delete(t.byID, ls.id)
	}
}

// loadLog fills in the state from the database.
func (s *Store) loadLog(ls *logState) error {
	err := s.get(identityKey(ls.id), func(v []byte) (err error) {
		ls.num, err = parseLogNumber(v)
		return err
	})
	if errors.Is(err, pebble.ErrNotFound) {
		return ErrUnknownLog
	}
	if err != nil {
		return s.damaged(ls.id, 0, "identity", err)
	}
	rec, cert, err := s.readRecord(ls.num)
	if err != nil {
		return s.damaged(ls.id, 0, "manifest", err)
	}
	ls.account, ls.writer = cert.Account, rec.manifest.Writer
	if ls.cp, err = s.readCheckpoint(ls.num); err != nil {
		return s.damaged(ls.id, 0, "checkpoint", err)
	}
	if err := s.readFrontier(ls.num, &ls.frontier); err != nil {
		return s.damaged(ls.id, 0, "frontier", err)
	}
	if err := ls.cp.Verify(ls.writer); err != nil || ls.cp.Log != ls.id {
		// Nothing can be receipted or taken in any more, but all can be read.
		ls.bad = s.damaged(ls.id, 0, "checkpoint", errors.Join(err, merklelog.ErrSignature))
	} else if n := ls.frontier.Size(); n > ls.cp.Size || n == ls.cp.Size && ls.frontier.Root() != ls.cp.Root {
		return s.damaged(ls.id, n, "frontier", errors.New("it does not belong to the checkpoint"))
	}
	if n := ls.frontier.Size(); n%merklelog.TileWidth != 0 {
		if ls.tail, err = s.readTile(ls.num, n/merklelog.TileWidth, int(n%merklelog.TileWidth)); err != nil {
			return s.damaged(ls.id, n-n%merklelog.TileWidth, "leaves", err)
		}
	}
	if ls.fork, err = s.readFork(ls.num); err != nil {
		return s.damaged(ls.id, 0, "fork evidence", err)
	}
	for e, err := range s.extents(ls.num, 0) {
		if err != nil {
			return s.damaged(ls.id, e.first, "index", err)
		}
		ls.held = merklelog.AddRange(ls.held, merklelog.Range{First: e.first, Count: uint64(e.count)})
	}
	for r, err := range s.droppedRanges(ls.num) {
		if err != nil {
			return s.damaged(ls.id, r.First, "list of dropped blocks", err)
		}
		ls.dropped = merklelog.AddRange(ls.dropped, r)
	}
	ls.pending = make(map[uint64]bool)
	ls.taken.L = &ls.mu
	return nil
}

// damaged wraps an error of reading what must be there.
func (s *Store) damaged(id merklelog.LogID, index uint64, what string, err error) error {
	if err := s.usable(); err != nil {
		return err
	}
	s.counts.damaged.Add(1)
	return &DamagedError{Log: id, Index: index, What: what, Err: err}
}

// LogInfo describes a log that is here. What it says may not be durable yet;
// only what Commit returns is.
type LogInfo struct {
	ID         merklelog.LogID
	Account    account.ID
	Device     account.DeviceKey
	Manifest   *merklelog.Manifest
	Checkpoint merklelog.Checkpoint // the newest
	Leaves     uint64               // verified, from the first on
	Held       uint64               // blocks
	// Envelopes are the indexes of blocks of type 2, the first MaxEnvelopes.
	Envelopes          []uint64
	EnvelopesTruncated bool
	Fork               *merklelog.Fork // evidence; the log is frozen if there is any
	Arrived            time.Time
}

// Bytes returns how many bytes of blocks are held.
func (i *LogInfo) Bytes() uint64 { return i.Held * merklelog.BlockSize }

// MaxEnvelopes is how many indexes of envelopes a LogInfo lists.
const MaxEnvelopes = 1024

// Log describes one log, or returns ErrUnknownLog.
func (s *Store) Log(id merklelog.LogID) (*LogInfo, error) {
	if err := s.enterRead(); err != nil {
		return nil, err
	}
	defer s.users.leave()
	var num uint32
	err := s.get(identityKey(id), func(v []byte) (err error) {
		num, err = parseLogNumber(v)
		return err
	})
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, ErrUnknownLog
	}
	if err != nil {
		return nil, s.damaged(id, 0, "identity", err)
	}
	return s.logInfo(id, num)
}

// Logs describes the logs of an account in the order of their arrival. A log
// that cannot be described yields a *DamagedError and does not end the loop.
func (s *Store) Logs(id account.ID) iter.Seq2[*LogInfo, error] {
	return s.logsUnder(accountLogKey(id, 0)[:1+len(id)])
}

// AllLogs describes the logs of all accounts, an account's together.
func (s *Store) AllLogs() iter.Seq2[*LogInfo, error] {
	return s.logsUnder([]byte{prefixAccountLog})
}

func (s *Store) logsUnder(prefix []byte) iter.Seq2[*LogInfo, error] {
	return func(yield func(*LogInfo, error) bool) {
		if err := s.enterRead(); err != nil {
			yield(nil, err)
			return
		}
		defer s.users.leave()
		for num, err := range s.logNumbers(prefix) {
			var info *LogInfo
			if err == nil {
				info, err = s.logInfo(merklelog.LogID{}, num)
				if errors.Is(err, ErrUnknownLog) {
					continue // removed meanwhile
				}
			}
			if !yield(info, err) {
				return
			}
		}
	}
}

// logNumbers yields the numbers of the logs under a prefix of accountLogKey.
func (s *Store) logNumbers(prefix []byte) iter.Seq2[uint32, error] {
	return func(yield func(uint32, error) bool) {
		for k, err := range s.scan(prefix, prefixEnd(prefix)) {
			if err != nil {
				yield(0, fmt.Errorf("replica: listing logs: %w", err))
				return
			}
			_, num, ok := parseAccountLogKey(k.key)
			if !ok {
				err = fmt.Errorf("replica: listing logs: malformed key %x", k.key)
			}
			if !yield(num, err) {
				return
			}
		}
	}
}

// logInfo reads all of a LogInfo. A zero id is filled in.
func (s *Store) logInfo(id merklelog.LogID, num uint32) (*LogInfo, error) {
	rec, cert, err := s.readRecord(num)
	if errors.Is(err, pebble.ErrNotFound) && id == (merklelog.LogID{}) {
		return nil, ErrUnknownLog
	}
	if err != nil {
		return nil, s.damaged(id, 0, "manifest", err)
	}
	info := &LogInfo{
		ID:       rec.manifest.ID(),
		Account:  cert.Account,
		Device:   cert.Device,
		Manifest: rec.manifest,
		Arrived:  time.UnixMilli(rec.arrived),
	}
	if id != (merklelog.LogID{}) && id != info.ID {
		return nil, s.damaged(id, 0, "manifest", fmt.Errorf("it is that of log %v", info.ID))
	}
	// All three may grow meanwhile: in this order there are never more blocks
	// than leaves, nor more leaves than the checkpoint has.
	if info.Held, err = s.readNumber(logKey(prefixHeld, num)); err != nil {
		return nil, s.damaged(info.ID, 0, "index", err)
	}
	var f merklelog.Frontier
	if err := s.readFrontier(num, &f); err != nil {
		return nil, s.damaged(info.ID, 0, "frontier", err)
	}
	info.Leaves = f.Size()
	if info.Checkpoint, err = s.readCheckpoint(num); err != nil {
		return nil, s.damaged(info.ID, 0, "checkpoint", err)
	}
	if info.Fork, err = s.readFork(num); err != nil {
		return nil, s.damaged(info.ID, 0, "fork evidence", err)
	}
	for k, err := range s.scan(logKey(prefixEnvelope, num), logEnd(prefixEnvelope, num)) {
		if err != nil {
			return nil, s.damaged(info.ID, 0, "index", err)
		}
		if len(info.Envelopes) == MaxEnvelopes {
			info.EnvelopesTruncated = true
			break
		}
		_, index, ok := parseIndexKey(prefixEnvelope, k.key)
		if !ok {
			return nil, s.damaged(info.ID, 0, "index", fmt.Errorf("malformed key %x", k.key))
		}
		info.Envelopes = append(info.Envelopes, index)
	}
	return info, nil
}
