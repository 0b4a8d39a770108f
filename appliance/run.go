package appliance

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"cobox/appliance/admin"
	"cobox/appliance/config"
	"cobox/appliance/datadir"
	"cobox/appliance/machine"
	"cobox/appliance/roster"
	"cobox/appliance/update"
	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
	"cobox/netlink/replicate"
	"cobox/storage/account"
	"cobox/storage/replica"
)

// Config is what a box runs with.
type Config struct {
	// Settings must be valid.
	Settings config.Config
	// Version is that of the program, for people.
	Version string
	// Logger gets what an administrator should know; nil discards it.
	Logger *slog.Logger
	// Ready is called once, when links are accepted and /healthz answers 200.
	// It may be nil.
	Ready func(Info)
	// Claimed is called once, when the first administrator has paired. It may
	// be nil.
	Claimed func()
	// Fatal is called when nobody can say any more what is on the disk. It must
	// end the process: what waits for the store then waits for ever. Nil leaves
	// it to the store, which ends the process itself.
	Fatal func(error)
	// Machine is the first process of a box that runs CoBox's own system. Nil for
	// a plain program, which can neither update the system nor use disks. It stays
	// the caller's to close.
	Machine *machine.Client
	// ReleaseKeys is the file of the keys that updates are signed with; "" stands
	// for update.KeysFile.
	ReleaseKeys string
	// Waiting, if it is not empty, says to people where the box's data is, if it is
	// not in Settings.Data. The box then only says that; see waiting.go.
	Waiting string

	// for tests; the zero values are what a box needs
	store      replica.Options
	interfaces func() ([]net.Addr, error)
}

// Info tells where a running box is.
type Info struct {
	Listen    net.Addr // of links
	HTTP      net.Addr // of the local pages
	Name      string
	Key       noiseconn.StaticPublic
	Addresses []string // as given to peers
	Code      string   // text of the pairing code; "" if the box is claimed
	Picture   string   // path of its picture
	Waiting   string   // what the box waits for, instead of serving; "" if it does not
}

// box is a running box.
type box struct {
	log       *slog.Logger
	version   string
	dir       *datadir.Dir
	identity  *datadir.Identity
	signer    replicate.BoxKey
	boot      replicate.BootID
	addresses addresses
	claimed   func()
	machine   *machine.Client  // nil in a plain program
	updates   *update.Receiver // nil in a plain program
	self      atomic.Pointer[self]

	store    *replica.Store
	memory   *memory
	roster   *roster.Roster
	events   *events
	receipts *receipts
	metrics  *metrics
	limits   *replicate.Limits
	gate     *noiseconn.Gate
	links    *links
	holes    holes

	ready    atomic.Bool
	newPeers chan struct{} // the roster has changed; holds one
	codeFile sync.Mutex    // held while the pairing code is written or removed
	checking sync.Mutex    // held while a check runs
	noting   sync.Mutex    // held while it is recorded what came of an update
}

// Run runs a box until ctx ends, then lets its sessions say goodbye, and closes
// the store. It returns nil after such an end. Before it has changed anything
// it may return a *datadir.InUseError, a *datadir.MovedError or a
// *datadir.NewerError; an error that wraps replica.ErrNewerFormat tells the same of the store.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.Settings.Validate(); err != nil {
		return err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.interfaces == nil {
		cfg.interfaces = net.InterfaceAddrs
	}
	if cfg.Waiting != "" {
		return runWaiting(ctx, &cfg)
	}
	dir, err := datadir.Open(cfg.Settings.Data, datadir.Options{Create: true, Holder: "coboxd run"})
	if err != nil {
		return err
	}
	defer dir.Close()
	b := &box{log: cfg.Logger, version: cfg.Version, dir: dir, claimed: cfg.Claimed, machine: cfg.Machine, newPeers: make(chan struct{}, 1),
		limits: replicate.NewLimits(0), gate: noiseconn.NewGate()}
	rand.Read(b.boot[:])
	if err := b.open(&cfg); err != nil {
		return err
	}
	err = b.run(ctx, &cfg)
	// Last of all, when nobody uses it any more.
	return errors.Join(err, b.closeStore())
}

func (b *box) closeStore() error {
	if err := b.store.Close(); err != nil {
		return fmt.Errorf("appliance: closing the store: %w", err)
	}
	return nil
}

// open makes or finds the identity and opens the store and what is in it. After
// a crash between any two steps the next start does the missing ones.
func (b *box) open(cfg *Config) (err error) {
	identity, provision, err := b.dir.Identity()
	if err != nil {
		return err
	}
	b.identity = identity
	b.signer = replicate.BoxKey(identity.Signer().Public().(ed25519.PublicKey))

	// The store asks for quotas, and the roster lives in the store.
	var members atomic.Pointer[roster.Roster]
	o := cfg.store
	o.Logger = b.log
	o.Fatal = cfg.Fatal
	o.Quota = func(id account.ID) (uint64, bool) {
		if r := members.Load(); r != nil {
			return r.Quota(id)
		}
		return 0, false
	}
	if b.store, err = replica.Open(b.dir.Store(), o); err != nil {
		return fmt.Errorf("appliance: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.closeStore())
		}
	}()
	if b.memory, err = openMemory(b.store); err != nil {
		return err
	}
	options := b.memory.options()
	options.Changed = b.rosterChanged
	b.roster, err = roster.Open(rosterStore{b.memory, b.store.Table(rosterTable)}, options)
	if err != nil {
		return err
	}
	members.Store(b.roster)
	b.links = newLinks(b.roster.Allowed)
	if b.events, err = openEvents(b.memory, b.log); err != nil {
		return err
	}
	b.metrics = newMetrics(b.version, pairingResults(), admin.Methods(), false)
	b.receipts, err = openReceipts(b.memory, identity.Signer(), b.boot, b.metrics.receipts.Inc, b.store.Durable)
	if err != nil {
		return err
	}
	b.metrics.observe(b)
	if b.store.ReadOnly() {
		return nil // what there is can still be read; nothing is set up
	}
	if b.machine != nil {
		b.updates = update.New(update.Config{Machine: b.machine, Dir: b.dir.Path(), Keys: cfg.ReleaseKeys, Logger: b.log})
	}
	return b.setUp(cfg, provision)
}

