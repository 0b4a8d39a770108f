//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cobox/appliance/datadir"
	"cobox/netlink/pairing"
)

const (
	healthEvery   = 5 * time.Second
	healthFirst   = 250 * time.Millisecond // until coboxd has answered once
	healthTimeout = 3 * time.Second
	// fullBelow is so little space that coboxd may not be able to start.
	fullBelow = 4 << 20
)

// runHealth asks coboxd how it is until ctx ends, and looks at what it has left
// in its directory for people.
func (s *system) runHealth(ctx context.Context) {
	for {
		f := s.state.facts()
		every := healthEvery
		if f.healthy.IsZero() {
			every = healthFirst
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
		if f.dataSince.IsZero() {
			continue
		}
		s.watchDisk(f)
		well, err := askHealth(ctx, fmt.Sprintf("127.0.0.1:%d", daemonHTTP))
		code, codeErr := readCode(dataDir)
		full := isFull(dataMount)
		first := false
		s.state.change(func(f *facts) {
			if err == nil {
				first = f.healthy.IsZero()
				f.healthy, f.readOnly, f.waits, f.low = time.Now(), well.readOnly, well.waiting, well.low
			}
			// What cannot be read leaves what was known.
			if codeErr == nil || errors.Is(codeErr, datadir.ErrNoCode) {
				f.code = code
			}
			f.full = full
		})
		if first {
			s.log.Info("coboxd answers", "after", time.Since(f.started).Round(10*time.Millisecond))
		}
	}
}

// readCode returns the pairing code that coboxd has left in its directory. It must
// be one: it is written to a terminal as it is, and coboxd is not trusted.
func readCode(dir string) (string, error) {
	text, _, err := datadir.ReadPairing(dir)
	if err != nil {
		return "", err
	}
	code, err := pairing.ParseCode(text)
	if err != nil {
		return "", err
	}
	return code.Text()
}

// health is what coboxd says of itself when it is well.
type health struct {
	readOnly bool // it cannot write
	waiting  bool // it has no data, and says so
	low      bool // it refuses new data for lack of space
}

// askHealth asks coboxd's /healthz once. It speaks just enough HTTP for that:
// the standard library's client would make this program twice as large, which
// every start must load.
func askHealth(ctx context.Context, address string) (health, error) {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return health{}, fmt.Errorf("health: %w", err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(healthTimeout))
	if _, err := io.WriteString(c, "GET /healthz HTTP/1.0\r\n\r\n"); err != nil {
		return health{}, fmt.Errorf("health: %w", err)
	}
	return parseHealth(io.LimitReader(c, 4096))
}

func parseHealth(r io.Reader) (health, error) {
	b := bufio.NewReader(r)
	status, err := b.ReadString('\n')
	if err != nil {
		return health{}, fmt.Errorf("health: reading the answer: %w", err)
	}
	if f := strings.Fields(status); len(f) < 2 || !strings.HasPrefix(f[0], "HTTP/1.") || f[1] != "200" {
		return health{}, fmt.Errorf("health: coboxd answered %.60q", status)
	}
	rest, err := io.ReadAll(b)
	if err != nil {
		return health{}, fmt.Errorf("health: reading the answer: %w", err)
	}
	_, body, _ := strings.Cut("\r\n"+string(rest), "\r\n\r\n") // there may be no headers
	says := func(what string) bool { return strings.HasPrefix(body, "ok, but "+what) }
	return health{says("read-only"), says("waiting"), says("full")}, nil
}

func isFull(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Bavail*uint64(st.Bsize) < fullBelow
}
