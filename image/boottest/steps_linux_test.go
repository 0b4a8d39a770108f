package boottest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"image"
	"image/draw"
	"image/jpeg"
	"image/png"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"

	"cobox/image/disk"
	"cobox/image/fat32"
	"cobox/image/layout"
	"cobox/netlink/discover/nettest"
)

// The office of the six steps.
const (
	officeRouter = "192.168.77.1"
	officeBox    = "192.168.77.50"
	officeSide   = "tap0"
)

// TestSixSteps does what the README says in its six steps, command by command:
// from the image to a backup that comes back, with a box that nobody tells the
// address of. The box is an emulated Raspberry Pi 3, at a network with a router
// that gives it an address; the member's computer is in that network, too.
func TestSixSteps(t *testing.T) {
	img := theImage(t)
	office := nettest.New(t)
	office.Tap(officeSide)
	office.Add(officeSide, officeRouter+"/24")
	router := newRouter(t, office)
	s := &steps{t: t, office: office, dir: t.TempDir(), home: t.TempDir(), commands: readmeSteps(t)}

	// 1: -image is what was downloaded.
	for _, program := range []string{"cobox", "coboximg"} {
		out, err := exec.Command("go", "build", "-o", filepath.Join(s.dir, "bin", program), "cobox/cmd/"+program).CombinedOutput()
		if err != nil {
			t.Fatalf("building %s: %v\n%s", program, err, out)
		}
	}
	mustDo(t, os.Mkdir(filepath.Join(s.dir, "out"), 0o755))
	mustDo(t, os.Symlink(img, filepath.Join(s.dir, "out", "cobox.img")))

	// 2: the names are those of the copy.
	s.do("coboximg provision")
	labels, err := filepath.Glob(filepath.Join(s.dir, "out", "*-label.png"))
	if err != nil || len(labels) != 1 {
		t.Fatalf("labels: %v %v", labels, err)
	}
	name := regexp.MustCompile(`cobox-[a-z2-7]{4}-label`).FindString(labels[0])
	s.replace = append(s.replace, "cobox-abcd", strings.TrimSuffix(name, "-label"))

	// 3: a card, in a reader. QEMU wants its size to be a power of two.
	card := filepath.Join(s.dir, "card")
	f, err := os.Create(card)
	mustDo(t, err)
	mustDo(t, errors.Join(f.Truncate(4<<30), f.Close()))
	s.replace = append(s.replace, "/dev/sdX", card+" --yes") // nobody can be asked here
	s.do("coboximg flash")

	// 4
	began := time.Now()
	pi := plugIn(t, office, card)
	pi.wait("an IPv4 address is granted", 4*time.Minute)
	pi.wait("box is running", 4*time.Minute)
	// It asks again after some seconds if an answer is late. It keeps the time a
	// moment after it has said so, long before the power is cut.
	pi.wait("the clock is set", 4*time.Minute)

	// 5: init shows the words on a terminal, and there is none.
	photograph(t, labels[0], filepath.Join(s.dir, "sticker.jpg"))
	s.replace = append(s.replace, "cobox init", "cobox init --phrase-out words")
	s.do("cobox init")
	s.do("cobox pair")

	// 6
	// Its network card on USB 1 is slow, and slower in QEMU.
	documents := filepath.Join(s.home, "Documents")
	mustDo(t, os.CopyFS(documents, os.DirFS(tree(t, 10, 40_000, 31))))
	back := filepath.Join(s.dir, "back")
	s.replace = append(s.replace, "/tmp/back", back)
	s.do("cobox backup")
	s.do("cobox restore")
	same(t, documents, back)
	if len(s.commands) > 0 {
		t.Errorf("the README has more commands: %q", s.commands)
	}
	if lines := troubles.FindAllString(pi.log(), -1); lines != nil {
		t.Errorf("console: %q", lines)
	}

	// All the while the box keeps its lease, and has the router's time. That is
	// before any other that it would believe, also when the power comes back and
	// there is nobody to ask: this computer has no clock of its own.
	for end := time.Now().Add(officeLease); router.renewals.Load() == 0 && time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond)
	}
	// A request whose answer is slow comes twice, so it is the box that says how
	// often it had to begin anew.
	if grants := strings.Count(pi.log(), "an IPv4 address is granted"); router.renewals.Load() == 0 || grants != 1 {
		t.Errorf("%d leases were granted and %d renewed", grants, router.renewals.Load())
	}
	router.clock.Close()
	pi.kill()
	pi = plugIn(t, office, card)
	pi.wait("box is running", 4*time.Minute)
	lifts := regexp.MustCompile(`the clock was behind what is known set=(\S+)`).FindAllStringSubmatch(pi.log(), -1)
	if len(lifts) == 0 {
		t.Fatal("the clock was not set by what is known")
	}
	set, err := time.Parse(time.RFC3339, lifts[len(lifts)-1][1])
	if err != nil || set.Before(began.Add(ahead).Truncate(time.Second)) {
		t.Errorf("the clock goes on from %v (%v); it was later when the power was cut", set, err)
	}
}

