package boottest

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
)

// uBoot is the boot loader of QEMU's board, of Debian's package u-boot-qemu.
const uBoot = "/usr/lib/u-boot/qemu_arm64/u-boot.bin"

// firmware is what U-Boot does here in place of the Raspberry Pi's firmware: it
// chooses a slot by autoboot.txt and the one-shot flag, loads the system from
// that slot's partition, and tells the kernel in the device tree which it was and
// whether the flag was set. The arguments of the kernel are the slot's; what the board needs and what a
// test wants come behind them.
//
// What the firmware of a Raspberry Pi does if it cannot load a slot is not known
// to us, so here the machine is switched off, and the test fails.
//
// autoboot.txt names boot_partition twice. An import of all of it leaves the
// last, which is that of [tryboot]; an import of one name takes the first.
const firmware = `
echo firmware: starts
setenv fail 'echo "firmware: FAILED at ${step}"; poweroff'
pci enum
virtio scan
setenv step autoboot.txt
load virtio 0:1 ${loadaddr} autoboot.txt || run fail
env import -t ${loadaddr} ${filesize} || run fail
setenv tried ${boot_partition}
env import -t ${loadaddr} ${filesize} boot_partition || run fail
if test "${tryboot}" = 1; then
  test "${tryboot_a_b}" = 1 || run fail
  setenv boot_partition ${tried}
fi
echo firmware: partition ${boot_partition}
setenv step cmdline.txt
load virtio 0:${boot_partition} ${loadaddr} cmdline.txt || run fail
env import -t ${loadaddr} ${filesize} console || run fail
setenv step kernel8.img
load virtio 0:${boot_partition} ${kernel_addr_r} kernel8.img || run fail
setenv step initrd.zst
load virtio 0:${boot_partition} ${ramdisk_addr_r} initrd.zst || run fail
setenv step 'the device tree'
fdt addr ${fdtcontroladdr} || run fail
fdt resize 4096 || run fail
fdt mknode /chosen bootloader || run fail
fdt set /chosen/bootloader partition <${boot_partition}> || run fail
fdt set /chosen/bootloader tryboot <${tryboot}> || run fail
setenv bootargs "console=${console} console=ttyAMA0 ${arguments}"
setenv step 'the kernel'
booti ${kernel_addr_r} ${ramdisk_addr_r}:${filesize} ${fdtcontroladdr}
run fail
`

const (
	settingsSize = 0x40000  // what U-Boot reads
	flashSize    = 64 << 20 // what QEMU's board has
)

// newSettings makes the flash memory where U-Boot keeps its settings: the
// CRC-32 of the rest, little-endian; texts NAME=VALUE, each ended by a zero; a
// zero. They make U-Boot the firmware; everything on the disk is as it ships.
// The one-shot flag stands there too, because each start gets new settings.
func newSettings(t testing.TB, tryboot bool, arguments string) string {
	t.Helper()
	flag := 0
	if tryboot {
		flag = 1
	}
	var text []byte
	for _, s := range []struct{ name, value string }{
		{"arch", "arm"},
		{"bootdelay", "-2"}, // nobody can press a key
		{"bootcmd", firmware},
		{"loadaddr", "0x40200000"},
		{"kernel_addr_r", "0x40400000"},
		{"ramdisk_addr_r", "0x44000000"},
		{"kernel_comp_addr_r", "0x50000000"}, // where the kernel is unpacked from
		{"kernel_comp_size", "0x4000000"},
		{"tryboot", fmt.Sprint(flag)},
		{"arguments", arguments},
	} {
		text = fmt.Appendf(text, "%s=%s\x00", s.name, s.value)
	}
	b := make([]byte, settingsSize)
	if copy(b[4:], text) != len(text) {
		t.Fatal("the settings of U-Boot are too long")
	}
	binary.LittleEndian.PutUint32(b, crc32.ChecksumIEEE(b[4:]))
	path := filepath.Join(t.TempDir(), "settings")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, flashSize); err != nil {
		t.Fatal(err)
	}
	return path
}
