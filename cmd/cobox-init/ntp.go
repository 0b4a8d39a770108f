//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/beevik/ntp"
)

const (
	ntpEvery   = 6 * time.Hour
	ntpTimeout = 5 * time.Second
)

// publicTime is asked where the network names no time server of its own.
var publicTime = []string{"0.pool.ntp.org", "1.pool.ntp.org", "2.pool.ntp.org"}

// runNTP sets the clock by time servers until ctx ends. Without them the box
// works all the same: nothing that it decides about safety hangs on the time.
func (s *system) runNTP(ctx context.Context) {
	again := backoff{first: 4 * time.Second, limit: 15 * time.Minute}
	told := false
	select {
	case <-ctx.Done():
		return
	case <-s.net.ready:
	}
	for {
		wait := ntpEvery
		steps := s.clock.stepsSoFar()
		offset, server, err := askTime(ctx, s.timeServers())
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			var set time.Time
			if set, err = s.clock.adjust(offset, steps); err == nil {
				s.log.Info("the clock is set", "by", server, "offset", offset.Round(time.Millisecond), "time", set.UTC().Format(time.RFC3339))
				err = s.clock.save()
			}
		}
		if err != nil {
			if !told {
				s.log.Warn("no time server answers; the box goes on asking", "error", err)
			}
			wait = again.wait()
		} else {
			again.reset()
		}
		told = err != nil
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (s *system) timeServers() []string {
	if own := s.net.timeServers(); len(own) > 0 {
		return append(own, publicTime...)
	}
	return publicTime
}

// askTime asks one server after the other until one gives a usable answer or ctx
// ends.
func askTime(ctx context.Context, servers []string) (offset time.Duration, server string, err error) {
	var errs []error
	for _, server := range servers {
		offset, err := askServer(ctx, server)
		if err == nil {
			return offset, server, nil
		}
		if ctx.Err() != nil {
			return 0, "", ctx.Err()
		}
		errs = append(errs, fmt.Errorf("ntp: %s: %w", server, err))
	}
	return 0, "", errors.Join(errs...)
}

// askServer asks one server. Without a name server the search for its address
// alone takes longer than a box has to stop, so ctx ends that as well.
func askServer(ctx context.Context, server string) (offset time.Duration, err error) {
	ctx, done := context.WithCancel(ctx)
	defer done()
	r, err := ntp.QueryWithOptions(server, ntp.QueryOptions{
		Timeout: ntpTimeout,
		Dialer: func(_, address string) (net.Conn, error) {
			// Nobody is asked before there is an IPv4 address.
			c, err := new(net.Dialer).DialContext(ctx, "udp4", address)
			if err == nil {
				context.AfterFunc(ctx, func() { c.Close() })
			}
			return c, err
		},
	})
	if err == nil {
		err = r.Validate()
	}
	if err != nil {
		return 0, err
	}
	return r.ClockOffset, nil
}
