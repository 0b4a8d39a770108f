package boottest

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// linkPort is where a box accepts links.
const linkPort = 26269

// TestPorts knocks at every port of the box from outside, by TCP and by UDP.
// One answers; all others say that nobody is there.
func TestPorts(t *testing.T) {
	w, args := newWire(t)
	m := card(t, 4<<30)
	m.args = args
	v := start(t, m)
	for end := time.Now().Add(2 * time.Minute); !w.boxAddr.IsValid(); {
		w.read(time.Now().Add(100 * time.Millisecond))
		if time.Now().After(end) {
			t.Fatal("the box asks for no address")
		}
	}
	for end := time.Now().Add(2 * time.Minute); w.knock(linkPort) != portOpen; {
		w.read(time.Now().Add(100 * time.Millisecond))
		if time.Now().After(end) {
			t.Fatal("the box does not listen at its port")
		}
	}
	began := time.Now()
	ports := w.scanTCP()
	var open, silent []int
	for port := 1; port < len(ports); port++ {
		switch ports[port] {
		case portOpen:
			open = append(open, port)
		case portSilent:
			silent = append(silent, port)
		}
	}
	t.Logf("65535 ports of TCP in %v: open %v, silent %d", time.Since(began).Round(100*time.Millisecond), open, len(silent))
	if !slices.Equal(open, []int{linkPort}) {
		t.Errorf("open ports of TCP: %v", open)
	}
	if len(silent) > 0 {
		t.Errorf("%d ports of TCP do not say that they are closed, for example %d", len(silent), silent[0])
	}
	// What people know by name, and what systems like this one tend to have open. Not
	// 5353: there the box answers for its name.
	for _, port := range []uint16{7, 53, 67, 68, 69, 111, 123, 137, 161, 500, 514, 546, 1900, 4500, 5355, 26269, 26270, 51820} {
		if !w.closedUDP(port) {
			t.Errorf("port %d of UDP does not say that it is closed", port)
		}
	}
	v.powerButton(30 * time.Second)
	v.sound()
}

type portState uint8

const (
	portSilent portState = iota
	portClosed
	portOpen
)

const (
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpACK = 0x10
)

// segment makes one of TCP without data.
func segment(src, dst netip.Addr, from, to uint16, seq uint32, flags byte) packet {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = binary.BigEndian.AppendUint32(b, seq)
	b = append(b, 0, 0, 0, 0, 5<<4, flags, 0x20, 0, 0, 0, 0, 0)
	pseudo := append(append([]byte{}, src.AsSlice()...), dst.AsSlice()...)
	pseudo = append(pseudo, 0, protoTCP, 0, byte(len(b)))
	binary.BigEndian.PutUint16(b[16:], checksum(pseudo, b))
	return packet{protoTCP, src, dst, b}
}

// knockFrom is our port.
const knockFrom = 40000

// answer tells which port a packet is the answer of. An open port is hung up on.
func (w *wire) answer(p packet) (port uint16, state portState) {
	if p.proto != protoTCP || len(p.body) < 20 || p.src != w.boxAddr || binary.BigEndian.Uint16(p.body[2:]) != knockFrom {
		return 0, portSilent
	}
	port = binary.BigEndian.Uint16(p.body)
	switch flags := p.body[13]; {
	case flags&tcpRST != 0:
		return port, portClosed
	case flags&(tcpSYN|tcpACK) == tcpSYN|tcpACK:
		w.sendIPv4(w.boxMAC, segment(p.dst, w.boxAddr, knockFrom, port, binary.BigEndian.Uint32(p.body[8:]), tcpRST))
		return port, portOpen
	}
	return 0, portSilent
}

// knock knocks at one port.
func (w *wire) knock(port uint16) portState {
	w.t.Helper()
	w.sendIPv4(w.boxMAC, segment(wireAddr, w.boxAddr, knockFrom, port, 1000, tcpSYN))
	for end := time.Now().Add(time.Second); ; {
		p, ok := w.read(end)
		if !ok {
			return portSilent
		}
		if got, state := w.answer(p); state != portSilent && got == port {
			return state
		}
	}
}

// scanTCP knocks at all ports, again and again at those that do not answer.
func (w *wire) scanTCP() [65536]portState {
	w.t.Helper()
	const window = 64 // what is under way at a time, so that no queue overflows
	var ports [65536]portState
	for range 4 {
		var waiting []uint16
		for port := 1; port < len(ports); port++ {
			if ports[port] == portSilent {
				waiting = append(waiting, uint16(port))
			}
		}
		for len(waiting) > 0 {
			now := waiting[:min(window, len(waiting))]
			waiting = waiting[len(now):]
			for _, port := range now {
				w.sendIPv4(w.boxMAC, segment(wireAddr, w.boxAddr, knockFrom, port, 1000, tcpSYN))
			}
			missing := len(now)
			for end := time.Now().Add(500 * time.Millisecond); missing > 0; {
				p, ok := w.read(end)
				if !ok {
					break
				}
				if port, state := w.answer(p); state != portSilent {
					if ports[port] == portSilent && slices.Contains(now, port) {
						missing--
					}
					ports[port] = state
				}
			}
		}
	}
	return ports
}

// closedUDP tells whether the box says that nobody is at a port. The kernel
// answers each address only now and then, so every question has another.
func (w *wire) closedUDP(port uint16) bool {
	w.t.Helper()
	for try := range 3 {
		src := netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + 20*try + int(port)%20)})
		b := binary.BigEndian.AppendUint16(nil, knockFrom)
		b = binary.BigEndian.AppendUint16(b, port)
		b = append(b, 0, 9, 0, 0, 'x')
		w.sendIPv4(w.boxMAC, packet{protoUDP, src, w.boxAddr, b})
		for end := time.Now().Add(2 * time.Second); ; {
			p, ok := w.read(end)
			if !ok {
				break
			}
			// Destination unreachable, port unreachable, and in it what we sent.
			if p.proto == protoICMP && p.dst == src && len(p.body) >= 8+20+8 && p.body[0] == 3 && p.body[1] == 3 &&
				binary.BigEndian.Uint16(p.body[8+20+2:]) == port {
				return true
			}
		}
	}
	return false
}
