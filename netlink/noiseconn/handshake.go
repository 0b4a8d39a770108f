package noiseconn

import (
	"context"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/flynn/noise"
	"golang.org/x/crypto/chacha20poly1305"
)

// HandshakeTimeout is how long either side waits for the whole handshake.
const HandshakeTimeout = 10 * time.Second

// MaxUnauthenticated is the number of bytes beyond which nothing is read from a
// peer that has not proven who it is. The fixed lengths stay far below it.
const MaxUnauthenticated = 2048

// Lengths of the handshake messages. All payloads are empty, so all lengths are
// fixed.
const (
	pairMessage1 = 32 + 16      // e, tag
	pairMessage2 = 32 + 16      // e, tag
	pairMessage3 = 32 + 16 + 16 // s, tag, tag

	linkMessage1 = 32 + 32 + 16 + 16 // e, s, tag, tag
	linkMessage2 = 32 + 16           // e, tag
	linkConfirm  = 2 + 16            // the initiator's record 0, empty
)

// Config is what Dial needs.
type Config struct {
	Mode   Mode          // ModePair or ModeLink
	Static StaticPrivate // this side's key
	Remote StaticPublic  // the box's key
	PSK    PSK           // from the QR's secret, or agreed at pairing
	Invite InviteID      // which secret of the box; ModePair only

	// Version to speak; 0 means Version. A caller remembers the highest version
	// that it has authenticated with a box and never passes a lower one.
	Version uint8

	random io.Reader // tests only
}

// ServerConfig is what Accept needs.
type ServerConfig struct {
	Static StaticPrivate // the box's key

	// PairingPSK gives the secret of an open invite. It is asked before the
	// peer has proven anything, so it must be quick and change nothing.
	PairingPSK func(InviteID) (PSK, bool)

	// LinkPSK gives the secret shared with a known peer, and what the caller
	// knows of it, which Conn.Peer returns. It is asked after message 1, which
	// may be a replay, so it must be quick and change nothing.
	LinkPSK func(StaticPublic) (psk PSK, peer any, ok bool)

	random io.Reader // tests only
}

// Dial makes the handshake as the initiator. It takes over nc and closes it on
// every error. It fails with ErrNoAnswer if the other side hangs up, with
// ErrBadAnswer if the other side is not the expected one, and with the context's
// error if ctx ends first.
func Dial(ctx context.Context, nc net.Conn, cfg Config) (*Conn, error) {
	return dial(ctx, nc, cfg, spoken())
}

func dial(ctx context.Context, nc net.Conn, cfg Config, v versions) (_ *Conn, err error) {
	defer func() {
		if err != nil {
			nc.Close()
			err = fmt.Errorf("noiseconn: dialling: %w", err)
		}
	}()
	if cfg.Version == 0 {
		cfg.Version = v.newest
	}
	switch {
	case cfg.Mode != ModePair && cfg.Mode != ModeLink:
		return nil, fmt.Errorf("Config.Mode: %w", errMode)
	case !v.contains(cfg.Version):
		return nil, fmt.Errorf("Config.Version: this program does not speak version %d", cfg.Version)
	case cfg.Static.Equal(StaticPrivate{}):
		return nil, errors.New("Config.Static: no key")
	case cfg.Remote.IsZero():
		return nil, errors.New("Config.Remote: no key")
	case cfg.PSK.IsZero():
		return nil, errors.New("Config.PSK: no secret")
	case cfg.Mode == ModeLink && cfg.Invite != InviteID{}:
		return nil, errors.New("Config.Invite: set in a link")
	}
	stop := guard(ctx, nc)
	c, err := dialGuarded(nc, cfg)
	if serr := stop(); serr != nil {
		return nil, serr
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

func dialGuarded(nc net.Conn, cfg Config) (*Conn, error) {
	header := opening{cfg.Mode, cfg.Version, cfg.Invite}.appendHeader(make([]byte, 0, openingSize+linkMessage1))
	hs, err := newHandshake(cfg.Mode, true, header, cfg.Static, cfg.random)
	if err != nil {
		return nil, err
	}
	hs.cfg.PeerStatic = cfg.Remote[:]
	if err := hs.start(&cfg.PSK); err != nil {
		return nil, err
	}
	defer hs.destroy()

	msg, err := hs.write(header[:headerSize+macSize], firstMessage(cfg.Mode))
	if err != nil {
		return nil, err
	}
	mac := openingMAC(cfg.Remote, msg[:headerSize], msg[openingSize:])
	copy(msg[headerSize:], mac[:])
	if _, err := nc.Write(msg); err != nil {
		return nil, answerError(err)
	}

	var answer [pairMessage2]byte // the same length in both modes
	if _, err := io.ReadFull(nc, answer[:]); err != nil {
		return nil, answerError(err)
	}
	if err := hs.read(answer[:]); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadAnswer, err)
	}

	if cfg.Mode == ModePair {
		if msg, err = hs.write(msg[:0], pairMessage3); err != nil {
			return nil, err
		}
		if _, err := nc.Write(msg); err != nil {
			return nil, answerError(err)
		}
	}
	c, err := hs.conn(nc, cfg.Mode, cfg.Version, cfg.Remote)
	if err != nil {
		return nil, err
	}
	c.invite = cfg.Invite
	if cfg.Mode == ModeLink {
		// Proves to the box that its message 2 was read now: message 1 may be a replay.
		if _, err := nc.Write(c.tx.confirm()); err != nil {
			return nil, answerError(err)
		}
	}
	return c, nil
}

