package image

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"cobox/image/bundle"
	"cobox/image/disk"
	"cobox/image/fat32"
	"cobox/image/layout"
)

// System is what a slot holds, and where it comes from.
type System struct {
	// Files are those of a slot, and Manifest is what vouches for them.
	Files    bundle.Contents
	Manifest *bundle.Manifest
	// Programs are the two programs, Modules the kernel and the firmware.
	Programs []Program
	Modules  []Module

	data []byte // the file system that a data partition begins as
}

// firmwareFiles are what the boot loader of the models before 5 loads; the
// firmware of a Raspberry Pi 5 is in the board. The small, the debugging and the
// camera variants stay out.
var firmwareFiles = []string{"start.elf", "fixup.dat", "start4.elf", "fixup4.dat"}

// configText is config.txt of a slot. It is the same in both slots.
const configText = `# CoBox. This file is part of the system and is replaced with it.
arm_64bit=1
kernel=` + layout.KernelFile + `
initramfs ` + layout.InitrdFile + ` followkernel
cmdline=` + layout.CmdlineFile + `
auto_initramfs=0

# A screen works also if it is plugged in later.
hdmi_force_hotplug=1
disable_overscan=1
disable_splash=1
camera_auto_detect=0
display_auto_detect=0
enable_uart=1

# The firmware starts the watchdog before the kernel, so that a kernel that hangs
# is ended. Partition 0 is the slot that autoboot.txt names: a slot that was only
# tried is left again.
dtparam=watchdog=on
kernel_watchdog_timeout=15
kernel_watchdog_partition=0
`

// cmdlineText is the kernel's command line. The screen belongs to the box, so
// the console is the serial one; the firmware knows its name as serial0.
//
// Two arguments are for the time of a start. The kernel waits for each letter
// that it writes to a serial console, 11,520 a second, and has 40,000 to say: what
// is no warning stays in its log until init speaks. And it would name the numbers
// in the formats of its trace events, which nobody reads here, with some billion
// instructions: a third of all that it does before init.
//
// The last two keep it from making 24 disks, in memory and of files, that take a
// megabyte.
const cmdlineText = "console=serial0,115200 rdinit=/init panic=10 oops=panic watchdog.open_timeout=30 vt.global_cursor_default=0 consoleblank=0" +
	" loglevel=5 initcall_blacklist=trace_eval_init brd.rd_nr=0 loop.max_loop=0\n"

// NewSystem builds the two programs and collects the files of a slot.
func NewSystem(ctx context.Context, c Config) (*System, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	return newSystem(ctx, c)
}

func newSystem(ctx context.Context, c Config) (*System, error) {
	s := &System{Files: bundle.Contents{}}
	var err error
	c.Progress("fetching kernel and firmware")
	if s.Modules, err = modules(ctx, c, kernelModule, firmwareModule); err != nil {
		return nil, err
	}
	kernel, firmware := s.Modules[0].Dir, s.Modules[1].Dir

	c.Progress("building the programs")
	var vmlinuz, root, template []byte
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		raw, err := os.ReadFile(filepath.Join(kernel, "vmlinuz"))
		if err == nil {
			vmlinuz, err = packKernel(raw)
		}
		if err != nil {
			return fmt.Errorf("image: packing the kernel: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		var err error
		if s.Programs, err = programs(ctx, c); err != nil {
			return err
		}
		if root, err = initramfs(c, s.Programs[0].Binary, s.Programs[1].Binary); err != nil {
			return fmt.Errorf("image: making the initramfs: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		var err error
		if s.data, err = disk.Data(ctx, c.Time); err != nil {
			return err
		}
		if template, err = packTemplate(s.data); err != nil {
			return fmt.Errorf("image: packing the data partition: %w", err)
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}

	s.Files[layout.KernelFile] = vmlinuz
	s.Files[layout.InitrdFile] = root
	s.Files[layout.TemplateFile] = template
	s.Files[layout.ConfigFile] = []byte(configText)
	s.Files[layout.CmdlineFile] = []byte(cmdlineText)
	type source struct{ dir, pattern, into string }
	sources := []source{
		{kernel, "bcm*.dtb", ""},
		{kernel, "overlays/*.dtb*", "overlays"}, // the board asks for some by itself, for its revision or a hat
		{kernel, "LICENSE.linux", ""},           // the licences want to go with what they are for
		{firmware, "LICENSE.broadcom", ""},
	}
	for _, name := range firmwareFiles {
		sources = append(sources, source{firmware, name, ""})
	}
	for _, from := range sources {
		files, err := read(from.dir, from.pattern, from.into)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			s.Files[f.Path] = f.Data
		}
	}
	s.Manifest = &bundle.Manifest{Version: c.Version, Number: c.Number, Floor: c.Floor, Board: bundle.BoardRPi, Files: s.Files.Describe()}
	return s, nil
}

// read returns the files of a module that a pattern names. There must be one.
func read(dir, pattern, into string) ([]fat32.File, error) {
	names, err := filepath.Glob(filepath.Join(dir, filepath.FromSlash(pattern)))
	if err != nil || len(names) == 0 {
		return nil, fmt.Errorf("image: there is no %s in %s", pattern, dir)
	}
	var files []fat32.File
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("image: reading what goes into a slot: %w", err)
		}
		files = append(files, fat32.File{Path: path.Join(into, filepath.Base(name)), Data: b})
	}
	return files, nil
}

// packTemplate compresses the file system that a data partition begins as.
func packTemplate(b []byte) ([]byte, error) {
	var out bytes.Buffer
	// One thread: how the work is divided among several would be in the result.
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(layout.TemplateWindow), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	z.ResetContentSize(&out, int64(len(b)))
	if _, err := z.Write(b); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// packKernel compresses as gzip, the one form that the firmware unpacks, without
// a name and a time.
func packKernel(b []byte) ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	z.ModTime = time.Unix(0, 0) // in the file: none
	if _, err := z.Write(b); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
