package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"cobox/cmd/cobox/device"
	"cobox/storage/account"
	"cobox/storage/archive"
	"cobox/storage/archive/spool"
	"cobox/storage/merklelog"
	"cobox/storage/seal"
)

// openForWriting makes the space ready for a backup: the spools are open, the
// boxes have been asked what they know, and the log that the backup appends to
// has a key envelope for everybody who may read it. A space that does not exist
// is made. The caller holds the lock.
func (a *app) openForWriting(ctx context.Context, st *device.State, name string) (*space, *device.Log, error) {
	s := &space{a: a, st: st, writing: true, spools: map[merklelog.LogID]*spool.Spool{}, holders: map[merklelog.LogID][]holder{}}
	ok := false
	defer func() {
		if !ok {
			s.close()
		}
	}()
	s.fleet = a.newFleet(st, st.Boxes)
	s.fleet.keep = true
	s.fleet.connect(ctx)
	if err := s.dropUnknownLogs(); err != nil {
		return nil, nil, err
	}
	for _, sp := range st.Spaces {
		if err := s.openSpools(sp); err != nil {
			return nil, nil, err
		}
	}
	if err := s.fleet.waitTried(ctx); err != nil {
		return nil, nil, err
	}
	if err := s.refresh(ctx); err != nil {
		return nil, nil, err
	}
	if s.sp = st.Space(name); s.sp == nil {
		keys, err := seal.NewSpace(name)
		if err != nil {
			return nil, nil, err
		}
		s.sp = &device.Space{Keys: keys}
		st.Spaces = append(st.Spaces, s.sp)
	}
	if err := s.leaveRegressed(); err != nil {
		return nil, nil, err
	}
	log, err := s.writingLog()
	if err != nil {
		return nil, nil, err
	}
	if err := s.ensureEnvelope(ctx, log); err != nil {
		return nil, nil, err
	}
	if err := s.avoidForeign(); err != nil {
		return nil, nil, err
	}
	if err := s.openArchive(ctx); err != nil {
		return nil, nil, err
	}
	ok = true
	return s, log, nil
}

// avoidForeign marks the logs of the account's other devices that a connected
// box does not hold whole. This device can bring its own logs to every box, but
// not theirs, so a backup that referred to them could not be restored from that
// box alone. What the backup would have found there it stores again.
func (s *space) avoidForeign() error {
	changed := false
	for _, log := range s.sp.Logs {
		if log.Own || log.Avoid {
			continue
		}
		var size uint64
		whole := map[*link]uint64{}
		for _, h := range s.holdersOf(log.ID()) {
			size = max(size, h.entry.Readable.Size)
			if h.entry.Held >= h.entry.Readable.Size {
				whole[h.link] = h.entry.Readable.Size
			}
		}
		for _, l := range s.fleet.connected() {
			if whole[l] < size {
				log.Avoid, changed = true, true
			}
		}
	}
	if !changed {
		return nil
	}
	return s.st.Save()
}

