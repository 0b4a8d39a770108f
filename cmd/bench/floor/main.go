// Floor measures the least that a box can spend on taking in blocks: it reads
// them from a loopback TCP connection through Noise records, hashes each with
// BLAKE3, writes them directly into sstables of 64 MiB and hands those to Pebble's
// Ingest. There is no protocol, no Merkle tree, no quota and no index, so what
// the box spends above it is what those cost.
//
//	floor -blocks 32768 -dir DIR
//
// It starts itself again as the sender, so that only the receiver's CPU time
// is counted, and prints {"cpu_s":…,"bytes":…}. This is the only program besides
// storage/replica that uses Pebble, and it keeps nobody's data.
package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/zeebo/blake3"

	"cobox/netlink/noiseconn"
	"cobox/storage/replica/bulkfile"
)

const (
	blockSize = 65536
	tableSize = 64 << 20
)

func main() {
	blocks := flag.Int("blocks", 32768, "blocks to take in")
	dir := flag.String("dir", "", "scratch folder for the database")
	send := flag.String("send", "", "be the sender: address of the receiver")
	remote := flag.String("remote", "", "key of the receiver, in hex")
	flag.Parse()
	var err error
	if *send != "" {
		err = sender(*send, *remote, *blocks)
	} else {
		err = receiver(*dir, *blocks)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
}

var psk = noiseconn.PSK{1, 2, 3}

func sender(addr, remote string, blocks int) error {
	static, err := noiseconn.NewStaticPrivate(nil)
	if err != nil {
		return err
	}
	var key noiseconn.StaticPublic
	if _, err := hex.Decode(key[:], []byte(remote)); err != nil {
		return err
	}
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	c, err := noiseconn.Dial(context.Background(), nc, noiseconn.Config{Mode: noiseconn.ModeLink, Static: static, Remote: key, PSK: psk})
	if err != nil {
		return err
	}
	block := make([]byte, blockSize)
	rand.Read(block)
	for i := range blocks {
		binary.BigEndian.PutUint64(block, uint64(i))
		if _, err := c.Write(block); err != nil {
			return err
		}
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, c)
	return err
}

func receiver(dir string, blocks int) error {
	static, err := noiseconn.NewStaticPrivate(nil)
	if err != nil {
		return err
	}
	public := static.Public()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	db, err := pebble.Open(filepath.Join(dir, "db"), &pebble.Options{
		FormatMajorVersion: pebble.FormatNewest,
		BytesPerSync:       512 << 10,
		Logger:             quiet{},
	})
	if err != nil {
		return err
	}
	defer db.Close()

	self, err := os.Executable()
	if err != nil {
		return err
	}
	child := exec.Command(self, "-send", l.Addr().String(), "-remote", hex.EncodeToString(public[:]), "-blocks", fmt.Sprint(blocks))
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		return err
	}
	nc, err := l.Accept()
	if err != nil {
		return err
	}
	before := cpu()
	c, err := noiseconn.Accept(context.Background(), nc, noiseconn.ServerConfig{
		Static:  static,
		LinkPSK: func(noiseconn.StaticPublic) (noiseconn.PSK, any, bool) { return psk, nil, true },
	})
	if err != nil {
		return err
	}
	if err := takeIn(db, dir, c); err != nil {
		return err
	}
	spent := cpu() - before
	if err := c.CloseWrite(); err != nil {
		return err
	}
	if err := child.Wait(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"cpu_s": spent, "bytes": int64(blocks) * blockSize})
}

// takeIn reads blocks until the stream ends.
func takeIn(db *pebble.DB, dir string, r io.Reader) error {
	buf := make([]byte, blockSize)
	var key [9]byte
	key[0] = 'b'
	var sum byte
	for n := uint64(0); ; {
		path := filepath.Join(dir, fmt.Sprintf("%d.sst", n))
		f, err := vfs.Default.Create(path, vfs.WriteCategoryUnspecified)
		if err != nil {
			return err
		}
		file, ok := bulkfile.New(f)
		if !ok {
			return fmt.Errorf("%s: no direct writes here", dir)
		}
		w := sstable.NewWriter(file, sstable.WriterOptions{
			BlockSize: blockSize, Compression: block.NoCompression,
			TableFormat: pebble.FormatNewest.MaxTableFormat(),
		})
		size := 0
		for size < tableSize {
			if _, err := io.ReadFull(r, buf); err == io.EOF {
				break
			} else if err != nil {
				return err
			}
			h := blake3.Sum256(buf)
			sum ^= h[0]
			binary.BigEndian.PutUint64(key[1:], n)
			n++
			if err := w.Set(key[:], buf); err != nil {
				return err
			}
			size += blockSize
		}
		if err := w.Close(); err != nil {
			return err
		}
		if size == 0 {
			_ = sum
			return os.Remove(path)
		}
		if err := db.Ingest(context.Background(), []string{path}); err != nil {
			return err
		}
		if size < tableSize {
			return nil
		}
	}
}

func cpu() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(f string, a ...any) {
	fmt.Fprintf(os.Stderr, f+"\n", a...)
	os.Exit(1)
}
