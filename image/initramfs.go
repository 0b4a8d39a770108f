package image

import (
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"

	"cobox/image/bundle"
	"cobox/image/initrd"
)

// BoxID is the user and the group that coboxd runs as.
const BoxID = 900

const (
	passwdText = "root:x:0:0::/:/\ncoboxd:x:900:900::/:/\n"
	groupText  = "root:x:0:\ncoboxd:x:900:\n"
)

// initramfs makes the archive that the kernel unpacks as its root: everything
// belongs to root, nothing is set-uid, and only the two programs can run.
func initramfs(c Config, init, box []byte) ([]byte, error) {
	records := []cpio.Record{
		cpio.StaticFile("init", string(init), 0o755),
		cpio.StaticFile("bin/coboxd", string(box), 0o755),
		cpio.StaticFile("etc/passwd", passwdText, 0o644),
		cpio.StaticFile("etc/group", groupText, 0o644),
		cpio.StaticFile("etc/cobox-release", c.Version+"\n", 0o644),
		cpio.StaticFile(strings.TrimPrefix(bundle.KeysFile, "/"), string(c.ReleaseKeys), 0o644),
		cpio.Symlink("etc/resolv.conf", "/run/resolv.conf"),
		cpio.Directory("tmp", 0o1777),
		// The kernel opens it for init before anything is mounted.
		cpio.CharDev("dev/console", 0o600, 5, 1),
	}
	for _, dir := range []string{"bin", "boot", "card", "data", "dev", "etc", "proc", "run", "slot", "sys"} {
		records = append(records, cpio.Directory(dir, 0o755))
	}
	// A directory comes before what is in it, because its name is shorter.
	slices.SortFunc(records, func(a, b cpio.Record) int { return strings.Compare(a.Name, b.Name) })
	for i := range records {
		r := &records[i]
		r.Ino, r.NLink = uint64(i+1), 1
		if r.Mode&cpio.S_IFMT == cpio.S_IFDIR {
			r.NLink = 2
		}
		r.MTime = uint64(c.Time.Unix())
	}
	return initrd.Pack(records, initrd.Small)
}
