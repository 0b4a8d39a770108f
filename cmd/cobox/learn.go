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
	asking, cancel := context.WithTimeoutCause(ctx, stall, errStalled)
	defer cancel()
	var wg sync.WaitGroup
	for i, l := range links {
		session, _ := l.now()
		if session == nil {
			continue
		}
		wg.Go(func() { lists[i], errs[i] = session.Logs(asking, s.st.Card.ID) })
		wg.Go(func() {
			var err error
			if others[i], err = accountDevices(asking, session, s.st.Card.ID); err != nil {
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
			id := e.Manifest.ID()
			s.stated = append(s.stated, *e)
			if e.Readable == nil {
				// For others nothing of it has arrived but its name.
				s.begun[id] = append(s.begun[id], holder{l, e})
				continue
			}
			if known := s.known(id); known != nil && known.Known != nil && e.Readable.Size < known.Known.Size {
				s.a.ui.Warnf("box %q shows an older state of a log than was seen before: %d blocks, not %d", l.box.Name, e.Readable.Size, known.Known.Size)
			}
			s.mu.Lock()
			s.holders[id] = append(s.holders[id], holder{l, e})
			s.mu.Unlock()
			change, err := s.learn(ctx, l, e, s.st.Keys.KEM())
			if err != nil {
				s.unreadable++
				s.a.log.Warn("a log cannot be read", "log", id, "box", l.box.Name, "error", err)
			}
			if change == nil && err == nil {
				change = s.seen(e)
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

// seen notes how far a log of another device has come, so that a box that shows
// less later is noticed.
func (s *space) seen(e *replicate.LogEntry) func(*device.State) {
	id := e.Manifest.ID()
	log := s.known(id)
	if log == nil || log.Own && !log.Left || log.Known != nil && log.Known.Size >= e.Readable.Size {
		return nil
	}
	cp := *e.Readable
	return func(st *device.State) {
		if log := (&space{st: st}).known(id); log != nil {
			log.Known = &cp
		}
	}
}

// known finds a log in the state.
func (s *space) known(id merklelog.LogID) *device.Log {
	for _, sp := range s.st.Spaces {
		if l := sp.Log(id); l != nil {
			return l
		}
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
	if sp := s.st.SpaceByTag(env.Space.Tag); sp != nil && (sp.Keys.ChunkID != env.Space.ChunkID || sp.Keys.Chunker != env.Space.Chunker) {
		return nil, errors.New("the log claims other keys for its space")
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
		cp := *e.Readable
		log.Known = &cp
	}, nil
}

// readEnvelopes finds the key envelopes of a log and opens the newest that is
// there: it has the keys of all epochs before. That an older one is damaged or
// missing costs nothing.
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
	blocks := make(map[uint64][]byte, len(indexes))
	err := session.Read(ctx, e.Manifest, *e.Readable, indexes, func(i uint64, block []byte, _ merklelog.Leaf) error {
		blocks[i] = slices.Clone(block)
		return nil
	})
	var absent *replicate.NotHeldError
	if err != nil && !errors.As(err, &absent) {
		return nil, nil, fmt.Errorf("reading the key envelopes: %w", err)
	}
	places, err := placeEnvelopes(indexes, blocks)
	if err != nil {
		return nil, nil, err
	}
	err = errors.New("no key envelope is whole")
	for n := len(places); n > 0; n-- {
		p := places[n-1]
		var parts [][]byte
		for i := p.Index; i < p.Index+uint64(p.Blocks); i++ {
			if b := blocks[i]; b != nil {
				parts = append(parts, b)
			}
		}
		if len(parts) != int(p.Blocks) {
			continue
		}
		env, oerr := seal.OpenEnvelope(e.Manifest.ID(), p.Index, parts, key)
		if oerr != nil {
			err = oerr
			continue
		}
		if int(env.Epoch) != n-1 || env.Space.Tag != e.Manifest.Space {
			return nil, nil, errors.New("a key envelope does not belong where it lies")
		}
		return env, places[:n], nil
	}
	return nil, nil, err
}

// placeEnvelopes tells where each envelope begins and how long it is, from the
// indexes of all their blocks and as many of the blocks as there are. The n-th
// begins epoch n.
func placeEnvelopes(indexes []uint64, blocks map[uint64][]byte) ([]archive.Envelope, error) {
	var places []archive.Envelope
	left := 0 // blocks that the last place still needs; -1: not known
	for at, i := range indexes {
		adjacent := at > 0 && indexes[at-1]+1 == i
		first := !adjacent || left == 0
		parts := -1
		if b := blocks[i]; b != nil {
			h, err := seal.ParseEnvelopeHeader(b)
			if err != nil {
				return nil, fmt.Errorf("key envelope at block %d: %w", i, err)
			}
			if h.Part == 0 {
				if int(h.Epoch) != len(places) {
					return nil, fmt.Errorf("key envelope of epoch %d at block %d, want epoch %d", h.Epoch, i, len(places))
				}
				first, parts = true, h.Parts
			} else if first && left == 0 && adjacent {
				return nil, fmt.Errorf("key envelope at block %d is out of order", i)
			}
		}
		if first {
			places = append(places, archive.Envelope{Index: i, Blocks: 1})
			left = parts - 1
			if parts < 0 {
				left = -1
			}
			continue
		}
		places[len(places)-1].Blocks++
		if left > 0 {
			left--
		}
	}
	return places, nil
}
