// Package image builds the image that makes a Raspberry Pi a box, and is the map
// of what it consists of.
//
//	image/layout     where everything lies on the disk, and which slot starts
//	image/holds      what is on a disk, told by its bytes
//	image/bundle     signed updates: the manifest of a slot, release keys, the file
//	image/initrd     the root file system of a slot, packed
//	image/fat32      the file system of the boot selection and of the slots
//	image/slot       writes a system into a slot, and checks one that is there
//	image/disk       the whole disk as a file, and writing it to a card
//	image/label      the label that is stuck on a box
//	image/imagetest  variants of a system for tests, and what no image may hold
//	image/boottest   boots the image in an emulated computer
//
// Start at [Build], which makes the image and what belongs beside it; [NewSystem]
// makes only the files of a slot. The system is one kernel and one initramfs with
// two programs of ours: there is no other program in it, no shell and no library.
//
// The result depends on the source, on the modules that go.mod pins, on the
// version of Go and on that of mke2fs, and on nothing else: building twice gives
// the same bytes.
package image
