package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cobox/appliance/admin"
	"cobox/cmd/cobox/device"
	"cobox/cmd/cobox/ui"
	"cobox/netlink/pairing"
	"cobox/storage/account"
)

func (a *app) boxCommand() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:   "box",
		Short: "Administer a box: invites, members, quotas, checks, its log",
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
		a.boxStatusCommand(&name), a.boxCheckCommand(&name), a.boxLogCommand(&name),
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
	return ui.Bytes(q.Bytes)
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

type inviteEvent struct {
	ID      string      `json:"id"`
	Code    string      `json:"code"`
	Quota   admin.Quota `json:"quota"`
	Expires int64       `json:"expires_seconds"`
	Picture string      `json:"picture,omitempty"`

	qr string
}

func (inviteEvent) Type() string { return "summary" }
func (e inviteEvent) Text() string {
	var b strings.Builder
	b.WriteString(e.qr)
	fmt.Fprintf(&b, "%s\n\nWhoever has this code first may use up to %s. It expires in %s.\n",
		e.Code, quotaText(e.Quota), ui.Duration(time.Duration(e.Expires)*time.Second))
	if e.Picture != "" {
		fmt.Fprintf(&b, "The picture is %s. ", e.Picture)
	}
	b.WriteString("On the other computer: cobox init, then cobox join with the picture or the text.")
	return b.String()
}

func (a *app) boxInviteCommand(box *string) *cobra.Command {
	c := &cobra.Command{
		Use:   "invite",
		Short: "Make an invite",
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var quota, expires, out, name string
	m := &cobra.Command{
		Use:     "member --quota SIZE",
		Short:   "Invite a member, who may use up to SIZE",
		Example: "  cobox box invite member --quota 500GB --out invite.png\n  cobox box invite member --quota 1TB --expires 2d --name Ana",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if quota == "" {
				return ui.Usagef("Give --quota SIZE, for example 500GB, or none for no limit.", "an invite needs a quota")
			}
			q, err := parseQuota(quota)
			if err != nil {
				return err
			}
			lifetime, err := ui.ParseDuration(expires)
			if err != nil {
				return ui.Usagef("Give for example 12h, 7d or 2w.", "%s", err)
			}
			return a.withBox(cmd, box, func(ctx context.Context, l *link) error {
				inv, err := call[admin.Invited](ctx, l, admin.MethodInviteCreate,
					admin.InviteRequest{Name: name, Quota: q, Lifetime: lifetime.Milliseconds()}, nil)
				if err != nil {
					return err
				}
				e := inviteEvent{ID: inv.Invite.ID, Code: inv.Code, Quota: inv.Invite.Quota, Expires: inv.Invite.Remaining / 1000, Picture: out}
				qr, err := pairing.Draw(inv.Code)
				if err != nil {
					return fmt.Errorf("the box's invite makes no sense: %w", err)
				}
				if out != "" {
					png, err := qr.PNG(8)
					if err != nil {
						return err
					}
					if err := os.WriteFile(out, png, 0o600); err != nil {
						return ui.Fail(err, "write", "cannot write the picture", "The invite was made: its code is "+inv.Code)
					}
				} else {
					e.qr = qr.Terminal()
				}
				a.ui.Emit(e)
				return nil
			})
		},
	}
	m.Flags().StringVar(&quota, "quota", "", "how much the member may store, such as 500GB; none: no limit")
	m.Flags().StringVar(&expires, "expires", "7d", "how long the invite is good, such as 12h or 7d")
	m.Flags().StringVar(&out, "out", "", "write the QR code as a PNG picture to this file")
	m.Flags().StringVar(&name, "name", "", "what to call the member")
	c.AddCommand(m)
	return c
}

type memberEvent struct{ admin.Member }

func (memberEvent) Type() string { return "member" }
func (memberEvent) Text() string { return "" }

type openInviteEvent struct{ admin.Invite }

