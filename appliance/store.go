package appliance

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"cobox/appliance/admin"
	"cobox/netlink/replicate"
	"cobox/storage/account"
	"cobox/storage/merklelog"
	"cobox/storage/replica"
)

// sessionStore is the replica store as sessions see it. What is refused for a
// reason that an administrator should know becomes an event.
type sessionStore struct{ b *box }

func (s sessionStore) Log(log merklelog.LogID) (replicate.LogState, error) {
	info, err := s.b.store.Log(log)
	if err != nil {
		return replicate.LogState{}, s.known(log, err)
	}
	return replicate.LogState{Manifest: info.Manifest, Checkpoint: info.Checkpoint, Leaves: info.Leaves, Held: info.Held}, nil
}

func (s sessionStore) OfferCheckpoint(m *merklelog.Manifest, cp merklelog.Checkpoint, proof merklelog.Proof) error {
	cert, err := account.ParseCertificate(m.Certificate)
	if err != nil {
		return fmt.Errorf("appliance: offer: %w", err)
	}
	// An account does not stand by all that a revoked device has written.
	size, _, revoked, err := s.b.roster.Stands(cert.Account, cert.Device, cp.Log)
	switch {
	case err != nil:
		return err
	case revoked && cp.Size > size:
		return &replicate.Error{Code: replicate.CodeNotAllowed, Message: "the account has revoked the device that wrote this"}
	}
	err = s.b.store.OfferCheckpoint(m, cp, proof)
	var fork *merklelog.ForkError
	if errors.As(err, &fork) {
		s.b.events.repeat(admin.Event{Kind: admin.EventForked, Account: &cert.Account, Device: &cert.Device,
			Detail: "the device signed two histories of this log"}, cp.Log)
	}
	return s.known(cp.Log, err)
}

func (s sessionStore) AppendLeaves(log merklelog.LogID, b merklelog.Batch) error {
	return s.known(log, s.b.store.AppendLeaves(log, b))
}

func (s sessionStore) Leaves(log merklelog.LogID, first uint64, n int) ([]merklelog.Leaf, error) {
	// The store answers a tile at a time.
	leaves := make([]merklelog.Leaf, 0, n)
	for len(leaves) < n {
		part, err := s.b.store.Leaves(log, first+uint64(len(leaves)), n-len(leaves))
		if errors.Is(err, replica.ErrNoLeaf) && len(leaves) > 0 {
			return leaves, nil // the log ends here
		}
		if err != nil {
			return nil, s.known(log, err)
		}
		if len(part) == 0 {
			break
		}
		leaves = append(leaves, part...)
	}
	return leaves, nil
}

func (s sessionStore) Missing(log merklelog.LogID, from uint64, max int) ([]merklelog.Range, error) {
	r, err := s.b.store.Missing(log, from, max)
	return r, s.known(log, err)
}

func (s sessionStore) PutBlock(ctx context.Context, log merklelog.LogID, index uint64, block []byte) error {
	return s.known(log, s.b.store.PutBlock(ctx, log, index, block))
}

func (s sessionStore) Commit(ctx context.Context, log merklelog.LogID) (merklelog.Durable, error) {
	start := time.Now()
	d, err := s.b.store.Commit(ctx, log)
	if err == nil {
		s.b.metrics.commit.Observe(time.Since(start).Seconds())
	}
	return d, s.known(log, err)
}

func (s sessionStore) ReadBlock(log merklelog.LogID, index uint64, dst []byte) error {
	block, _, err := s.b.store.ReadBlock(log, index, dst)
	if err == nil && &block[0] != &dst[0] {
		copy(dst, block)
	}
	return s.known(log, err)
}

func (s sessionStore) Inclusion(log merklelog.LogID, index, size uint64) (merklelog.Proof, error) {
	p, err := s.b.store.Inclusion(log, index, size)
	return p, s.known(log, err)
}

// known makes the errors that a session tells apart of the store's, and events
// of those that an administrator should know.
func (s sessionStore) known(log merklelog.LogID, err error) error {
	const kept = "new data was refused; what is here stays"
	if err == nil {
		return nil
	}
	s.b.noteDamage(err)
	switch {
	case errors.Is(err, replica.ErrQuota), errors.Is(err, replica.ErrNotAdmitted):
		s.b.metrics.quotaRefused.Inc()
		ev := admin.Event{Kind: admin.EventFull, Detail: kept}
		if info, err := s.b.store.Log(log); err == nil {
			ev.Account = &info.Account
		}
		s.b.events.repeat(ev, merklelog.LogID{})
	case errors.Is(err, replica.ErrNoSpace):
		s.b.events.repeat(admin.Event{Kind: admin.EventNoSpace, Detail: kept}, merklelog.LogID{})
	}
	switch {
	case errors.Is(err, replica.ErrUnknownLog):
		return fmt.Errorf("%w: %w", replicate.ErrUnknownLog, err)
	case errors.Is(err, replica.ErrNotHeld), errors.Is(err, replica.ErrDropped):
		return fmt.Errorf("%w: %w", replicate.ErrNotHere, err)
	}
	return err
}

