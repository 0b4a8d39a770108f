package archive

import (
	"encoding/binary"
	"time"

	"cobox/storage/archive/fstree"
	"cobox/storage/merklelog"

	"github.com/zeebo/blake3"
)

// Limits of a snapshot record.
const (
	maxSnapshot    = 1 << 20
	maxSnapString  = 1024
	maxSnapPath    = 65535
	maxSnapStrings = 65535
)

// snapshotRecord is what of a Snapshot is stored; its id is a keyed hash of
// these bytes, and Log and End follow from where it lies.
//
//	bytes    field
//	1        version, 1
//	8, 4     time the scan began: seconds since 1970 (signed, at most 2^42
//	         from 0), nanoseconds
//	uvarint  duration in milliseconds
//	16       parent, zero for none
//	uvarint  six times: files, directories, others, bytes, new bytes, errors
//	uvarint  three strings, each a length of at most 1,024 and bytes: host,
//	         user, program
//	uvarint  number of paths, then each: length of at most 65,535, bytes
//	uvarint  number of tags, then each: length of at most 1,024, bytes
//	…        the root: an encoded node, a directory with the name "/"
func appendSnapshot(dst []byte, s *Snapshot) ([]byte, error) {
	start := len(dst)
	t := fstree.TimeOf(s.Time)
	dst = append(dst, formatVersion)
	dst = be.AppendUint64(dst, uint64(t.Sec))
	dst = be.AppendUint32(dst, t.Nsec)
	dst = binary.AppendUvarint(dst, uint64(max(0, s.Duration.Milliseconds())))
	dst = append(dst, s.Parent[:]...)
	for _, n := range []uint64{s.Stats.Files, s.Stats.Dirs, s.Stats.Others, s.Stats.Bytes, s.Stats.New, s.Stats.Errors} {
		dst = binary.AppendUvarint(dst, n)
	}
	for _, v := range []string{s.Host, s.User, s.Program} {
		dst = appendString(dst, v[:min(len(v), maxSnapString)])
	}
	for _, list := range []struct {
		what   string
		values []string
		limit  int
	}{{"path", s.Paths, maxSnapPath}, {"tag", s.Tags, maxSnapString}} {
		if len(list.values) > maxSnapStrings {
			return dst[:start], malformed("%d %ss", len(list.values), list.what)
		}
		dst = binary.AppendUvarint(dst, uint64(len(list.values)))
		for _, v := range list.values {
			if len(v) > list.limit {
				return dst[:start], malformed("%s of %d bytes", list.what, len(v))
			}
			dst = appendString(dst, v)
		}
	}
	dst, err := fstree.AppendNode(dst, &s.root)
	if err == nil && len(dst)-start > maxSnapshot {
		err = malformed("snapshot of %d bytes", len(dst)-start)
	}
	if err != nil {
		return dst[:start], err
	}
	return dst, nil
}

// parseSnapshot decodes a snapshot record. ID, Log and End are left zero.
func parseSnapshot(b []byte) (*Snapshot, error) {
	if len(b) > maxSnapshot {
		return nil, malformed("snapshot of %d bytes", len(b))
	}
	c := cursor{b: b}
	if c.u8() != formatVersion {
		return nil, malformed("snapshot version")
	}
	s := &Snapshot{}
	sec, nsec := int64(c.u64()), c.u32()
	s.Time = fstree.Time{Sec: sec, Nsec: nsec}.Time()
	c.bad = c.bad || nsec >= 1e9 || sec > maxSeconds || sec < -maxSeconds
	s.Duration = time.Duration(c.uvarint(maxMillis)) * time.Millisecond
	copy(s.Parent[:], c.take(len(s.Parent)))
	for _, n := range []*uint64{&s.Stats.Files, &s.Stats.Dirs, &s.Stats.Others, &s.Stats.Bytes, &s.Stats.New, &s.Stats.Errors} {
		*n = c.uvarint(1<<64 - 1)
	}
	for _, v := range []*string{&s.Host, &s.User, &s.Program} {
		*v = c.str(maxSnapString)
	}
	s.Paths = c.strings(maxSnapPath)
	s.Tags = c.strings(maxSnapString)
	if c.bad {
		return nil, malformed("snapshot")
	}
	root, err := fstree.ParseNode(c.b)
	if err != nil {
		return nil, err
	}
	if root.Kind != fstree.Directory || root.Name != fstree.RootName {
		return nil, malformed("root of a snapshot")
	}
	s.root = root
	return s, nil
}

// maxSeconds is far beyond any clock, and far within what time.Time can hold.
const maxSeconds = 1 << 42

const maxMillis = uint64(1<<63-1) / uint64(time.Millisecond)

func (c *cursor) strings(limit uint64) []string {
	n := int(c.uvarint(maxSnapStrings))
	if c.bad || n > len(c.b) {
		c.bad = true
		return nil
	}
	var list []string
	for range n {
		list = append(list, c.str(limit))
	}
	return list
}

// hashKey is keyed BLAKE3, ready to be cloned.
type hashKey struct{ h *blake3.Hasher }

func newHashKey(key [32]byte) hashKey {
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic("archive: " + err.Error()) // only for a key that is not 32 bytes
	}
	return hashKey{h}
}

// snapshotID names a snapshot's bytes: the first 16 bytes of keyed
// BLAKE3(key of chunk ids; "cobox/v1/snapshot\0" ‖ record ‖ LogID).
func (k hashKey) snapshotID(record []byte, log merklelog.LogID) (id SnapshotID) {
	h := k.h.Clone()
	h.WriteString("cobox/v1/snapshot\x00")
	h.Write(record)
	h.Write(log[:])
	h.Digest().Read(id[:])
	return id
}
