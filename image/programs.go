package image

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Program is a program of ours, built for the box.
type Program struct {
	Package string
	Binary  []byte
	Info    *buildinfo.BuildInfo // the modules that are in it
}

// Module is a module whose files are used.
type Module struct {
	Path, Version, Sum, Dir string
}

// programs builds the two programs, init first.
func programs(ctx context.Context, c Config) ([]Program, error) {
	dir, err := os.MkdirTemp("", "cobox-build-")
	if err != nil {
		return nil, fmt.Errorf("image: building the programs: %w", err)
	}
	defer os.RemoveAll(dir)
	var list []Program
	for i, pkg := range []string{c.Init, c.Box} {
		name := filepath.Join(dir, strconv.Itoa(i))
		flags := fmt.Sprintf("-s -w -buildid= -X main.version=%s -X main.built=%d", c.Version, c.Time.Unix())
		// The state of the checkout must not be in the binary: it would differ
		// between a checkout and an unpacked archive of the same source.
		if _, err := goCommand(ctx, c, "build", "-trimpath", "-buildvcs=false", "-ldflags="+flags, "-o", name, pkg); err != nil {
			return nil, fmt.Errorf("image: building %s: %w", pkg, err)
		}
		p := Program{Package: pkg}
		if p.Binary, err = os.ReadFile(name); err == nil {
			p.Info, err = buildinfo.ReadFile(name)
		}
		if err != nil {
			return nil, fmt.Errorf("image: building %s: %w", pkg, err)
		}
		list = append(list, p)
	}
	return list, nil
}

// modules finds the files of modules, in the versions of go.mod and verified
// against go.sum.
func modules(ctx context.Context, c Config, paths ...string) ([]Module, error) {
	out, err := goCommand(ctx, c, append([]string{"mod", "download", "-json"}, paths...)...)
	if err != nil {
		return nil, fmt.Errorf("image: finding modules: %w", err)
	}
	found := map[string]Module{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var m Module
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("image: finding modules: %w", err)
		}
		found[m.Path] = m
	}
	var list []Module
	for _, p := range paths {
		m, ok := found[p]
		if !ok || m.Dir == "" {
			return nil, fmt.Errorf("image: finding modules: %s is not there", p)
		}
		list = append(list, m)
	}
	return list, nil
}

// goCommand runs the go command for the box, with nothing of this computer's
// settings that would change what comes out.
func goCommand(ctx context.Context, c Config, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = c.Source
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "GOARM64=v8.0", "CGO_ENABLED=0",
		"GOFLAGS=-mod=readonly", "GOWORK=off", "GOEXPERIMENT=", "GODEBUG=")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