// code says what a peer may know of an error of the store.
func code(err error) replicate.Code {
	var refused *replicate.Error
	var damaged *replica.DamagedError
	switch {
	case errors.As(err, &refused):
		return refused.Code
	case errors.As(err, &damaged):
		return replicate.CodeDamaged
	case errors.Is(err, replica.ErrQuota):
		return replicate.CodeQuota
	case errors.Is(err, replica.ErrNotAdmitted):
		return replicate.CodeNotAllowed
	case errors.Is(err, replica.ErrNoSpace):
		return replicate.CodeNoSpace
	case errors.Is(err, replica.ErrReadOnly):
		return replicate.CodeReadOnly
	case errors.Is(err, replica.ErrTooManyLogs), errors.Is(err, replica.ErrScattered):
		return replicate.CodeTooLarge
	case errors.Is(err, replica.ErrClosed):
		return replicate.CodeShutdown
	case errors.Is(err, replica.ErrUnknownLog):
		return replicate.CodeUnknownLog
	}
	return replicate.CodeInternal
}

// noteDamage makes an event of damage that was found.
func (b *box) noteDamage(err error) {
	var damaged *replica.DamagedError
	if errors.As(err, &damaged) {
		b.events.repeat(admin.Event{Kind: admin.EventDamaged,
			Detail: fmt.Sprintf("%s is not what was stored; a device that has it sends it again", damaged.What)}, damaged.Log)
	}
}

// logs yields what a box tells an account of its logs.
func (b *box) logs(ctx context.Context, who account.ID) iter.Seq2[*replicate.LogEntry, error] {
	return func(yield func(*replicate.LogEntry, error) bool) {
		for info, err := range b.store.Logs(who) {
			var entry *replicate.LogEntry
			if err == nil {
				entry, err = b.logEntry(ctx, info.ID)
			}
			if errors.Is(err, replica.ErrUnknownLog) {
				continue // removed meanwhile
			}
			if err != nil {
				// One log that cannot be read must not hide the others.
				b.noteDamage(err)
				b.log.Error("a log cannot be listed", "account", who, "error", err)
				continue
			}
			if !yield(entry, nil) {
				return
			}
		}
	}
}

// logEntry tells of a log. The receipt is read first: what it says is then true
// of the state as well.
func (b *box) logEntry(ctx context.Context, log merklelog.LogID) (*replicate.LogEntry, error) {
	k, err := b.receipts.last(log)
	if err != nil {
		b.log.Error("the last receipt of a log cannot be read", "log", log, "error", err)
		k = kept{}
	}
	info, err := b.store.Log(log)
	if err != nil {
		return nil, err
	}
	e := &replicate.LogEntry{Manifest: info.Manifest, Checkpoint: info.Checkpoint, Leaves: info.Leaves, Held: info.Held,
		HolesDigest: merklelog.DigestRanges(nil), Frozen: info.Fork != nil}
	if info.Held < info.Checkpoint.Size {
		d, err := b.store.Commit(ctx, log)
		switch {
		case err == nil:
			e.Checkpoint, e.Leaves, e.Held, e.HolesDigest = d.Checkpoint, d.Leaves, d.Held, d.HolesDigest
		case !errors.Is(err, replica.ErrReadOnly):
			return nil, err
			// A read-only store still serves: a failing disk is when its logs
			// are wanted most. The digest of the holes is then not told.
		}
	}
	e.Receipt, e.Readable = k.receipt, k.readable
	if e.Leaves >= e.Checkpoint.Size {
		e.Readable = &e.Checkpoint
	}
	for _, i := range info.Envelopes {
		if n := len(e.Envelopes); n > 0 && e.Envelopes[n-1].End() == i {
			e.Envelopes[n-1].Count++
		} else {
			e.Envelopes = append(e.Envelopes, merklelog.Range{First: i, Count: 1})
		}
	}
	return e, nil
}