// Accept makes the handshake as the box. It takes over nc, closes it on every
// error without having said why, and then returns a *RefusedError. It returns a
// Conn only for a peer that is live: what was sent cannot have been a replay.
func Accept(ctx context.Context, nc net.Conn, cfg ServerConfig) (*Conn, error) {
	return accept(ctx, nc, cfg, spoken(), admission{})
}

// admission lets a Gate have a say in the middle of a handshake. Nil funcs
// allow everything.
type admission struct {
	// verified is asked when the MAC is right and nothing but one hash has been
	// computed yet.
	verified func(Mode) bool
}

func accept(ctx context.Context, nc net.Conn, cfg ServerConfig, v versions, a admission) (*Conn, error) {
	stop := guard(ctx, nc)
	c, err := acceptGuarded(nc, cfg, v, a)
	if serr := stop(); serr != nil {
		nc.Close()
		return nil, &RefusedError{ReasonStopped, serr}
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

func acceptGuarded(nc net.Conn, cfg ServerConfig, v versions, a admission) (*Conn, error) {
	var buf [openingSize + linkMessage1]byte
	if _, err := io.ReadFull(nc, buf[:openingSize]); err != nil {
		return nil, readRefused(err)
	}
	header := buf[:headerSize:headerSize]
	o, err := parseHeader(header)
	switch {
	case errors.Is(err, errMagic):
		return nil, &RefusedError{ReasonMagic, nil}
	case err != nil:
		return nil, &RefusedError{ReasonMode, err}
	case !v.contains(o.version):
		return nil, &RefusedError{ReasonVersion, nil}
	}
	msg := buf[openingSize : openingSize+firstMessage(o.mode)]
	if _, err := io.ReadFull(nc, msg); err != nil {
		return nil, readRefused(err)
	}
	mac := openingMAC(cfg.Static.Public(), header, msg)
	if !macEqual(mac[:], buf[headerSize:openingSize]) {
		return nil, &RefusedError{ReasonMAC, nil}
	}
	if a.verified != nil && !a.verified(o.mode) {
		return nil, &RefusedError{ReasonRate, nil}
	}
	hs, err := newHandshake(o.mode, false, header, cfg.Static, cfg.random)
	if err != nil {
		return nil, &RefusedError{ReasonBadMessage, err}
	}
	defer hs.destroy()
	if o.mode == ModePair {
		return acceptPair(nc, cfg, o, hs, msg)
	}
	return acceptLink(nc, cfg, o, hs, msg)
}

func acceptPair(nc net.Conn, cfg ServerConfig, o opening, hs *handshake, msg []byte) (*Conn, error) {
	if cfg.PairingPSK == nil {
		return nil, &RefusedError{ReasonUnknownInvite, nil}
	}
	psk, ok := cfg.PairingPSK(o.selector)
	if !ok || psk.IsZero() {
		return nil, &RefusedError{ReasonUnknownInvite, nil}
	}
	if err := hs.start(&psk); err != nil {
		return nil, &RefusedError{ReasonBadSecret, err}
	}
	if err := hs.read(msg); err != nil {
		return nil, &RefusedError{ReasonBadSecret, err}
	}
	out, err := hs.write(make([]byte, 0, pairMessage2), pairMessage2)
	if err != nil {
		return nil, &RefusedError{ReasonBadMessage, err}
	}
	if _, err := nc.Write(out); err != nil {
		return nil, readRefused(err)
	}
	var last [pairMessage3]byte
	if _, err := io.ReadFull(nc, last[:]); err != nil {
		return nil, readRefused(err)
	}
	if err := hs.read(last[:]); err != nil {
		return nil, &RefusedError{ReasonBadMessage, err}
	}
	c, err := hs.conn(nc, o.mode, o.version, hs.peerStatic())
	if err != nil {
		return nil, &RefusedError{ReasonBadMessage, err}
	}
	c.invite = o.selector
	return c, nil
}

func acceptLink(nc net.Conn, cfg ServerConfig, o opening, hs *handshake, msg []byte) (*Conn, error) {
	if err := hs.start(nil); err != nil {
		return nil, &RefusedError{ReasonBadMessage, err}
	}
	if err := hs.read(msg); err != nil {
		return nil, &RefusedError{ReasonBadMessage, err}
	}
	remote := hs.peerStatic()
	if cfg.LinkPSK == nil {
		return nil, &RefusedError{ReasonUnknownPeer, nil}
	}
	psk, peer, ok := cfg.LinkPSK(remote)
	if !ok || psk.IsZero() {
		return nil, &RefusedError{ReasonUnknownPeer, nil}
	}
	if err := hs.setPSK(&psk); err != nil {
		return nil, &RefusedError{ReasonBadMessage, err}
	}
	out, err := hs.write(make([]byte, 0, linkMessage2), linkMessage2)
	if err != nil {
		return nil, &RefusedError{ReasonBadMessage, err}
	}
	if _, err := nc.Write(out); err != nil {
		return nil, readRefused(err)
	}
	c, err := hs.conn(nc, o.mode, o.version, remote)
	if err != nil {
		return nil, &RefusedError{ReasonBadMessage, err}
	}
	var confirm [linkConfirm]byte
	if _, err := io.ReadFull(nc, confirm[:]); err != nil {
		return nil, readRefused(err)
	}
	if err := c.rx.confirmed(confirm[:]); err != nil {
		return nil, &RefusedError{ReasonBadMessage, err}
	}
	c.peer = peer
	return c, nil
}

func firstMessage(m Mode) int {
	if m == ModePair {
		return pairMessage1
	}
	return linkMessage1
}

// guard puts the handshake's deadline on nc and cuts it short when ctx ends. The
// returned function takes both away and reports whether ctx ended.
func guard(ctx context.Context, nc net.Conn) (stop func() error) {
	nc.SetDeadline(time.Now().Add(HandshakeTimeout))
	off := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	return func() error {
		if !off() {
			return context.Cause(ctx)
		}
		nc.SetDeadline(time.Time{})
		return nil
	}
}

func readRefused(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &RefusedError{ReasonTimeout, nil}
	}
	return &RefusedError{ReasonTruncated, err}
}

// answerError makes ErrNoAnswer of every way in which the other side can hang up.
func answerError(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("no answer within %v: %w", HandshakeTimeout, err)
	}
	return fmt.Errorf("%w (%v)", ErrNoAnswer, err)
}

