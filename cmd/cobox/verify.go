package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cobox/cmd/cobox/device"
	"cobox/cmd/cobox/ui"
	"cobox/netlink/replicate"
	"cobox/storage/archive/spool"
	"cobox/storage/merklelog"
)

// verifyEvent is one log on one box.
type verifyEvent struct {
	Box     string `json:"box"`
	BoxName string `json:"box_name"`
	Space   string `json:"space"`
	Log     string `json:"log"`
	Own     bool   `json:"own"` // compared with this device's own leaves
	Size    uint64 `json:"size"`
	Held    uint64 `json:"held"`
	Checked uint64 `json:"checked"` // blocks read back
	Missing uint64 `json:"missing"`
	OK      bool   `json:"ok"`
	Problem string `json:"problem,omitempty"`
}

func (verifyEvent) Type() string { return "verified" }
func (e verifyEvent) Text() string {
	if e.OK {
		what := ui.Count(e.Size, "block", "blocks") + " receipted, the root is right"
		if e.Checked > 0 {
			what += ", " + ui.Count(e.Checked, "block", "blocks") + " read back and compared"
		}
		return fmt.Sprintf("%s, space %q, log %.8s: %s.", ui.Printable(e.BoxName), e.Space, e.Log, what)
	}
	return fmt.Sprintf("! %s, space %q, log %.8s: %s", ui.Printable(e.BoxName), e.Space, e.Log, e.Problem)
}

type verifySummary struct {
	Logs    int     `json:"logs"`
	Boxes   int     `json:"boxes"`
	Checked uint64  `json:"checked"`
	Failed  int     `json:"failed"`
	AllData bool    `json:"all_data"`
	Seconds float64 `json:"seconds"`
}

func (verifySummary) Type() string { return "summary" }
func (e verifySummary) Text() string {
	if e.Failed > 0 {
		return fmt.Sprintf("%d of %d replicas are not as they should be. Run 'cobox backup' again: it sends what is missing, if it is still here.", e.Failed, e.Logs)
	}
	if e.Logs == 0 {
		return "There is nothing to verify yet."
	}
	return fmt.Sprintf("%s on %s verified.", ui.Count(uint64(e.Logs), "replica", "replicas"), ui.Count(uint64(e.Boxes), "box", "boxes"))
}

