package boottest

import (
	"encoding/binary"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// wire is the other end of a network cable of the box: a small network with a
// DHCP server, whose every packet the test sees. QEMU's own network would
// answer for the box.
type wire struct {
	t       testing.TB
	conn    *net.UnixConn
	box     *net.UnixAddr
	boxMAC  net.HardwareAddr // known when it has asked for an address
	boxAddr netip.Addr
	frame   []byte
}

var (
	wireMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	wireAddr = netip.MustParseAddr("192.0.2.1")
	wireBox  = netip.MustParseAddr("192.0.2.7")
)

// newWire returns a cable, and what QEMU is to be told of it.
func newWire(t testing.TB) (*wire, []string) {
	t.Helper()
	dir := t.TempDir()
	ours, theirs := filepath.Join(dir, "test"), filepath.Join(dir, "box")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: ours, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	w := &wire{t: t, conn: conn, box: &net.UnixAddr{Name: theirs, Net: "unixgram"}, frame: make([]byte, 65536)}
	return w, []string{
		"-netdev", "dgram,id=n1,local.type=unix,local.path=" + theirs + ",remote.type=unix,remote.path=" + ours,
		"-device", "virtio-net-pci,netdev=n1,romfile=,mac=02:00:00:00:00:07",
	}
}

// Numbers of Ethernet and IPv4.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	protoICMP = 1
	protoTCP  = 6
	protoUDP  = 17
)

// packet is one of IPv4.
type packet struct {
	proto    byte
	src, dst netip.Addr
	body     []byte
}

// read returns the next packet of IPv4 for us, and answers ARP and DHCP on the
// way; false if none comes until the deadline.
func (w *wire) read(deadline time.Time) (packet, bool) {
	w.t.Helper()
	w.conn.SetReadDeadline(deadline)
	for {
		n, err := w.conn.Read(w.frame)
		if err != nil {
			return packet{}, false
		}
		b := w.frame[:n]
		if n < 14 {
			continue
		}
		switch kind := binary.BigEndian.Uint16(b[12:]); kind {
		case etherARP:
			w.answerARP(b)
		case etherIPv4:
			p, ok := parseIPv4(b[14:])
			switch {
			case !ok:
			case p.proto == protoUDP && len(p.body) >= 8 && binary.BigEndian.Uint16(p.body[2:]) == 67:
				w.answerDHCP(b[6:12], p.body[8:])
			case p.dst.Is4() && p.dst.As4()[0] == 192:
				return p, true
			}
		}
	}
}

func parseIPv4(b []byte) (packet, bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return packet{}, false
	}
	head, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if head < 20 || total < head || total > len(b) {
		return packet{}, false
	}
	return packet{b[9], netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[head:total]}, true
}

// answerARP says that every address but the box's is ours.
func (w *wire) answerARP(b []byte) {
	if len(b) < 42 || binary.BigEndian.Uint16(b[20:]) != 1 || netip.AddrFrom4([4]byte(b[38:42])) == wireBox {
		return
	}
	a := append([]byte{}, b[6:12]...)
	a = append(append(a, wireMAC...), 8, 6)
	a = append(a, 0, 1, 8, 0, 6, 4, 0, 2)
	a = append(append(append(a, wireMAC...), b[38:42]...), b[22:32]...)
	w.send(a)
}

// answerDHCP gives the box its address.
func (w *wire) answerDHCP(mac, b []byte) {
	w.t.Helper()
	ask, err := dhcpv4.FromBytes(b)
	if err != nil {
		w.t.Errorf("DHCP: %v", err)
		return
	}
	kind := dhcpv4.MessageTypeOffer
	if ask.MessageType() == dhcpv4.MessageTypeRequest {
		kind = dhcpv4.MessageTypeAck
		w.boxMAC, w.boxAddr = append(net.HardwareAddr{}, mac...), wireBox
	}
	answer, err := dhcpv4.NewReplyFromRequest(ask,
		dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(wireBox.AsSlice()), dhcpv4.WithServerIP(wireAddr.AsSlice()),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithLeaseTime(3600),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(wireAddr.AsSlice())))
	if err != nil {
		w.t.Errorf("DHCP: %v", err)
		return
	}
	body := answer.ToBytes()
	udp := binary.BigEndian.AppendUint16(nil, 67)
	udp = binary.BigEndian.AppendUint16(udp, 68)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(body)))
	udp = append(append(udp, 0, 0), body...) // no checksum
	w.sendIPv4(mac, packet{protoUDP, wireAddr, netip.MustParseAddr("255.255.255.255"), udp})
}

func (w *wire) sendIPv4(mac net.HardwareAddr, p packet) {
	b := append(append(append([]byte{}, mac...), wireMAC...), 8, 0)
	h := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, p.proto, 0, 0}
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(p.body)))
	h = append(append(h, p.src.AsSlice()...), p.dst.AsSlice()...)
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	w.send(append(append(b, h...), p.body...))
}

func (w *wire) send(frame []byte) {
	w.t.Helper()
	w.conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := w.conn.WriteToUnix(frame, w.box); err != nil {
		w.t.Fatalf("the cable: %v", err)
	}
}

// checksum is that of IPv4, TCP and UDP (RFC 1071).
func checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, b := range parts { // each but the last of an even length
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		}
		if len(b)%2 == 1 {
			sum += uint32(b[len(b)-1]) << 8
		}
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