// handshake wraps noise.HandshakeState, which trusts its caller too much: it
// takes a missing PSK for none, does not bound what it writes, and can be used
// on after an error. Here the PSK must be there before the message that mixes
// it, every message has exactly the length it must have, and the state is gone
// with the first error.
type handshake struct {
	cfg       noise.Config
	pskAt     int // index of the message that mixes the PSK
	hs        *noise.HandshakeState
	hasPSK    bool
	message   int
	send      *noise.CipherState // set when the last message has passed
	recv      *noise.CipherState
	initiator bool
}

var errState = errors.New("noiseconn: handshake out of order")

func newHandshake(m Mode, initiator bool, prologue []byte, static StaticPrivate, random io.Reader) (*handshake, error) {
	pub := static.Public()
	h := &handshake{initiator: initiator, cfg: noise.Config{
		CipherSuite:   noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashBLAKE2b),
		Random:        random,
		Initiator:     initiator,
		Prologue:      append([]byte(nil), prologue...),
		StaticKeypair: noise.DHKey{Private: static[:], Public: pub[:]},
	}}
	switch m {
	case ModePair:
		h.cfg.Pattern, h.cfg.PresharedKeyPlacement, h.pskAt = noise.HandshakeXK, 0, 0
	case ModeLink:
		h.cfg.Pattern, h.cfg.PresharedKeyPlacement, h.pskAt = noise.HandshakeIK, 2, 1
	default:
		return nil, errMode
	}
	return h, nil
}

