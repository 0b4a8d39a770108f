package datadir

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
	"cobox/storage/account"
)

// Peers is what a box needs to know of its members while its store is
// elsewhere: enough to tell them that it waits, and to do what its
// administrators say. It prints as nothing.
//
// The file peers, integers big-endian:
//
//	offset size
//	     0   15  "cobox/v1/peers" ‖ 0
//	    15    1  n, length of the box's name, 1 to 64
//	    16    n  the box's name
//	  16+n    4  number of peers, at most MaxPeers
//	             for each, in the order of their static keys:
//	    +0    1  1 a member's device, 2 a member with the recovery phrase, 3 an administrator's bare key
//	    +1    1  1 if it administers the box, else 0
//	    +2   32  static key
//	   +34   32  secret that goes with it
//	   +66   32  account; zero for a bare key
//	   +98   32  device key; zero unless a device
//	  +130       end
//	        32  SHA-256 of all bytes before
type Peers struct {
	Name string // of the box
	List []Peer // in the order of their static keys
}

// Peer is one that may connect.
type Peer struct {
	Kind          PeerKind
	Administrator bool
	Noise         account.NoiseKey
	PSK           noiseconn.PSK
	Account       account.ID
	Device        account.DeviceKey
}

// PeerKind says as what a peer logs in.
type PeerKind uint8

// The kinds of peers, numbered as in appliance/roster.
const (
	PeerDevice   PeerKind = 1
	PeerRecovery PeerKind = 2
	PeerKey      PeerKind = 3
)

// MaxPeers bounds the list: 1,024 members of 64 devices and a phrase each, and
// 64 bare keys.
const MaxPeers = 1024*(64+1) + 64

const (
	peersMagic   = "cobox/v1/peers\x00"
	peerSize     = 1 + 1 + 4*32
	minPeersSize = len(peersMagic) + 1 + 1 + 4 + sha256.Size
	maxPeersSize = len(peersMagic) + 1 + pairing.MaxName + 4 + MaxPeers*peerSize + sha256.Size
)

// String, GoString, Format and LogValue keep the secrets out of logs.
func (p *Peers) String() string             { return "datadir.Peers(secret)" }
func (p *Peers) GoString() string           { return p.String() }
func (p *Peers) Format(s fmt.State, _ rune) { fmt.Fprint(s, p.String()) }
func (p *Peers) LogValue() slog.Value       { return slog.StringValue(p.String()) }

// AppendPeers appends the file form of p to b.
func AppendPeers(b []byte, p *Peers) []byte {
	start := len(b)
	b = append(b, peersMagic...)
	b = append(b, byte(len(p.Name)))
	b = append(b, p.Name...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(p.List)))
	for i := range p.List {
		peer := &p.List[i]
		administrator := byte(0)
		if peer.Administrator {
			administrator = 1
		}
		b = append(b, byte(peer.Kind), administrator)
		b = append(b, peer.Noise[:]...)
		b = append(b, peer.PSK[:]...)
		b = append(b, peer.Account[:]...)
		b = append(b, peer.Device[:]...)
	}
	sum := sha256.Sum256(b[start:])
	return append(b, sum[:]...)
}

// ParsePeers reads the file form.
func ParsePeers(b []byte) (*Peers, error) {
	p, err := parsePeers(b)
	if err != nil {
		return nil, fmt.Errorf("datadir: peers: %w", err)
	}
	return p, nil
}

func parsePeers(b []byte) (*Peers, error) {
	if len(b) < minPeersSize || len(b) > maxPeersSize {
		return nil, fmt.Errorf("%d bytes, want %d to %d", len(b), minPeersSize, maxPeersSize)
	}
	rest, err := checkEnvelope(b, peersMagic, len(b))
	if err != nil {
		return nil, err
	}
	n := int(rest[0])
	if n > pairing.MaxName || len(rest) < 1+n+4 {
		return nil, fmt.Errorf("a name of %d bytes", n)
	}
	p := &Peers{Name: string(rest[1 : 1+n])}
	if err := pairing.CheckName(p.Name); err != nil {
		return nil, err
	}
	count := binary.BigEndian.Uint32(rest[1+n:])
	rest = rest[1+n+4:]
	if count > MaxPeers || uint64(len(rest)) != uint64(count)*peerSize {
		return nil, fmt.Errorf("%d bytes for %d peers", len(rest), count)
	}
	p.List = make([]Peer, count)
	for i := range p.List {
		if err := p.List[i].parse(rest[i*peerSize:][:peerSize]); err != nil {
			return nil, fmt.Errorf("peer %d: %w", i, err)
		}
		if i > 0 && bytes.Compare(p.List[i-1].Noise[:], p.List[i].Noise[:]) >= 0 {
			return nil, fmt.Errorf("peer %d is not in order", i)
		}
	}
	return p, nil
}

func (p *Peer) parse(b []byte) error {
	*p = Peer{
		Kind: PeerKind(b[0]), Administrator: b[1] == 1,
		Noise: account.NoiseKey(b[2:]), PSK: noiseconn.PSK(b[34:]),
		Account: account.ID(b[66:]), Device: account.DeviceKey(b[98:]),
	}
	switch {
	case b[0] < 1 || b[0] > 3 || b[1] > 1:
		return fmt.Errorf("kind %d, administrator %d", b[0], b[1])
	case p.Noise == account.NoiseKey{} || p.PSK == noiseconn.PSK{}:
		return errors.New("a key or secret is all zero")
	case (p.Account == account.ID{}) != (p.Kind == PeerKey), (p.Device == account.DeviceKey{}) != (p.Kind != PeerDevice):
		return errors.New("an account or device where there is none, or none where there is one")
	case p.Administrator && p.Kind == PeerRecovery:
		return errors.New("a phrase that administers")
	}
	return nil
}

// WritePeers keeps p for times in which the store is elsewhere. It writes
// nothing if that is what is there already. It may be called while another
// goroutine uses the Dir.
func (d *Dir) WritePeers(p *Peers) error {
	b := AppendPeers(nil, p)
	if have, err := d.readAtMost(peersName, int64(maxPeersSize)+1); err == nil && bytes.Equal(have, b) {
		return nil
	}
	return d.write(peersName, b, 0o600)
}

// Peers returns what WritePeers has kept.
func (d *Dir) Peers() (*Peers, error) {
	b, err := d.readAtMost(peersName, int64(maxPeersSize)+1)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("datadir: %s does not say who the box's members are: its file %q is missing", d.path, peersName)
	}
	if err != nil {
		return nil, err
	}
	return ParsePeers(b)
}
