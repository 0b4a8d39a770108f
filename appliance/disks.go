package appliance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cobox/appliance/admin"
	"cobox/appliance/machine"
	"cobox/netlink/replicate"
	"cobox/storage/replica"
)

// machineTimeout is how long the first process may take to say how things are.
const machineTimeout = 10 * time.Second

// disks answers requests about disks by asking the first process.
type disks struct{ machine *machine.Client }

func (d disks) list(ctx context.Context, body []byte) (any, error) {
	if err := decode(body, &admin.DisksRequest{}); err != nil {
		return nil, err
	}
	if d.machine == nil {
		return nil, noMachine()
	}
	found, err := d.machine.Disks(ctx)
	if err != nil {
		return nil, machineError(err)
	}
	reply := &admin.Disks{Disks: []admin.Disk{}, Used: found.Used}
	for _, x := range found.Disks {
		reply.Disks = append(reply.Disks, admin.Disk{ID: x.ID, Name: x.Name, Bytes: x.Bytes, Holds: admin.Holds(x.Holds),
			Found: x.Found, Unfit: x.Unfit, Device: x.Device})
	}
	return reply, nil
}

// use returns when the disk is ready. The first process then stops the box.
func (d disks) use(ctx context.Context, body []byte, progress func(any)) (id string, err error) {
	var req admin.DiskUseRequest
	if err := decode(body, &req); err != nil {
		return "", err
	}
	if d.machine == nil {
		return "", noMachine()
	}
	err = d.machine.UseDisk(ctx, req.ID, func(p machine.CopyProgress) { progress(admin.CopyProgress(p)) })
	if err != nil {
		return "", machineError(err)
	}
	return req.ID, nil
}

// data says where the data lies; nil if nobody can.
func (d disks) data(ctx context.Context) (*admin.Data, error) {
	if d.machine == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, machineTimeout)
	defer cancel()
	s, err := d.machine.State(ctx)
	if err != nil {
		return nil, err
	}
	data := &admin.Data{Disk: s.Data.Disk, Problem: s.Data.Problem}
	if m := s.Data.Move; m != nil {
		data.Move = &admin.Move{Disk: m.Disk, CopyProgress: admin.CopyProgress(m.CopyProgress), Failed: m.Failed}
	}
	return data, nil
}

func decode(body []byte, into any) error {
	if err := admin.Decode(body, into); err != nil {
		return &replicate.Error{Code: replicate.CodeInvalid, Message: err.Error()}
	}
	return nil
}

func noMachine() error {
	return &replicate.Error{Code: replicate.CodeUnsupported,
		Message: "this box is a program on somebody's computer: its data lies in its data directory, which only whoever runs it can move"}
}

// machineError makes what a peer gets of an error of the first process.
func machineError(err error) error {
	var refused *machine.Error
	if !errors.As(err, &refused) {
		return err
	}
	code := replicate.CodeInvalid
	switch refused.Code {
	case machine.CodeUnknown:
		code = replicate.CodeUnsupported
	case machine.CodeBusy:
		code = replicate.CodeBusy
	case machine.CodeCanceled:
		code = replicate.CodeCanceled
	}
	return &replicate.Error{Code: code, Message: refused.Message}
}

// disks answers an administrator.
func (a administration) disks(ctx context.Context, c *call) (any, error) {
	return disks{a.b.machine}.list(ctx, c.body)
}

func (a administration) useDisk(ctx context.Context, c *call) (any, error) {
	id, err := disks{a.b.machine}.use(ctx, c.body, c.progress)
	if err != nil {
		return nil, err
	}
	a.b.events.add(a.by(c, admin.Event{Kind: admin.EventDiskUse, Detail: "the data moves to disk " + id}))
	return &admin.Empty{}, nil
}

// diskKey is where the box remembers which disk its data lay on.
const diskKey = "disk"

// noteDisk records what became of the data since the last run: that it lies on
// another disk, or that the box had to wait for it.
func (b *box) noteDisk(ctx context.Context) {
	if b.machine == nil || b.store.ReadOnly() {
		return
	}
	asking, cancel := context.WithTimeout(ctx, machineTimeout)
	defer cancel()
	s, err := b.machine.State(asking)
	if err != nil {
		if ctx.Err() == nil {
			b.log.Warn("where the data lies is unknown", "error", err)
		}
		return
	}
	was, err := b.memory.lastDisk()
	if err != nil {
		b.log.Error("where the data lay is unknown", "error", err)
	}
	now := s.Data.Disk
	if was != now {
		b.events.add(admin.Event{Kind: admin.EventDataMoved, Detail: fmt.Sprintf("from %s to %s", diskName(was), diskName(now))})
		err := b.memory.update(func(t *replica.TableBatch) {
			t.Put(b.memory.table, []byte(diskKey), appendDisk(nil, now))
		})
		if err != nil {
			b.log.Error("where the data lies is not remembered", "error", err)
		}
	}
	if s.Data.Away > 0 {
		b.events.add(admin.Event{Kind: admin.EventDataBack, Detail: fmt.Sprintf("%s was missing for %v", diskName(now), time.Duration(s.Data.Away)*time.Second)})
	}
}

func diskName(id string) string {
	if id == "" {
		return "the disk that the box starts from"
	}
	return "disk " + id
}

// The value of the key "disk":
//
//	offset  bytes
//	     0      1  version, 1
//	     1         id of the disk, at most 64 printable ASCII characters; empty: that the box starts from
const (
	diskVersion = 1
	maxDiskID   = 64
)

func appendDisk(b []byte, id string) []byte { return append(append(b, diskVersion), id...) }

func parseDisk(b []byte) (string, error) {
	if len(b) == 0 || b[0] != diskVersion || len(b) > 1+maxDiskID {
		return "", fmt.Errorf("%d bytes that are no disk of version %d", len(b), diskVersion)
	}
	for _, c := range b[1:] {
		if c <= ' ' || c > '~' {
			return "", errors.New("the id of a disk is not printable ASCII")
		}
	}
	return string(b[1:]), nil
}

// lastDisk returns the disk that the data lay on in the last run.
func (m *memory) lastDisk() (string, error) {
	b, err := m.table.Get([]byte(diskKey))
	if errors.Is(err, replica.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("appliance: reading the box's disk: %w", err)
	}
	id, err := parseDisk(b)
	if err != nil {
		return "", fmt.Errorf("appliance: reading the box's disk: %w", err)
	}
	return id, nil
}
