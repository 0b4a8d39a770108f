package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"cobox/cmd/cobox/device"
	"cobox/cmd/cobox/ui"
	"cobox/storage/account"
	"cobox/storage/seal"
)

type initEvent struct {
	Account     account.ID `json:"account"`
	Fingerprint string     `json:"fingerprint"`
	Device      string     `json:"device"`
	PhraseFile  string     `json:"phrase_file,omitempty"`
	Sheet       string     `json:"sheet"`
}

func (initEvent) Type() string { return "summary" }
func (e initEvent) Text() string {
	return fmt.Sprintf("Account %s is ready on %q.", e.Fingerprint, e.Device)
}

func (a *app) initCommand() *cobra.Command {
	var phraseOut, name string
	c := &cobra.Command{
		Use:   "init",
		Short: "Make a new account and set up this device",
		Long: `Makes a new account and shows its recovery phrase, 12 words, once.

Whoever has the phrase and one box that holds your backups gets everything
back. Without it nobody can: no box and no one else knows it. Write it down on
paper. To set up a device for an account that you have already, use recover.`,
		Example: "  cobox init\n  cobox init --phrase-out /media/usb/phrase.txt",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.init(cmd.Context(), phraseOut, name)
		},
	}
	c.Flags().StringVar(&phraseOut, "phrase-out", "", "ask nothing and write the phrase to this new file")
	c.Flags().StringVar(&name, "name", "", "name of this device (default: the computer's)")
	return c
}

func (a *app) init(ctx context.Context, phraseOut, name string) error {
	if device.Exists(a.home) {
		return device.ErrExists
	}
	if phraseOut == "" && !a.ui.Interactive() {
		return ui.Usagef("Run it in a terminal, or give --phrase-out FILE: the phrase is then written there.",
			"init shows the recovery phrase, and there is no terminal to show it on")
	}
	unlock, err := a.home.Lock("init")
	if err != nil {
		return err
	}
	defer unlock()
	entropy := seal.NewEntropy()
	if phraseOut != "" {
		if err := writePhrase(phraseOut, entropy); err != nil {
			return ui.Fail(err, "phrase_file", "cannot write the recovery phrase", "Nothing was set up. Choose a new file and run init again.")
		}
	} else if err := a.showPhrase(ctx, entropy); err != nil {
		return err
	}
	acct, err := seal.DeriveAccount(entropy)
	if err != nil {
		return err
	}
	st, err := a.newDevice(acct, name, 0)
	if err != nil {
		return err
	}
	if err := device.Create(st); err != nil {
		return err
	}
	sheet, err := a.writeSheet(st, "")
	if err != nil {
		return err
	}
	a.ui.Emit(initEvent{st.Card.ID, st.Card.ID.Fingerprint(), st.Name, phraseOut, sheet})
	if phraseOut != "" {
		a.ui.Notef("The recovery phrase is in %s. Copy it to paper and delete the file.", phraseOut)
	}
	a.ui.Notef("The recovery sheet is %s. It lists no boxes yet; pair and join write it anew.", sheet)
	a.ui.Notef("Next: cobox pair PICTURE-OF-THE-QR")
	return nil
}

// newDevice makes this machine a device of the account. The account's secret
// is not kept.
func (a *app) newDevice(acct *seal.Account, name string, revocations uint32) (*device.State, error) {
	keys := seal.NewDevice()
	cert, err := acct.Certify(keys.Public(), revocations, a.now())
	if err != nil {
		return nil, err
	}
	if name == "" {
		if name, err = os.Hostname(); err != nil || name == "" {
			name = "computer"
		}
	}
	return &device.State{
		Home: a.home, Name: name, Card: acct.Card(), Certificate: cert,
		Keys: keys, RecoveryRoot: acct.RecoveryRoot(),
	}, nil
}

// writePhrase writes the 12 words on one line into a new file.
func writePhrase(path string, e seal.Entropy) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s exists and is not written over", path)
		}
		return err
	}
	_, err = fmt.Fprintln(f, e.Phrase())
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(path)
		return err
	}
	return device.SyncDir(filepath.Dir(path))
}

// showPhrase shows the phrase once and asks for two of its words, so that
// nobody goes on who has not written it down.
func (a *app) showPhrase(ctx context.Context, e seal.Entropy) error {
	words := strings.Fields(e.Phrase())
	fmt.Fprintln(os.Stderr, "This is your recovery phrase. Write it on paper now; it is shown only once.")
	fmt.Fprintln(os.Stderr)
	for i := 0; i < len(words); i += 4 {
		for j := i; j < i+4; j++ {
			fmt.Fprintf(os.Stderr, "  %2d. %-9s", j+1, words[j])
		}
		fmt.Fprintln(os.Stderr)
	}
	fmt.Fprintln(os.Stderr)
	first, second, err := twoOf(len(words))
	if err != nil {
		return err
	}
	for _, i := range []int{first, second} {
		for tries := 3; ; tries-- {
			got, err := a.ui.Ask(ctx, fmt.Sprintf("Type word %d: ", i+1))
			if err != nil {
				return err
			}
			if strings.EqualFold(got, words[i]) {
				break
			}
			if tries == 1 {
				return &ui.Failure{Exit: ui.ExitFailed, Code: "phrase_check", What: "the words do not match the phrase",
					Hint: "Nothing was set up. Run cobox init again; it makes a new phrase."}
			}
			fmt.Fprintf(os.Stderr, "That is not word %d. Look at what you wrote down.\n", i+1)
		}
	}
	// The phrase leaves the screen: move up over it and clear what follows.
	fmt.Fprint(os.Stderr, "\x1b[2J\x1b[H")
	return nil
}

func twoOf(n int) (int, int, error) {
	a, err := rand.Int(rand.Reader, big.NewInt(int64(n)))
	if err != nil {
		return 0, 0, err
	}
	b, err := rand.Int(rand.Reader, big.NewInt(int64(n-1)))
	if err != nil {
		return 0, 0, err
	}
	i, j := int(a.Int64()), int(b.Int64())
	if j >= i {
		j++
	}
	return min(i, j), max(i, j), nil
}
