package fstree

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// attrCalls are the attribute calls on one thing, by handle or by path.
type attrCalls struct {
	list   func(buf []byte) (int, error)
	get    func(name string, buf []byte) (int, error)
	set    func(name string, value []byte) error
	remove func(name string) error
}

func fdAttrs(fd int) attrCalls {
	return attrCalls{
		list:   func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		get:    func(n string, b []byte) (int, error) { return unix.Fgetxattr(fd, n, b) },
		set:    func(n string, v []byte) error { return unix.Fsetxattr(fd, n, v, 0) },
		remove: func(n string) error { return unix.Fremovexattr(fd, n) },
	}
}

// pathAttrs works on an O_PATH handle, which the calls above refuse, by its
// name in /proc: that leads to the very inode, a link included.
func pathAttrs(fd int) attrCalls {
	p := procPath(fd)
	return attrCalls{
		list:   func(b []byte) (int, error) { return unix.Listxattr(p, b) },
		get:    func(n string, b []byte) (int, error) { return unix.Getxattr(p, n, b) },
		set:    func(n string, v []byte) error { return unix.Setxattr(p, n, v, 0) },
		remove: func(n string) error { return unix.Removexattr(p, n) },
	}
}

func pathXattrs(fd int) ([]Xattr, error) { return readXattrs(pathAttrs(fd)) }

// readXattrs returns the attributes in order of their names. Those that cannot
// be read are left out and reported together.
func readXattrs(c attrCalls) ([]Xattr, error) {
	list, err := readAttr(c.list)
	if err != nil {
		if noXattrs(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("fstree: list extended attributes: %w", err)
	}
	if len(list) == 0 {
		return nil, nil
	}
	var xs []Xattr
	var errs []error
	total := 0
	names := strings.Split(strings.TrimSuffix(string(list), "\x00"), "\x00")
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if name == "" {
			continue
		}
		v, err := readAttr(func(b []byte) (int, error) { return c.get(name, b) })
		if errors.Is(err, unix.ENODATA) { // removed meanwhile
			continue
		}
		total += len(name) + len(v)
		if err == nil && (total > MaxXattrBytes || len(xs) == MaxXattrs || len(name) > maxXattrName) {
			total -= len(name) + len(v)
			err = unix.E2BIG
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("fstree: extended attribute %q: %w", name, err))
			continue
		}
		xs = append(xs, Xattr{Name: name, Value: v})
	}
	return xs, errors.Join(errs...)
}

// noXattrs tells that there are none because nothing of the kind is possible.
func noXattrs(err error) bool {
	return errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOSYS)
}

// readAttr calls get with room enough. Most entries have nothing, which costs
// one call.
func readAttr(get func([]byte) (int, error)) ([]byte, error) {
	var small [512]byte
	n, err := retry(func() (int, error) { return get(small[:]) })
	if err == nil {
		if n <= 0 {
			return nil, nil
		}
		return append([]byte(nil), small[:n]...), nil
	}
	for size := 4096; err == unix.ERANGE && size <= 1<<20; size *= 4 {
		buf := make([]byte, size)
		if n, err = retry(func() (int, error) { return get(buf) }); err == nil {
			return buf[:n:n], nil
		}
	}
	return nil, err
}

const (
	aclDefault = "system.posix_acl_default"
	aclPrefix  = "system.posix_acl_"
	userPrefix = "user."
)

// removeXattrs removes the user's attributes and access lists that are not
// among keep. What belongs to the system (security, trusted) stays.
func removeXattrs(c attrCalls, keep []Xattr) (errs []error) {
	list, err := readAttr(c.list)
	if err != nil {
		return nil // what cannot have any has none
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		if !strings.HasPrefix(name, userPrefix) && !strings.HasPrefix(name, aclPrefix) {
			continue
		}
		if slices.ContainsFunc(keep, func(x Xattr) bool { return x.Name == name }) {
			continue
		}
		if err := c.remove(name); err != nil && !noXattrs(err) {
			errs = append(errs, fmt.Errorf("fstree: remove extended attribute %q: %w", name, err))
		}
	}
	return errs
}

// hasDefaultACL reports whether what is made in p gets an access list from it.
func (p place) hasDefaultACL() bool {
	if p.pathOnly {
		n, err := unix.Getxattr(procPath(p.fd), aclDefault, nil)
		return err == nil && n > 0
	}
	n, err := unix.Fgetxattr(p.fd, aclDefault, nil)
	return err == nil && n > 0
}
