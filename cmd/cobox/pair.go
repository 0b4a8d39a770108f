package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cobox/appliance/admin"
	"cobox/cmd/cobox/device"
	"cobox/cmd/cobox/ui"
	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
	"cobox/netlink/pairing/picture"
)

type pairEvent struct {
	Box           string      `json:"box"`
	BoxName       string      `json:"box_name"`
	Administrator bool        `json:"administrator"`
	Quota         admin.Quota `json:"quota"`
	Addresses     []string    `json:"addresses"`
	Sheet         string      `json:"sheet"`
}

func (pairEvent) Type() string { return "summary" }
func (e pairEvent) Text() string {
	s := fmt.Sprintf("Paired with box %q.", ui.Printable(e.BoxName))
	if e.Administrator {
		s += " You are its administrator."
	}
	if !e.Quota.Unlimited {
		s += " You may store " + ui.Chosen(e.Quota.Bytes) + "."
	}
	return s + "\nThe recovery sheet was written anew, with this box: " + e.Sheet + ". Print it."
}

func (a *app) pairCommand() *cobra.Command {
	var address string
	c := &cobra.Command{
		Use:   "pair TEXT|URL|PICTURE",
		Short: "Claim a box by its QR code",
		Long: `Claims a new box: you become its administrator, without a limit. Give the text
of its QR code, or a photo or screenshot of it (PNG or JPEG).

The box is looked for at the addresses in the code and, by its name, in the
network that this computer is in.`,
		Example: "  cobox pair photo.jpg\n  cobox pair 'http://cobox-ab3d.local/#AQE…' --address 192.168.1.20:26269",
		Args:    exactly(1, "the text of a QR code, or a picture of it"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.pair(cmd.Context(), args[0], address, pairing.KindClaim)
		},
	}
	c.Flags().StringVar(&address, "address", "", "where the box is (HOST:PORT), if the code does not say or is out of date")
	return c
}

func (a *app) joinCommand() *cobra.Command {
	var address string
	c := &cobra.Command{
		Use:   "join TEXT|PICTURE",
		Short: "Join a box by an invite",
		Long: `Joins a box as a member. Its administrator makes the invite with 'cobox box invite member'.

The box is looked for at the addresses in the invite and, by its name, in the
network that this computer is in.`,
		Example: "  cobox join invite.png\n  cobox join invite.png --address box.example.org:26269",
		Args:    exactly(1, "the text of an invite, or a picture of it"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.pair(cmd.Context(), args[0], address, pairing.KindMember)
		},
	}
	c.Flags().StringVar(&address, "address", "", "where the box is (HOST:PORT), if the invite does not say or is out of date")
	return c
}

// readCode reads a code from its text or from a picture of it.
func readCode(arg string) (any, error) {
	text := arg
	f, err := os.Open(arg)
	switch {
	case err == nil:
		defer f.Close()
		if text, err = picture.Read(f); err != nil {
			return nil, codeFailure(err, "the picture "+ui.Printable(arg))
		}
	case !errors.Is(err, fs.ErrNotExist) || looksLikeFile(arg):
		if !strings.Contains(arg, "#") {
			return nil, ui.Fail(err, "picture", "cannot open the picture", "Check the path, or give the text of the QR code.")
		}
	}
	code, err := pairing.ParseAny(text)
	if errors.Is(err, pairing.ErrNotCoBox) && text == arg {
		return nil, &ui.Failure{Exit: ui.ExitFailed, Code: "not_cobox", What: fmt.Sprintf("%q is neither a picture that is there nor the text of a CoBox code", ui.Printable(arg)),
			Hint: "Check the path, or scan the code that the box shows, or the one of an invite or recovery sheet."}
	}
	if err != nil {
		return nil, codeFailure(err, "the code")
	}
	return code, nil
}

func looksLikeFile(s string) bool {
	l := strings.ToLower(s)
	return strings.HasSuffix(l, ".png") || strings.HasSuffix(l, ".jpg") || strings.HasSuffix(l, ".jpeg")
}

func codeFailure(err error, what string) error {
	// What is wrong says more to a person than where it was found.
	for _, known := range []error{
		picture.ErrNoQR, picture.ErrNotPicture, picture.ErrPictureTooLarge,
		pairing.ErrNotCoBox, pairing.ErrNewer, pairing.ErrTruncated, pairing.ErrDamaged,
	} {
		if errors.Is(err, known) {
			err = known
			break
		}
	}
	f := &ui.Failure{Exit: ui.ExitFailed, Code: "bad_code", What: "cannot use " + what, Err: err}
	switch {
	case errors.Is(err, picture.ErrNoQR):
		f.Code, f.Hint = "no_qr", "Take the photo again: the whole code, sharp, in good light, filling most of the picture. Or type its text."
	case errors.Is(err, picture.ErrNotPicture):
		f.Code, f.Hint = "picture", "Give a photo or screenshot as PNG or JPEG, or the text of the code."
	case errors.Is(err, picture.ErrPictureTooLarge):
		f.Code, f.Hint = "picture", "Make the picture smaller, or cut it to the code."
	case errors.Is(err, pairing.ErrNotCoBox):
		f.Code, f.Hint = "not_cobox", "Scan the code that the box shows, or the one of an invite or recovery sheet."
	case errors.Is(err, pairing.ErrNewer):
		f.Code, f.Hint = "newer", "Install a newer version of cobox."
	case errors.Is(err, pairing.ErrTruncated), errors.Is(err, pairing.ErrDamaged):
		f.Hint = "Copy the whole text, from http:// to its end, or use a picture of the code."
	}
	return f
}

