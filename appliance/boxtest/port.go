//go:build unix

package boxtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Ports that systems do not give to those who leave the choice to them: Linux
// gives 32768 and above, others 49152 and above.
const (
	firstPort = 20000
	endPort   = 32000
)

// FreePort returns a TCP port of 127.0.0.1 on which nobody listens. No other
// caller gets it until it is released or the process ends, so a program can be
// told to listen there, to stop, and to listen there again.
func FreePort() (port string, release func(), err error) {
	for range 1000 {
		port = strconv.Itoa(firstPort + rand.IntN(endPort-firstPort))
		if release, err = lockPort(port); err != nil {
			continue
		}
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", port)); err == nil {
			l.Close()
			return port, release, nil
		}
		release()
	}
	return "", nil, fmt.Errorf("boxtest: there is no free port: %w", err)
}

// lockPort takes the lock of a port, or fails if somebody has it.
func lockPort(port string) (release func(), err error) {
	path := filepath.Join(os.TempDir(), "cobox-port-"+port)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		err = stillThere(f, path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() {
		os.Remove(path) // before the lock goes
		f.Close()
	}, nil
}

// stillThere tells the file of that name from one that was removed between its
// opening and its lock.
func stillThere(f *os.File, path string) error {
	opened, err := f.Stat()
	if err != nil {
		return err
	}
	now, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(opened, now) {
		return errors.New("the lock is another file now")
	}
	return nil
}
