package appliance

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"sync"
	"time"

	"cobox/netlink/replicate"
	"cobox/storage/merklelog"
	"cobox/storage/replica"
)

// receipts makes and keeps the box's statements about what is durable.
//
// A receipt is stored, with the number that it bears, in one synced batch
// before it leaves: so no number is ever used twice, and what the box has said
// it can say again.
type receipts struct {
	m     *memory
	table *replica.Table
	key   crypto.Signer
	boot  replicate.BootID
	made  func()
	// durable tells what of a log is durable now.
	durable func(merklelog.LogID) (merklelog.Durable, error)

	mu       sync.Mutex
	sequence uint64 // of the last receipt
}

// kept is what a box keeps for each log, in the table "receipts" under the
// log's identity.
//
//	offset  bytes
//	     0      1  version, 1
//	     1    249  the last receipt
//	   250      1  1 if a readable checkpoint follows, else 0
//	   251  0|136  the newest checkpoint all of whose leaves were here
type kept struct {
	receipt  *replicate.Receipt
	readable *merklelog.Checkpoint // nil if there is none
}

const keptVersion = 1

func appendKept(b []byte, k *kept) []byte {
	b = replicate.AppendReceipt(append(b, keptVersion), k.receipt)
	if k.readable == nil {
		return append(b, 0)
	}
	return merklelog.AppendCheckpoint(append(b, 1), *k.readable)
}

func parseKept(b []byte) (*kept, error) {
	const fixed = 1 + replicate.ReceiptSize + 1
	if len(b) < fixed || b[0] != keptVersion {
		return nil, fmt.Errorf("%d bytes that are no receipt record of version %d", len(b), keptVersion)
	}
	r, err := replicate.ParseReceipt(b[1 : fixed-1])
	if err != nil {
		return nil, err
	}
	k := &kept{receipt: r}
	switch flag, rest := b[fixed-1], b[fixed:]; {
	case flag == 0 && len(rest) == 0:
	case flag == 1:
		cp, err := merklelog.ParseCheckpoint(rest)
		if err != nil {
			return nil, err
		}
		k.readable = &cp
	default:
		return nil, errors.New("flag or length of the readable checkpoint")
	}
	return k, nil
}

func openReceipts(m *memory, key crypto.Signer, boot replicate.BootID, made func(), durable func(merklelog.LogID) (merklelog.Durable, error)) (*receipts, error) {
	sequence, err := m.number(sequenceKey)
	if err != nil {
		return nil, err
	}
	return &receipts{m: m, table: m.store.Table(receiptTable), key: key, boot: boot, made: made, durable: durable, sequence: sequence}, nil
}

// make signs a receipt for what the store has made durable, and keeps it. That
// may be more by now than d says, which then says so as well: another session may
// have got a receipt for more meanwhile, and a later one must not say less.
func (r *receipts) make(_ context.Context, d *merklelog.Durable) (*replicate.Receipt, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, err := r.durable(d.Checkpoint.Log)
	if err != nil {
		return nil, err
	}
	*d = now
	rc := replicate.NewReceipt(d)
	// A record that cannot be read is replaced: it says nothing that the new one
	// does not.
	old, _ := r.last(rc.Log)
	rc.Boot = r.boot
	rc.Sequence = r.sequence + 1
	rc.Elapsed = uint64(r.m.elapsed().Milliseconds())
	rc.Wall = time.Now().UnixMilli()
	if err := replicate.SignReceipt(&rc, r.key); err != nil {
		return nil, fmt.Errorf("appliance: signing a receipt: %w", err)
	}
	k := kept{receipt: &rc, readable: old.readable}
	if d.Leaves >= d.Checkpoint.Size {
		k.readable = &d.Checkpoint
	}
	// A number is used up even if this fails: nobody knows whether it was stored.
	r.sequence++
	err = r.m.update(func(b *replica.TableBatch) {
		b.Put(r.table, rc.Log[:], appendKept(nil, &k))
		b.Put(r.m.table, []byte(sequenceKey), appendNumber(nil, rc.Sequence))
	})
	if err != nil {
		return nil, fmt.Errorf("appliance: storing a receipt: %w", err)
	}
	r.made()
	return &rc, nil
}

// last returns what is kept for a log; zero if nothing.
func (r *receipts) last(log merklelog.LogID) (kept, error) {
	b, err := r.table.Get(log[:])
	if errors.Is(err, replica.ErrNotFound) {
		return kept{}, nil
	}
	if err == nil {
		var k *kept
		if k, err = parseKept(b); err == nil {
			return *k, nil
		}
	}
	return kept{}, fmt.Errorf("appliance: reading the receipt of log %v: %w", log, err)
}
