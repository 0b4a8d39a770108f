package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cobox/cmd/console"
	"cobox/image"
	"cobox/image/bundle"
)

func (p *program) buildCommand() *cobra.Command {
	var c image.Config
	var o buildOptions
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Build the image",
		Long: `build makes a complete image for Raspberry Pi 3, 4, 5 and Zero 2 W from the
source in this directory, and beside it: the same compressed (.img.zst), a block
map for bmaptool (.bmap), a software bill of materials (.cdx.json), an entry for
Raspberry Pi Imager (.rpi-imager.json), the manifest that the holders of the
release keys sign (.manifest.txt) and SHA256SUMS.

The same source gives the same bytes. It needs Go, mke2fs (e2fsprogs), and git
unless both --version and SOURCE_DATE_EPOCH are given. How a release is made is
in docs/RELEASING.md.
` + exitHelp,
		Example: `  coboximg build
  coboximg build --out out --name cobox --provision 3
  coboximg build --version v1.2.0 --number 12 --url https://example.org/cobox
  coboximg build --version v1.2.0 --number 12 --signature anna.minisig --signature ben.minisig`,
		Args: console.NoArguments,
	}
	flags := cmd.Flags()
	flags.StringVar(&c.Out, "out", "out", "directory for the image; it is made if it is not there")
	flags.StringVar(&c.Name, "name", image.DefaultName, "beginning of the files' names")
	flags.StringVar(&c.Source, "source", ".", "directory of the source")
	flags.StringVar(&c.Version, "version", "", "version that the box says it has (default: what git describe says)")
	flags.StringVar(&c.URL, "url", "", "address of the directory where the image will be published, for Raspberry Pi Imager")
	flags.Uint32Var(&c.Number, "number", 1, "number of the release, higher than all before")
	flags.Uint32Var(&c.Floor, "floor", 0, "lowest number that may be installed after this one (default: --number)")
	flags.StringVar(&o.releaseKeys, "release-keys", "", "public keys whose holders may release updates for it (default: image/bundle/release.pub of the source)")
	flags.StringArrayVar(&o.signatures, "signature", nil, "signature of the manifest that the same build made before; may be repeated")
	flags.IntVar(&o.copies, "provision", 0, "also make so many copies with an identity and a label of their own")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case o.copies < 0 || o.copies > maxCopies:
			return &usageError{fmt.Errorf("--provision must be from 0 to %d", maxCopies)}
		case c.Number == 0:
			return &usageError{errors.New("--number must be at least 1; it counts releases")}
		case c.Floor > c.Number:
			return &usageError{fmt.Errorf("--floor %d is above --number %d", c.Floor, c.Number)}
		}
		err := image.CheckName(c.Name)
		if err == nil && cmd.Flags().Changed("version") {
			err = image.CheckVersion(c.Version)
		}
		var wrong *image.ConfigError
		if errors.As(err, &wrong) {
			return &usageError{fmt.Errorf("--%s %s", strings.ToLower(wrong.Field), wrong.Reason)}
		}
		return p.build(cmd.Context(), c, &o)
	}
	return cmd
}

// buildOptions are the flags of "build" that are no field of its Config.
type buildOptions struct {
	copies      int
	releaseKeys string
	signatures  []string
}

// read reads the files that the flags name.
func (o *buildOptions) read(c *image.Config) (err error) {
	if o.releaseKeys != "" {
		var keys []bundle.PublicKey
		if c.ReleaseKeys, keys, err = readPublicKeys(o.releaseKeys); err != nil {
			return err
		}
		if _, err := bundle.NewKeys(bundle.ReleaseThreshold, keys...); err != nil {
			return fmt.Errorf("%s: %w", o.releaseKeys, err)
		}
	}
	_, c.Signatures, err = readSignatures(o.signatures)
	return err
}

func (p *program) build(ctx context.Context, c image.Config, o *buildOptions) error {
	err := o.read(&c)
	if err != nil {
		return err
	}
	if _, err := image.FindSource(c.Source); errors.Is(err, image.ErrNotSource) {
		what := c.Source
		if what == "." {
			what = "this directory"
		}
		return fmt.Errorf("%s is not CoBox's source: change into it or give --source", what)
	} else if err != nil {
		return err
	}
	if c.Version == "" {
		if c.Version, err = git(ctx, c.Source, "describe", "--tags", "--always", "--dirty"); err != nil {
			return fmt.Errorf("finding the version: %w; or give it with --version", err)
		}
	}
	if c.Time, err = sourceTime(ctx, c.Source); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return fmt.Errorf("making the directory for the image: %w", err)
	}
	c.Progress = func(what string) {
		if p.JSON {
			p.Emit("progress", struct {
				Stage string `json:"stage"`
			}{what})
			return
		}
		fmt.Fprintln(p.Stderr, what)
	}
	r, err := image.Build(ctx, c)
	if err != nil {
		return err
	}
	if p.JSON {
		type artifact struct {
			Path   string `json:"path"`
			Size   int64  `json:"size"`
			SHA256 string `json:"sha256"`
		}
		p.Emit("image", struct {
			Version  string   `json:"version"`
			Image    artifact `json:"image"`
			Packed   artifact `json:"packed"`
			BlockMap artifact `json:"block_map"`
			Bill     artifact `json:"bill"`
			Imager   artifact `json:"imager"`
			Manifest artifact `json:"manifest"`
			Sums     artifact `json:"sums"`
		}{c.Version, artifact(r.Image), artifact(r.Packed), artifact(r.Map), artifact(r.Bill), artifact(r.Imager), artifact(r.Manifest), artifact(r.Sums)})
	} else {
		for _, a := range []image.Artifact{r.Image, r.Packed, r.Map, r.Bill, r.Imager, r.Manifest, r.Sums} {
			fmt.Fprintf(p.Stdout, "%11d  %s\n", a.Size, a.Path)
		}
	}
	if o.copies > 0 {
		return p.provision(ctx, r.Image.Path, o.copies, c.Time)
	}
	if p.JSON {
		p.Emit("summary", struct{}{})
		return nil
	}
	fmt.Fprintf(p.Stdout, "\nNext, one of:\n  coboximg flash DEVICE --image %s\n  coboximg provision %s\n", r.Image.Path, r.Image.Path)
	return nil
}

// sourceTime is the time of the source: the one that a distribution gives, or
// that of the commit.
func sourceTime(ctx context.Context, source string) (time.Time, error) {
	text, from := os.Getenv("SOURCE_DATE_EPOCH"), "SOURCE_DATE_EPOCH"
	if text == "" {
		var err error
		if text, err = git(ctx, source, "log", "-1", "--format=%ct"); err != nil {
			return time.Time{}, fmt.Errorf("finding the time of the source: %w; or set SOURCE_DATE_EPOCH", err)
		}
		from = "git log"
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("finding the time of the source: %s says %q, which is no number of seconds", from, text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

func git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return "", fmt.Errorf("git %s: %s", args[0], strings.TrimSpace(string(exit.Stderr)))
		}
		return "", fmt.Errorf("git %s: %w", args[0], err)
	}
	return strings.TrimSpace(string(out)), nil
}
