package appliance

import (
	"log/slog"
	"net"
	"net/netip"

	"cobox/appliance/config"
	"cobox/appliance/datadir"
	"cobox/netlink/discover"
	"cobox/netlink/pairing"
)

// responder answers for the box's name in the local network; nil if nobody there
// could reach it, or if that is not wanted.
func responder(settings *config.Config, identity *datadir.Identity, log *slog.Logger, bound net.Addr) *discover.Responder {
	tcp, err := netip.ParseAddrPort(bound.String())
	if err != nil || !settings.Discovery {
		return nil
	}
	r := &discover.Responder{Host: pairing.HostName(identity.StaticPublic()) + discover.Domain, Logger: log}
	switch at := tcp.Addr().Unmap().WithZone(""); {
	case at.IsLoopback():
		return nil
	case !at.IsUnspecified():
		r.Serves = func(a netip.Addr) bool { return a == at }
	case at.Is4():
		r.Serves = netip.Addr.Is4
	}
	return r
}
