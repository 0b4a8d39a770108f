package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"aead.dev/minisign"
	"github.com/spf13/cobra"

	"cobox/cmd/console"
	"cobox/image/bundle"
	"cobox/image/disk"
	"cobox/image/layout"
)

// bundleOptions are the flags of "bundle".
type bundleOptions struct {
	slot, image   string
	version       string
	number, floor uint32
	ownFloor      bool // --floor was given
	keys          []string
	signatures    []string
	passwordFile  string
	public        []string
	out           string
	verify        string

	system *disk.Slot // of the image, if there is one
}

// askedKeys are the public keys that a box will ask for.
type askedKeys struct {
	*bundle.Keys
	whose string // where they are from
}

func (p *program) bundleCommand() *cobra.Command {
	var o bundleOptions
	cmd := &cobra.Command{
		Use:   "bundle",
		Short: "Make or check a signed update",
		Long: `bundle makes a signed update of a slot's files, which "cobox box update" sends
to a box. Beside FILE.cobox it writes what was signed, FILE.manifest.txt, and the
signatures, FILE.manifest.txt.1.minisig and so on, which anybody can check:

  minisign -V -m FILE.manifest.txt -x FILE.manifest.txt.1.minisig -p release-1.pub

Two of the three release keys must sign. Their holders can sign the manifest that
"coboximg build" writes beside an image with "minisign -S", each at a place of
their own; give their signatures with --signature. An image that was built with
their signatures has all that is needed.

With --image version, number and floor are those of the image unless they are
given. All of it is in docs/RELEASING.md.

--verify says what is in an update, after it has checked all of it.

The signatures are compared with the public keys of --pub. Without it they are
those that the image of --image asks for; without that, those that were built into
this coboximg. Boxes ask for the keys of the image that they run.
` + exitHelp,
		Example: `  coboximg bundle --image out/cobox.img --signature anna.minisig --signature ben.minisig --out cobox-1.4.0.cobox
  coboximg bundle --slot out/slot --version 1.4.0 --number 17 --key release-1.key --key release-3.key --out cobox-1.4.0.cobox
  coboximg bundle --verify cobox-1.4.0.cobox --image out/cobox.img`,
		Args: console.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.ownFloor = cmd.Flags().Changed("floor")
			if err := o.validate(); err != nil {
				return &usageError{err}
			}
			if err := o.readImage(); err != nil {
				return err
			}
			keys, err := o.publicKeys()
			if err != nil {
				return err
			}
			if o.verify != "" {
				return p.verifyBundle(o.verify, keys)
			}
			return p.makeBundle(&o, keys)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.slot, "slot", "", "directory with the files of a slot")
	f.StringVar(&o.image, "image", "", "image whose slot A and release keys are taken")
	f.StringVar(&o.version, "version", "", "version, for people")
	f.Uint32Var(&o.number, "number", 0, "number of the release, higher than all before")
	f.Uint32Var(&o.floor, "floor", 0, "lowest number that may be installed after this one (default: --number)")
	f.StringArrayVar(&o.keys, "key", nil, "private key that signs; may be repeated")
	f.StringArrayVar(&o.signatures, "signature", nil, "signature of the manifest made elsewhere; may be repeated")
	f.StringVar(&o.passwordFile, "password-file", "", "the first line decrypts private keys")
	f.StringArrayVar(&o.public, "pub", nil, "public keys that must have signed; may be repeated")
	f.StringVar(&o.out, "out", "", "file to write")
	f.StringVar(&o.verify, "verify", "", "update to check")
	return cmd
}

func (o *bundleOptions) validate() error {
	making := o.slot != "" || o.version != "" || o.number != 0 || o.ownFloor || len(o.keys) > 0 || len(o.signatures) > 0 || o.out != ""
	switch {
	case o.verify != "" && making:
		return errors.New("--verify goes with --pub or --image and no other flag")
	case o.verify != "":
		return nil
	case (o.slot == "") == (o.image == ""):
		return errors.New("one of --slot and --image has to be given")
	case o.version != "" && bundle.CheckVersion(o.version) != nil:
		return fmt.Errorf("--version %w", bundle.CheckVersion(o.version))
	case o.slot != "" && o.version == "":
		return errors.New("--version is missing")
	case o.slot != "" && o.number == 0:
		return errors.New("--number is missing; it counts releases, from 1")
	case o.number != 0 && o.floor > o.number:
		return fmt.Errorf("--floor %d is above --number %d", o.floor, o.number)
	case o.out == "":
		return errors.New("--out is missing")
	}
	return nil
}

