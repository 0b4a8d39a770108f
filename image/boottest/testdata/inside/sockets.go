//go:build linux

package main

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// socket is one of the system's sockets, whoever has it.
type socket struct {
	Kind   string `json:"kind"` // as in /proc/net
	Local  string `json:"local"`
	Remote string `json:"remote,omitempty"` // "" if it is not connected
	Listen bool   `json:"listen,omitempty"`
	User   int    `json:"user"`
	Seen   int    `json:"seen"` // how often
}

// tellSockets looks for so long and tells each socket that there was once.
func tellSockets(d time.Duration) {
	seen := map[socket]int{}
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		for _, kind := range []string{"tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "packet", "unix"} {
			list, err := readSockets(kind)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				failed("sockets", err)
				return
			}
			for _, s := range list {
				seen[s]++
			}
		}
	}
	for s, n := range seen {
		s.Seen = n
		tell("socket", s)
	}
}

func readSockets(kind string) ([]socket, error) {
	b, err := os.ReadFile("/proc/net/" + kind)
	if err != nil {
		return nil, err
	}
	var list []socket
	for i, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		f := strings.Fields(line)
		if i == 0 {
			continue // the heading
		}
		switch kind {
		case "packet": // sk RefCnt Type Proto Iface R Rmem User Inode
			if len(f) > 7 {
				list = append(list, socket{Kind: kind, Local: "protocol " + f[3], User: number(f[7])})
			}
		case "unix": // Num RefCount Protocol Flags Type St Inode Path
			if len(f) > 6 && f[3] == "00010000" {
				list = append(list, socket{Kind: kind, Local: strings.Join(f[7:], " "), Listen: true})
			}
		default: // sl local remote st queues timer retransmit uid ...
			if len(f) < 8 {
				continue
			}
			s := socket{Kind: kind, Local: address(f[1]), User: number(f[7])}
			if remote := address(f[2]); !strings.HasSuffix(remote, ":0") {
				s.Remote = remote
			}
			s.Listen = strings.HasPrefix(kind, "tcp") && f[3] == "0A"
			if s.Remote != "" && !s.Listen {
				// The port is another one each time.
				s.Local = s.Local[:strings.LastIndexByte(s.Local, ':')+1] + "*"
			}
			list = append(list, s)
		}
	}
	return list, nil
}

// address reads an address as /proc/net has it: words of 32 bits in the
// machine's order, which is little-endian, and a port.
func address(text string) string {
	words, port, _ := strings.Cut(text, ":")
	b, err := hex.DecodeString(words)
	if err != nil || len(b)%4 != 0 {
		return text
	}
	for i := 0; i < len(b); i += 4 {
		b[i], b[i+1], b[i+2], b[i+3] = b[i+3], b[i+2], b[i+1], b[i]
	}
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return text
	}
	return net.JoinHostPort(net.IP(b).String(), strconv.FormatUint(n, 10))
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		return -1
	}
	return n
}