// dropUnknownLogs removes the folders of logs that the state does not know. A
// crash between the making of a log and its first block leaves such a one;
// nothing of it was ever sent.
func (s *space) dropUnknownLogs() error {
	dir := filepath.Join(s.st.Home.Data, "logs")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		known := slices.ContainsFunc(s.st.Spaces, func(sp *device.Space) bool {
			return slices.ContainsFunc(sp.Logs, func(l *device.Log) bool { return l.ID().String() == e.Name() })
		})
		if known {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if info, err := spool.Inspect(path); err == nil && info.Checkpoint.Size > 0 {
			s.a.log.Warn("a log that the device's state does not know is left alone", "path", path)
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// leaveRegressed leaves the space's log if a box knows more of it than this
// device does: its state went back, and appending would fork the log.
func (s *space) leaveRegressed() error {
	log := s.sp.Writing()
	if log == nil {
		return nil
	}
	own := s.spools[log.ID()]
	for _, h := range s.holdersOf(log.ID()) {
		back, err := own.Regressed(h.entry.Checkpoint)
		if err != nil {
			s.a.log.Warn("a box states a checkpoint that is not ours", "box", h.link.box.Name, "error", err)
			continue
		}
		if back {
			return s.leave(log)
		}
	}
	if err := own.Err(); errors.Is(err, spool.ErrDamaged) {
		return s.leave(log)
	}
	return nil
}

func (s *space) leave(log *device.Log) error {
	s.a.ui.Warnf("this device's log went back to an older state (a restored disk?); a new log is begun and nothing is lost")
	log.Left = true
	return s.st.Save()
}

// writingLog returns the log to append to, and begins one if there is none.
func (s *space) writingLog() (*device.Log, error) {
	if log := s.sp.Writing(); log != nil {
		return log, nil
	}
	m := &merklelog.Manifest{
		Writer:      merklelog.WriterKey(s.st.Keys.Key()),
		Certificate: account.AppendCertificate(nil, s.st.Certificate),
		Space:       s.sp.Keys.Tag,
	}
	rand.Read(m.Nonce[:])
	for _, l := range s.sp.Logs {
		if own := s.spools[l.ID()]; own != nil && l.Left {
			if cp := own.Checkpoint(); cp.Size > 0 {
				p := cp.Position()
				m.Predecessor = &p
			}
		}
	}
	if err := merklelog.SignManifest(m, s.st.Keys.Signer()); err != nil {
		return nil, err
	}
	dir := s.st.Home.LogDir(m.ID())
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return nil, err
	}
	own, err := spool.Create(dir, m, s.spoolOptions())
	if err != nil {
		return nil, err
	}
	s.spools[m.ID()] = own
	log := &device.Log{Manifest: m, Own: true}
	s.sp.Logs = append(s.sp.Logs, log)
	return log, s.st.Save()
}

// ensureEnvelope begins a new epoch of the log unless its newest envelope is
// sealed for exactly the devices that may read it. The new key is stored before
// anything is sealed with it; an envelope that a crash kept out of the log is
// forgotten here.
func (s *space) ensureEnvelope(ctx context.Context, log *device.Log) error {
	own := s.spools[log.ID()]
	size := own.Size()
	for n := len(log.Envelopes); n > 0; n-- {
		e := log.Envelopes[n-1]
		if e.Index+uint64(e.Blocks) <= size {
			break
		}
		log.Envelopes, log.Keys, log.Recipients = log.Envelopes[:n-1], log.Keys[:n-1], nil
	}
	roster, recipients := s.readers(uint32(len(log.Keys)))
	var want []account.DeviceKey
	for _, d := range roster.Devices {
		want = append(want, d.Key)
	}
	if len(log.Envelopes) > 0 && slices.Equal(log.Recipients, want) {
		return nil
	}
	env := &seal.Envelope{
		Log: log.ID(), Index: size, Epoch: uint32(len(log.Keys)), Space: s.sp.Keys,
		Keys:   append(slices.Clone(log.Keys), seal.NewLogKey()),
		Roster: roster,
	}
	blocks, err := seal.SealEnvelope(env, recipients, nil)
	if err != nil {
		return fmt.Errorf("sealing the key envelope: %w", err)
	}
	log.Keys = env.Keys
	log.Envelopes = append(log.Envelopes, archive.Envelope{Index: size, Blocks: uint32(len(blocks))})
	log.Recipients = want
	if err := s.st.Save(); err != nil {
		return err
	}
	for _, b := range blocks {
		if _, err := own.Append(ctx, b); err != nil {
			return fmt.Errorf("appending the key envelope: %w", err)
		}
	}
	return nil
}

// readers lists who may read what this device writes from now on: the account
// and its devices.
func (s *space) readers(number uint32) (seal.Roster, []account.KEMKey) {
	roster := seal.Roster{
		Number:   number,
		Accounts: []seal.RosterAccount{{ID: s.st.Card.ID, Card: s.st.Card.Hash()}},
		Devices:  []seal.RosterDevice{{Key: s.st.Keys.Key(), Account: s.st.Card.ID, Name: nameOr(s.st.Name, "computer")}},
	}
	keys := []account.KEMKey{s.st.Card.KEM, s.st.Certificate.KEM}
	for _, o := range s.st.Others {
		if len(keys) == seal.MaxRecipients {
			s.a.log.Warn("the account has more devices than an envelope has room for", "devices", 1+len(s.st.Others))
			break
		}
		roster.Devices = append(roster.Devices, seal.RosterDevice{Key: o.Certificate.Device, Account: s.st.Card.ID, Name: nameOr(o.Name, "device")})
		keys = append(keys, o.Certificate.KEM)
	}
	return roster, keys
}

func nameOr(name, other string) string {
	if name == "" {
		return other
	}
	return name
}

// sealer seals for the newest epoch of the log.
func (s *space) sealer(log *device.Log) *seal.Sealer {
	epoch := len(log.Keys) - 1
	return seal.NewSealer(log.ID(), uint32(epoch), log.Keys[epoch])
}
