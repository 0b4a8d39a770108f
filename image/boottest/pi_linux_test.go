package boottest

import (
	"bufio"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cobox/image/layout"
)

// piTree is the device tree of a Raspberry Pi 3 in the slot.
const piTree = "bcm2710-rpi-3-b.dtb"

// pi is a Raspberry Pi 3 with the card in its slot. QEMU takes for a card only
// what is as large as one: a power of two.
func pi(t testing.TB, image string, size int64) computer {
	t.Helper()
	files := slotFiles(t, image, layout.SlotA, layout.KernelFile, layout.InitrdFile, piTree)
	return computer{
		disk: copySparse(t, image, size), kernel: files[0], initrd: files[1], port: freePort(t),
		serial: "ttyAMA1,115200",
		// QEMU's watchdog of this board restarts the machine as soon as it is armed,
		// and every other start the driver of the video processor, which QEMU does
		// not have, follows a wild pointer.
		cmdline: "initcall_blacklist=bcm2835_wdt_driver_init,vchiq_driver_init cobox.slot=a" + verbose,
		board: func(m computer) []string {
			return []string{"-M", "raspi3b", "-dtb", files[2], "-drive", m.drive("if=sd"), "-usb", "-device", "usb-net,netdev=n0"}
		},
	}
}

// TestPi boots on a Raspberry Pi 3, from its card and with its network card on
// USB, until a member who has the sticker has a backup back.
func TestPi(t *testing.T) {
	img, label := provisioned(t)
	m := pi(t, img, 4<<30)
	v := start(t, m)
	me := &member{t: t, home: t.TempDir()}
	me.must("init", "--phrase-out", filepath.Join(me.home, "words"))
	took := me.pair(v, label, 4*time.Minute)
	t.Logf("Raspberry Pi 3, power-on to a pairing by the sticker: %v", took.Round(10*time.Millisecond))
	src := tree(t, 30, 60_000, 21)
	me.must("backup", src)
	me.restored("latest", src)
	v.sound()
	// The board has no power button; its plug is pulled.
	v.kill()

	v = start(t, m)
	me.await(v, 4*time.Minute)
	me.restored("latest", src)
	v.sound()
}

// TestScreen reads the code from the box's screen, as a phone does, and pairs
// by it. It is a box that nobody has given an identity.
func TestScreen(t *testing.T) {
	m := pi(t, theImage(t), 4<<30)
	v := start(t, m)
	me := &member{t: t, home: t.TempDir()}
	me.must("init", "--phrase-out", filepath.Join(me.home, "words"))
	v.wait("a screen is found", 2*time.Minute)
	// The console shows the code when the screen does.
	v.wait(pairingCode, 4*time.Minute)
	var out string
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		code := 0
		if out, code = me.run("pair", v.screenshot(), "--address", "127.0.0.1:"+v.port); code == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the code on the screen does not pair: %s", out)
		}
	}
	src := tree(t, 10, 60_000, 22)
	me.must("backup", src)
	me.restored("latest", src)
	// A code that is used up must not stay for the next who comes by.
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		out, code := me.run("pair", v.screenshot())
		if code != 0 && strings.Contains(out, "no QR code") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the screen still shows a code after the pairing: %s", out)
		}
	}
	v.sound()
}

// screenshot takes a picture of the screen and returns the path of a PNG.
func (v *vm) screenshot() string {
	v.t.Helper()
	dir := v.t.TempDir()
	raw, path := filepath.Join(dir, "screen.ppm"), filepath.Join(dir, "screen.png")
	v.qmp("screendump", map[string]any{"filename": raw})
	f, err := os.Open(raw)
	if err != nil {
		v.t.Fatal(err)
	}
	defer f.Close()
	img, err := decodePPM(f)
	if err != nil {
		v.t.Fatal(err)
	}
	out, err := os.Create(path)
	if err != nil {
		v.t.Fatal(err)
	}
	defer out.Close()
	if err := png.Encode(out, img); err != nil {
		v.t.Fatal(err)
	}
	return path
}

// decodePPM reads a picture as QEMU writes it: P6 with three bytes a pixel.
func decodePPM(r io.Reader) (image.Image, error) {
	b := bufio.NewReader(r)
	var width, height, most int
	if _, err := fmt.Fscanf(b, "P6\n%d %d\n%d\n", &width, &height, &most); err != nil || most != 255 {
		return nil, fmt.Errorf("not a PPM picture: %v", err)
	}
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	row := make([]byte, 3*width)
	for y := range height {
		if _, err := io.ReadFull(b, row); err != nil {
			return nil, err
		}
		for x := range width {
			img.SetRGBA(x, y, color.RGBA{row[3*x], row[3*x+1], row[3*x+2], 255})
		}
	}
	return img, nil
}
