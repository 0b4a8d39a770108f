package appliance_test

import (
	"errors"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cobox/appliance/admin"
	"cobox/netlink/replicate"
	"cobox/storage/replica"
)

// A box whose disk fills up refuses new data with a reason, keeps what it has,
// and takes data in again when there is room.
func TestFullDisk(t *testing.T) {
	ctx := testContext(t)
	var free atomic.Uint64
	free.Store(1 << 40)
	b := start(t, t.TempDir(), replica.Options{NoBallast: true,
		FreeSpace: func() (uint64, uint64, error) { return free.Load(), 1 << 40, nil }})
	d := b.device(ctx, b.info.Code)
	l := b.link(ctx, d)
	log := b.log(d, 20)
	if _, err := l.Backup(ctx, log); err != nil {
		t.Fatal(err)
	}

	free.Store(1 << 20)
	eventually(t, "noticing that the disk is full", func() bool {
		if err := log.Append(20); err != nil {
			t.Fatal(err)
		}
		_, err := l.Backup(ctx, log)
		return errors.Is(err, &replicate.Error{Code: replicate.CodeNoSpace})
	})
	readSome(t, ctx, l, log, 20)
	if got := b.metric("cobox_disk_low"); got != "1" {
		t.Errorf("cobox_disk_low %s", got)
	}
	if status, got := b.get("/healthz"); status != 200 || !strings.HasPrefix(got, "ok, but full") {
		t.Errorf("healthz %d %q", status, got)
	}
	var status admin.Status
	b.ask(ctx, l, admin.MethodStatus, admin.StatusRequest{}, &status)
	if !status.Box.DiskLow {
		t.Errorf("status %+v", status.Box)
	}
	var events admin.Log
	b.ask(ctx, l, admin.MethodLog, admin.LogRequest{}, &events)
	if events.Events[0].Kind != admin.EventNoSpace {
		t.Errorf("the last events are %+v", events.Events)
	}

	free.Store(1 << 40)
	eventually(t, "taking data in again", func() bool {
		_, err := l.Backup(ctx, log)
		return err == nil
	})
}

// readOnlyFS is a disk that the kernel has remounted read-only.
type readOnlyFS struct{ vfs.FS }

func (readOnlyFS) refuse() error { return &os.PathError{Op: "write", Path: "db", Err: syscall.EROFS} }

func (f readOnlyFS) Create(string, vfs.DiskWriteCategory) (vfs.File, error) { return nil, f.refuse() }
func (f readOnlyFS) OpenReadWrite(string, vfs.DiskWriteCategory, ...vfs.OpenOption) (vfs.File, error) {
	return nil, f.refuse()
}
func (f readOnlyFS) Lock(string) (io.Closer, error)     { return nil, f.refuse() }
func (f readOnlyFS) MkdirAll(string, os.FileMode) error { return f.refuse() }
func (f readOnlyFS) Remove(string) error                { return f.refuse() }
func (f readOnlyFS) RemoveAll(string) error             { return f.refuse() }
func (f readOnlyFS) Rename(_, _ string) error           { return f.refuse() }
func (f readOnlyFS) Link(_, _ string) error             { return f.refuse() }
func (f readOnlyFS) ReuseForWrite(_, _ string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	return nil, f.refuse()
}

// A box whose disk cannot be written any more still gives back what it holds.
func TestReadOnlyDisk(t *testing.T) {
	ctx := testContext(t)
	data := t.TempDir()
	b := start(t, data)
	d := b.device(ctx, b.info.Code)
	l := b.link(ctx, d)
	log := b.log(d, 20)
	if _, err := l.Backup(ctx, log); err != nil {
		t.Fatal(err)
	}
	l.Close()
	b.stop()

	b = start(t, data, replica.Options{FS: readOnlyFS{vfs.Default}})
	if status, body := b.get("/healthz"); status != 200 || !strings.Contains(body, "read-only") {
		t.Errorf("healthz %d %q", status, body)
	}
	l = b.link(ctx, d)
	readBack(t, ctx, l, log)
	if err := log.Append(1); err != nil {
		t.Fatal(err)
	}
	_, err := l.Backup(ctx, log)
	wantCode(t, "backup to a read-only box", err, replicate.CodeReadOnly)
	var status admin.Status
	b.ask(ctx, l, admin.MethodStatus, admin.StatusRequest{}, &status)
	if !status.ReadOnly {
		t.Errorf("status %+v", status)
	}
	wantCode(t, "an invite of a read-only box",
		l.Ask(ctx, admin.MethodInviteCreate, admin.InviteRequest{Quota: admin.Quota{Bytes: 1}}, nil), replicate.CodeReadOnly)
}
