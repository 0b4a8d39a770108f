package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/rogpeppe/go-internal/testscript"

	"cobox/appliance/datadir"
	"cobox/image/disk"
	"cobox/image/fat32"
	"cobox/image/layout"
	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
	"cobox/netlink/pairing/picture"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"coboximg": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"mkimage": makeImage, "pack": pack, "copies": copies, "jsonlines": jsonLines,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// mkimage FILE: makes an image with little in it.
func makeImage(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(littleImage(ts.MkAbs(args[0])))
}

func littleImage(name string) error {
	at := time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)
	var errs []error
	make32 := func(size int64, label string, files ...fat32.File) []byte {
		b, err := fat32.Make(size, label, at, files)
		errs = append(errs, err)
		return b
	}
	c := &disk.Contents{
		Bootsel: make32(layout.BootselSize, layout.BootselLabel, fat32.File{Path: layout.AutobootFile, Data: layout.Autoboot{Slot: layout.SlotA}.Append(nil)}),
		SlotA:   make32(layout.SlotSize, layout.SlotALabel, fat32.File{Path: "a", Data: []byte("a")}),
		SlotB:   make32(layout.SlotSize, layout.SlotBLabel),
		Data:    make([]byte, layout.TemplateSize),
	}
	return errors.Join(append(errs, disk.Write(name, 0o644, c))...)
}

// pack FILE: makes FILE.zst.
func pack(ts *testscript.TestScript, _ bool, args []string) {
	b, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	z, err := zstd.NewWriter(nil)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".zst"), z.EncodeAll(b, nil), 0o644))
}

// copies IMAGE COUNT: there are so many copies of the image, each with another
// identity, the label of that identity, and otherwise the image's bytes; and only
// their owner may read them.
func copies(ts *testscript.TestScript, _ bool, args []string) {
	original, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	base := strings.TrimSuffix(ts.MkAbs(args[0]), ".img")
	images, err := filepath.Glob(base + "-cobox-????.img")
	ts.Check(err)
	if fmt.Sprint(len(images)) != args[1] {
		ts.Fatalf("%d copies, want %s", len(images), args[1])
	}
	for _, name := range images {
		host := strings.TrimSuffix(strings.TrimPrefix(name, base+"-"), ".img")
		stem := strings.TrimSuffix(name, ".img")
		for _, file := range []string{name, stem + "-label.pdf", stem + "-label.png"} {
			info, err := os.Stat(file)
			ts.Check(err)
			if info.Mode().Perm() != 0o600 {
				ts.Fatalf("%s has mode %v", file, info.Mode())
			}
		}
		files, err := disk.Partition(name, 1)
		ts.Check(err)
		var p *datadir.Provision
		for _, f := range files {
			if f.Path == layout.ProvisionFile {
				p, err = datadir.ParseProvision(f.Data)
				ts.Check(err)
			}
		}
		if p == nil || len(files) != 2 {
			ts.Fatalf("%s has %d files in its first partition", name, len(files))
		}
		b, err := os.ReadFile(stem + "-label.png")
		ts.Check(err)
		text, err := picture.Read(bytes.NewReader(b))
		ts.Check(err)
		code, err := pairing.ParseCode(text)
		ts.Check(err)
		switch key := noiseconn.StaticPublic(p.Identity.StaticPublic()); {
		case !code.Box.Equal(key), pairing.HostName(key) != host:
			ts.Fatalf("the label of %s is that of %s", host, pairing.HostName(code.Box))
		case code.Secret != p.Secret, code.Invite != p.InviteID, code.Kind != pairing.KindClaim, len(code.Addresses) != 0:
			ts.Fatalf("the code on the label of %s is another", host)
		}
		copied, err := os.ReadFile(name)
		ts.Check(err)
		const end = layout.BootselStart + layout.BootselSize
		if !bytes.Equal(copied[:layout.BootselStart], original[:layout.BootselStart]) || !bytes.Equal(copied[end:], original[end:]) {
			ts.Fatalf("%s differs from the image elsewhere", name)
		}
	}
}

// jsonlines TYPE...: standard output was lines of JSON of these types, in order.
func jsonLines(ts *testscript.TestScript, _ bool, args []string) {
	var types []string
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		var head struct {
			Type string
			V    int
		}
		ts.Check(json.Unmarshal([]byte(line), &head))
		if head.V != 1 {
			ts.Fatalf("no version: %s", line)
		}
		if len(types) == 0 || types[len(types)-1] != head.Type {
			types = append(types, head.Type)
		}
	}
	if got, want := strings.Join(types, " "), strings.Join(args, " "); got != want {
		ts.Fatalf("lines %s, want %s", got, want)
	}
}
