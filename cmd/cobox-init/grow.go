//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"cobox/image/layout"
)

// growPartition lets the data partition take the whole disk. It changes one
// sector, so that a power cut leaves the old table or the new one; the kernel
// reads whichever it is at the next start, and the file system is then grown
// from whatever size it has.
func (d *disk) growPartition() (grown bool, err error) {
	want, err := layout.NewTable(d.size)
	if err != nil {
		return false, fmt.Errorf("growing the data partition: %w", err)
	}
	if want.Data.Size <= d.table.Data.Size {
		return false, nil
	}
	f, err := os.OpenFile(d.path(), os.O_RDWR, 0)
	if err != nil {
		return false, fmt.Errorf("growing the data partition: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.WriteAt(want.AppendMBR(nil), 0); err != nil {
		return false, fmt.Errorf("growing the data partition: writing the table: %w", err)
	}
	if err := f.Sync(); err != nil {
		return false, fmt.Errorf("growing the data partition: writing the table: %w", err)
	}
	d.table = want
	if err := resizeKernelPartition(f, 4, want.Data); err != nil {
		return true, fmt.Errorf("growing the data partition: telling the kernel: %w", err)
	}
	return true, nil
}

// blkpgArg and blkpgPartition are the kernel's struct blkpg_ioctl_arg and
// struct blkpg_partition, of linux/blkpg.h.
type blkpgArg struct {
	op, flags, length int32
	data              *blkpgPartition
}

type blkpgPartition struct {
	start, length int64 // bytes
	number        int32
	_             [64]byte
	_             [64]byte
	_             int32 // to a multiple of 8
}

// resizeKernelPartition changes the size of a partition that may be in use.
func resizeKernelPartition(f *os.File, number int, p layout.Partition) error {
	part := &blkpgPartition{start: int64(p.Start), length: int64(p.Size), number: int32(number)}
	arg := &blkpgArg{op: unix.BLKPG_RESIZE_PARTITION, length: int32(unsafe.Sizeof(*part)), data: part}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(arg)))
	if errno != 0 {
		return errno
	}
	return nil
}

// ext4ResizeFS is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64) of linux/ext4.h.
const ext4ResizeFS = 0x40086610

// growFileSystem lets the mounted ext4 at path take its whole partition. The
// kernel does it block group by block group, each a transaction of the journal:
// what a power cut interrupts goes on at the next start. One that is large
// enough is left as it is.
func growFileSystem(path string, partition uint64) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("growing the file system: %w", err)
	}
	defer dir.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return fmt.Errorf("growing the file system: %w", err)
	}
	blocks := partition / uint64(st.Bsize)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), ext4ResizeFS, uintptr(unsafe.Pointer(&blocks)))
	if errno != 0 {
		return fmt.Errorf("growing the file system to %d blocks: %w", blocks, errno)
	}
	return nil
}

// ext4SetUUID is EXT4_IOC_SETFSUUID, _IOW('f', 44, struct fsuuid) of linux/ext4.h.
const ext4SetUUID = 0x4008662c

// setUUID gives the mounted ext4 at path a UUID made of id, by which computers
// that are shown several disks tell them apart.
func setUUID(path string, id [16]byte) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("naming the file system: %w", err)
	}
	defer dir.Close()
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // a random one, RFC 9562
	arg := struct {
		length, flags uint32
		uuid          [16]byte
	}{length: 16, uuid: id}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), ext4SetUUID, uintptr(unsafe.Pointer(&arg)))
	if errno != 0 {
		return fmt.Errorf("naming the file system: %w", errno)
	}
	return nil
}
