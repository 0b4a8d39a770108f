package appliance

import (
	"context"

	"cobox/appliance/datadir"
	"cobox/appliance/roster"
)

// rosterChanged is the roster's hook.
func (b *box) rosterChanged() {
	select {
	case b.newPeers <- struct{}{}:
	default: // it is known already
	}
}

// keepPeers keeps the file that says who may connect up to date until ctx ends.
// A crash leaves it a little behind; the next start makes that good.
func (b *box) keepPeers(ctx context.Context) error {
	if b.store.ReadOnly() {
		return nil
	}
	for {
		if err := b.dir.WritePeers(peersOf(b.roster)); err != nil {
			b.log.Error("the list of who may connect was not written", "error", err)
		}
		select {
		case <-b.newPeers:
		case <-ctx.Done():
			select {
			case <-b.newPeers:
				continue
			default:
			}
			return nil
		}
	}
}

func peersOf(r *roster.Roster) *datadir.Peers {
	p := &datadir.Peers{Name: r.Name()}
	for _, l := range r.Logins() {
		p.List = append(p.List, datadir.Peer{Kind: datadir.PeerKind(l.Kind), Administrator: l.Administrator,
			Noise: l.Noise, PSK: l.PSK, Account: l.Account, Device: l.Device})
	}
	return p
}