// readImage reads the system of the image, if there is one.
func (o *bundleOptions) readImage() (err error) {
	if o.image != "" {
		o.system, err = disk.ReadSlot(o.image, layout.SlotA)
	}
	return err
}

// publicKeys returns the keys that a box will ask for.
func (o *bundleOptions) publicKeys() (*askedKeys, error) {
	var keys []bundle.PublicKey
	var whose string
	switch {
	case len(o.public) > 0:
		whose = "the keys of --pub"
		for _, name := range o.public {
			_, these, err := readPublicKeys(name)
			if err != nil {
				return nil, err
			}
			keys = append(keys, these...)
		}
	case o.system != nil:
		whose = "the release keys of " + o.image
		text, err := o.system.ReleaseKeys()
		if err == nil {
			keys, err = bundle.ParsePublicKeys(text)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w; name public keys with --pub", o.image, err)
		}
	default:
		return &askedKeys{bundle.ReleaseKeys(), "the release keys built into this coboximg; --image or --pub names others"}, nil
	}
	set, err := bundle.NewKeys(bundle.ReleaseThreshold, keys...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", whose, err)
	}
	return &askedKeys{set, whose}, nil
}

// makeBundle writes the bundle, which appears under its name only when it is
// complete and was read back, and then the manifest and the signatures. If there are
// too few of these, it leaves the manifest to be signed, and nothing else.
func (p *program) makeBundle(o *bundleOptions, keys *askedKeys) (err error) {
	m, files, sigs, err := o.content()
	if err != nil {
		return err
	}
	text, err := m.Append(nil)
	if err != nil {
		return err
	}
	if len(o.keys)+len(o.signatures) > 0 {
		if sigs, err = o.sign(m, text); err != nil {
			return err
		}
	}
	manifest := strings.TrimSuffix(o.out, ".cobox") + ".manifest.txt"
	if _, err := keys.Verify(text, sigs); err != nil {
		if err := os.WriteFile(manifest, text, 0o644); err != nil {
			return fmt.Errorf("write the manifest: %w", err)
		}
		return fmt.Errorf("%w (%s). Let the holders of the release keys sign %s with \"minisign -S\" and give their signatures with --signature, or name other public keys with --pub", err, keys.whose, manifest)
	}
	if err := writeBundle(o.out, m, sigs, files, keys.Keys); err != nil {
		return err
	}
	begun := []string{o.out}
	defer func() {
		if err != nil {
			for _, name := range begun {
				os.Remove(name)
			}
		}
	}()
	begun = append(begun, manifest)
	if err := os.WriteFile(manifest, text, 0o644); err != nil {
		return fmt.Errorf("write the manifest: %w", err)
	}
	for i := range sigs {
		name := fmt.Sprintf("%s.%d.minisig", manifest, i+1)
		begun = append(begun, name)
		if err := os.WriteFile(name, sigs[i].Append(nil), 0o644); err != nil {
			return fmt.Errorf("write a signature: %w", err)
		}
	}
	return p.verifyBundle(o.out, keys)
}

// content returns what the update consists of, and the signatures that an image
// has already: those of another number or version are not of this update.
func (o *bundleOptions) content() (*bundle.Manifest, bundle.Contents, []bundle.Signature, error) {
	if o.slot != "" {
		files, err := slotDirectory(o.slot)
		if err != nil {
			return nil, nil, nil, err
		}
		m := &bundle.Manifest{Version: o.version, Number: o.number, Floor: o.number, Board: bundle.BoardRPi, Files: files.Describe()}
		if o.ownFloor {
			m.Floor = o.floor
		}
		return m, files, nil, nil
	}
	m, sigs := *o.system.Manifest, o.system.Signatures
	if o.version != "" {
		m.Version = o.version
	}
	if o.number != 0 {
		m.Number, m.Floor = o.number, o.number
	}
	if o.ownFloor {
		m.Floor = o.floor
	}
	if of := o.system.Manifest; m.Version != of.Version || m.Number != of.Number || m.Floor != of.Floor {
		sigs = nil
	}
	return &m, o.system.Files, sigs, nil
}