func mustDo(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// readmeSteps returns the commands of the README's six steps.
func readmeSteps(t testing.TB) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	mustDo(t, err)
	_, section, ok := strings.Cut(string(b), "\n## A box in six steps\n")
	if !ok {
		t.Fatal("the README has no six steps")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var commands []string
	numbers := 0
	for line := range strings.Lines(section) {
		if strings.HasPrefix(line, "       ") {
			commands = append(commands, strings.TrimSpace(line))
		}
		if regexp.MustCompile(`^[1-9]\. \*\*`).MatchString(line) {
			numbers++
		}
	}
	if numbers != 6 {
		t.Errorf("the README has %d steps", numbers)
	}
	return commands
}

// steps is somebody who follows them.
type steps struct {
	t         testing.TB
	office    *nettest.Network
	dir, home string
	commands  []string // those that are not done yet
	replace   []string // what the README says, and what it is here
}

// do runs the next command of the README, which must begin so, on a computer at
// the office.
func (s *steps) do(begins string) {
	s.t.Helper()
	if len(s.commands) == 0 || !strings.HasPrefix(s.commands[0], begins) {
		s.t.Fatalf("the README goes on with %q, not with %s", s.commands, begins)
	}
	line := strings.NewReplacer(s.replace...).Replace(s.commands[0])
	s.commands = s.commands[1:]
	cmd := exec.Command("sh", "-c", line)
	cmd.Dir = s.dir
	cmd.Env = []string{"HOME=" + s.home, "PATH=" + filepath.Join(s.dir, "bin") + ":" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	mustDo(s.t, s.office.Start(cmd))
	if err := cmd.Wait(); err != nil {
		s.t.Fatalf("%s: %v\n%s", line, err, &out)
	}
	s.t.Logf("%s (%v)\n%s", line, time.Since(began).Round(10*time.Millisecond), &out)
}

// photograph makes a photo of a label: on a table, and as JPEG.
func photograph(t testing.TB, label, photo string) {
	t.Helper()
	f, err := os.Open(label)
	mustDo(t, err)
	defer f.Close()
	printed, err := png.Decode(f)
	mustDo(t, err)
	const table = 60
	img := image.NewGray(printed.Bounds().Inset(-table))
	draw.Draw(img, img.Bounds(), image.NewUniform(image.Black), image.Point{}, draw.Src)
	draw.Draw(img, printed.Bounds(), printed, printed.Bounds().Min, draw.Src)
	out, err := os.Create(photo)
	mustDo(t, err)
	mustDo(t, errors.Join(jpeg.Encode(out, img, &jpeg.Options{Quality: 70}), out.Close()))
}

// router is the office's. It gives the only address that it has, and the time,
// which at the office is [ahead].
type router struct {
	t        testing.TB
	renewals atomic.Int32 // of a lease, by who has it
	clock    net.PacketConn
}

const (
	officeLease = time.Minute // the shortest that a box takes
	ahead       = 36 * time.Hour
)

func newRouter(t testing.TB, office *nettest.Network) *router {
	t.Helper()
	r := &router{t: t}
	var server *server4.Server
	mustDo(t, office.Do(func() (err error) {
		server, err = server4.NewServer(officeSide, &net.UDPAddr{IP: net.IPv4zero, Port: dhcpv4.ServerPort}, r.lease)
		if err == nil {
			r.clock, err = net.ListenPacket("udp4", officeRouter+":123")
		}
		return err
	}))
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve() }) // until it is closed
	serving.Go(r.tellTime)
	t.Cleanup(func() {
		server.Close()
		r.clock.Close()
		serving.Wait()
	})
	return r
}

