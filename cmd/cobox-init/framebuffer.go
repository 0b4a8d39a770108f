//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"cobox/cmd/cobox-init/screen"
)

const framebufferDevice = "/dev/fb0"

// Requests and structures of linux/fb.h and linux/kd.h.
const (
	fbGetVariable = 0x4600 // struct fb_var_screeninfo, 160 bytes
	fbGetFixed    = 0x4602 // struct fb_fix_screeninfo, 80 bytes on a 64-bit machine
	kdSetMode     = 0x4b3a
	kdGraphics    = 1
)

// framebuffer is the mode of a screen.
type framebuffer struct {
	width, height, stride int
	format                screen.Format
}

// maxSide is more than a screen has, so that a driver's nonsense does not take
// all memory.
const maxSide = 8192

// parseFramebuffer reads what a driver tells:
//
//	variable: 0 width u32, 4 height u32, 24 bits a pixel u32,
//	          32 red, 44 green, 56 blue, each offset u32 ‖ length u32 ‖ u32
//	fixed:    48 bytes a line u32
func parseFramebuffer(variable [160]byte, fixed [80]byte) (framebuffer, error) {
	u32 := binary.NativeEndian.Uint32
	channel := func(at int) screen.Channel {
		return screen.Channel{Offset: u32(variable[at:]), Length: u32(variable[at+4:])}
	}
	width, height, stride := u32(variable[0:]), u32(variable[4:]), u32(fixed[48:])
	f := framebuffer{int(width), int(height), int(stride), screen.Format{
		Bits: u32(variable[24:]), Red: channel(32), Green: channel(44), Blue: channel(56),
	}}
	if err := f.format.Validate(); err != nil {
		return framebuffer{}, err
	}
	if width == 0 || height == 0 || width > maxSide || height > maxSide || uint64(stride) < uint64(width)*uint64(f.format.Bits/8) {
		return framebuffer{}, fmt.Errorf("screen: a screen of %d × %d pixels with %d bytes a line", width, height, stride)
	}
	return f, nil
}

// openFramebuffer opens the screen and asks for its mode.
func openFramebuffer() (*os.File, framebuffer, error) {
	file, err := os.OpenFile(framebufferDevice, os.O_RDWR, 0)
	if err != nil {
		return nil, framebuffer{}, fmt.Errorf("screen: %w", err)
	}
	var variable [160]byte
	var fixed [80]byte
	err = errors.Join(ioctl(file, fbGetVariable, unsafe.Pointer(&variable)), ioctl(file, fbGetFixed, unsafe.Pointer(&fixed)))
	var f framebuffer
	if err == nil {
		f, err = parseFramebuffer(variable, fixed)
	}
	if err != nil {
		file.Close()
		return nil, framebuffer{}, err
	}
	return file, f, nil
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg)); errno != 0 {
		return fmt.Errorf("screen: request %#x: %w", request, errno)
	}
	return nil
}

// show puts a picture of the screen's size on it.
func (f framebuffer) show(file *os.File, img *image.RGBA) error {
	var row []byte
	for y := range f.height {
		row = f.format.Append(row[:0], img, y)
		if _, err := file.WriteAt(row, int64(y)*int64(f.stride)); err != nil {
			return fmt.Errorf("screen: %w", err)
		}
	}
	return nil
}

// quietConsole keeps the kernel from drawing its text and cursor over the
// picture. A kernel without a text console on the screen draws none.
func quietConsole() error {
	tty, err := os.OpenFile("/dev/tty0", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil
	}
	defer tty.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, tty.Fd(), kdSetMode, kdGraphics); errno != 0 {
		return fmt.Errorf("screen: taking it from the kernel's console: %w", errno)
	}
	return nil
}
