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
	"strconv"
	"strings"

	"cobox/cmd/cobox/device"
	"cobox/cmd/cobox/ui"
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
	s := newSpace(a, st)
	s.writing = true
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
	s.extendAll()
	switch named := st.SpacesNamed(name); {
	case len(named) == 1:
		s.sp = named[0]
	case len(named) > 1:
		return nil, nil, ambiguousSpace(named)
	case s.unreadable > 0:
		// It may be the very space: a second one of its name would hide it.
		return nil, nil, &ui.Failure{Exit: ui.ExitFailed, Code: "unreadable_log", What: fmt.Sprintf("a box holds %s of your account that this device cannot read", ui.Count(uint64(s.unreadable), "log", "logs")),
			Hint: "Run 'cobox backup' on the device that wrote it, which lets this one in, and then again here. See --verbose for the cause."}
	default:
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
	log, err := s.prepare(ctx)
	if err != nil {
		return nil, nil, err
	}
	ok = true
	return s, log, nil
}

// prepare opens the archive for a backup into the log to append to, with
// everything that is lost known, and makes sure that the log's keys can be
// found in it. It is called again when a box turns out to have lost blocks.
func (s *space) prepare(ctx context.Context) (*device.Log, error) {
	log, err := s.writingLog()
	if err != nil {
		return nil, err
	}
	lost, err := s.lost(ctx, log, s.spools[log.ID()])
	if err != nil {
		return nil, err
	}
	s.gone = map[merklelog.LogID][]merklelog.Range{log.ID(): lost}
	if err := s.ensureEnvelope(ctx, log, lost); err != nil {
		return nil, err
	}
	if err := s.avoidForeign(); err != nil {
		return nil, err
	}
	return log, s.openArchive(ctx)
}

// avoidForeign marks the logs of the account's other devices, and those that this
// one has left, that a connected box does not hold whole. This device can bring its own logs to every box, but
// not theirs, so a backup that referred to them could not be restored from that
// box alone. What the backup would have found there it stores again.
func (s *space) avoidForeign() error {
	changed := false
	s.foreign = map[*link]bool{}
	for _, l := range s.fleet.connected() {
		s.foreign[l] = true
	}
	for _, log := range s.sp.Logs {
		if log.Own && !log.Left || log.Avoid {
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
			return slices.ContainsFunc(sp.Logs, func(l *device.Log) bool { return l.ID().String() == strings.TrimSuffix(e.Name(), epochsSuffix) })
		})
		if known {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if _, err := os.Lstat(filepath.Join(path, "manifest")); err == nil {
			if info, err := spool.Inspect(path); err != nil || info.Checkpoint.Size > 0 {
				s.a.log.Warn("a log that the device's state does not know is left alone", "path", path, "error", err)
				continue
			}
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// leaveRegressed leaves the space's log if this device's state went back: a box
// knows more of the log than this device does, has frozen it because two
// versions of it exist, or an epoch of its keys is missing here. To append would
// fork the log, or seal what nobody can open.
func (s *space) leaveRegressed() error {
	log := s.sp.Writing()
	if log == nil {
		return nil
	}
	own := s.spools[log.ID()]
	for _, e := range s.stated {
		if e.Manifest.ID() != log.ID() {
			continue
		}
		if e.Frozen {
			return s.leave(log, "a box has two versions of this device's log (was its state copied to a second computer?)")
		}
		back, err := own.Regressed(e.Checkpoint)
		if err != nil {
			s.a.log.Warn("a box states a checkpoint that is not ours", "error", err)
			continue
		}
		if back {
			return s.leave(log, "this device's log went back to an older state (a restored disk?)")
		}
	}
	epochs, err := s.recordedEpochs(log)
	if err != nil {
		return err
	}
	if epochs > len(log.Keys) {
		return s.leave(log, "this device's keys went back to an older state (a restored configuration?)")
	}
	if len(log.Keys) >= maxEpochs {
		return s.leave(log, "this device's log has changed its readers very often")
	}
	return nil
}

const (
	// maxEpochs is how many epochs a log gets before a new one is begun: a box
	// lists the places of 64 envelopes.
	maxEpochs    = 60
	epochsSuffix = ".epochs"
)

// The number of a log's epochs is kept beside its spool, too: the keys are in
// the configuration folder, and one of the two folders may be restored without
// the other.
func (s *space) epochsPath(log *device.Log) string { return s.st.Home.LogDir(log.ID()) + epochsSuffix }

func (s *space) recordedEpochs(log *device.Log) (int, error) {
	b, err := os.ReadFile(s.epochsPath(log))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s is damaged: %q is no number of epochs", s.epochsPath(log), b)
	}
	return n, nil
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
		if !l.Own || !l.Left {
			continue
		}
		if info, err := spool.Inspect(s.st.Home.LogDir(l.ID())); err == nil && info.Checkpoint.Size > 0 {
			p := info.Checkpoint.Position()
			m.Predecessor = &p
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
// forgotten here, and one that is lost is replaced by a newer.
func (s *space) ensureEnvelope(ctx context.Context, log *device.Log, lost []merklelog.Range) error {
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
	if n := len(log.Envelopes); n > 0 && slices.Equal(log.Recipients, want) {
		newest := merklelog.Range{First: log.Envelopes[n-1].Index, Count: uint64(log.Envelopes[n-1].Blocks)}
		if !overlaps(newest, lost) {
			return nil
		}
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
	if err := device.WriteFile(s.epochsPath(log), fmt.Appendln(nil, len(log.Keys))); err != nil {
		return err
	}
	for _, b := range blocks {
		if _, err := own.Append(ctx, b); err != nil {
			return fmt.Errorf("appending the key envelope: %w", err)
		}
	}
	return nil
}

// overlaps reports whether a block of r is in list.
func overlaps(r merklelog.Range, list []merklelog.Range) bool {
	return slices.ContainsFunc(list, func(x merklelog.Range) bool { return x.First < r.End() && r.First < x.End() })
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
