package appliance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"cobox/appliance/admin"
	"cobox/appliance/machine"
	"cobox/appliance/update"
	"cobox/netlink/replicate"
	"cobox/storage/replica"
)

const (
	// updateKey is the key in the table of the box under which the last update
	// lies that an event tells of.
	updateKey     = "update"
	updateVersion = 1

	// stateTimeout is how long the first process may take to say how things are.
	stateTimeout = 5 * time.Second
	// maxReason bounds the reason of a fall back in an event, in bytes.
	maxReason = 1000
)

// update takes a new system in. The box restarts a moment after the answer.
func (a administration) update(ctx context.Context, c *call) (any, error) {
	var req admin.UpdateRequest
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	b := a.b
	switch {
	case b.updates == nil:
		return nil, &replicate.Error{Code: replicate.CodeUnsupported,
			Message: "this box is a program on a computer that has a system of its own; update it as other programs there"}
	case c.upload == nil:
		return nil, &replicate.Error{Code: replicate.CodeInvalid, Message: "the update itself is missing"}
	}
	release, err := b.updates.Receive(ctx, update.Bundle{Size: req.Size, Reader: c.upload}, func(p admin.UpdateProgress) { c.progress(p) })
	if err != nil {
		return nil, err
	}
	b.log.Info("an update is written", "version", release.Version, "number", release.Number)
	b.noteUpdate(&admin.LastUpdate{Release: admin.Release(*release), Result: admin.UpdateWritten}, func(ev admin.Event) admin.Event { return a.by(c, ev) })
	return &admin.Updated{Release: admin.Release(*release)}, nil
}

// machineStatus says how the system is; nil if the box is a plain program, or
// the first process does not say.
func (b *box) machineStatus(ctx context.Context) *admin.Machine {
	if b.machine == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	s, err := b.machine.State(ctx)
	if err != nil {
		b.log.Error("the first process does not say how the system is", "error", err)
		return nil
	}
	return &admin.Machine{Slot: s.Slot, Trying: s.Trying, Release: admin.Release(s.Release), Board: s.Board, Floor: s.Floor,
		Update: lastUpdate(s)}
}

func lastUpdate(s *machine.State) *admin.LastUpdate {
	if s.Update == nil {
		return nil
	}
	return &admin.LastUpdate{Release: admin.Release(s.Update.Release), Result: admin.UpdateResult(s.Update.Result), Reason: s.Update.Reason}
}

// noteUpdate records how far an update has come, once: the event and that it is
// recorded are one batch.
func (b *box) noteUpdate(u *admin.LastUpdate, by func(admin.Event) admin.Event) {
	if u == nil || b.store.ReadOnly() {
		return
	}
	b.noting.Lock()
	defer b.noting.Unlock()
	now := appendUpdate(nil, u)
	before, err := b.memory.table.Get([]byte(updateKey))
	switch {
	case err == nil && bytes.Equal(before, now):
		return
	case err != nil && !errors.Is(err, replica.ErrNotFound):
		b.log.Error("the last update cannot be read", "error", err)
		return
	}
	ev := admin.Event{Detail: fmt.Sprintf("CoBox %s (number %d)", u.Version, u.Number)}
	switch u.Result {
	case admin.UpdateWritten:
		ev.Kind = admin.EventUpdateWritten
	case admin.UpdatePromoted:
		ev.Kind = admin.EventUpdatePromoted
	case admin.UpdateFellBack:
		ev.Kind = admin.EventUpdateFellBack
		if u.Reason != "" {
			ev.Detail += ": " + clip(u.Reason, maxReason)
		}
	default:
		return // a trial goes on, and what comes of it is recorded
	}
	if by != nil {
		ev = by(ev)
	}
	b.events.addWith(ev, func(batch *replica.TableBatch) { batch.Put(b.memory.table, []byte(updateKey), now) })
}

// appendUpdate encodes an update as updateKey has it.
//
//	offset  bytes
//	     0      1  version, 1
//	     1         JSON of admin.LastUpdate
func appendUpdate(b []byte, u *admin.LastUpdate) []byte {
	text, err := json.Marshal(u)
	if err != nil {
		panic("appliance: an update cannot be encoded: " + err.Error())
	}
	return append(append(b, updateVersion), text...)
}

// clip cuts a text to so many bytes, at a character's boundary.
func clip(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && text[limit]&0xc0 == 0x80 {
		limit--
	}
	return text[:limit]
}