func (a *app) pair(ctx context.Context, arg, address string, want pairing.Kind) error {
	any, err := readCode(arg)
	if err != nil {
		return err
	}
	code, ok := any.(*pairing.Code)
	if !ok {
		return &ui.Failure{Exit: ui.ExitFailed, Code: "wrong_code", What: "this is a recovery sheet, which pairs nothing", Hint: "To get an account back, use 'cobox recover --box' with it."}
	}
	if code.Kind != want {
		f := &ui.Failure{Exit: ui.ExitFailed, Code: "wrong_code", What: "this code is an invite for a member", Hint: "Use it with 'cobox join'."}
		if code.Kind == pairing.KindClaim {
			f.What, f.Hint = "this is the code with which a new box is claimed", "Use it with 'cobox pair'."
		}
		if code.Kind == pairing.KindPartner {
			f.What, f.Hint = "this code is an invite for another box", "Give it to the administrator of that box."
		}
		return f
	}
	st, unlock, err := a.openLocked("pair")
	if err != nil {
		return err
	}
	defer unlock()
	where, err := placeFor(code.Box, code.Addresses, address)
	if err != nil {
		return err
	}
	conn, worked, err := where.dial(ctx, noiseconn.Config{
		Mode: noiseconn.ModePair, Static: noiseconn.StaticPrivate(st.Keys.Noise()),
		Remote: code.Box, PSK: code.PSK(), Invite: code.Invite,
	})
	if err != nil {
		return pairFailure(ctx, err, where)
	}
	defer conn.Close()
	enrolled, err := pairing.Join(ctx, conn, &pairing.Enrollment{
		Card: st.Card, Certificate: st.Certificate,
		RecoveryPSK: noiseconn.PSK(st.RecoveryRoot.PSK([32]byte(code.Box))), DeviceName: deviceName(st.Name),
	})
	if err != nil {
		return pairFailure(ctx, err, where)
	}
	box := &device.Box{
		Name: enrolled.BoxName, Static: code.Box, Sign: enrolled.SigningKey, PSK: enrolled.LinkPSK,
		Administrator: enrolled.Role == pairing.RoleAdministrator, Quota: enrolled.Quota, Version: conn.Version(), Paired: a.now().UTC().Truncate(time.Second),
	}
	var stated []string
	for _, x := range enrolled.Addresses {
		stated = append(stated, x.String())
	}
	box.Saw(worked, append(stated, where.addresses...))
	st.AddBox(box)
	if err := st.Save(); err != nil {
		return ui.Fail(err, "state", "the box has admitted this device, but that cannot be stored here", "Make room on the disk and run the same command again: the box lets the same device repeat it.")
	}
	sheet, err := a.writeSheet(st, "")
	if err != nil {
		return err
	}
	a.ui.Emit(pairEvent{
		Box: boxID(box), BoxName: box.Name, Administrator: box.Administrator,
		Quota: admin.Quota{Unlimited: box.Quota == 0, Bytes: box.Quota}, Addresses: box.Addresses, Sheet: sheet,
	})
	a.ui.Notef("Next: cobox backup PATH")
	return nil
}

// deviceName makes a computer's name fit the rules for names.
func deviceName(s string) string {
	s = clipName(strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)))
	if pairing.CheckName(s) != nil {
		return "computer"
	}
	return s
}

func pairFailure(ctx context.Context, err error, where place) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var no *pairing.RefusedError
	if errors.As(err, &no) {
		f := &ui.Failure{Exit: ui.ExitFailed, Code: "pairing_refused", What: "the box refused", Err: err}
		explainRefusal(f, no.Refusal)
		return f
	}
	if errors.Is(err, noiseconn.ErrNoAnswer) || errors.Is(err, noiseconn.ErrBadAnswer) {
		return &ui.Failure{Exit: ui.ExitFailed, Code: "wrong_secret", What: "the box hung up: it does not know this code",
			Hint: "The code may be of another box at this address, cancelled, or too many attempts were made in the last minute.\nScan the code that the box shows now ('coboxd qr'), or ask for a new invite."}
	}
	return where.notFound(err)
}

// explainRefusal says in the user's words why a box did not admit a device.
func explainRefusal(f *ui.Failure, why pairing.Refusal) {
	told := func(code, what, hint string) { f.Code, f.What, f.Err, f.Hint = code, what, nil, hint }
	const again = "Ask the box's administrator for a new one."
	switch why {
	case pairing.RefusedClaimed:
		told("claimed", "this box has been claimed already",
			"Ask whoever claimed it for an invite ('cobox box invite member'), then use 'cobox join'.\n"+
				"If nobody of your co-op did, somebody else has seen the code: reset the box before you trust it.")
	case pairing.RefusedUsed:
		told("used", "this invite has been used by another device", again)
	case pairing.RefusedExpired:
		told("expired", "this invite has expired", again)
	case pairing.RefusedUnknown:
		told("cancelled", "this invite has been cancelled", again)
	case pairing.RefusedFull:
		told("full", "the box has no room for another member", "Its administrator can remove one with 'cobox box remove'.")
	case pairing.RefusedRevoked:
		told("revoked", "this device or its member has been removed from the box", "Its administrator must invite it again.")
	case pairing.RefusedBusy:
		told("busy", "the box cannot do this now", "Try again in a minute. If that does not help, look at its log.")
	}
}
