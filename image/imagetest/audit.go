package imagetest

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"

	"cobox/image/bundle/bundletest"
	"cobox/image/disk"
	"cobox/image/initrd"
	"cobox/image/layout"
)

// programs are all that can run on a box.
var programs = []string{"bin/coboxd", "init"}

// shells are names that no file has.
var shells = []string{
	"ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "login", "mksh", "perl", "python", "python3",
	"sh", "sshd", "su", "sudo", "tcsh", "toybox", "zsh",
}

// privateKeys are the beginnings of keys in the forms in which people keep them.
// What only names such a form, as a program does that reads it, is none.
var privateKeys = []*regexp.Regexp{
	regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----\r?\n(?:[A-Za-z0-9+/=]{40}|Proc-Type:)`),
	regexp.MustCompile(`RW(?:QAAEIy|RTY0Iy)[A-Za-z0-9+/]{60}`), // minisign, without and with a password
	regexp.MustCompile(`AGE-SECRET-KEY-1[0-9A-Z]{58}`),
}

// Audit looks for what must not be in an image, and returns what it finds: other
// programs than the two, and ones that need a library; scripts and shells;
// set-uid files; owners other than root; private keys, also in what is free.
func Audit(image string) (findings []string, err error) {
	a := &audit{}
	for _, s := range []layout.Slot{layout.SlotA, layout.SlotB} {
		system, err := disk.ReadSlot(image, s)
		if err != nil {
			return nil, err
		}
		records, err := initrd.Unpack(system.Files[layout.InitrdFile])
		if err != nil {
			return nil, fmt.Errorf("imagetest: the initramfs of slot %s: %w", s, err)
		}
		if err := a.initramfs("slot "+s.String()+", initramfs", records); err != nil {
			return nil, err
		}
		for name, b := range system.Files {
			a.file("slot "+s.String(), name, b)
		}
	}
	bootsel, err := disk.Partition(image, 1)
	if err != nil {
		return nil, err
	}
	for _, f := range bootsel {
		a.file("boot selection", f.Path, f.Data)
		if f.Path == layout.ProvisionFile {
			a.found("boot selection", f.Path, "is an identity")
		}
	}
	f, err := os.Open(image)
	if err != nil {
		return nil, fmt.Errorf("imagetest: audit: %w", err)
	}
	defer f.Close()
	if err := a.raw(f); err != nil {
		return nil, fmt.Errorf("imagetest: audit: %w", err)
	}
	slices.Sort(a.findings)
	return a.findings, nil
}

type audit struct{ findings []string }

func (a *audit) found(where, name, what string) {
	a.findings = append(a.findings, fmt.Sprintf("%s: %s %s", where, name, what))
}

// initramfs looks at the root file system.
func (a *audit) initramfs(where string, records []cpio.Record) error {
	var can []string
	for _, r := range records {
		b, err := initrd.Content(r)
		if err != nil {
			return fmt.Errorf("imagetest: read %s: %w", r.Name, err)
		}
		a.file(where, r.Name, b)
		for _, key := range keysIn(b) {
			a.found(where, r.Name, "has "+key)
		}
		if r.UID != 0 || r.GID != 0 {
			a.found(where, r.Name, fmt.Sprintf("belongs to %d:%d", r.UID, r.GID))
		}
		if r.Mode&(cpio.S_ISUID|cpio.S_ISGID) != 0 {
			a.found(where, r.Name, "is set-uid or set-gid")
		}
		switch r.Mode & cpio.S_IFMT {
		case cpio.S_IFREG:
			if r.Mode&0o111 != 0 {
				can = append(can, r.Name)
				a.program(where, r.Name, b)
			} else if bytes.HasPrefix(b, []byte(elf.ELFMAG)) {
				a.found(where, r.Name, "is a program that is not marked as one")
			}
			if r.Mode&0o022 != 0 {
				a.found(where, r.Name, "can be written by others than root")
			}
		case cpio.S_IFDIR:
			if r.Mode&0o022 != 0 && r.Mode&0o1000 == 0 {
				a.found(where, r.Name, "can be changed by others than root")
			}
		case cpio.S_IFLNK:
		default:
			if r.Name != "dev/console" {
				a.found(where, r.Name, "is a device")
			}
		}
	}
	if slices.Sort(can); !slices.Equal(can, programs) {
		a.found(where, "the programs", fmt.Sprintf("are %q, want %q", can, programs))
	}
	return nil
}

// file looks at what no file may be, wherever it lies.
func (a *audit) file(where, name string, b []byte) {
	if bytes.HasPrefix(b, []byte("#!")) {
		a.found(where, name, "is a script")
	}
	if slices.Contains(shells, strings.ToLower(path.Base(name))) {
		a.found(where, name, "has the name of a shell")
	}
}

// program looks at a program: it must need nothing but the kernel.
func (a *audit) program(where, name string, b []byte) {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		a.found(where, name, "can be run, and is no program: "+err.Error())
		return
	}
	if f.Machine != elf.EM_AARCH64 || f.Class != elf.ELFCLASS64 {
		a.found(where, name, "is for another computer")
	}
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC }) {
		a.found(where, name, "needs libraries")
	}
}

// raw looks for keys in all bytes of an image, whatever partition they are in.
func (a *audit) raw(r io.Reader) error {
	const unit, overlap = 4 << 20, 4096
	b := make([]byte, unit+overlap)
	zero := make([]byte, len(b)) // most of an image
	kept := 0
	for at := int64(0); ; {
		n, err := io.ReadFull(r, b[kept:])
		if part := b[:kept+n]; !bytes.Equal(part, zero[:len(part)]) {
			for _, key := range keysIn(part) {
				a.found("image", fmt.Sprintf("the part at %d MiB", at>>20), "has "+key)
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
		at += int64(n)
		kept = copy(b, b[kept+n-overlap:])
	}
}

// keysIn names the private keys in some bytes.
func keysIn(b []byte) (found []string) {
	for _, re := range privateKeys {
		if m := re.Find(b); m != nil {
			found = append(found, fmt.Sprintf("a private key, %.24q", m))
		}
	}
	for n := 1; n <= 3; n++ {
		if bytes.Contains(b, bundletest.NewKey(n).Private.Seed()) {
			found = append(found, fmt.Sprintf("the test key %d", n))
		}
	}
	return found
}
