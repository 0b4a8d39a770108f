package boxtest

import (
	"context"
	"fmt"
	"net"

	"cobox/appliance/admin"
	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
	"cobox/storage/account"
)

// Pair pairs a device with the box of a code, at the code's first address. A
// refusal is a *pairing.RefusedError.
func (d *Device) Pair(ctx context.Context, text string) (*pairing.Enrolled, error) {
	code, err := pairing.ParseCode(text)
	if err != nil {
		return nil, fmt.Errorf("boxtest: %w", err)
	}
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", code.Addresses[0].String())
	if err != nil {
		return nil, fmt.Errorf("boxtest: %w", err)
	}
	conn, err := noiseconn.Dial(ctx, nc, noiseconn.Config{Mode: noiseconn.ModePair, Static: d.static,
		Remote: code.Box, PSK: code.PSK(), Invite: code.Invite})
	if err != nil {
		return nil, fmt.Errorf("boxtest: %w", err)
	}
	defer conn.Close()
	got, err := pairing.Join(ctx, conn, &pairing.Enrollment{Card: d.Member.Card, Certificate: d.Certificate,
		RecoveryPSK: d.Member.RecoveryPSK, DeviceName: "test device"})
	if err != nil {
		return nil, fmt.Errorf("boxtest: %w", err)
	}
	d.LinkPSK = got.LinkPSK
	return got, nil
}

// Register makes the device known over a link of its account's recovery key.
func (d *Device) Register(ctx context.Context, recovery *Link) error {
	var got admin.Registered
	err := recovery.Ask(ctx, admin.MethodDeviceRegister, admin.RegisterRequest{
		Card:        account.AppendCard(nil, d.Member.Card),
		Certificate: account.AppendCertificate(nil, d.Certificate),
		Name:        "recovered device",
	}, &got)
	if err != nil {
		return err
	}
	d.LinkPSK = noiseconn.PSK(got.LinkPSK)
	return nil
}