func (openInviteEvent) Type() string { return "invite" }
func (openInviteEvent) Text() string { return "" }

type countSummary struct {
	Box   string `json:"box"`
	Count int    `json:"count"`
}

func (countSummary) Type() string { return "summary" }
func (countSummary) Text() string { return "" }

func (a *app) boxMembersCommand(box *string) *cobra.Command {
	return &cobra.Command{
		Use: "members", Short: "List the members, their quotas and what they use", Args: exactly(0, ""),
		Example: "  cobox box members",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withBox(cmd, box, func(ctx context.Context, l *link) error {
				members, invites, err := listMembers(ctx, l)
				if err != nil {
					return err
				}
				rows := [][]string{{"Account", "Name", "Used", "Quota", "Devices", ""}}
				for _, m := range members {
					a.emitJSON(memberEvent{m})
					note := ""
					switch {
					case m.Removed:
						note = "removed"
					case m.Administrator:
						note = "administrator"
					}
					var names []string
					for _, d := range m.Devices {
						names = append(names, ui.Printable(d.Name))
					}
					rows = append(rows, []string{m.Account.Fingerprint(), ui.Printable(m.Name), ui.Bytes(m.Used), quotaText(m.Quota), strings.Join(names, ", "), note})
				}
				for _, i := range invites {
					a.emitJSON(openInviteEvent{i})
					if i.State == "open" {
						rows = append(rows, []string{"invite " + i.ID, ui.Printable(i.Name), "", quotaText(i.Quota), "",
							"open for " + ui.Duration(time.Duration(i.Remaining)*time.Millisecond)})
					}
				}
				a.ui.Table(rows)
				a.ui.Emit(countSummary{l.box.Name, len(members)})
				return nil
			})
		},
	}
}

func listMembers(ctx context.Context, l *link) (members []admin.Member, invites []admin.Invite, err error) {
	var after *account.ID
	for {
		part, err := call[admin.Members](ctx, l, admin.MethodMembers, admin.MembersRequest{After: after}, nil)
		if err != nil {
			return nil, nil, err
		}
		members, invites = append(members, part.Members...), append(invites, part.Invites...)
		if !part.More || len(part.Members) == 0 {
			return members, invites, nil
		}
		after = &part.Members[len(part.Members)-1].Account
	}
}

// findMember finds a member by fingerprint, account or name.
func findMember(ctx context.Context, l *link, who string) (*admin.Member, error) {
	members, _, err := listMembers(ctx, l)
	if err != nil {
		return nil, err
	}
	var found []*admin.Member
	for i := range members {
		m := &members[i]
		if m.Account.String() == who || strings.EqualFold(m.Account.Fingerprint(), who) || m.Name == who && !m.Removed {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, &ui.Failure{Exit: ui.ExitFailed, Code: "no_member", What: fmt.Sprintf("the box has no member %q", who), Hint: "See 'cobox box members'; give the account as it stands there, or the name."}
	}
	return nil, &ui.Failure{Exit: ui.ExitFailed, Code: "ambiguous_member", What: fmt.Sprintf("the box has %d members called %q", len(found), who), Hint: "Give the account as it stands in 'cobox box members'."}
}

type doneEvent struct {
	Box     string      `json:"box"`
	Account *account.ID `json:"account,omitempty"`

	text string
}

func (doneEvent) Type() string   { return "summary" }
func (e doneEvent) Text() string { return e.text }

func (a *app) boxQuotaCommand(box *string) *cobra.Command {
	return &cobra.Command{
		Use: "quota MEMBER SIZE", Short: "Change how much a member may store", Args: exactly(2, "a member and a size"),
		Example: "  cobox box quota Ana 1TB\n  cobox box quota ABCD-EFGH-IJKL-MNOP none",
		Long:    "Changes a member's quota. Over quota new data is refused; what is there stays.",
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := parseQuota(args[1])
			if err != nil {
				return err
			}
			return a.withBox(cmd, box, func(ctx context.Context, l *link) error {
				m, err := findMember(ctx, l, args[0])
				if err != nil {
					return err
				}
				if _, err := call[admin.Empty](ctx, l, admin.MethodQuotaSet, admin.QuotaRequest{Account: m.Account, Quota: q}, nil); err != nil {
					return err
				}
				a.ui.Emit(doneEvent{l.box.Name, &m.Account, fmt.Sprintf("Member %s may now store %s.", memberName(m), quotaText(q))})
				return nil
			})
		},
	}
}

