package discover

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// socket is a UDP socket of one family at the port of multicast DNS, which other
// programs of the machine may use too.
type socket struct {
	network string // "udp4" or "udp6"
	group   netip.Addr
	v4      *ipv4.PacketConn // one of the two
	v6      *ipv6.PacketConn
}

// packet is where a message came from.
type packet struct {
	from  netip.AddrPort
	index int  // of the interface
	group bool // it was sent to the group, so it comes from this network
}

// listen opens the socket. It has joined no group yet.
func listen(network string) (*socket, error) {
	s := &socket{network: network, group: group4}
	if network == "udp6" {
		s.group = group6
	}
	// Given a group, the net package binds to any address and shares the port.
	c, err := net.ListenPacket(network, net.JoinHostPort(s.group.String(), strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	// 255 shows the receiver that no router was in between (section 11).
	if network == "udp6" {
		s.v6 = ipv6.NewPacketConn(c)
		err = errors.Join(s.v6.SetControlMessage(ipv6.FlagInterface|ipv6.FlagDst, true),
			s.v6.SetMulticastHopLimit(255), s.v6.SetHopLimit(255), s.v6.SetMulticastLoopback(true))
	} else {
		s.v4 = ipv4.NewPacketConn(c)
		err = errors.Join(s.v4.SetControlMessage(ipv4.FlagInterface|ipv4.FlagDst, true),
			s.v4.SetMulticastTTL(255), s.v4.SetTTL(255), s.v4.SetMulticastLoopback(true))
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return s, nil
}

func (s *socket) close() error {
	if s.v6 != nil {
		return s.v6.Close()
	}
	return s.v4.Close()
}

// join makes the socket hear the group on an interface.
func (s *socket) join(i *net.Interface) error {
	var err error
	if s.v6 != nil {
		err = s.v6.JoinGroup(i, &net.UDPAddr{IP: s.group.AsSlice()})
	} else {
		err = s.v4.JoinGroup(i, &net.UDPAddr{IP: s.group.AsSlice()})
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil // joined before
	}
	return err
}

// read reads a message. One whose way is unknown has index 0.
func (s *socket) read(b []byte) (n int, p packet, err error) {
	var from net.Addr
	var to net.IP
	if s.v6 != nil {
		var cm *ipv6.ControlMessage
		if n, cm, from, err = s.v6.ReadFrom(b); cm != nil {
			p.index, to = cm.IfIndex, cm.Dst
		}
	} else {
		var cm *ipv4.ControlMessage
		if n, cm, from, err = s.v4.ReadFrom(b); cm != nil {
			p.index, to = cm.IfIndex, cm.Dst
		}
	}
	if err != nil {
		return 0, p, err
	}
	if udp, ok := from.(*net.UDPAddr); ok {
		p.from = udp.AddrPort()
	}
	dst, _ := netip.AddrFromSlice(to)
	p.group = dst.Unmap() == s.group
	return n, p, nil
}

// write sends a message out of an interface.
func (s *socket) write(b []byte, i *net.Interface, to netip.AddrPort) error {
	dst := net.UDPAddrFromAddrPort(to)
	var err error
	if s.v6 != nil {
		_, err = s.v6.WriteTo(b, &ipv6.ControlMessage{IfIndex: i.Index}, dst)
	} else {
		_, err = s.v4.WriteTo(b, &ipv4.ControlMessage{IfIndex: i.Index}, dst)
	}
	return err
}

// hears tells whether an interface can carry multicast from others.
func hears(i *net.Interface) bool {
	return i.Flags&net.FlagMulticast != 0 && i.Flags&net.FlagLoopback == 0
}

// addressesOf lists the addresses of an interface, IPv4 first, each in the
// prefix of its network.
func addressesOf(i *net.Interface) ([]netip.Prefix, error) {
	all, err := i.Addrs()
	if err != nil {
		return nil, err
	}
	var list, list6 []netip.Prefix
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		switch {
		case err != nil || !dialable(p.Addr()):
		case p.Addr().Is4():
			list = append(list, p)
		default:
			list6 = append(list6, p)
		}
	}
	return append(list, list6...), nil
}
