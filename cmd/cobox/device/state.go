package device

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cobox/netlink/noiseconn"
	"cobox/storage/account"
	"cobox/storage/archive"
	"cobox/storage/merklelog"
	"cobox/storage/seal"
)

// State is everything that a device knows and must not lose.
type State struct {
	Home Home

	Name         string // of the device, for people
	Card         *account.Card
	Certificate  *account.Certificate
	Keys         *seal.Device
	RecoveryRoot seal.RecoveryRoot
	Boxes        []*Box
	Spaces       []*Space
	Others       []*Other
}

// Other is another device of the account.
type Other struct {
	Certificate *account.Certificate
	Name        string
}

// AddOther adds a device whose certificate the caller has verified, and reports
// whether it was not known.
func (s *State) AddOther(o *Other) bool {
	if o.Certificate.Device == s.Keys.Key() {
		return false
	}
	for _, known := range s.Others {
		if known.Certificate.Device == o.Certificate.Device {
			return false
		}
	}
	s.Others = append(s.Others, o)
	return true
}

// Box is a box that this device is paired with.
type Box struct {
	Name          string
	Static        noiseconn.StaticPublic
	Sign          [32]byte // Ed25519 key of its receipts
	PSK           noiseconn.PSK
	Administrator bool
	Quota         uint64   // bytes; 0: no limit
	Addresses     []string // host:port, the one that worked last first
	Version       uint8    // the highest protocol version authenticated with it
	Paired        time.Time
	// Waiting is what the box said that it waits for, when it was last reached; ""
	// if it was well.
	Waiting string
}

// MaxAddresses is how many addresses of a box are remembered.
const MaxAddresses = 8

// Saw moves an address that worked to the front and adds those that the box
// states, and reports whether anything changed. One that holds only on an
// interface of this computer (fe80::1%eth0) is not remembered: the box is found
// there by its name.
func (b *Box) Saw(worked string, stated []string) bool {
	list := make([]string, 0, MaxAddresses)
	for _, a := range slices.Concat([]string{worked}, stated, b.Addresses) {
		if a != "" && !strings.Contains(a, "%") && !slices.Contains(list, a) && len(list) < MaxAddresses {
			list = append(list, a)
		}
	}
	changed := !slices.Equal(list, b.Addresses)
	b.Addresses = list
	return changed
}

// Space is an encrypted folder: its keys, which never change, and its logs.
type Space struct {
	Keys seal.SpaceKeys
	Logs []*Log
}

// Log is one log of a space that the device can read.
type Log struct {
	Manifest  *merklelog.Manifest
	Keys      seal.KeyRing       // one for each epoch
	Envelopes []archive.Envelope // where each epoch's key envelope lies
	Own       bool               // written by this device
	Left      bool               // own, but no longer appended to
	// Avoid means that backups must not refer to what lies in this log of
	// another device: some box of ours does not hold it, and each box must be
	// able to bring everything back by itself.
	Avoid bool
	// Lost are blocks of an own log that nobody has. What lay in them was
	// stored again, so nobody need wait for them.
	Lost []merklelog.Range
	// Recipients are the devices that the newest envelope was sealed to.
	Recipients []account.DeviceKey
	// Known is the newest checkpoint seen of a log that another device writes.
	Known *merklelog.Checkpoint
}

// ID is the log's identity.
func (l *Log) ID() merklelog.LogID { return l.Manifest.ID() }

// ErrNotSetUp means that init or recover has not been run.
var ErrNotSetUp = errors.New("this device has not been set up")

// ErrExists means that the device has been set up already.
var ErrExists = errors.New("this device has been set up already")

// ErrNewer means that a newer version of cobox wrote the state.
var ErrNewer = errors.New("written by a newer cobox")

const stateFile = "device.json"

// MaxStateSize bounds what Open reads.
const MaxStateSize = 64 << 20

// Create writes the state of a new device. It fails with ErrExists if there is
// one.
func Create(s *State) error {
	if _, err := os.Lstat(filepath.Join(s.Home.Config, stateFile)); err == nil {
		return ErrExists
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("device: creating the state: %w", err)
	}
	return s.Save()
}

