package replica

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

var update = flag.Bool("update", false, "write testdata/vectors.txt anew")

// TestVectors freezes every key and value of format 1.
func TestVectors(t *testing.T) {
	var acct account.ID
	var log merklelog.LogID
	for i := range acct {
		acct[i], log[i] = byte(i), byte(0x80+i)
	}
	l := newLog(newWriter("vector", "d"), "vector", 3)
	var got strings.Builder
	add := func(name string, b []byte) { fmt.Fprintf(&got, "%s\t%s\n", name, hex.EncodeToString(b)) }
	add("format", appendFormat(nil, Format))
	add("key block", appendBlockKey(nil, 0x0102030405060708, 0x090a0b0c, 0x10111213))
	add("key block small", appendBlockKey(nil, firstSmall, 1, 2))
	add("key checkpoint", logKey(prefixCheckpoint, 7))
	add("key extent", indexKey(prefixExtent, 7, 0x1ffffffff))
	add("key frontier", logKey(prefixFrontier, 7))
	add("key garbage", arrivalKey(prefixGarbage, 9))
	add("key held", logKey(prefixHeld, 7))
	add("key identity", identityKey(log))
	add("key fork", logKey(prefixFork, 7))
	add("key leaves", leavesKey(7, 0xfffffe))
	add("key manifest", logKey(prefixManifest, 7))
	add("key next bulk", nextKey(nextBulk))
	add("key next small", nextKey(nextSmall))
	add("key next log", nextKey(nextLog))
	add("key account log", accountLogKey(acct, 7))
	add("key dropped", indexKey(prefixDropped, 7, 5))
	add("key usage", usageKey(acct))
	add("key run", arrivalKey(prefixRun, 9))
	add("key tree", treeKey(7, 2, 300))
	add("key table", tableKey("roster", []byte("k")))
	add("key envelope", indexKey(prefixEnvelope, 7, 0))
	add("extent", appendExtent(nil, extent{count: 300, arrival: 0x0102030405060708}))
	add("run", appendRun(nil, run{count: 1024, live: 3}))
	add("garbage", appendGarbage(nil, garbage{count: 4, account: acct}))
	add("usage", appendUsage(nil, usage{blocks: 5, garbage: 6}))
	add("number", appendNumber(nil, 1<<40))
	add("log number", appendLogNumber(nil, 7))
	add("log record", appendLogRecord(nil, logRecord{-5, l.manifest}))
	add("leaf tile", merklelog.AppendLeaves(nil, l.leaves))

	const file = "testdata/vectors.txt"
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("an encoding has changed:\n%s\nwant:\n%s", got.String(), want)
	}
}

// TestKeyOrder holds what the layout rests on: blocks first, and a log's keys
// between its bounds.
func TestKeyOrder(t *testing.T) {
	for _, p := range []byte{prefixCheckpoint, prefixExtent, prefixFrontier, prefixGarbage, prefixHeld, prefixIdentity,
		prefixFork, prefixLeaves, prefixManifest, prefixNext, prefixAccountLog, prefixDropped, prefixUsage, prefixRun,
		prefixTree, prefixTable, prefixEnvelope} {
		if p <= prefixBlock {
			t.Errorf("prefix %c sorts before the blocks", p)
		}
	}
	for _, n := range []uint32{0, 7, 1<<32 - 1} {
		k := indexKey(prefixExtent, n, 1<<64-1)
		if bytes.Compare(logKey(prefixExtent, n), k) > 0 || bytes.Compare(k, logEnd(prefixExtent, n)) >= 0 {
			t.Errorf("log %d: key outside of its bounds", n)
		}
	}
	if got := prefixEnd([]byte{1, 0xff, 0xff}); !bytes.Equal(got, []byte{2}) {
		t.Errorf("prefixEnd %x", got)
	}
}

func fuzzSeeds(f *testing.F, seeds ...[]byte) {
	for _, s := range seeds {
		f.Add(s)
	}
}

