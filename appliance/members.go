package appliance

import (
	"context"
	"time"

	"cobox/appliance/datadir"
	"cobox/appliance/roster"
)

// peersAgain is when a list that could not be written is written again.
const peersAgain = time.Minute

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
	keepWritten(ctx, b.newPeers, func() error {
		err := b.dir.WritePeers(peersOf(b.roster))
		if err != nil {
			b.log.Error("the list of who may connect was not written", "error", err, "again in", peersAgain)
		}
		return err
	})
	return nil
}

// keepWritten writes now and whenever something has changed, and what could not be
// written again and again. When ctx ends it writes what is new and not written yet.
func keepWritten(ctx context.Context, changed <-chan struct{}, write func() error) {
	for {
		var again <-chan time.Time
		if write() != nil {
			again = time.After(peersAgain)
		}
		select {
		case <-again:
		case <-changed:
		case <-ctx.Done():
			select {
			case <-changed:
				continue
			default:
			}
			return
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
