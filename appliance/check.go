package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"cobox/appliance/admin"
	"cobox/appliance/datadir"
	"cobox/netlink/replicate"
	"cobox/storage/merklelog"
	"cobox/storage/replica"
)

// checkEvery is how often a check tells how far it is.
const checkEvery = 250 * time.Millisecond

// Check verifies every checkpoint, leaf and block in the data directory of a
// box that is not running, and changes nothing. Damage is in the report and is
// no error. progress may be nil.
func Check(ctx context.Context, data string, log *slog.Logger, progress func(admin.CheckProgress)) (report *admin.CheckReport, err error) {
	dir, err := datadir.Open(data, datadir.Options{Holder: "coboxd check"})
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	store, err := replica.Open(dir.Store(), replica.Options{ReadOnly: true, Logger: log})
	if err != nil {
		return nil, fmt.Errorf("appliance: %w", err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return checkStore(ctx, store, progress)
}

func checkStore(ctx context.Context, store *replica.Store, progress func(admin.CheckProgress)) (*admin.CheckReport, error) {
	start := time.Now()
	var told time.Time
	tell := func(p replica.Progress) {
		if progress != nil && time.Since(told) >= checkEvery {
			told = time.Now()
			progress(admin.CheckProgress{Logs: p.Logs, TotalLogs: p.TotalLogs, Blocks: p.Blocks, TotalBlocks: p.TotalBlocks})
		}
	}
	found, err := store.Check(ctx, tell)
	if err != nil {
		return nil, fmt.Errorf("appliance: %w", err)
	}
	report := &admin.CheckReport{Logs: found.Logs, Leaves: found.Leaves, Blocks: found.Blocks,
		DamageCount: found.DamageCount, Damaged: []admin.Damaged{}, Millis: time.Since(start).Milliseconds()}
	for _, d := range found.Damage[:min(len(found.Damage), admin.MaxDamaged)] {
		text, _, _ := strings.Cut(d.Err.Error(), "\n") // the store adds lines of detail
		damaged := admin.Damaged{Index: d.Index, What: d.What, Error: text}
		if d.Log != (merklelog.LogID{}) {
			damaged.Log = d.Log.String()
		}
		report.Damaged = append(report.Damaged, damaged)
	}
	for info, err := range store.AllLogs() {
		if err != nil {
			continue // the check has named it as damaged
		}
		report.Missing += info.Leaves - min(info.Leaves, info.Held)
	}
	return report, nil
}

// check answers an administrator. One check runs at a time: it reads the whole
// disk.
func (a administration) check(ctx context.Context, c *call) (any, error) {
	if err := c.decode(&admin.CheckRequest{}); err != nil {
		return nil, err
	}
	if !a.b.checking.TryLock() {
		return nil, &replicate.Error{Code: replicate.CodeBusy, Message: "another check is running"}
	}
	defer a.b.checking.Unlock()
	report, err := checkStore(ctx, a.b.store, func(p admin.CheckProgress) { c.progress(p) })
	if err != nil {
		return nil, err
	}
	a.b.events.add(a.by(c, admin.Event{Kind: admin.EventChecked, Count: report.DamageCount,
		Detail: fmt.Sprintf("%d logs, %d blocks; %d damaged", report.Logs, report.Blocks, report.DamageCount)}))
	return report, nil
}
