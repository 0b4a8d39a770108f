package appliance

import (
	"bytes"
	"context"
	"slices"

	"cobox/appliance/admin"
	"cobox/appliance/roster"
	"cobox/storage/account"
)

// accountDevices tells a member the devices of its own account, so that each
// of them can seal its keys for all the others. The certificates prove
// themselves: the box cannot slip one in.
func (a administration) accountDevices(_ context.Context, c *call) (any, error) {
	var req admin.DevicesRequest
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	list, revocations, err := a.b.roster.Certified(c.peer.Account)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(x, y roster.CertifiedDevice) int {
		return bytes.Compare(x.Certificate.Device[:], y.Certificate.Device[:])
	})
	reply := &admin.Devices{Revocations: revocations, Devices: []admin.Certified{}}
	for _, d := range list {
		reply.Devices = append(reply.Devices, admin.Certified{Certificate: account.AppendCertificate(nil, d.Certificate), Name: d.Name})
	}
	return reply, nil
}

// member reports whether p is of a member's account.
func member(r *roster.Roster, p roster.Peer) bool {
	return p.Kind != roster.KindKey && r.Allowed(p)
}