// lease answers a request for an address.
func (r *router) lease(conn net.PacketConn, peer net.Addr, request *dhcpv4.DHCPv4) {
	kind := dhcpv4.MessageTypeOffer
	if request.MessageType() == dhcpv4.MessageTypeRequest {
		kind = dhcpv4.MessageTypeAck
		if request.ClientIPAddr.Equal(net.ParseIP(officeBox)) {
			r.renewals.Add(1)
		}
	}
	here := net.ParseIP(officeRouter)
	reply, err := dhcpv4.NewReplyFromRequest(request,
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithYourIP(net.ParseIP(officeBox)),
		dhcpv4.WithServerIP(here),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(here)),
		dhcpv4.WithOption(dhcpv4.OptNTPServers(here)),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
		dhcpv4.WithRouter(here),
		dhcpv4.WithLeaseTime(uint32(officeLease/time.Second)),
	)
	if err == nil {
		_, err = conn.WriteTo(reply.ToBytes(), peer)
	}
	if err != nil {
		r.t.Errorf("the router does not answer: %v", err)
	}
}

// tellTime answers as a time server (RFC 5905, section 7.3) until its socket is
// closed.
func (r *router) tellTime() {
	question := make([]byte, 48)
	for {
		n, peer, err := r.clock.ReadFrom(question)
		if err != nil {
			return
		}
		if n < len(question) {
			continue
		}
		now := time.Now().Add(ahead)
		stamp := uint64(now.Unix()+2_208_988_800)<<32 | uint64(now.Nanosecond())<<32/1e9 // since 1900
		answer := make([]byte, 48)
		answer[0], answer[1], answer[2], answer[3] = 4<<3|4, 1, 6, 0xec // version 4, server, stratum 1, 64 s, 2^-20 s
		binary.BigEndian.PutUint64(answer[16:], stamp)                  // its clock was set,
		copy(answer[24:], question[40:])                                // the client's time,
		binary.BigEndian.PutUint64(answer[32:], stamp)                  // the question came
		binary.BigEndian.PutUint64(answer[40:], stamp)                  // and the answer goes
		r.clock.WriteTo(answer, peer)
	}
}

// piBoard is a Raspberry Pi 3 that runs.
type piBoard struct {
	t       testing.TB
	console string
	exited  chan struct{}
	kill    func() // as if the power was cut
}

// plugIn starts an emulated Raspberry Pi 3 with a card, at the office's network.
func plugIn(t testing.TB, office *nettest.Network, card string) *piBoard {
	t.Helper()
	const tree = "bcm2710-rpi-3-b.dtb"
	dir := t.TempDir()
	files, err := disk.Partition(card, layout.SlotA.Partition())
	mustDo(t, err)
	for _, name := range []string{layout.KernelFile, layout.InitrdFile, tree} {
		i := slices.IndexFunc(files, func(f fat32.File) bool { return f.Path == name })
		if i < 0 {
			t.Fatalf("the slot has no %s", name)
		}
		mustDo(t, os.WriteFile(filepath.Join(dir, name), files[i].Data, 0o644))
	}
	p := &piBoard{t: t, console: filepath.Join(dir, "console.log"), exited: make(chan struct{})}
	cmd := exec.Command("qemu-system-aarch64", "-M", "raspi3b", "-display", "none", "-no-reboot",
		"-kernel", layout.KernelFile, "-initrd", layout.InitrdFile, "-dtb", tree,
		// QEMU's watchdog of this board restarts the machine as soon as it is armed.
		"-append", "console=ttyAMA1,115200 rdinit=/init panic=10 oops=panic initcall_blacklist=bcm2835_wdt_driver_init,vchiq_driver_init cobox.slot=a",
		"-serial", "file:"+p.console, "-drive", "if=sd,format=raw,file="+card,
		"-usb", "-device", "usb-net,netdev=n0", "-netdev", "tap,id=n0,ifname="+officeSide+",script=no,downscript=no")
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	mustDo(t, office.Start(cmd))
	go func() {
		_ = cmd.Wait()
		close(p.exited)
	}()
	p.kill = func() {
		_ = cmd.Process.Kill()
		<-p.exited
	}
	t.Cleanup(func() {
		p.kill()
		if out.Len() > 0 {
			t.Logf("QEMU says: %s", &out)
		}
		if t.Failed() {
			t.Logf("console of the box:\n%s", p.log())
		}
	})
	return p
}

// log returns what the box has written to its console, without colours.
func (p *piBoard) log() string {
	b, err := os.ReadFile(p.console)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		p.t.Error(err)
	}
	return string(escapes.ReplaceAll(b, nil))
}

// wait waits until the console shows a text.
func (p *piBoard) wait(text string, atMost time.Duration) {
	p.t.Helper()
	for end := time.Now().Add(atMost); !strings.Contains(p.log(), text); time.Sleep(100 * time.Millisecond) {
		select {
		case <-p.exited:
			p.t.Fatalf("QEMU ended while %q was waited for", text)
		default:
		}
		if time.Now().After(end) {
			p.t.Fatalf("%q did not come within %v", text, atMost)
		}
	}
}
