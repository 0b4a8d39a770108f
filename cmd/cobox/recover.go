package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cobox/appliance/admin"
	"cobox/cmd/cobox/device"
	"cobox/cmd/cobox/ui"
	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
	"cobox/netlink/replicate"
	"cobox/storage/account"
	"cobox/storage/seal"
)

type recoverEvent struct {
	Account     account.ID `json:"account"`
	Fingerprint string     `json:"fingerprint"`
	Device      string     `json:"device"`
	Spaces      []string   `json:"spaces"`
	Logs        int        `json:"logs"`
	Unreadable  int        `json:"unreadable"` // logs that a box holds and that cannot be read
	Boxes       []namedBox `json:"boxes"`
	Sheet       string     `json:"sheet"`
}

type namedBox struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

func (recoverEvent) Type() string { return "summary" }
func (e recoverEvent) Text() string {
	var quoted []string
	for _, s := range e.Spaces {
		quoted = append(quoted, fmt.Sprintf("%q", s))
	}
	return fmt.Sprintf("Account %s is back on %q: %s, %s (%s).", e.Fingerprint, e.Device,
		ui.Count(uint64(e.Logs), "log", "logs"), ui.Count(uint64(len(e.Spaces)), "space", "spaces"), strings.Join(quoted, ", "))
}

func (a *app) recoverCommand() *cobra.Command {
	var phraseFile, box, address, name string
	c := &cobra.Command{
		Use:   "recover --phrase-file FILE|- --box TEXT|PICTURE",
		Short: "Get an account back on an empty machine",
		Long: `Logs in to a box with the recovery phrase, finds the account's spaces and makes
this machine a new device of the account. Then restore and backup work.

--box takes the QR code of the recovery sheet, or the one with which the box was
paired, as a picture or text. One box that still works is enough; it is looked for
at the addresses in the code and, by its name, in the network that this computer
is in.`,
		Example: "  cobox recover --phrase-file - --box recovery-sheet.jpg\n  cobox recover --phrase-file words.txt --box sheet.png --address 192.168.1.20:26269",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if phraseFile == "" || box == "" {
				return ui.Usagef("For example: cobox recover --phrase-file - --box recovery-sheet.jpg", "recover needs --phrase-file and --box")
			}
			return a.recover(cmd.Context(), phraseFile, box, address, name)
		},
	}
	c.Flags().StringVar(&phraseFile, "phrase-file", "", "file with the 12 words; - for standard input")
	c.Flags().StringVar(&box, "box", "", "QR code of the recovery sheet or of the box: a picture or its text")
	c.Flags().StringVar(&address, "address", "", "where the box is (HOST:PORT), if the code is out of date")
	c.Flags().StringVar(&name, "name", "", "name of this device (default: the computer's)")
	return c
}

// candidate is a box that may hold the account.
type candidate struct {
	name  string
	key   noiseconn.StaticPublic
	where place
}

func (a *app) recover(ctx context.Context, phraseFile, boxCode, address, name string) error {
	if device.Exists(a.home) {
		return device.ErrExists
	}
	code, err := readCode(boxCode)
	if err != nil {
		return err
	}
	if phraseFile == "-" && a.ui.Interactive() {
		a.ui.Notef("Type the 12 words and press Enter, then Ctrl-D:")
	}
	text, err := readInput(phraseFile, 4096)
	if err != nil {
		return ui.Fail(err, "phrase_file", "cannot read the recovery phrase", "Check the path.")
	}
	entropy, err := seal.ParsePhrase(string(bytes.TrimSpace(text)))
	if err != nil {
		return err
	}
	acct, err := seal.DeriveAccount(entropy)
	if err != nil {
		return err
	}
	candidates, err := candidatesOf(code, acct, address)
	if err != nil {
		return err
	}
	unlock, err := a.home.Lock("recover")
	if err != nil {
		return err
	}
	defer unlock()

	st, err := a.newDevice(acct, name, 0)
	if err != nil {
		return err
	}
	var problems []error
	unreadable := 0
	for _, c := range candidates {
		n, err := a.recoverFrom(ctx, st, acct, c)
		unreadable = max(unreadable, n)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			problems = append(problems, fmt.Errorf("%s: %w", c.name, err))
		}
	}
	if len(st.Boxes) == 0 {
		return noRecovery(errors.Join(problems...))
	}
	for _, p := range problems {
		a.ui.Warnf("%v", p)
	}
	if err := device.Create(st); err != nil {
		return err
	}
	sheet, err := a.writeSheet(st, "")
	if err != nil {
		return err
	}
	e := recoverEvent{Account: acct.ID(), Fingerprint: acct.ID().Fingerprint(), Device: st.Name, Spaces: []string{}, Unreadable: unreadable, Boxes: []namedBox{}, Sheet: sheet}
	for _, sp := range st.Spaces {
		e.Spaces = append(e.Spaces, sp.Keys.Name)
		e.Logs += len(sp.Logs)
	}
	for _, b := range st.Boxes {
		e.Boxes = append(e.Boxes, namedBox{boxID(b), b.Name})
	}
	a.ui.Emit(e)
	if e.Unreadable > 0 {
		a.exit = ui.ExitPartial
	}
	a.ui.Notef("The recovery sheet was written anew: %s.", sheet)
	a.ui.Notef("Next: cobox snapshots, then cobox restore --target DIR")
	return nil
}