func (a *app) verifyCommand() *cobra.Command {
	var space string
	var all bool
	c := &cobra.Command{
		Use: "verify", Short: "Compare what the boxes hold with what this device wrote", Args: exactly(0, ""),
		Example: "  cobox verify\n  cobox verify --all-data",
		Long: `Compares every box's receipts with this device's own record of what it wrote.
With --all-data it reads every block back and checks it: as slow as a restore.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.verify(cmd.Context(), space, all) },
	}
	c.Flags().StringVar(&space, "space", "", "only this space (default: all)")
	c.Flags().BoolVar(&all, "all-data", false, "read every block back and check it")
	return c
}

func (a *app) verify(ctx context.Context, only string, all bool) error {
	began := time.Now()
	st, unlock, err := a.openLocked("verify")
	if err != nil {
		return err
	}
	defer unlock()
	s := newSpace(a, st)
	defer s.close()
	s.fleet = a.newFleet(st, st.Boxes)
	s.fleet.connect(ctx)
	if err := s.fleet.waitTried(ctx); err != nil {
		return err
	}
	if err := s.fleet.unreachable(); err != nil {
		return err
	}
	if err := s.refresh(ctx); err != nil {
		return err
	}
	spaces := st.Spaces
	if only != "" {
		if spaces = st.SpacesNamed(only); len(spaces) == 0 {
			return noSpace(st, only)
		}
	}
	links := s.fleet.connected()
	sum := verifySummary{Boxes: len(links), AllData: all}
	for _, sp := range spaces {
		if err := s.openSpools(sp); err != nil {
			return err
		}
		for _, log := range sp.Logs {
			own := s.spools[log.ID()]
			for _, l := range links {
				e := verifyEvent{Box: boxID(l.box), BoxName: l.box.Name, Space: sp.Keys.Name, Log: log.ID().String(), Own: own != nil}
				h := s.holderOf(log.ID(), l)
				if h == nil && own != nil && own.Checkpoint().Size == 0 {
					continue
				}
				err := a.verifyReplica(ctx, h, own, l, log, all, &e)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				e.OK = err == nil
				if err != nil {
					e.Problem = err.Error()
					sum.Failed++
				}
				sum.Logs++
				sum.Checked += e.Checked
				a.ui.Emit(e)
			}
		}
	}
	for _, l := range s.fleet.links {
		if _, _, err := l.state(); err != nil {
			a.ui.Warnf("box %q was not asked: %v", l.box.Name, err)
		}
	}
	sum.Seconds = time.Since(began).Seconds()
	a.ui.Emit(sum)
	if sum.Failed > 0 {
		a.exit = ui.ExitFailed
	}
	return nil
}

// holderOf finds what one box holds of a log; nil if it shows nothing.
func (s *space) holderOf(log merklelog.LogID, l *link) *holder {
	for _, h := range s.holdersOf(log) {
		if h.link == l {
			return &h
		}
	}
	return nil
}

func (a *app) verifyReplica(ctx context.Context, h *holder, own *spool.Spool, l *link, log *device.Log, all bool, e *verifyEvent) error {
	if h == nil {
		return errors.New("the box shows nothing of this log")
	}
	entry := h.entry
	e.Held = entry.Held
	switch {
	case entry.Frozen:
		return errors.New("the box has frozen this log: two versions of it exist")
	case entry.Receipt == nil:
		return errors.New("the box has given no receipt for this log")
	}
	r := entry.Receipt
	e.Size = r.Size
	if err := r.Verify(); err != nil {
		return fmt.Errorf("the receipt is not valid: %w", err)
	}
	if r.Box != replicate.BoxKey(l.box.Sign) || r.Log != entry.Manifest.ID() {
		return errors.New("the receipt is of another box or log")
	}
	if own != nil {
		cp := own.Checkpoint()
		if r.Size > cp.Size {
			return fmt.Errorf("the receipt is for %d blocks, but this device wrote only %d", r.Size, cp.Size)
		}
		root, err := ownRoot(own, r.Size)
		if err != nil {
			return fmt.Errorf("this device's own record cannot be read: %w", err)
		}
		if root != r.Root {
			return errors.New("the receipt's root is not that of what this device wrote")
		}
		if r.Size < cp.Size {
			return fmt.Errorf("the box has receipted %d of %d blocks; the rest is sent with the next backup", r.Size, cp.Size)
		}
	}
	if h.entry.Readable.Size < r.Size {
		return fmt.Errorf("the box can prove only %d of the %d blocks that it has receipted", h.entry.Readable.Size, r.Size)
	}
	if missing := r.Size - r.Held; missing > merklelog.CountRanges(log.Lost) {
		e.Missing = missing
		return fmt.Errorf("the box lacks %s", ui.Count(e.Missing, "block", "blocks"))
	}
	if !all {
		return nil
	}
	return a.readBack(ctx, h, own, log, e)
}

// ownRoot computes the root of the first n leaves that this device wrote.
func ownRoot(own *spool.Spool, n uint64) (merklelog.Hash, error) {
	var f merklelog.Frontier
	for f.Size() < n {
		leaves, err := own.Leaves(f.Size(), int(min(4096, n-f.Size())))
		if err != nil {
			return merklelog.Hash{}, err
		}
		for _, leaf := range leaves {
			f.Append(leaf)
		}
	}
	return f.Root(), nil
}

// readBack reads every block of a replica. The session checks each against the
// writer's signature; blocks of an own log are compared with the own leaf, too.
func (a *app) readBack(ctx context.Context, h *holder, own *spool.Spool, log *device.Log, e *verifyEvent) error {
	session, _ := h.link.now()
	if session == nil {
		return replicate.ErrClosed
	}
	size := h.entry.Readable.Size
	m := a.ui.Meter("Reading back")
	defer m.Done()
	const batch = 4096
	for first := uint64(0); first < size; first += batch {
		n := min(batch, size-first)
		indexes := make([]uint64, n)
		for i := range indexes {
			indexes[i] = first + uint64(i)
		}
		var leaves []merklelog.Leaf
		if own != nil && first+n <= own.Checkpoint().Size {
			var err error
			if leaves, err = own.Leaves(first, int(n)); err != nil {
				return fmt.Errorf("this device's own record cannot be read: %w", err)
			}
		}
		err := session.Read(ctx, h.entry.Manifest, *h.entry.Readable, indexes, func(i uint64, _ []byte, leaf merklelog.Leaf) error {
			if leaves != nil && leaves[i-first] != leaf {
				return fmt.Errorf("block %d is not what this device wrote", i)
			}
			e.Checked++
			m.Update(ui.Progress{Bytes: e.Checked * 65536, TotalBytes: size * 65536, Final: true})
			return nil
		})
		var absent *replicate.NotHeldError
		if errors.As(err, &absent) {
			for _, i := range absent.Indexes {
				if !merklelog.RangesContain(log.Lost, i) {
					e.Missing++
				}
			}
			continue
		}
		if err != nil {
			return err
		}
	}
	if e.Missing > 0 {
		return fmt.Errorf("%s could not be read back, %s of them",
			ui.Count(e.Missing, "block", "blocks"), strings.TrimSpace(ui.Bytes(e.Missing*65536)))
	}
	return nil
}
