package appliance

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync/atomic"
	"time"
)

// addressesEvery is how often a box looks whether its addresses have changed. A
// box that starts before its router has none at first, and a pairing code
// without an address is of little use.
const addressesEvery = 10 * time.Second

// addresses are those at which a box can be reached now.
type addresses struct {
	find func() ([]string, error)
	list atomic.Pointer[[]string]
}

func (a *addresses) now() []string {
	if list := a.list.Load(); list != nil {
		return *list
	}
	return nil
}

// look finds the addresses and reports whether they are others than before.
func (a *addresses) look() (changed bool, err error) {
	list, err := a.find()
	if err != nil {
		return false, fmt.Errorf("appliance: finding the box's addresses: %w", err)
	}
	if a.list.Load() != nil && slices.Equal(list, a.now()) {
		return false, nil
	}
	a.list.Store(&list)
	return true, nil
}

// findAddresses is how a box finds them.
func findAddresses(cfg *Config, ln net.Listener) func() ([]string, error) {
	return func() ([]string, error) { return cfg.Settings.Addresses(ln.Addr(), cfg.interfaces) }
}

// watch keeps the addresses up to date until ctx ends, and tells of others.
func (a *addresses) watch(ctx context.Context, log *slog.Logger, others func()) error {
	tick := time.NewTicker(addressesEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		changed, err := a.look()
		if err != nil {
			log.Warn("the box's addresses are unknown", "error", err)
			continue
		}
		if changed {
			log.Info("the box has other addresses", "addresses", a.now())
			others()
		}
	}
}
