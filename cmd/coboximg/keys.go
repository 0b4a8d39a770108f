package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"aead.dev/minisign"
	"github.com/spf13/cobra"

	"cobox/cmd/console"
	"cobox/image/bundle"
)

// releaseKeys is how many keys a set has.
const releaseKeys = 3

func (p *program) keysCommand() *cobra.Command {
	var out, passwordFile string
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Make a set of release keys",
		Long: `keys makes three release keys, of which two must sign a release:

  release-1.key …  private, in minisign's format; one for each of three people
  release-1.pub …  public
  release.pub      all three public keys, for image/bundle/release.pub

Without --password-file the private keys are not encrypted; with it, all three are,
with one password. Hand each to its holder, who gives it a password of their own
("minisign -C -s release-1.key"), and delete it here. Existing files are never
overwritten: boxes take no update that is not signed by the keys that they were made
with.
` + exitHelp,
		Example: "  coboximg keys --out keys\n  coboximg keys --out keys --password-file password.txt",
		Args:    console.NoArguments,
		RunE: func(*cobra.Command, []string) error {
			if out == "" {
				return &usageError{errors.New("--out is missing")}
			}
			password := ""
			if passwordFile != "" {
				var err error
				if password, err = readPassword(passwordFile); err != nil {
					return err
				}
			}
			return p.makeKeys(out, password)
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "directory for the keys; it is made if it does not exist")
	cmd.Flags().StringVar(&passwordFile, "password-file", "", "encrypt the private keys with the first line of a file")
	return cmd
}

func (p *program) makeKeys(dir, password string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory for the keys: %w", err)
	}
	// All names are looked at before anything is written, so that a set is not
	// made half.
	names := []string{"release.pub"}
	for n := 1; n <= releaseKeys; n++ {
		names = append(names, fmt.Sprintf("release-%d.key", n), fmt.Sprintf("release-%d.pub", n))
	}
	for _, name := range names {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return fmt.Errorf("%s exists already and is not overwritten; name another directory with --out", filepath.Join(dir, name))
		}
	}

	type key struct {
		ID      string `json:"id"`
		Public  string `json:"public"`
		Private string `json:"private"`
	}
	var keys []key
	var all []byte
	for n := 1; n <= releaseKeys; n++ {
		private, public, err := newKey(password, fmt.Sprintf("CoBox release key %d", n))
		if err != nil {
			return err
		}
		k := key{
			ID:      public.ID.String(),
			Private: filepath.Join(dir, fmt.Sprintf("release-%d.key", n)),
			Public:  filepath.Join(dir, fmt.Sprintf("release-%d.pub", n)),
		}
		if err := writeNew(k.Private, private, 0o600); err != nil {
			return err
		}
		if err := writeNew(k.Public, public.Append(nil), 0o644); err != nil {
			return err
		}
		all = public.Append(all)
		keys = append(keys, k)
	}
	set := filepath.Join(dir, "release.pub")
	if err := writeNew(set, all, 0o644); err != nil {
		return err
	}

	if p.JSON {
		p.Emit("summary", struct {
			Keys []key  `json:"keys"`
			Set  string `json:"set"`
		}{keys, set})
		return nil
	}
	for _, k := range keys {
		fmt.Fprintf(p.Stdout, "%s  %s\n", k.ID, k.Private)
	}
	fmt.Fprintf(p.Stdout, "\nThe public halves are in %s. Hand each private key to another person and\nkeep none of them here. docs/RELEASING.md tells the rest.\n", set)
	return nil
}

// newKey makes a key pair; the private half is in minisign's file format.
func newKey(password, comment string) (private []byte, public *bundle.PublicKey, err error) {
	pub, priv, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	if password == "" {
		private, err = priv.MarshalText()
	} else {
		private, err = minisign.EncryptKey(password, priv)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("write a private key: %w", err)
	}
	keys, err := bundle.ParsePublicKeys([]byte("untrusted comment: " + comment + "\n" + pub.String() + "\n"))
	if err != nil {
		return nil, nil, fmt.Errorf("read the public key that was made: %w", err)
	}
	return append(private, '\n'), &keys[0], nil
}

// loadKey reads a private key. The password is asked for only if the key is
// encrypted.
func loadKey(path string, password func() (string, error)) (minisign.PrivateKey, error) {
	var key minisign.PrivateKey
	text, err := os.ReadFile(path)
	if err != nil {
		return key, fmt.Errorf("read a private key: %w", err)
	}
	text = []byte(strings.TrimSuffix(string(text), "\n"))
	if !minisign.IsEncrypted(text) {
		if err := key.UnmarshalText(text); err != nil {
			return key, fmt.Errorf("%s is not a private key of minisign: %w", path, err)
		}
		return key, nil
	}
	secret, err := password()
	if err != nil {
		return key, fmt.Errorf("%s: %w", path, err)
	}
	if key, err = minisign.DecryptKey(secret, text); err != nil {
		return key, fmt.Errorf("%s cannot be decrypted with this password", path)
	}
	return key, nil
}

// readPassword returns the first line of a file.
func readPassword(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" {
		return "", fmt.Errorf("the first line of %s is empty; it has to be the password", path)
	}
	return line, nil
}

// writeNew writes a file that must not exist, and syncs it.
func writeNew(path string, content []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("write a key: %w", err)
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