// sign returns the signatures that are given, and those of the keys.
func (o *bundleOptions) sign(m *bundle.Manifest, text []byte) ([]bundle.Signature, error) {
	_, all, err := readSignatures(o.signatures)
	if err != nil {
		return nil, err
	}
	password := func() (string, error) {
		if o.passwordFile == "" {
			return "", errors.New("the key is encrypted; give its password with --password-file")
		}
		return readPassword(o.passwordFile)
	}
	for _, name := range o.keys {
		key, err := loadKey(name, password)
		if err != nil {
			return nil, err
		}
		// No time in the comment, so that the same release is signed with the same
		// bytes.
		r := minisign.NewReader(bytes.NewReader(text))
		if _, err := io.Copy(io.Discard, r); err != nil {
			return nil, fmt.Errorf("hash the manifest: %w", err)
		}
		all = append(all, r.SignWithComments(key,
			fmt.Sprintf("CoBox %s number %d board %s", m.Version, m.Number, m.Board),
			fmt.Sprintf("signature of CoBox release key %016X", key.ID()))...)
	}
	sigs, err := bundle.ParseSignatures(all)
	if err != nil {
		return nil, err
	}
	return sigs, oneOfEach(sigs)
}

func writeBundle(out string, m *bundle.Manifest, sigs []bundle.Signature, files bundle.Contents, keys *bundle.Keys) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(out), filepath.Base(out)+".*.tmp")
	if err != nil {
		return fmt.Errorf("write the update: %w", err)
	}
	defer func() {
		tmp.Close()
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	w := bufio.NewWriter(tmp)
	if err := bundle.Write(w, m, sigs, files.Open); err != nil {
		return err
	}
	if err := errors.Join(w.Flush(), tmp.Chmod(0o644), tmp.Sync()); err != nil {
		return fmt.Errorf("write the update: %w", err)
	}
	if _, err := readBundle(tmp.Name(), keys); err != nil {
		return fmt.Errorf("read back what was written: %w", err)
	}
	if err := os.Rename(tmp.Name(), out); err != nil {
		return fmt.Errorf("write the update: %w", err)
	}
	return nil
}

// bundleSummary is what an update is.
type bundleSummary struct {
	File    string   `json:"file"`
	Bytes   int64    `json:"bytes"`
	Version string   `json:"version"`
	Number  uint32   `json:"number"`
	Floor   uint32   `json:"floor"`
	Board   string   `json:"board"`
	Files   int      `json:"files"`
	Content int64    `json:"content"`
	Signers []string `json:"signers"`
	Keys    string   `json:"keys"` // which were asked for, in words
}

func (p *program) verifyBundle(name string, keys *askedKeys) error {
	s, err := readBundle(name, keys.Keys)
	if errors.Is(err, bundle.ErrSignature) {
		return fmt.Errorf("%w (%s)", err, keys.whose)
	}
	if err != nil {
		return err
	}
	s.Keys = keys.whose
	if p.JSON {
		p.Emit("summary", s)
		return nil
	}
	fmt.Fprintf(p.Stdout, "%s: %d bytes, complete and undamaged\n", s.File, s.Bytes)
	fmt.Fprintf(p.Stdout, "version %s, number %d, floor %d, for %s\n", s.Version, s.Number, s.Floor, s.Board)
	fmt.Fprintf(p.Stdout, "%d files with %d bytes\n", s.Files, s.Content)
	fmt.Fprintf(p.Stdout, "signed by %s (%s)\n", strings.Join(s.Signers, ", "), s.Keys)
	return nil
}

// readBundle reads an update to its end.
func readBundle(name string, keys *bundle.Keys) (*bundleSummary, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open the update: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open the update: %w", err)
	}
	r, err := bundle.Inspect(bufio.NewReader(f), keys)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer r.Close()
	m := r.Manifest()
	s := &bundleSummary{
		File: name, Bytes: info.Size(), Version: m.Version, Number: m.Number, Floor: m.Floor,
		Board: m.Board, Files: len(m.Files),
	}
	for _, id := range r.Signers() {
		s.Signers = append(s.Signers, id.String())
	}
	for {
		file, _, err := r.Next()
		if err == io.EOF {
			return s, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		s.Content += file.Size
	}
}