// Exists reports whether the device has been set up.
func Exists(h Home) bool {
	_, err := os.Lstat(filepath.Join(h.Config, stateFile))
	return err == nil
}

// Open reads the state. It fails with ErrNotSetUp if there is none.
func Open(h Home) (*State, error) {
	path := filepath.Join(h.Config, stateFile)
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotSetUp
	}
	if err != nil {
		return nil, fmt.Errorf("device: opening the state: %w", err)
	}
	if fi.Size() > MaxStateSize {
		return nil, fmt.Errorf("device: %s is larger than %d bytes", path, MaxStateSize)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("device: opening the state: %w", err)
	}
	s, err := parseState(b)
	if err != nil {
		return nil, fmt.Errorf("device: reading %s: %w", path, err)
	}
	s.Home = h
	return s, nil
}

// Save replaces the state file: written beside, synced, renamed, the directory
// synced. A crash in between leaves the old file, and perhaps a file beside it
// that the next Save removes. The caller holds the lock.
func (s *State) Save() error {
	b, err := s.encode()
	if err != nil {
		return fmt.Errorf("device: saving the state: %w", err)
	}
	if err := os.MkdirAll(s.Home.Config, 0o700); err != nil {
		return fmt.Errorf("device: saving the state: %w", err)
	}
	there, err := os.ReadDir(s.Home.Config)
	if err != nil {
		return fmt.Errorf("device: saving the state: %w", err)
	}
	for _, e := range there {
		if strings.HasPrefix(e.Name(), "."+stateFile+".") {
			if err := os.Remove(filepath.Join(s.Home.Config, e.Name())); err != nil {
				return fmt.Errorf("device: saving the state: %w", err)
			}
		}
	}
	if err := WriteFile(filepath.Join(s.Home.Config, stateFile), b); err != nil {
		return fmt.Errorf("device: saving the state: %w", err)
	}
	return nil
}

