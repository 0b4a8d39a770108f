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

	"cobox/appliance/datadir"
	"cobox/cmd/console"
	"cobox/image/disk"
	"cobox/image/label"
	"cobox/image/layout"
	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
)

// maxCopies keeps a typing error from filling a disk.
const maxCopies = 1000

func (p *program) provisionCommand() *cobra.Command {
	count := 1
	cmd := &cobra.Command{
		Use:   "provision IMAGE",
		Short: "Make copies of an image that have a label",
		Long: `provision makes copies of an image, each with an identity and a pairing secret
of its own, and a label to stick on its box (PDF and PNG, 105 x 74 mm). The files
lie beside IMAGE and bear the name of the box. IMAGE may be compressed (.img.zst),
as it was downloaded; the copies are not.

Both files of a copy are secrets until its box is claimed: whoever has one can
claim the box, and the image stays one, for it holds the box's keys. They are
readable for you only. Delete the image when it is on its card.
` + exitHelp,
		Example: `  coboximg provision out/cobox.img
  coboximg provision out/cobox.img --count 10`,
		Args: console.OneArgument("the image"),
	}
	cmd.Flags().IntVar(&count, "count", 1, "number of copies")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if count < 1 || count > maxCopies {
			return &usageError{fmt.Errorf("--count must be from 1 to %d", maxCopies)}
		}
		return p.provision(cmd.Context(), args[0], count, time.Now())
	}
	return cmd
}

// copied is a copy of an image, as --json shows it.
type copied struct {
	Name  string `json:"name"`
	Key   string `json:"key"`
	Image string `json:"image"`
	PDF   string `json:"label_pdf"`
	PNG   string `json:"label_png"`
}

func (p *program) provision(ctx context.Context, image string, count int, at time.Time) error {
	if err := unprovisioned(image); err != nil {
		return err
	}
	for range count {
		if err := ctx.Err(); err != nil {
			return err
		}
		made, err := makeCopy(image, at)
		if err != nil {
			return err
		}
		if p.JSON {
			p.Emit("copy", made)
		} else {
			fmt.Fprintf(p.Stdout, "%s  %s  %s\n", made.Image, made.PDF, made.PNG)
		}
	}
	if p.JSON {
		p.Emit("summary", struct {
			Copies int `json:"copies"`
		}{count})
	} else {
		fmt.Fprintf(p.Stdout, "\nPrint each label in its size (100 %%) and stick it on the box that gets its card:\n  coboximg flash DEVICE --image FILE\n")
	}
	return nil
}

// unprovisioned makes sure that an image is ours and has no identity yet: two
// boxes with one identity would be one box to their members.
func unprovisioned(image string) error {
	files, err := disk.Partition(image, 1)
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.Path == layout.ProvisionFile {
			return fmt.Errorf("%s already has an identity; name the image that it was copied from", image)
		}
	}
	return nil
}

// makeCopy makes one copy with its label, or nothing.
func makeCopy(image string, at time.Time) (made *copied, err error) {
	id := datadir.NewIdentity()
	secret, invite := pairing.NewSecret()
	key := noiseconn.StaticPublic(id.StaticPublic())
	// The code has no address: nobody knows yet where the box will stand. It is
	// found by its name in the local network.
	code := pairing.Code{Kind: pairing.KindClaim, Box: key, Secret: secret, Invite: invite}
	text, err := code.Text()
	if err != nil {
		return nil, err
	}
	l, err := label.New(text)
	if err != nil {
		return nil, err
	}
	pdf, err := l.PDF()
	if err != nil {
		return nil, err
	}
	png, err := l.PNG()
	if err != nil {
		return nil, err
	}
	base := strings.TrimSuffix(strings.TrimSuffix(image, ".zst"), ".img") + "-" + pairing.HostName(key)
	made = &copied{Name: pairing.HostName(key), Key: key.String(), Image: base + ".img", PDF: base + "-label.pdf", PNG: base + "-label.png"}
	if _, err := os.Lstat(made.Image); err == nil {
		// The name is short, so another copy may have it. Two boxes of one name
		// would not find each other's members.
		return makeCopy(image, at)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("making a copy: %w", err)
	}

	var begun []string
	defer func() {
		if err != nil {
			for _, name := range begun {
				os.Remove(name)
			}
		}
	}()
	begun = append(begun, made.Image)
	if err := disk.Copy(made.Image, 0o600, image); err != nil {
		return nil, err
	}
	file := datadir.AppendProvision(nil, &datadir.Provision{Identity: id, InviteID: invite, Secret: secret})
	if err := disk.WriteBootsel(made.Image, layout.ProvisionFile, file, at); err != nil {
		return nil, err
	}
	for name, content := range map[string][]byte{made.PDF: pdf, made.PNG: png} {
		begun = append(begun, name)
		if err := writeSecret(name, content); err != nil {
			return nil, fmt.Errorf("writing the label: %w", err)
		}
	}
	return made, nil
}

// writeSecret makes a file that only its owner may read. It must not be there:
// it might be somebody else's to read.
func writeSecret(name string, content []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}
