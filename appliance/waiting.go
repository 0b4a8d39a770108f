package appliance

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"cobox/appliance/admin"
	"cobox/appliance/datadir"
	"cobox/appliance/roster"
	"cobox/netlink/noiseconn"
	"cobox/netlink/replicate"
	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// waiting is a box whose data is elsewhere: on a disk that is not plugged in, or
// on its way to another. It has its identity and the list of who may connect, so
// that its members reach it and hear that nothing is lost, and its administrators
// can look at its disks. It opens no store and makes none.
type waiting struct {
	log      *slog.Logger
	version  string
	what     string // that it waits for, for people
	identity *datadir.Identity
	name     string
	peers    map[account.NoiseKey]*datadir.Peer
	disks    disks

	started   time.Time
	boot      replicate.BootID
	addresses addresses
	limits    *replicate.Limits
	gate      *noiseconn.Gate
	links     *links
	metrics   *metrics
	ready     atomic.Bool
}

func runWaiting(ctx context.Context, cfg *Config) (err error) {
	dir, err := datadir.Open(cfg.Settings.Data, datadir.Options{Waiting: true, Holder: "coboxd run --waiting"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	identity, _, err := dir.Identity()
	if err != nil {
		return err
	}
	peers, err := dir.Peers()
	if err != nil {
		return err
	}
	w := &waiting{log: cfg.Logger, version: cfg.Version, what: cfg.Waiting, identity: identity, name: peers.Name,
		peers: make(map[account.NoiseKey]*datadir.Peer, len(peers.List)), disks: disks{cfg.Machine}, started: time.Now(),
		limits: replicate.NewLimits(0), gate: noiseconn.NewGate(), links: newLinks(func(roster.Peer) bool { return true }),
		metrics: newMetrics(cfg.Version, pairingResults(), admin.Methods(), true)}
	rand.Read(w.boot[:])
	for i := range peers.List {
		w.peers[peers.List[i].Noise] = &peers.List[i]
	}
	return w.run(ctx, cfg)
}

func (w *waiting) run(ctx context.Context, cfg *Config) error {
	ln, local, err := listen(cfg)
	if err != nil {
		return err
	}
	defer ln.Close()
	defer local.Close()
	w.addresses.find = findAddresses(cfg, ln)
	if _, err := w.addresses.look(); err != nil {
		return err
	}
	g, serving := errgroup.WithContext(ctx)
	server := &noiseconn.Server{Config: w.serverConfig(), Handle: w.handle, Refused: w.refused, Gate: w.gate}
	g.Go(func() error {
		if err := server.Serve(serving, ln); err != nil {
			return fmt.Errorf("appliance: serving links: %w", err)
		}
		return nil
	})
	page := &pages{log: w.log, metrics: w.metrics, health: w.health}
	g.Go(func() error { return page.serve(serving, local) })
	g.Go(func() error { return w.addresses.watch(serving, w.log, func() {}) })
	if r := responder(&cfg.Settings, w.identity, w.log, ln.Addr()); r != nil {
		g.Go(func() error { return r.Run(serving) })
	}
	g.Go(func() error {
		<-serving.Done()
		w.ready.Store(false)
		return nil
	})
	w.ready.Store(true)
	if serving.Err() != nil {
		w.ready.Store(false) // the end has come first
	}
	w.log.Info("box waits for its data", "name", w.name, "listen", ln.Addr().String(), "http", local.Addr().String(), "for", w.what)
	if cfg.Ready != nil {
		cfg.Ready(Info{Listen: ln.Addr(), HTTP: local.Addr(), Name: w.name, Key: w.identity.StaticPublic(), Addresses: w.addresses.now(), Waiting: w.what})
	}
	err = g.Wait()
	w.log.Info("box has stopped waiting")
	return err
}

// health is well as far as the program goes: no restart brings the data back.
func (w *waiting) health() (status int, text string) {
	if !w.ready.Load() {
		return http.StatusServiceUnavailable, "the box is starting or stopping"
	}
	return http.StatusOK, "ok, but waiting: " + w.what
}

// serverConfig knows no pairing secrets: they are where the data is.
func (w *waiting) serverConfig() noiseconn.ServerConfig {
	return noiseconn.ServerConfig{
		Static:     w.identity.StaticPrivate(),
		PairingPSK: func(noiseconn.InviteID) (noiseconn.PSK, bool) { return noiseconn.PSK{}, false },
		LinkPSK: func(remote noiseconn.StaticPublic) (noiseconn.PSK, any, bool) {
			p := w.peers[account.NoiseKey(remote)]
			if p == nil {
				return noiseconn.PSK{}, nil, false
			}
			return p.PSK, p, true
		},
	}
}

func (w *waiting) refused(reason noiseconn.Reason, _ net.Addr) {
	w.metrics.refused.WithLabelValues(string(reason)).Inc()
}

// handle serves one authenticated connection.
func (w *waiting) handle(ctx context.Context, c *noiseconn.Conn) {
	p := c.Peer().(*datadir.Peer)
	peer := roster.Peer{Kind: roster.Kind(p.Kind), Account: p.Account, Device: p.Device, Noise: p.Noise}
	no := &refusing{w}
	session, err := replicate.NewSession(c, replicate.Config{
		Hello: replicate.Hello{Features: replicate.FeatureWaiting, Boot: w.boot, Name: w.name, Addresses: w.addresses.now()},
		Peer: replicate.Peer{Noise: p.Noise, Account: p.Account, Device: p.Device,
			Recovery: p.Kind == datadir.PeerRecovery, Admin: p.Administrator},
		Limits: w.limits,
		Logger: w.log,
		Box: &replicate.Box{
			Store: no, Authorizer: no, Admin: no,
			Receipt: func(context.Context, *merklelog.Durable) (*replicate.Receipt, error) { return nil, w.error() },
			Logs: func(context.Context, account.ID) iter.Seq2[*replicate.LogEntry, error] {
				return func(yield func(*replicate.LogEntry, error) bool) { yield(nil, w.error()) }
			},
			Code: func(error) replicate.Code { return replicate.CodeInternal },
		},
	})
	if err != nil {
		w.log.Error("a session cannot be started", "error", err)
		return
	}
	w.links.add(session, peer)
	defer w.links.remove(session)
	w.metrics.sessions.WithLabelValues(peer.Kind.String()).Inc()
	err = session.Run(ctx)
	reason, _ := endingOf(ctx, err)
	w.metrics.ended.WithLabelValues(reason).Inc()
	w.log.Debug("link closed", "reason", reason, "error", err)
}

// error is what every peer hears who wants what is not here.
func (w *waiting) error() error {
	return &replicate.Error{Code: replicate.CodeWaiting, Message: w.what}
}

// refusing is the store, the authorizer and the administration of a box that
// waits: it says so to whatever needs the data.
type refusing struct{ w *waiting }

func (r *refusing) Log(merklelog.LogID) (replicate.LogState, error) {
	return replicate.LogState{}, r.w.error()
}
func (r *refusing) OfferCheckpoint(*merklelog.Manifest, merklelog.Checkpoint, merklelog.Proof) error {
	return r.w.error()
}
func (r *refusing) AppendLeaves(merklelog.LogID, merklelog.Batch) error { return r.w.error() }
func (r *refusing) Leaves(merklelog.LogID, uint64, int) ([]merklelog.Leaf, error) {
	return nil, r.w.error()
}
func (r *refusing) Missing(merklelog.LogID, uint64, int) ([]merklelog.Range, error) {
	return nil, r.w.error()
}
func (r *refusing) PutBlock(context.Context, merklelog.LogID, uint64, []byte) error {
	return r.w.error()
}
func (r *refusing) Commit(context.Context, merklelog.LogID) (merklelog.Durable, error) {
	return merklelog.Durable{}, r.w.error()
}
func (r *refusing) ReadBlock(merklelog.LogID, uint64, []byte) error { return r.w.error() }
func (r *refusing) Inclusion(merklelog.LogID, uint64, uint64) (merklelog.Proof, error) {
	return nil, r.w.error()
}
func (r *refusing) MayDeliver(context.Context, replicate.Peer, merklelog.LogID, *merklelog.Manifest, *account.Certificate, bool) error {
	return r.w.error()
}
func (r *refusing) MayRead(context.Context, replicate.Peer, merklelog.LogID, *merklelog.Manifest) error {
	return r.w.error()
}
func (r *refusing) MayList(context.Context, replicate.Peer, account.ID) error { return r.w.error() }

// Serve implements replicate.Admin.
func (r *refusing) Serve(ctx context.Context, p replicate.Peer, req *replicate.Request) ([]byte, error) {
	w, method := r.w, req.Method
	reply, err := w.serve(ctx, p, req)
	var out []byte
	if err == nil {
		out, err = json.Marshal(reply)
	}
	result := "ok"
	var refused *replicate.Error
	switch {
	case errors.As(err, &refused):
		result = "refused"
	case err != nil:
		result = "failed"
		w.log.Error("a request failed", "method", method, "error", err)
	}
	if isMethod(method) {
		w.metrics.requests.WithLabelValues(method, result).Inc()
	}
	return out, err
}

func (w *waiting) serve(ctx context.Context, p replicate.Peer, req *replicate.Request) (any, error) {
	switch req.Method {
	case admin.MethodStatus:
		return w.status(ctx, p, req.Body)
	case admin.MethodDisks, admin.MethodDiskUse:
	default:
		return nil, w.error()
	}
	if !p.Admin {
		return nil, notAllowed("you may not do this: it is for administrators")
	}
	if req.Method == admin.MethodDisks {
		return w.disks.list(ctx, req.Body)
	}
	id, err := w.disks.use(ctx, req.Body, req.Progress)
	if err != nil {
		return nil, err
	}
	w.log.Info("an administrator lets a disk take the data", "disk", id, "account", p.Account.Fingerprint())
	return &admin.Empty{}, nil
}

func (w *waiting) status(ctx context.Context, p replicate.Peer, body []byte) (any, error) {
	if err := decode(body, &admin.StatusRequest{}); err != nil {
		return nil, err
	}
	s := &admin.Status{
		Name: w.name, Version: w.version, Key: noiseconn.StaticPublic(w.identity.StaticPublic()).String(),
		Signer:    replicate.BoxKey(w.identity.Signer().Public().(ed25519.PublicKey)).String(),
		Addresses: w.addresses.now(), Wall: time.Now().Unix(), Waiting: w.what,
	}
	if s.You.Administrator = p.Admin; p.Admin {
		data, err := w.disks.data(ctx)
		if err != nil {
			w.log.Error("where the data lies is unknown", "error", err)
		}
		s.Data = data
	}
	return s, nil
}

// isMethod tells whether a method is one that metrics have a label for.
func isMethod(method string) bool { return slices.Contains(admin.Methods(), method) }
