package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"cobox/cmd/cobox/ui"
	"cobox/storage/archive/spool"
	"cobox/storage/merklelog"
)

type forgetEvent struct {
	Box     string `json:"box"`
	BoxName string `json:"box_name"`
	Boxes   int    `json:"boxes"` // that are left
	Sheet   string `json:"sheet"`
}

func (forgetEvent) Type() string { return "summary" }
func (e forgetEvent) Text() string {
	s := fmt.Sprintf("Box %q is forgotten: its receipts count no longer. The recovery sheet was written anew, without it: %s.", ui.Printable(e.BoxName), e.Sheet)
	if e.Boxes == 0 {
		s += "\nThis device is now paired with no box."
	}
	return s
}

func (a *app) forgetCommand() *cobra.Command {
	return &cobra.Command{
		Use: "forget BOX", Short: "Forget a box that is gone for good", Args: exactly(1, "the name or the beginning of the key of a box"),
		Long: `Forgets a box that was lost, stolen or given away. Its receipts count no longer,
so that the next backup stores again what only that box held.
Nothing is deleted on the box.`,
		Example: "  cobox forget old-shelf",
		RunE:    func(_ *cobra.Command, args []string) error { return a.forget(args[0]) },
	}
}

func (a *app) forget(name string) error {
	st, unlock, err := a.openLocked("forget")
	if err != nil {
		return err
	}
	defer unlock()
	box, err := st.Box(name)
	if err != nil {
		return ui.Usagef("See 'cobox boxes' for those that this device is paired with.", "%s", err)
	}
	s := &space{a: a, st: st, spools: map[merklelog.LogID]*spool.Spool{}}
	s.fleet = a.newFleet(st, nil)
	defer s.close()
	for _, sp := range st.Spaces {
		if err := s.openSpools(sp); err != nil {
			return err
		}
	}
	for _, own := range s.spools {
		if err := own.Forget(spool.BoxKey(box.Static)); err != nil {
			return err
		}
	}
	st.ForgetBox(box)
	if err := st.Save(); err != nil {
		return err
	}
	sheet, err := a.writeSheet(st, "")
	if err != nil {
		return err
	}
	a.ui.Emit(forgetEvent{boxID(box), box.Name, len(st.Boxes), sheet})
	return nil
}