// start makes the state. psk may be nil only where the pattern mixes it later.
func (h *handshake) start(psk *PSK) error {
	if psk == nil && h.pskAt == 0 {
		return errState
	}
	if psk != nil {
		if psk.IsZero() {
			return errState
		}
		h.cfg.PresharedKey = psk[:]
		h.hasPSK = true
	}
	hs, err := noise.NewHandshakeState(h.cfg)
	if err != nil {
		return err
	}
	h.hs = hs
	return nil
}

func (h *handshake) setPSK(psk *PSK) error {
	if h.hs == nil || psk.IsZero() {
		return errState
	}
	if err := h.hs.SetPresharedKey(psk[:]); err != nil {
		return err
	}
	h.hasPSK = true
	return nil
}

// write appends the next message, which must come out size bytes long, to out.
func (h *handshake) write(out []byte, size int) ([]byte, error) {
	if h.hs == nil || h.message >= h.pskAt && !h.hasPSK {
		return nil, errState
	}
	msg, c1, c2, err := h.hs.WriteMessage(out, nil)
	if err == nil && len(msg)-len(out) != size {
		err = errState
	}
	if err != nil {
		h.destroy()
		return nil, err
	}
	h.advance(c1, c2)
	return msg, nil
}

// read takes the next message, which must have no payload.
func (h *handshake) read(msg []byte) error {
	if h.hs == nil || h.message >= h.pskAt && !h.hasPSK {
		return errState
	}
	payload, c1, c2, err := h.hs.ReadMessage(nil, msg)
	if err == nil && len(payload) != 0 {
		err = errState
	}
	if err != nil {
		h.destroy()
		return err
	}
	h.advance(c1, c2)
	return nil
}

func (h *handshake) advance(c1, c2 *noise.CipherState) {
	h.message++
	if h.initiator {
		h.send, h.recv = c1, c2
	} else {
		h.send, h.recv = c2, c1
	}
}

func (h *handshake) peerStatic() (k StaticPublic) {
	if h.hs != nil {
		copy(k[:], h.hs.PeerStatic())
	}
	return k
}

// conn makes the Conn of a finished handshake.
func (h *handshake) conn(nc net.Conn, m Mode, version uint8, remote StaticPublic) (*Conn, error) {
	if h.send == nil || h.recv == nil || !h.hasPSK || remote.IsZero() {
		return nil, errState
	}
	send, err := recordCipher(h.send)
	if err != nil {
		return nil, err
	}
	recv, err := recordCipher(h.recv)
	if err != nil {
		return nil, err
	}
	return newConn(nc, m, version, remote, send, recv), nil
}

// recordCipher takes the key out of a CipherState: its own methods allocate a
// nonce for each record.
func recordCipher(s *noise.CipherState) (cipher.AEAD, error) {
	key := s.UnsafeKey()
	defer clear(key[:])
	return chacha20poly1305.New(key[:])
}

func (h *handshake) destroy() {
	if h.hs != nil {
		clear(h.hs.LocalEphemeral().Private)
	}
	h.hs, h.send, h.recv, h.hasPSK = nil, nil, nil, false
	h.cfg = noise.Config{}
}
