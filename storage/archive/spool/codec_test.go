package spool

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"cobox/storage/merklelog"
)

// The files' own encodings are not exported, so this test is in the package.

var update = flag.Bool("update", false, "write testdata/vectors.txt anew; only for a new format version")

var testLog = merklelog.LogID{42}

func testReceipts() []Receipt {
	return []Receipt{
		{Box: BoxKey{1}, Size: 10, Root: merklelog.Hash{2}, Signed: []byte("signed")},
		{Box: BoxKey{3}, Size: 1 << 32, Root: merklelog.Hash{4}, Holes: []merklelog.Range{{First: 2, Count: 3}, {First: 9, Count: 1}}},
	}
}

func testCheckpoint(t testing.TB) merklelog.Checkpoint {
	cp, err := merklelog.SignCheckpoint(ed25519.NewKeyFromSeed(make([]byte, 32)), testLog, 300, merklelog.Hash{5})
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

func TestKnownAnswers(t *testing.T) {
	got := fmt.Sprintf("receipts %s\nreceipts-none %s\ncheckpoint %s\nsegment-open %s\nsegment-closed %s\n",
		hex.EncodeToString(appendReceipts(nil, testLog, testReceipts())),
		hex.EncodeToString(appendReceipts(nil, testLog, nil)),
		hex.EncodeToString(appendCheckpoint(nil, testCheckpoint(t))),
		segmentName(256, false), segmentName(1<<32-1, true))
	const file = "testdata/vectors.txt"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("an encoding has changed: %s", got)
	}
}

func receiptsAgain(b []byte) ([]byte, error) {
	list, err := parseReceipts(b, testLog)
	if err != nil {
		return nil, err
	}
	return appendReceipts(nil, testLog, list), nil
}

func checkpointAgain(b []byte) ([]byte, error) {
	cp, err := parseCheckpoint(b)
	if err != nil {
		return nil, err
	}
	return appendCheckpoint(nil, cp), nil
}

func nameAgain(b []byte) ([]byte, error) {
	first, clean, ok := parseSegmentName(string(b))
	if !ok {
		return nil, os.ErrInvalid
	}
	return []byte(segmentName(first, clean)), nil
}

// seal puts the checksum right, so that what is wrong is found for itself.
func seal(body []byte) []byte {
	sum := receiptsSum(body)
	return append(bytes.Clone(body), sum[:]...)
}

func TestParsersRefuse(t *testing.T) {
	enc := appendReceipts(nil, testLog, testReceipts())
	for i := range enc {
		bad := bytes.Clone(enc)
		bad[i] ^= 1
		if _, err := receiptsAgain(bad); err == nil {
			t.Errorf("receipts with byte %d changed were accepted", i)
		}
		if _, err := receiptsAgain(enc[:i]); err == nil {
			t.Errorf("receipts cut to %d bytes were accepted", i)
		}
	}
	body := enc[:len(enc)-32]
	for i := range body {
		if _, err := receiptsAgain(seal(body[:i])); err == nil {
			t.Errorf("receipts cut to %d bytes, with a right sum, were accepted", i)
		}
	}
	list := testReceipts()
	list[0], list[1] = list[1], list[0]
	if _, err := receiptsAgain(appendReceipts(nil, testLog, list)); err == nil {
		t.Error("receipts out of order were accepted")
	}
	if _, err := receiptsAgain(appendReceipts(nil, merklelog.LogID{43}, testReceipts())); err == nil {
		t.Error("receipts of another log were accepted")
	}
	cp := appendCheckpoint(nil, testCheckpoint(t))
	for _, bad := range [][]byte{nil, cp[:100], append(bytes.Clone(cp), 0), append([]byte{2}, cp[1:]...)} {
		if _, err := checkpointAgain(bad); err == nil {
			t.Errorf("a checkpoint of %d bytes was accepted", len(bad))
		}
	}
	for _, bad := range []string{"", "x.part", "100.part", "0000000000000100", "0000000000000100.blocks.tmp", "000000000000010A.part",
		"0000000100000000.part", "+000000000000100.part", "0000000000000100.part.blocks", strings.Repeat("f", 16) + ".part"} {
		if _, _, ok := parseSegmentName(bad); ok {
			t.Errorf("%q is a segment", bad)
		}
	}
}

func fuzz(f *testing.F, again func([]byte) ([]byte, error), seeds ...[]byte) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := again(b); err == nil && !bytes.Equal(got, b) {
			t.Errorf("%x was accepted and is %x when encoded", b, got)
		}
	})
}

// FuzzParseReceipts is given what comes before the checksum, which no fuzzer
// finds.
func FuzzParseReceipts(f *testing.F) {
	enc := appendReceipts(nil, testLog, testReceipts())
	fuzz(f, func(b []byte) ([]byte, error) {
		got, err := receiptsAgain(seal(b))
		if err != nil {
			return nil, err
		}
		return got[:len(got)-32], nil
	}, enc[:len(enc)-32])
}

func FuzzParseCheckpointFile(f *testing.F) {
	fuzz(f, checkpointAgain, appendCheckpoint(nil, testCheckpoint(f)))
}

func FuzzParseSegmentName(f *testing.F) {
	fuzz(f, nameAgain, []byte(segmentName(256, true)), []byte(segmentName(0, false)))
}
