package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"cobox/cmd/console"
	"cobox/image/disk"
)

func (p *program) flashCommand() *cobra.Command {
	var c disk.FlashConfig
	var yes bool
	cmd := &cobra.Command{
		Use:   "flash DEVICE",
		Short: "Write an image to a card",
		Long: `flash writes an image, which may be compressed (.img.zst), to a card or a USB
disk, and reads it back to see that it is there. All that was on the disk is lost.

DEVICE is the name of the disk, such as /dev/sdx or /dev/mmcblk0. To find it, run
"lsblk -o NAME,SIZE,VENDOR,MODEL,MOUNTPOINTS" before and after you plug in the
card: what is new is the card. Before anything is written, flash says what disk it
is and what is on it, and asks.

It refuses a disk that is mounted, and one that is built into this computer,
unless --force is given. DEVICE may also be a file, for tests: one that is there,
and is empty, all zeros or an image of CoBox.
` + exitHelp,
		Example: `  coboximg flash /dev/sdx
  coboximg flash /dev/mmcblk0 --image out/cobox-cobox-a2b3.img --yes`,
		Args: console.OneArgument("the name of the disk"),
	}
	flags := cmd.Flags()
	flags.StringVar(&c.Image, "image", "out/cobox.img", "the image")
	flags.BoolVar(&yes, "yes", false, "do not ask")
	flags.BoolVar(&c.Force, "force", false, "write also to a disk that is mounted or built in")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c.Device = args[0]
		if !yes {
			if err := p.confirm(cmd.Context(), c); err != nil {
				return err
			}
		}
		return p.flash(cmd.Context(), c)
	}
	return cmd
}

// errUntouched says that Ctrl-C came before anything was written.
var errUntouched = errors.New("interrupted: nothing was changed")

// confirm shows what would be lost and has a person type the name of the disk: a
// "y" is typed too easily.
func (p *program) confirm(ctx context.Context, c disk.FlashConfig) error {
	if p.JSON || !term.IsTerminal(int(p.stdin.Fd())) {
		return &usageError{errors.New("nobody can be asked here; say --yes to write without a question")}
	}
	t, err := disk.Inspect(c)
	if err != nil {
		return err
	}
	fmt.Fprintf(p.Stderr, "%s\nAll that is on it will be lost. Type its name to go on: ", describe(t))
	type answer struct {
		line string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(p.stdin).ReadString('\n')
		answers <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(p.Stderr)
		return errUntouched
	case a := <-answers:
		if a.err != nil && a.line == "" {
			return fmt.Errorf("reading the answer: %w", a.err)
		}
		if strings.TrimSpace(a.line) != c.Device {
			return errors.New("that is another name; nothing was changed")
		}
		return nil
	}
}

// describe says in some lines what a disk is.
func describe(t *disk.Target) string {
	what := "a file"
	if !t.File {
		what = "a disk of which nothing is known"
		if t.Model != "" {
			what = t.Model
		}
		if t.Size > 0 {
			what += fmt.Sprintf(", %.1f GB", float64(t.Size)/1e9)
		}
	}
	text := t.Device + " is " + what + ".\n"
	if t.Used != "" {
		text += "In use: " + t.Used + ".\n"
	}
	if t.Holds == "" {
		return text + "There is nothing on it."
	}
	return text + "On it: " + t.Holds + "."
}

func (p *program) flash(ctx context.Context, c disk.FlashConfig) error {
	const tellEvery = time.Second
	var told time.Time
	c.Progress = func(stage string, done, total int64) {
		if time.Since(told) < tellEvery && done != total {
			return
		}
		told = time.Now()
		if p.JSON {
			p.Emit("progress", struct {
				Stage string `json:"stage"`
				Done  int64  `json:"done"`
				Total int64  `json:"total,omitempty"`
			}{stage, done, total})
			return
		}
		what := map[string]string{disk.StageWrite: "written", disk.StageVerify: "verified"}[stage]
		if total > 0 {
			fmt.Fprintf(p.Stderr, "%s %d of %d MB\n", what, done/1e6, total/1e6)
		} else {
			fmt.Fprintf(p.Stderr, "%s %d MB\n", what, done/1e6)
		}
	}
	n, err := disk.Flash(ctx, c)
	if n == 0 && errors.Is(err, context.Canceled) {
		return errUntouched
	}
	if err != nil {
		return err
	}
	if p.JSON {
		p.Emit("summary", struct {
			Device string `json:"device"`
			Bytes  int64  `json:"bytes"`
		}{c.Device, n})
		return nil
	}
	fmt.Fprintf(p.Stdout, "%s holds %s, verified. Put it into the box.\n", c.Device, c.Image)
	return nil
}
