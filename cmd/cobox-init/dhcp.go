//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"golang.org/x/sys/unix"
)

const (
	dhcpTry     = 2 * time.Second // for one answer
	dhcpRetries = 3
)

// dhcpClient speaks DHCP on one interface. It has a socket open only while it
// waits for an answer.
type dhcpClient struct {
	name string // of the interface
	mac  net.HardwareAddr
	host func() string
}

func (c *dhcpClient) options() []dhcpv4.Modifier {
	m := []dhcpv4.Modifier{dhcpv4.WithRequestedOptions(dhcpOptions...)}
	if host := c.host(); host != "" {
		m = append(m, dhcpv4.WithOption(dhcpv4.OptHostName(host)))
	}
	return m
}

// raw opens a client that needs no address yet.
func (c *dhcpClient) raw() (*nclient4.Client, error) {
	return nclient4.New(c.name, nclient4.WithTimeout(dhcpTry), nclient4.WithRetry(dhcpRetries))
}

// discover asks any server for an address.
func (c *dhcpClient) discover(ctx context.Context) (*lease, error) {
	client, err := c.raw()
	if err != nil {
		return nil, fmt.Errorf("dhcp: %w", err)
	}
	defer client.Close()
	start := time.Now()
	raw, err := client.Request(ctx, c.options()...)
	if err != nil {
		return nil, fmt.Errorf("dhcp: %w", err)
	}
	return newLease(raw, start)
}

// renew implements [exchanger]: from address to address, as RFC 2131 has it.
func (c *dhcpClient) renew(ctx context.Context, l *lease) (*lease, error) {
	server, ok := netip.AddrFromSlice(l.raw.ACK.ServerIdentifier().To4())
	if !ok {
		return c.rebind(ctx, l)
	}
	config := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) error {
		var err error
		if e := conn.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), c.name) }); e != nil {
			return e
		}
		return err
	}}
	conn, err := config.ListenPacket(ctx, "udp4", netip.AddrPortFrom(l.address.Addr(), dhcpv4.ClientPort).String())
	if err != nil {
		return nil, fmt.Errorf("dhcp: renewing: %w", err)
	}
	client, err := nclient4.NewWithConn(conn, c.mac, nclient4.WithTimeout(dhcpTry), nclient4.WithRetry(dhcpRetries),
		nclient4.WithServerAddr(net.UDPAddrFromAddrPort(netip.AddrPortFrom(server, dhcpv4.ServerPort))))
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("dhcp: renewing: %w", err)
	}
	defer client.Close()
	start := time.Now()
	raw, err := client.Renew(ctx, l.raw, c.options()...)
	if err != nil {
		return nil, fmt.Errorf("dhcp: renewing: %w", err)
	}
	return newLease(raw, start)
}

// rebind implements [exchanger].
func (c *dhcpClient) rebind(ctx context.Context, l *lease) (*lease, error) {
	client, err := c.raw()
	if err != nil {
		return nil, fmt.Errorf("dhcp: rebinding: %w", err)
	}
	defer client.Close()
	request, err := dhcpv4.NewRenewFromAck(l.raw.ACK, c.options()...)
	if err != nil {
		return nil, fmt.Errorf("dhcp: rebinding: %w", err)
	}
	start := time.Now()
	answer, err := client.SendAndRead(ctx, client.RemoteAddr(), request,
		nclient4.IsMessageType(dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak))
	if err != nil {
		return nil, fmt.Errorf("dhcp: rebinding: %w", err)
	}
	if answer.MessageType() == dhcpv4.MessageTypeNak {
		return nil, &nclient4.ErrNak{Offer: l.raw.Offer, Nak: answer}
	}
	return newLease(&nclient4.Lease{Offer: answer, ACK: answer, CreationTime: start}, start)
}
