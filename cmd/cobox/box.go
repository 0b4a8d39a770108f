package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"cobox/appliance/admin"
	"cobox/cmd/cobox/device"
	"cobox/cmd/cobox/ui"
)

func (a *app) boxCommand() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:     "box",
		Short:   "Administer a box: invites, members, quotas, checks, its log, updates, its disks",
		Example: "  cobox box status\n  cobox box members --box shelf",
		Long: `Administers a box over the link. Only its administrators may: whoever claimed
it with pair. With more than one box, say which with --box.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return ui.Usagef("See 'cobox box --help'.", "there is no command %q for a box", args[0])
			}
			return cmd.Help()
		},
	}
	c.PersistentFlags().StringVar(&name, "box", "", "name or beginning of the key of the box")
	c.AddCommand(
		a.boxInviteCommand(&name), a.boxMembersCommand(&name), a.boxQuotaCommand(&name), a.boxRemoveCommand(&name),
		a.boxStatusCommand(&name), a.boxCheckCommand(&name), a.boxLogCommand(&name), a.boxUpdateCommand(&name),
		a.boxDiskCommand(&name),
	)
	return c
}

// oneBox connects to the one box that is meant.
func (a *app) oneBox(ctx context.Context, name string) (*link, func(), error) {
	st, err := a.open()
	if err != nil {
		return nil, nil, err
	}
	var box *device.Box
	switch {
	case name != "":
		if box, err = st.Box(name); err != nil {
			return nil, nil, ui.Usagef("See 'cobox boxes' for those that this device is paired with.", "%s", err)
		}
	case len(st.Boxes) == 0:
		return nil, nil, errNoBoxes
	case len(st.Boxes) > 1:
		return nil, nil, ui.Usagef("Say which with --box NAME: see 'cobox boxes'.", "this device is paired with %d boxes", len(st.Boxes))
	default:
		box = st.Boxes[0]
	}
	f := a.newFleet(st, []*device.Box{box})
	f.admin = true
	f.connect(ctx)
	l := f.links[0]
	if err := l.wait(ctx); err != nil {
		f.close()
		return nil, nil, err
	}
	return l, f.close, nil
}

// call sends a request and reads its answer. Progress may be nil.
func call[T any](ctx context.Context, l *link, method string, request any, progress func([]byte)) (T, error) {
	var reply T
	body, err := json.Marshal(request)
	if err != nil {
		return reply, err
	}
	answer, err := l.session.Request(ctx, method, body, progress)
	if err != nil {
		return reply, err
	}
	if err := json.Unmarshal(answer, &reply); err != nil {
		return reply, fmt.Errorf("the box's answer to %s makes no sense: %w", method, err)
	}
	return reply, nil
}

// withBox runs f with the one box that is meant.
func (a *app) withBox(cmd *cobra.Command, name *string, f func(ctx context.Context, l *link) error) error {
	l, done, err := a.oneBox(cmd.Context(), *name)
	if err != nil {
		return err
	}
	defer done()
	return f(cmd.Context(), l)
}

func quotaText(q admin.Quota) string {
	if q.Unlimited {
		return "no limit"
	}
	return ui.Chosen(q.Bytes)
}

// parseQuota reads a size, or "none" for no limit.
func parseQuota(s string) (admin.Quota, error) {
	if s == "none" || s == "unlimited" {
		return admin.Quota{Unlimited: true}, nil
	}
	n, err := ui.ParseBytes(s)
	if err != nil {
		return admin.Quota{}, ui.Usagef("Give a size, or none for no limit.", "%s", err)
	}
	return admin.Quota{Bytes: n}, nil
}

// emitJSON writes an event that people see in a table instead.
func (a *app) emitJSON(e ui.Event) {
	if a.ui.JSON() {
		a.ui.Emit(e)
	}
}
