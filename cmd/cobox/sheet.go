package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"cobox/cmd/cobox/device"
	"cobox/cmd/cobox/sheet"
	"cobox/cmd/cobox/ui"
	"cobox/netlink/pairing"
)

type sheetEvent struct {
	HTML  string `json:"html"`
	PNG   string `json:"png"`
	Boxes int    `json:"boxes"`
}

func (sheetEvent) Type() string { return "summary" }
func (e sheetEvent) Text() string {
	s := fmt.Sprintf("The recovery sheet, with %s, is in %s and %s.\nPrint it and write the 12 words on it by hand.", ui.Count(uint64(e.Boxes), "box", "boxes"), e.HTML, e.PNG)
	if e.Boxes == 0 {
		s += "\nIt lists no box yet: pair one, then print the sheet that pair writes."
	}
	return s
}

func (a *app) sheetCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "sheet",
		Short: "Write the recovery sheet",
		Long: `Writes the page to print and keep: the account's fingerprint, every box with its
key and addresses in one QR code, and a place to write the 12 words by hand.
It holds no secret until the words are on it.`,
		Example: "  cobox sheet\n  cobox sheet --out ~/Desktop/recovery-sheet",
		Args:    exactly(0, ""),
		RunE: func(*cobra.Command, []string) error {
			st, err := a.open()
			if err != nil {
				return err
			}
			path, err := a.writeSheet(st, out)
			if err != nil {
				return err
			}
			a.ui.Emit(sheetEvent{path, strings.TrimSuffix(path, ".html") + ".png", len(st.Boxes)})
			return nil
		},
	}
	c.Flags().StringVar(&out, "out", "", "file to write: FILE.html and FILE.png (default: recovery-sheet in the configuration folder)")
	return c
}

// writeSheet writes the sheet's page and picture and returns the page's path.
func (a *app) writeSheet(st *device.State, out string) (string, error) {
	if out == "" {
		out = filepath.Join(a.home.Config, "recovery-sheet")
	}
	out = strings.TrimSuffix(strings.TrimSuffix(out, ".html"), ".png")
	s := &sheet.Sheet{Fingerprint: st.Card.ID.Fingerprint(), Made: a.now()}
	code := &pairing.Sheet{Account: st.Card.ID}
	for _, b := range st.Boxes {
		s.Boxes = append(s.Boxes, sheet.Box{Name: b.Name, Key: boxID(b), Addresses: b.Addresses})
		if len(code.Boxes) == pairing.MaxSheetBoxes {
			a.ui.Warnf("the code of the sheet has room for %d boxes; %q is named on the page only", pairing.MaxSheetBoxes, b.Name)
			continue
		}
		entry := pairing.SheetBox{Name: pairing.ShortName(b.Name), Box: b.Static}
		for _, x := range b.Addresses {
			if addr, err := pairing.ParseAddress(x); err == nil {
				entry.Addresses = append(entry.Addresses, addr)
			}
		}
		code.Boxes = append(code.Boxes, entry)
	}
	if len(code.Boxes) > 0 {
		text, err := code.Text()
		if err != nil {
			return "", err
		}
		qr, err := pairing.Draw(text)
		if err != nil {
			return "", err
		}
		s.Text, s.QR = text, qr.Image(1)
	}
	html, err := sheet.HTML(s)
	if err != nil {
		return "", err
	}
	png, err := sheet.PNG(s)
	if err != nil {
		return "", err
	}
	for path, b := range map[string][]byte{out + ".html": html, out + ".png": png} {
		if err := device.WriteFile(path, b); err != nil {
			return "", ui.Fail(err, "write", "cannot write the recovery sheet", "Choose another place with 'cobox sheet --out FILE'.")
		}
	}
	return out + ".html", nil
}