// setUp gives the box a name and, if it is new, its pairing secret.
func (b *box) setUp(cfg *Config, provision *datadir.Provision) error {
	switch name := cfg.Settings.Name; {
	case name != "":
		if err := b.roster.SetName(name); err != nil {
			return err
		}
	case b.roster.Name() == "":
		if err := b.roster.SetName(pairing.HostName(b.identity.StaticPublic())); err != nil {
			return err
		}
	}
	if provision != nil {
		if err := b.roster.SetClaim(provision.InviteID, provision.Secret); err != nil {
			return err
		}
		// Only now: until the roster has it, this file is the only copy.
		return b.dir.RemoveProvision()
	}
	if b.roster.HasClaim() {
		return nil
	}
	secret, id := pairing.NewSecret()
	return b.roster.SetClaim(id, secret)
}

// listen opens the listeners for links and for the local pages.
func listen(cfg *Config) (links, local net.Listener, err error) {
	if links, err = net.Listen("tcp", cfg.Settings.Listen); err != nil {
		return nil, nil, fmt.Errorf("appliance: listening for links: %w", err)
	}
	if local, err = net.Listen("tcp", cfg.Settings.HTTP); err != nil {
		links.Close()
		return nil, nil, fmt.Errorf("appliance: listening for the local pages: %w", err)
	}
	return links, local, nil
}

// run opens the listeners and runs the box until ctx ends or something fails.
func (b *box) run(ctx context.Context, cfg *Config) error {
	ln, local, err := listen(cfg)
	if err != nil {
		return err
	}
	defer ln.Close()
	defer local.Close()
	b.addresses.find = findAddresses(cfg, ln)
	if _, err := b.addresses.look(); err != nil {
		return err
	}
	info := Info{Listen: ln.Addr(), HTTP: local.Addr(), Name: b.roster.Name(),
		Key: b.identity.StaticPublic(), Addresses: b.addresses.now()}
	b.events.started(b.version)

	// Everything that serves peers ends with ctx, or when one of its like
	// fails; the box's memory only when they have all ended.
	g, serving := errgroup.WithContext(ctx)
	remembering, forget := context.WithCancel(context.WithoutCancel(ctx))
	defer forget()
	var peers sync.WaitGroup
	serve := func(fn func() error) {
		peers.Add(1)
		g.Go(func() error {
			defer peers.Done()
			return fn()
		})
	}
	server := &noiseconn.Server{Config: b.serverConfig(), Handle: b.handle, Refused: b.refused, Gate: b.gate}
	serve(func() error {
		if err := server.Serve(serving, ln); err != nil {
			return fmt.Errorf("appliance: serving links: %w", err)
		}
		return nil
	})
	if b.machine != nil {
		serve(func() error { return b.watchTrial(serving, ln.Addr()) })
	}
	if b.updates != nil {
		serve(func() error { return b.updates.Run(serving) })
	}
	page := &pages{log: b.log, metrics: b.metrics, health: b.health}
	serve(func() error { return page.serve(serving, local) })
	serve(func() error { return b.addresses.watch(serving, b.log, b.newAddresses) })
	if r := responder(&cfg.Settings, b.identity, b.log, ln.Addr()); r != nil {
		serve(func() error { return r.Run(serving) })
	}
	serve(func() error {
		<-serving.Done()
		b.ready.Store(false)
		return nil
	})
	serve(func() error { b.noteDisk(serving); return nil })
	g.Go(func() error { return b.keepPeers(remembering) })
	g.Go(func() error { return b.memory.run(remembering) })
	g.Go(func() error { return b.events.run(remembering) })
	g.Go(func() error {
		peers.Wait()
		forget()
		return nil
	})

	// Members need not wait for a picture.
	if info.Code, info.Picture, err = b.writeCode(); err != nil {
		g.Go(func() error { return err })
		return g.Wait()
	}
	b.ready.Store(true)
	if serving.Err() != nil {
		b.ready.Store(false) // the end has come first
	}
	b.log.Info("box is running", "name", info.Name, "listen", info.Listen.String(), "http", info.HTTP.String(),
		"claimed", info.Code == "", "read_only", b.store.ReadOnly())
	if cfg.Ready != nil {
		cfg.Ready(info)
	}
	err = g.Wait()
	b.log.Info("box has stopped")
	return err
}

// refused is told of connections that were closed before they were
// authenticated.
func (b *box) refused(reason noiseconn.Reason, _ net.Addr) {
	b.metrics.refused.WithLabelValues(string(reason)).Inc()
	if reason != noiseconn.ReasonStopped {
		b.events.refused(reason)
	}
}
