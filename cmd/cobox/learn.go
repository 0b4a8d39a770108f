package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"cobox/appliance/admin"
	"cobox/cmd/cobox/device"
	"cobox/netlink/replicate"
	"cobox/storage/account"
	"cobox/storage/archive"
	"cobox/storage/merklelog"
	"cobox/storage/seal"
)

// refresh asks every connected box for the account's logs and learns the keys
// of those that are new.
func (s *space) refresh(ctx context.Context) error {
	links := s.fleet.connected()
	lists := make([][]*replicate.LogEntry, len(links))
	others := make([][]*device.Other, len(links))
	errs := make([]error, len(links))
	var wg sync.WaitGroup
	for i, l := range links {
		session, _ := l.now()
		if session == nil {
			continue
		}
		wg.Go(func() { lists[i], errs[i] = session.Logs(ctx, s.st.Card.ID) })
		wg.Go(func() {
			var err error
			if others[i], err = accountDevices(ctx, session, s.st.Card.ID); err != nil {
				s.a.log.Warn("a box does not list the account's devices", "box", l.box.Name, "error", err)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var learnt []func(*device.State)
	for i, l := range links {
		for _, o := range others[i] {
			if s.st.AddOther(o) {
				learnt = append(learnt, func(st *device.State) { st.AddOther(o) })
			}
		}
		if errs[i] != nil {
			s.a.log.Warn("a box does not list the logs", "box", l.box.Name, "error", errs[i])
			continue
		}
		for _, e := range lists[i] {
			if e.Readable == nil {
				continue
			}
			s.mu.Lock()
			id := e.Manifest.ID()
			s.holders[id] = append(s.holders[id], holder{l, e})
			s.mu.Unlock()
			change, err := s.learn(ctx, l, e, s.st.Keys.KEM())
			if err != nil {
				s.a.log.Warn("a log cannot be read", "log", e.Manifest.ID(), "box", l.box.Name, "error", err)
			}
			if change != nil {
				change(s.st)
				learnt = append(learnt, change)
			}
		}
	}
	if len(learnt) > 0 {
		s.a.update(s.st, func(st *device.State) {
			for _, change := range learnt {
				change(st)
			}
		})
	}
	return nil
}

// accountDevices asks a box for the account's devices. Only what the account
// has signed counts, so a box can leave a device out but not slip one in.
func accountDevices(ctx context.Context, session *replicate.Session, who account.ID) ([]*device.Other, error) {
	reply, err := call[admin.Devices](ctx, &link{session: session}, admin.MethodDevices, admin.DevicesRequest{}, nil)
	if err != nil {
		return nil, err
	}
	var list []*device.Other
	for _, d := range reply.Devices {
		cert, err := account.ParseCertificate(d.Certificate)
		if err != nil {
			return nil, err
		}
		if err := cert.Verify(); err != nil {
			return nil, err
		}
		if cert.Account != who {
			return nil, errors.New("the certificate is of another account")
		}
		list = append(list, &device.Other{Certificate: cert, Name: deviceName(d.Name)})
	}
	return list, nil
}

// learn opens the newest key envelope of a log, if it is not known yet, and
// returns what to change in the state; nil if nothing is new.
func (s *space) learn(ctx context.Context, l *link, e *replicate.LogEntry, key seal.KEMPrivate) (func(*device.State), error) {
	cert, err := account.VerifyManifest(e.Manifest)
	if err != nil {
		return nil, err
	}
	if cert.Account != s.st.Card.ID {
		return nil, errors.New("the log is of another account")
	}
	var last uint64
	for _, r := range e.Envelopes {
		if r.End() <= e.Readable.Size {
			last = r.End()
		}
	}
	if sp := s.st.SpaceByTag(e.Manifest.Space); sp != nil {
		if known := sp.Log(e.Manifest.ID()); known != nil {
			if known.Own && !known.Left {
				return nil, nil // its writer knows its keys; of one that went back, not the later ones
			}
			if n := len(known.Envelopes); n > 0 && known.Envelopes[n-1].Index+uint64(known.Envelopes[n-1].Blocks) >= last {
				return nil, nil
			}
		}
	}
	env, places, err := readEnvelopes(ctx, l, e, key)
	if err != nil {
		return nil, err
	}
	return func(st *device.State) {
		sp := st.SpaceByTag(env.Space.Tag)
		if sp == nil {
			sp = &device.Space{Keys: env.Space}
			st.Spaces = append(st.Spaces, sp)
		}
		log := sp.Log(env.Log)
		if log == nil {
			log = &device.Log{Manifest: e.Manifest}
			sp.Logs = append(sp.Logs, log)
		}
		log.Keys, log.Envelopes = env.Keys, places
	}, nil
}

// readEnvelopes reads all key envelopes of a log and opens the newest.
func readEnvelopes(ctx context.Context, l *link, e *replicate.LogEntry, key seal.KEMPrivate) (*seal.Envelope, []archive.Envelope, error) {
	session, _ := l.now()
	if session == nil {
		return nil, nil, replicate.ErrClosed
	}
	var indexes []uint64
	for _, r := range e.Envelopes {
		for i := r.First; i < r.End() && i < e.Readable.Size; i++ {
			indexes = append(indexes, i)
		}
	}
	if len(indexes) == 0 {
		return nil, nil, errors.New("the box shows no key envelope")
	}
	var places []archive.Envelope
	var newest [][]byte // blocks of the last envelope
	next := uint32(0)   // epoch that must come next
	parts := 0          // of the last envelope
	err := session.Read(ctx, e.Manifest, *e.Readable, indexes, func(i uint64, block []byte, _ merklelog.Leaf) error {
		h, err := seal.ParseEnvelopeHeader(block)
		if err != nil {
			return err
		}
		if h.Part == 0 {
			if len(newest) != parts {
				return fmt.Errorf("envelope before block %d is not whole", i)
			}
			if h.Epoch != next {
				return fmt.Errorf("envelope of epoch %d at block %d, want epoch %d", h.Epoch, i, next)
			}
			next++
			places = append(places, archive.Envelope{Index: i, Blocks: uint32(h.Parts)})
			newest, parts = nil, h.Parts
		}
		if h.Part != len(newest) || h.Parts != parts {
			return fmt.Errorf("envelope at block %d is out of order", i)
		}
		newest = append(newest, slices.Clone(block))
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("reading the key envelopes: %w", err)
	}
	if len(newest) != parts { // cut by the checkpoint
		places, next = places[:len(places)-1], next-1
		return nil, nil, errors.New("the newest key envelope is not whole yet")
	}
	env, err := seal.OpenEnvelope(e.Manifest.ID(), places[len(places)-1].Index, newest, key)
	if err != nil {
		return nil, nil, err
	}
	if env.Epoch+1 != next || env.Space.Tag != e.Manifest.Space {
		return nil, nil, errors.New("the key envelope does not belong where it lies")
	}
	return env, places, nil
}