func candidatesOf(code any, acct *seal.Account, address string) ([]candidate, error) {
	var list []candidate
	switch c := code.(type) {
	case *pairing.Code:
		where, err := placeFor(c.Box, c.Addresses, address)
		if err != nil {
			return nil, err
		}
		list = append(list, candidate{pairing.HostName(c.Box), c.Box, where})
	case *pairing.Sheet:
		if c.Account != acct.ID() {
			return nil, &ui.Failure{Exit: ui.ExitFailed, Code: "wrong_phrase",
				What: fmt.Sprintf("the phrase is that of account %s, but the sheet is of account %s", acct.ID().Fingerprint(), c.Account.Fingerprint()),
				Hint: "Use the phrase and the sheet of the same account."}
		}
		if len(c.Boxes) == 0 {
			return nil, &ui.Failure{Exit: ui.ExitFailed, Code: "bad_code", What: "the sheet names no box", Hint: "Use the QR code of a box that holds the backups."}
		}
		for _, b := range c.Boxes {
			where, err := placeFor(b.Box, b.Addresses, address)
			if err != nil {
				return nil, err
			}
			list = append(list, candidate{b.Name, b.Box, where})
		}
	}
	return list, nil
}

func noRecovery(err error) error {
	f := &ui.Failure{Exit: ui.ExitNoBox, Code: "no_box", What: "no box let this account in", Err: err,
		Hint: notFoundHint}
	if errors.Is(err, &replicate.Error{Code: replicate.CodeWaiting}) {
		f.Hint = waitingHint
		return f
	}
	if errors.Is(err, noiseconn.ErrNoAnswer) || errors.Is(err, noiseconn.ErrBadAnswer) {
		f.Exit, f.Code = ui.ExitFailed, "wrong_phrase"
		f.What, f.Err = "the box does not know the account of this phrase", nil
		f.Hint = "Compare the words with what you wrote down: a phrase of another account is a valid one, too.\nOr was this account never a member of this box, or removed from it?"
	}
	return f
}

// recoverFrom logs in to one box with the recovery key, registers the new
// device there and learns the account's logs.
func (a *app) recoverFrom(ctx context.Context, st *device.State, acct *seal.Account, c candidate) (unreadable int, err error) {
	conn, worked, err := c.where.dial(ctx, noiseconn.Config{
		Mode: noiseconn.ModeLink, Static: noiseconn.StaticPrivate(acct.RecoveryKey()),
		Remote: c.key, PSK: noiseconn.PSK(acct.RecoveryRoot().PSK([32]byte(c.key))),
	})
	if err != nil {
		return unreadable, err
	}
	s := &space{a: a, st: st}
	s.fleet = a.newFleet(st, nil)
	session, err := replicate.NewSession(conn, replicate.Config{
		Hello: replicate.Hello{Boot: s.fleet.boot, Name: clipName(st.Name)},
		Peer:  replicate.Peer{Noise: account.NoiseKey(c.key)}, Limits: s.fleet.limits, Logger: a.log,
	})
	if err != nil {
		conn.Close()
		return unreadable, err
	}
	done := make(chan error, 1)
	go func() { done <- session.Run(ctx) }()
	defer func() { session.Close(); <-done }()

	box := &device.Box{Static: c.key, Version: conn.Version(), Paired: a.now().UTC().Truncate(time.Second)}
	l := &link{f: s.fleet, box: box, session: session, current: session}
	hello, err := session.PeerHello(ctx)
	if err != nil {
		return unreadable, err
	}
	box.Saw(worked, append(hello.Addresses, c.where.addresses...))
	entries, err := session.Logs(ctx, st.Card.ID)
	if err != nil {
		return 0, fmt.Errorf("listing the account's logs: %w", err)
	}
	for _, e := range entries {
		if e.Readable == nil {
			a.ui.Warnf("box %s holds a log of which no part can be read", c.name)
			continue
		}
		change, err := s.learn(ctx, l, e, acct.KEM())
		if err != nil {
			unreadable++
			a.ui.Warnf("a log on box %s cannot be read: %v", c.name, err)
			continue
		}
		if change != nil {
			change(st)
		}
	}
	reg, err := call[admin.Registered](ctx, l, admin.MethodDeviceRegister, admin.RegisterRequest{
		Card: account.AppendCard(nil, st.Card), Certificate: account.AppendCertificate(nil, st.Certificate), Name: deviceName(st.Name),
	}, nil)
	if err != nil {
		return unreadable, fmt.Errorf("registering this device: %w", err)
	}
	status, err := call[admin.Status](ctx, l, admin.MethodStatus, admin.StatusRequest{}, nil)
	if err != nil {
		return unreadable, fmt.Errorf("asking for the box's keys: %w", err)
	}
	signer, err := hex.DecodeString(strings.TrimPrefix(status.Signer, "box:"))
	if err != nil || len(signer) != len(box.Sign) || len(reg.LinkPSK) != len(box.PSK) {
		return unreadable, errors.New("the box's answer makes no sense")
	}
	box.Name, box.Quota = reg.Box, reg.Quota.Bytes
	if pairing.CheckName(box.Name) != nil {
		box.Name = c.name
	}
	copy(box.Sign[:], signer)
	box.Administrator = reg.Role == "administrator"
	copy(box.PSK[:], reg.LinkPSK)
	st.AddBox(box)
	return unreadable, nil
}
