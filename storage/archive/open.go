package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cobox/storage/merklelog"
)

// Archive is the union of an account's logs in one space.
type Archive struct {
	cfg      Config
	log      *slog.Logger
	hash     hashKey
	chunkers chunkers
	cache    *cacheDir
	logs     []*logView
	workers  int
	fetched  atomic.Uint64 // blocks
	records  recordPool

	// Changed by tests only.
	now          func() time.Time
	commitBlocks uint64
	commitEvery  time.Duration

	mu    sync.Mutex
	index *index // nil until it is needed
}

// Open prepares an archive. It fetches nothing: what is needed is loaded when
// it is needed, and a backup that finds nothing changed loads next to nothing.
func Open(_ context.Context, c Config) (*Archive, error) {
	a := &Archive{
		cfg: c, log: c.Logger, hash: newHashKey(c.ChunkID), chunkers: newChunkers(c.Chunker), workers: c.Workers,
		now: time.Now, commitBlocks: commitBlocks, commitEvery: commitEvery,
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.workers <= 0 {
		a.workers = runtime.GOMAXPROCS(0)
	}
	if c.Blocks == nil {
		return nil, errors.New("archive: Config.Blocks is missing")
	}
	if len(c.Logs) > 1<<16-1 {
		return nil, fmt.Errorf("archive: %d logs", len(c.Logs))
	}
	seen := map[merklelog.LogID]bool{}
	for i := range c.Logs {
		s := &c.Logs[i]
		m, err := newBlockMap(s)
		switch {
		case err != nil:
			return nil, err
		case seen[s.ID]:
			return nil, fmt.Errorf("archive: log %s is given twice", s.ID)
		case s.Opener == nil:
			return nil, fmt.Errorf("archive: LogState.Opener of log %s is missing", s.ID)
		}
		seen[s.ID] = true
		a.logs = append(a.logs, &logView{id: s.ID, num: uint16(i), blocks: m, opener: s.Opener})
	}
	var err error
	if a.cache, err = newCacheDir(c.Cache, a.hash); err != nil {
		a.log.Warn("going on without a cache", "err", err)
	}
	return a, nil
}

func (a *Archive) view(id merklelog.LogID) *logView {
	for _, v := range a.logs {
		if v.id == id {
			return v
		}
	}
	return nil
}

// Snapshots returns the finished backups of all logs, the oldest first. What
// lay in blocks that cannot be read is missing; see Unread.
func (a *Archive) Snapshots(ctx context.Context) ([]Snapshot, error) {
	if err := a.footers(ctx); err != nil {
		return nil, err
	}
	var all []Snapshot
	for _, v := range a.logs {
		list, err := a.logSnapshots(ctx, v)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	slices.SortStableFunc(all, func(s, t Snapshot) int { return s.Time.Compare(t.Time) })
	return all, nil
}

// Unread reports whether what Snapshots or Find has looked at was not all there
// is: blocks cannot be read now that may hold further snapshots, also newer ones.
func (a *Archive) Unread() bool {
	return slices.ContainsFunc(a.logs, func(v *logView) bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.unsure || v.unread
	})
}

func (a *Archive) logSnapshots(ctx context.Context, v *logView) (all []Snapshot, err error) {
	if v.foot == nil {
		return nil, nil
	}
	seen := map[SnapshotID]bool{}
	use := func(s segmentRef, contents []byte) error {
		list, err := parseSnapshotSegment(contents)
		if err != nil {
			return err
		}
		for _, e := range list {
			snap, err := parseSnapshot(e.record)
			if err != nil {
				return malformed("snapshot: %v", err)
			}
			snap.ID, snap.Log, snap.End = a.hash.snapshotID(e.record, v.id), v.id, uint64(cmp.Or(e.end, s.end))
			if !seen[snap.ID] {
				seen[snap.ID] = true
				all = append(all, *snap)
			}
		}
		return nil
	}
	missing, err := a.segments(ctx, v, typeSnapshots, v.foot.snapshots, use)
	if err != nil {
		return nil, err
	}
	for _, s := range missing {
		err := a.recoverSegment(ctx, v, typeSnapshots, s, use, func(first, end uint64) error {
			v.mu.Lock()
			v.unread = v.unread || !v.blocks.isLost(s.loc, s.length)
			v.mu.Unlock()
			return a.scanRecords(ctx, v, first, end, func(l location, typ byte, contents []byte) error {
				if typ != typeSnapshots {
					return nil
				}
				// Its own footer ends this block or one soon after it; the
				// segment's end is the latest that it can be.
				if err := use(segmentRef{end: uint32(end)}, contents); err != nil && !errors.Is(err, errFormat) {
					return err
				}
				return nil
			})
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Find returns the snapshot that the selector chooses: of those that match,
// the newest. It returns ErrNoSnapshot or ErrAmbiguous, wrapped.
func (a *Archive) Find(ctx context.Context, sel Selector) (Snapshot, error) {
	all, err := a.Snapshots(ctx)
	if err != nil {
		return Snapshot{}, err
	}
	return choose(all, sel)
}

func choose(all []Snapshot, sel Selector) (Snapshot, error) {
	match := func(s *Snapshot) bool {
		has := func(want, list []string) bool {
			for _, w := range want {
				if !slices.Contains(list, w) {
					return false
				}
			}
			return true
		}
		return (sel.Host == "" || s.Host == sel.Host) && has(sel.Tags, s.Tags) && has(sel.Paths, s.Paths)
	}
	var found *Snapshot
	until, isTime := parseTime(sel.ID)
	latest := sel.ID == "" || sel.ID == "latest"
	byID := !latest && isHex(sel.ID) && len(sel.ID) <= 32
	if byID {
		for i := range all {
			if s := &all[i]; match(s) && strings.HasPrefix(s.ID.String(), strings.ToLower(sel.ID)) {
				if found != nil {
					return Snapshot{}, fmt.Errorf("%w: %s and %s begin with %q", ErrAmbiguous, found.ID, s.ID, sel.ID)
				}
				found = s
			}
		}
	}
	if found == nil && (latest || isTime) {
		// Within one log the order is certain whatever a clock said: the latest
		// is the one that was appended last. Only between logs do times decide.
		last := make(map[merklelog.LogID]*Snapshot)
		for i := range all {
			s := &all[i]
			if p := last[s.Log]; latest && match(s) && (p == nil || s.End > p.End) {
				last[s.Log] = s
			}
		}
		for i := range all {
			s := &all[i]
			if latest && last[s.Log] != s || !match(s) || isTime && s.Time.After(until) {
				continue
			}
			if found == nil || !s.Time.Before(found.Time) {
				found = s
			}
		}
	}
	switch {
	case found != nil:
		return *found, nil
	case !latest && !isTime && !byID:
		return Snapshot{}, fmt.Errorf("%w: %q is neither an id nor a time", ErrNoSnapshot, sel.ID)
	}
	return Snapshot{}, fmt.Errorf("%w among %d", ErrNoSnapshot, len(all))
}

func isHex(s string) bool {
	return s != "" && strings.Trim(strings.ToLower(s), "0123456789abcdef") == ""
}

// parseTime reads a time of a selector and returns the last instant that it
// names: a day lasts until its end, a minute and a second too.
func parseTime(s string) (time.Time, bool) {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t.Add(time.Second - 1), true
	}
	s = strings.Replace(s, " ", "T", 1)
	for _, f := range []struct {
		layout string
		last   func(time.Time) time.Time
	}{
		{"2006-01-02T15:04:05", func(t time.Time) time.Time { return t.Add(time.Second - 1) }},
		{"2006-01-02T15:04", func(t time.Time) time.Time { return t.Add(time.Minute - 1) }},
		{"2006-01-02", func(t time.Time) time.Time { return t.AddDate(0, 0, 1).Add(-1) }},
	} {
		if t, err := time.ParseInLocation(f.layout, s, time.Local); err == nil {
			return f.last(t), true
		}
	}
	return time.Time{}, false
}