func memberName(m *admin.Member) string {
	if m.Name != "" {
		return ui.Printable(m.Name)
	}
	return m.Account.Fingerprint()
}

func (a *app) boxRemoveCommand(box *string) *cobra.Command {
	return &cobra.Command{
		Use: "remove MEMBER", Short: "End a membership", Args: exactly(1, "a member"),
		Example: "  cobox box remove Ana",
		Long:    "Ends a membership at once. The member's data stays on the box, but nothing more is taken in\nand nobody of the account can connect.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withBox(cmd, box, func(ctx context.Context, l *link) error {
				m, err := findMember(ctx, l, args[0])
				if err != nil {
					return err
				}
				if _, err := call[admin.Empty](ctx, l, admin.MethodMemberRemove, admin.RemoveRequest{Account: m.Account}, nil); err != nil {
					return err
				}
				a.ui.Emit(doneEvent{l.box.Name, &m.Account, fmt.Sprintf("%s is no longer a member of %s.", memberName(m), l.box.Name)})
				return nil
			})
		},
	}
}

type boxStatusEvent struct{ admin.Status }

func (boxStatusEvent) Type() string { return "summary" }
func (e boxStatusEvent) Text() string {
	s := &e.Status
	rows := [][]string{
		{"Box", ui.Printable(s.Name)}, {"Version", s.Version}, {"Key", s.Key},
		{"Addresses", strings.Join(s.Addresses, " ")},
		{"Your use", ui.Bytes(s.You.Used) + " of " + quotaText(s.You.Quota)},
	}
	if s.ReadOnly {
		rows = append(rows, []string{"State", "read-only: it takes in nothing, and still serves restores"})
	}
	if b := s.Box; b != nil {
		rows = append(rows,
			[]string{"Up for", ui.Duration(time.Duration(b.Uptime) * time.Millisecond)},
			[]string{"Members", fmt.Sprint(b.Members)}, []string{"Logs", fmt.Sprint(b.Logs)},
			[]string{"Holds", ui.Bytes(b.Bytes)}, []string{"Damaged", ui.Count(b.Damaged, "block", "blocks")},
			[]string{"Links", fmt.Sprint(b.Sessions)},
			[]string{"Disk", ui.Bytes(b.DiskBytes) + " used, " + ui.Bytes(b.Free) + " free"})
	}
	return ui.Table(rows)
}

func (a *app) boxStatusCommand(box *string) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show how a box is doing", Args: exactly(0, ""),
		Example: "  cobox box status",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withBox(cmd, box, func(ctx context.Context, l *link) error {
				s, err := call[admin.Status](ctx, l, admin.MethodStatus, admin.StatusRequest{}, nil)
				if err != nil {
					return err
				}
				a.ui.Emit(boxStatusEvent{s})
				return nil
			})
		},
	}
}

type checkEvent struct {
	Box string `json:"box"`
	admin.CheckReport
}

func (checkEvent) Type() string { return "summary" }
func (e checkEvent) Text() string {
	var b strings.Builder
	for _, d := range e.Damaged {
		fmt.Fprintf(&b, "! log %.16s… block %d: %s\n", d.Log, d.Index, d.What)
	}
	fmt.Fprintf(&b, "%s in %s checked in %s: ", ui.Count(e.Blocks, "block", "blocks"), ui.Count(e.Logs, "log", "logs"),
		ui.Duration(time.Duration(e.Millis)*time.Millisecond))
	if e.DamageCount == 0 {
		b.WriteString("all are as they were written.")
	} else {
		fmt.Fprintf(&b, "%s damaged. The devices that wrote them send them again if they can; the rest can be restored.",
			ui.Count(e.DamageCount, "thing is", "things are"))
	}
	return b.String()
}