func FuzzParseExtent(f *testing.F) {
	fuzzSeeds(f, appendExtent(nil, extent{count: 1}), appendExtent(nil, extent{count: 1 << 31, arrival: firstSmall - 1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := parseExtent(3, b); err == nil && !bytes.Equal(appendExtent(nil, e), b) {
			t.Fatal(e)
		}
	})
}

func FuzzParseRun(f *testing.F) {
	fuzzSeeds(f, appendRun(nil, run{count: 1}), appendRun(nil, run{count: 9, live: 9}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parseRun(firstSmall-10, b); err == nil && !bytes.Equal(appendRun(nil, r), b) {
			t.Fatal(r)
		}
	})
}

func FuzzParseGarbage(f *testing.F) {
	fuzzSeeds(f, appendGarbage(nil, garbage{count: 1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if g, err := parseGarbage(1<<64-5, b); err == nil && !bytes.Equal(appendGarbage(nil, g), b) {
			t.Fatal(g)
		}
	})
}

func FuzzParseUsage(f *testing.F) {
	fuzzSeeds(f, appendUsage(nil, usage{1, 2}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if u, err := parseUsage(b); err == nil && !bytes.Equal(appendUsage(nil, u), b) {
			t.Fatal(u)
		}
	})
}

func FuzzParseLogRecord(f *testing.F) {
	fuzzSeeds(f, appendLogRecord(nil, logRecord{1, newLog(newWriter("fuzz", "d"), "fuzz", 1).manifest}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parseLogRecord(b); err == nil && !bytes.Equal(appendLogRecord(nil, r), b) {
			t.Fatal(r)
		}
	})
}

func FuzzParseTile(f *testing.F) {
	fuzzSeeds(f, make([]byte, 33), append([]byte{1}, make([]byte, 32)...), append([]byte{2}, make([]byte, 32)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := parseTile(b); err == nil && !bytes.Equal(merklelog.AppendLeaves(nil, l), b) {
			t.Fatal(l)
		}
	})
}

func FuzzParseHashes(f *testing.F) {
	fuzzSeeds(f, make([]byte, 32), make([]byte, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		hashes, err := parseHashes(b)
		var again []byte
		for _, h := range hashes {
			again = append(again, h[:]...)
		}
		if err == nil && !bytes.Equal(again, b) {
			t.Fatal(hashes)
		}
	})
}

func FuzzParseSmall(f *testing.F) {
	fuzzSeeds(f, appendNumber(nil, 5), appendLogNumber(nil, 6), []byte("cobox-replica 1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := parseNumber(b); err == nil && !bytes.Equal(appendNumber(nil, n), b) {
			t.Fatal(n)
		}
		if n, err := parseLogNumber(b); err == nil && !bytes.Equal(appendLogNumber(nil, n), b) {
			t.Fatal(n)
		}
		if r, err := parseDropped(2, b); err == nil && !bytes.Equal(appendNumber(nil, r.Count), b) {
			t.Fatal(r)
		}
		if n, err := parseFormat(b); err == nil && !bytes.Equal(appendFormat(nil, n), b) {
			t.Fatal(n)
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	fuzzSeeds(f, appendBlockKey(nil, 1, 2, 3), indexKey(prefixExtent, 1, 2), arrivalKey(prefixRun, 3), accountLogKey(account.ID{}, 4))
	f.Fuzz(func(t *testing.T, k []byte) {
		if a, l, i, ok := parseBlockKey(k); ok && !bytes.Equal(appendBlockKey(nil, a, l, i), k) {
			t.Fatal(a, l, i)
		}
		if l, i, ok := parseIndexKey(prefixExtent, k); ok && !bytes.Equal(indexKey(prefixExtent, l, i), k) {
			t.Fatal(l, i)
		}
		if a, ok := parseArrivalKey(prefixRun, k); ok && !bytes.Equal(arrivalKey(prefixRun, a), k) {
			t.Fatal(a)
		}
		if id, n, ok := parseAccountLogKey(k); ok && !bytes.Equal(accountLogKey(id, n), k) {
			t.Fatal(id, n)
		}
	})
}