// WriteFile replaces a file, mode 0600, so that a crash leaves the old file or
// the new one whole.
func WriteFile(path string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// ForgetBox drops a box.
func (s *State) ForgetBox(b *Box) {
	s.Boxes = slices.DeleteFunc(s.Boxes, func(x *Box) bool { return x == b })
}

// Box finds a box by its name or by the beginning of its key.
func (s *State) Box(name string) (*Box, error) {
	var found []*Box
	for _, b := range s.Boxes {
		if b.Name == name || len(name) >= 4 && bytes.HasPrefix([]byte(b.Static.String()[len("noise:"):]), []byte(name)) {
			found = append(found, b)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, fmt.Errorf("there are %d boxes called %q: give the beginning of the key", len(found), name)
	}
	return nil, fmt.Errorf("there is no box %q here", name)
}

// AddBox adds a box, or replaces what is known of it.
func (s *State) AddBox(b *Box) {
	for i, old := range s.Boxes {
		if old.Static == b.Static {
			s.Boxes[i] = b
			return
		}
	}
	s.Boxes = append(s.Boxes, b)
}

// SpacesNamed lists the spaces of that name; a tag in hexadecimal names exactly
// one. Two devices that had not met can have made spaces of one name.
func (s *State) SpacesNamed(name string) []*Space {
	var list []*Space
	for _, sp := range s.Spaces {
		if sp.Keys.Tag.String() == name {
			return []*Space{sp}
		}
		if sp.Keys.Name == name {
			list = append(list, sp)
		}
	}
	return list
}

// SpaceByTag finds a space by its tag; nil if there is none.
func (s *State) SpaceByTag(tag merklelog.Tag) *Space {
	for _, sp := range s.Spaces {
		if sp.Keys.Tag == tag {
			return sp
		}
	}
	return nil
}

// Writing is the log of the space that the device appends to; nil if it has
// none yet.
func (sp *Space) Writing() *Log {
	for _, l := range sp.Logs {
		if l.Own && !l.Left {
			return l
		}
	}
	return nil
}

// Log finds a log of the space; nil if it is not there.
func (sp *Space) Log(id merklelog.LogID) *Log {
	for _, l := range sp.Logs {
		if l.ID() == id {
			return l
		}
	}
	return nil
}

// The file. Keys and records are base64 of their own encodings.
type (
	stateJSON struct {
		V            int         `json:"v"`
		Name         string      `json:"name"`
		Card         []byte      `json:"card"`
		Certificate  []byte      `json:"certificate"`
		Device       []byte      `json:"device"`
		RecoveryRoot []byte      `json:"recovery_root"`
		Boxes        []boxJSON   `json:"boxes"`
		Spaces       []spaceJSON `json:"spaces"`
		Others       []otherJSON `json:"others"`
	}
	otherJSON struct {
		Certificate []byte `json:"certificate"`
		Name        string `json:"name"`
	}
	boxJSON struct {
		Name          string    `json:"name"`
		Static        []byte    `json:"static"`
		Sign          []byte    `json:"sign"`
		PSK           []byte    `json:"psk"`
		Administrator bool      `json:"administrator"`
		Quota         uint64    `json:"quota"`
		Addresses     []string  `json:"addresses"`
		Version       uint8     `json:"version"`
		Paired        time.Time `json:"paired"`
		Waiting       string    `json:"waiting,omitempty"`
	}
	spaceJSON struct {
		Name    string    `json:"name"`
		Tag     []byte    `json:"tag"`
		ChunkID []byte    `json:"chunk_id"`
		Chunker []byte    `json:"chunker"`
		Logs    []logJSON `json:"logs"`
	}
	logJSON struct {
		Manifest   []byte              `json:"manifest"`
		Keys       [][]byte            `json:"keys"`
		Envelopes  []archive.Envelope  `json:"envelopes"`
		Own        bool                `json:"own"`
		Left       bool                `json:"left,omitempty"`
		Avoid      bool                `json:"avoid,omitempty"`
		Lost       []merklelog.Range   `json:"lost,omitempty"`
		Recipients []account.DeviceKey `json:"recipients,omitempty"`
		Known      []byte              `json:"known,omitempty"`
	}
)

const stateVersion = 1

func (s *State) encode() ([]byte, error) {
	j := stateJSON{
		V: stateVersion, Name: s.Name,
		Card:        account.AppendCard(nil, s.Card),
		Certificate: account.AppendCertificate(nil, s.Certificate),
		Device:      seal.AppendDevice(nil, s.Keys), RecoveryRoot: s.RecoveryRoot[:],
		Boxes: []boxJSON{}, Spaces: []spaceJSON{}, Others: []otherJSON{},
	}
	for _, b := range s.Boxes {
		j.Boxes = append(j.Boxes, boxJSON{b.Name, b.Static[:], b.Sign[:], b.PSK[:], b.Administrator, b.Quota, b.Addresses, b.Version, b.Paired, b.Waiting})
	}
	for _, sp := range s.Spaces {
		k := sp.Keys
		sj := spaceJSON{Name: k.Name, Tag: k.Tag[:], ChunkID: k.ChunkID[:], Chunker: k.Chunker[:], Logs: []logJSON{}}
		for _, l := range sp.Logs {
			lj := logJSON{
				Manifest: merklelog.AppendManifest(nil, l.Manifest), Envelopes: l.Envelopes,
				Own: l.Own, Left: l.Left, Avoid: l.Avoid, Lost: l.Lost, Recipients: l.Recipients,
			}
			for _, k := range l.Keys {
				lj.Keys = append(lj.Keys, k[:])
			}
			if l.Known != nil {
				lj.Known = merklelog.AppendCheckpoint(nil, *l.Known)
			}
			sj.Logs = append(sj.Logs, lj)
		}
		j.Spaces = append(j.Spaces, sj)
	}
	for _, o := range s.Others {
		j.Others = append(j.Others, otherJSON{account.AppendCertificate(nil, o.Certificate), o.Name})
	}
	return json.Marshal(j)
}

// parseState reads what encode wrote, and nothing else.
func parseState(b []byte) (*State, error) {
	var head struct {
		V int `json:"v"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, err
	}
	if head.V > stateVersion {
		return nil, fmt.Errorf("%w (state version %d, this one knows %d)", ErrNewer, head.V, stateVersion)
	}
	if head.V != stateVersion {
		return nil, fmt.Errorf("unknown state version %d", head.V)
	}
	var j stateJSON
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&j); err != nil {
		return nil, err
	}
	s := &State{Name: j.Name}
	var err error
	if s.Card, err = account.ParseCard(j.Card); err != nil {
		return nil, err
	}
	if s.Certificate, err = account.ParseCertificate(j.Certificate); err != nil {
		return nil, err
	}
	if s.Keys, err = seal.ParseDevice(j.Device); err != nil {
		return nil, err
	}
	switch {
	case s.Certificate.Account != s.Card.ID:
		return nil, errors.New("the certificate is of another account")
	case s.Certificate.Device != s.Keys.Key():
		return nil, errors.New("the certificate is of another device")
	}
	if err := fixed("recovery_root", s.RecoveryRoot[:], j.RecoveryRoot); err != nil {
		return nil, err
	}
	for _, bj := range j.Boxes {
		b := &Box{Name: bj.Name, Administrator: bj.Administrator, Quota: bj.Quota, Addresses: bj.Addresses, Version: bj.Version, Paired: bj.Paired.UTC(), Waiting: bj.Waiting}
		if err := errors.Join(
			fixed("static", b.Static[:], bj.Static),
			fixed("sign", b.Sign[:], bj.Sign),
			fixed("psk", b.PSK[:], bj.PSK),
		); err != nil {
			return nil, fmt.Errorf("box %q: %w", bj.Name, err)
		}
		s.Boxes = append(s.Boxes, b)
	}
	for _, sj := range j.Spaces {
		sp := &Space{Keys: seal.SpaceKeys{Name: sj.Name}}
		if err := errors.Join(
			fixed("tag", sp.Keys.Tag[:], sj.Tag),
			fixed("chunk_id", sp.Keys.ChunkID[:], sj.ChunkID),
			fixed("chunker", sp.Keys.Chunker[:], sj.Chunker),
		); err != nil {
			return nil, fmt.Errorf("space %q: %w", sj.Name, err)
		}
		for _, lj := range sj.Logs {
			l, err := lj.log()
			if err != nil {
				return nil, fmt.Errorf("space %q: %w", sj.Name, err)
			}
			sp.Logs = append(sp.Logs, l)
		}
		s.Spaces = append(s.Spaces, sp)
	}
	for _, oj := range j.Others {
		cert, err := account.ParseCertificate(oj.Certificate)
		if err != nil {
			return nil, fmt.Errorf("device %q: %w", oj.Name, err)
		}
		s.Others = append(s.Others, &Other{cert, oj.Name})
	}
	again, err := s.encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, b) {
		return nil, errors.New("not in the one form that cobox writes")
	}
	return s, nil
}

func (lj *logJSON) log() (*Log, error) {
	m, err := merklelog.ParseManifest(lj.Manifest)
	if err != nil {
		return nil, err
	}
	l := &Log{Manifest: m, Envelopes: lj.Envelopes, Own: lj.Own, Left: lj.Left, Avoid: lj.Avoid, Lost: lj.Lost, Recipients: lj.Recipients}
	if err := merklelog.CheckRanges(lj.Lost, merklelog.MaxSize); err != nil {
		return nil, err
	}
	for _, k := range lj.Keys {
		var key seal.LogKey
		if err := fixed("keys", key[:], k); err != nil {
			return nil, fmt.Errorf("log %v: %w", m.ID(), err)
		}
		l.Keys = append(l.Keys, key)
	}
	if len(l.Keys) != len(l.Envelopes) {
		return nil, fmt.Errorf("log %v: %d keys for %d envelopes", m.ID(), len(l.Keys), len(l.Envelopes))
	}
	if lj.Known != nil {
		cp, err := merklelog.ParseCheckpoint(lj.Known)
		if err != nil {
			return nil, fmt.Errorf("log %v: %w", m.ID(), err)
		}
		l.Known = &cp
	}
	return l, nil
}

func fixed(field string, dst, src []byte) error {
	if len(src) != len(dst) {
		return fmt.Errorf("%s has %d bytes, want %d", field, len(src), len(dst))
	}
	copy(dst, src)
	return nil
}