func (a *app) boxCheckCommand(box *string) *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Let the box verify everything that it holds", Args: exactly(0, ""),
		Example: "  cobox box check",
		Long:    "Lets the box read every block that it holds and check it against the signed logs.\nIt goes on serving meanwhile.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withBox(cmd, box, func(ctx context.Context, l *link) error {
				m := a.ui.Meter("Checking")
				r, err := call[admin.CheckReport](ctx, l, admin.MethodCheck, admin.CheckRequest{}, func(b []byte) {
					var p admin.CheckProgress
					if json.Unmarshal(b, &p) == nil {
						m.Update(ui.Progress{Bytes: p.Blocks * 65536, TotalBytes: p.TotalBlocks * 65536, Final: true})
					}
				})
				m.Done()
				if err != nil {
					return err
				}
				a.ui.Emit(checkEvent{l.box.Name, r})
				if r.DamageCount > 0 {
					a.exit = ui.ExitFailed
				}
				return nil
			})
		},
	}
}

// logEvent is one entry of the box's event log.
type logEvent struct {
	Number  uint64             `json:"number"`
	Time    time.Time          `json:"time"`    // by the box's clock
	Elapsed int64              `json:"elapsed"` // ms that the box has been running in its whole life
	Kind    admin.Kind         `json:"kind"`
	Account *account.ID        `json:"account,omitempty"`
	Device  *account.DeviceKey `json:"device,omitempty"`
	By      *account.ID        `json:"by,omitempty"`
	Log     string             `json:"log,omitempty"`
	Detail  string             `json:"detail,omitempty"`
	Count   uint64             `json:"count,omitempty"`
}

func newLogEvent(e *admin.Event) logEvent {
	return logEvent{e.Number, time.Unix(e.Wall, 0), e.Elapsed, e.Kind, e.Account, e.Device, e.By, e.Log, e.Detail, e.Count}
}

func (logEvent) Type() string { return "event" }
func (e logEvent) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %-10s", e.Time.Local().Format("2006-01-02 15:04:05"), e.Kind)
	if e.Account != nil {
		b.WriteString(" " + e.Account.Fingerprint())
	}
	if e.Detail != "" {
		b.WriteString(" " + ui.Printable(e.Detail))
	}
	if e.Count > 1 {
		fmt.Fprintf(&b, " (%d times)", e.Count)
	}
	return b.String()
}

func (a *app) boxLogCommand(box *string) *cobra.Command {
	var max int
	c := &cobra.Command{
		Use: "log", Short: "Show what happened on a box, newest first", Args: exactly(0, ""),
		Example: "  cobox box log\n  cobox box log --max 1000 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if max < 1 {
				return ui.Usagef("", "--max must be at least 1")
			}
			return a.withBox(cmd, box, func(ctx context.Context, l *link) error {
				before, left := uint64(0), max
				for left > 0 {
					part, err := call[admin.Log](ctx, l, admin.MethodLog, admin.LogRequest{Before: before, Max: min(left, 500)}, nil)
					if err != nil {
						return err
					}
					for _, e := range part.Events {
						a.ui.Emit(newLogEvent(&e))
						before, left = e.Number, left-1
					}
					if !part.More || len(part.Events) == 0 {
						break
					}
				}
				a.ui.Emit(countSummary{l.box.Name, max - left})
				return nil
			})
		},
	}
	c.Flags().IntVar(&max, "max", 100, "at most so many events")
	return c
}

// emitJSON writes an event that people see in a table instead.
func (a *app) emitJSON(e ui.Event) {
	if a.ui.JSON() {
		a.ui.Emit(e)
	}
}
