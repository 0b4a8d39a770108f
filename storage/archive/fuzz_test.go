package archive

import (
	"bytes"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func FuzzParseGroup(f *testing.F) {
	f.Add(vectorGroup())
	z, _ := zstd.NewWriter(nil)
	f.Add(z.EncodeAll(make([]byte, 300), appendGroupHeader(nil, codecZstd, []uint32{100, 200})))
	f.Add(z.EncodeAll(make([]byte, 1<<20), appendGroupHeader(nil, codecZstd, []uint32{100, 200})))
	d, err := newDecoder()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var g group
		if parseGroup(&g, b) == nil {
			if again := append(appendGroupHeader(nil, g.codec, g.lengths), g.data...); !bytes.Equal(again, b) {
				t.Fatalf("%x was read as %x", b, again)
			}
		}
		chunks, err := d.decode(b)
		if err != nil {
			return
		}
		for i, c := range chunks {
			if len(c) != int(d.group.lengths[i]) {
				t.Fatalf("chunk %d has %d bytes, not %d", i, len(c), d.group.lengths[i])
			}
		}
		if cap(d.buf) > maxGroupRaw {
			t.Fatalf("decoding took %d bytes", cap(d.buf))
		}
	})
}

func FuzzParseIndexSegment(f *testing.F) {
	f.Add(vectorIndex())
	f.Fuzz(func(t *testing.T, b []byte) {
		var w segmentWriter
		if eachIndexGroup(b, func(g indexGroup) error { w.add(g); return nil }) == nil && !bytes.Equal(w.buf, b) {
			t.Fatalf("%x was read as %x", b, w.buf)
		}
	})
}

func FuzzParseSnapshotSegment(f *testing.F) {
	f.Add(vectorSnapshots(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		es, err := parseSnapshotSegment(b)
		if err == nil && !bytes.Equal(appendSnapshotSegment(nil, es), b) {
			t.Fatalf("%x was read otherwise", b)
		}
	})
}

func FuzzParseSnapshot(f *testing.F) {
	b, err := appendSnapshot(nil, vectorSnapshot())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSnapshot(b)
		if err != nil {
			return
		}
		again, err := appendSnapshot(nil, s)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x was read as %x (%v)", b, again, err)
		}
	})
}

func FuzzParseFooter(f *testing.F) {
	f.Add(appendFooter(nil, vectorFooter()), uint32(vectorFooterBlock))
	f.Fuzz(func(t *testing.T, b []byte, index uint32) {
		foot, err := parseFooter(b, index)
		if err == nil && !bytes.Equal(appendFooter(nil, foot), b) {
			t.Fatalf("%x was read otherwise", b)
		}
		body := make([]byte, bodySize)
		copy(body[max(0, len(body)-len(b)):], b)
		lastFooter(body, index)
	})
}

func FuzzParsePayload(f *testing.F) {
	p := make([]byte, PayloadSize)
	putPayloadHeader(p, payloadHeader{5, 9})
	f.Add(p[:20], uint64(10))
	f.Fuzz(func(t *testing.T, b []byte, index uint64) {
		p := make([]byte, PayloadSize)
		copy(p, b)
		h, body, err := parsePayload(p, index)
		if err != nil {
			return
		}
		again := make([]byte, headerSize)
		putPayloadHeader(again, h)
		if !bytes.Equal(again, p[:headerSize]) || len(body) != bodySize {
			t.Fatal("header was read otherwise")
		}
	})
}

func FuzzParseScanRecord(f *testing.F) {
	b, err := appendScanRecord(nil, &scanRecord{listing: []byte("abc"), stats: []entryStat{{1, never}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseScanRecord(b)
		if err != nil {
			return
		}
		again, err := appendScanRecord(nil, r)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x was read as %x (%v)", b, again, err)
		}
	})
}

// Any stream of records in the blocks of a log can be scanned.
func FuzzScanRecords(f *testing.F) {
	f.Add(vectorGroup(), uint16(0))
	f.Add(append(appendRecordHeader(nil, typeIndex, 90_000), vectorIndex()...), uint16(3))
	f.Fuzz(func(t *testing.T, b []byte, first uint16) {
		s := newMemSpace(t)
		l := s.newLog("fuzz")
		for k := range 3 {
			p := make([]byte, PayloadSize)
			putPayloadHeader(p, payloadHeader{first, noFooter})
			if len(b) > 0 {
				for at := headerSize; at < len(p) && (k > 0 || at < 4096); at += len(b) {
					copy(p[at:], b)
				}
			}
			l.Append(l.sealer().Seal(nil, l.size, p))
		}
		a := s.open("")
		var last location
		n := 0
		if err := a.scanRecords(background, a.logs[0], 0, l.size, func(at location, typ byte, contents []byte) error {
			if n++; n > 1 && !last.before(at) {
				t.Fatalf("record at %v after %v", at, last)
			}
			last = at
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	})
}
