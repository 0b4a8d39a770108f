package replicate

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cobox/storage/merklelog"
)

var update = flag.Bool("update", false, "write the vectors in testdata anew")

// codec is one encoding: parse accepts its bytes only, and reencode makes them again.
type codec struct {
	name  string
	parse func([]byte) (reencode func() []byte, err error)
}

func codecOf[T any](name string, parse func([]byte) (T, error), appendTo func([]byte, T) []byte) codec {
	return codec{name, func(b []byte) (func() []byte, error) {
		v, err := parse(b)
		return func() []byte { return appendTo(nil, v) }, err
	}}
}

var codecs = []codec{
	codecOf("header", parseHeader, appendHeader),
	codecOf("hello", parseHello, appendHello),
	codecOf("error", parseError, appendError),
	codecOf("offer", parseOffer, appendOffer),
	codecOf("known", parseKnown, appendKnown),
	codecOf("advance", parseAdvance, appendAdvance),
	codecOf("want-leaves", parseWantLeaves, appendWantLeaves),
	codecOf("leaves", merklelog.ParseBatch, merklelog.AppendBatch),
	codecOf("want", parseWant, appendWant),
	codecOf("hole", parseHole, appendHole),
	codecOf("ask", parseAsk, appendAsk),
	codecOf("receipt", parseReceipted, appendReceipted),
	codecOf("fork", merklelog.ParseFork, merklelog.AppendFork),
	codecOf("read", parseRead, appendRead),
	codecOf("path", parsePath, appendPath),
	codecOf("absent", parseAbsent, appendAbsent),
	codecOf("log", parseLogEntry, appendLogEntry),
	codecOf("logs-end", parseLogsEnd, appendLogsEnd),
	codecOf("request", parseRequest, appendRequest),
	codecOf("reply", parseReply, appendReply),
	codecOf("part", parseUploaded, appendReply),
	codecOf("take", parseTake, appendTake),
	codecOf("bare receipt", ParseReceipt, AppendReceipt),
}

func codecNamed(name string) codec {
	for _, c := range codecs {
		if c.name == name {
			return c
		}
	}
	panic(name)
}

func testReceipt(cp merklelog.Checkpoint, holes []merklelog.Range) *Receipt {
	r := NewReceipt(&merklelog.Durable{
		Checkpoint: cp, Held: cp.Size - merklelog.CountRanges(holes), HolesDigest: merklelog.DigestRanges(holes),
	})
	r.Boot, r.Sequence, r.Elapsed, r.Wall = BootID{1, 2, 3}, 7, 123456, -1
	if err := SignReceipt(&r, edKey("box")); err != nil {
		panic(err)
	}
	return &r
}

// samples returns one body of every kind, by name.
func samples() map[string][]byte {
	log := NewTestLog("alice", "laptop", "log").Add(5)
	small := log.Checkpoint()
	log.Add(4)
	cp := log.Checkpoint()
	other := log.Fork(9)
	proof := must(log.Consistency(5, 9))
	leaves := must(log.Leaves(4, 5))
	fork := merklelog.Fork{A: cp, B: other.Checkpoint()}
	if bytes.Compare(fork.A.Root[:], fork.B.Root[:]) > 0 {
		fork.A, fork.B = fork.B, fork.A
	}
	holes := []merklelog.Range{{First: 1, Count: 2}, {First: 7, Count: 1}}
	rc := testReceipt(cp, holes)
	entry := &LogEntry{
		Manifest: log.manifest, Checkpoint: cp, Leaves: 8, Held: 6, HolesDigest: rc.HolesDigest,
		Frozen: true, Readable: &small, Receipt: rc, Envelopes: []merklelog.Range{{First: 0, Count: 1}, {First: 4, Count: 2}},
	}
	inclusion := must(log.tree.Inclusion(4, 9))
	return map[string][]byte{
		"header":       appendHeader(nil, header{kindWant, 0x01020304, 18}),
		"hello":        appendHello(nil, &Hello{Version: 1, Features: 5, Boot: BootID{9}, Name: "Käfer", Addresses: []string{"10.0.0.1:26269", "[fd00::1]:26269"}}),
		"error":        appendError(nil, &Error{Code: CodeQuota, Message: "the quota of 10 GB is full"}),
		"offer":        appendOffer(nil, &offer{cp, log.manifest}),
		"known":        appendKnown(nil, &known{cp, 8, 6}),
		"advance":      appendAdvance(nil, &advance{cp, 5, proof}),
		"want-leaves":  appendWantLeaves(nil, &wantLeaves{5, 4, 9}),
		"leaves":       merklelog.AppendBatch(nil, merklelog.Batch{First: 4, Leaves: leaves}),
		"want":         appendWant(nil, holes),
		"hole":         appendHole(nil, holes[0]),
		"ask":          appendAsk(nil, 9),
		"receipt":      appendReceipted(nil, &receipted{rc, 9, false, holes}),
		"receipt cut":  appendReceipted(nil, &receipted{rc, 3, true, holes[:1]}),
		"fork":         merklelog.AppendFork(nil, fork),
		"read":         appendRead(nil, &read{log.ID(), 9, []subtree{{4, 2}, {8, 0}}, []uint64{7, 4, 8}}),
		"path":         appendPath(nil, &path{4, must(log.Leaves(4, 4)), inclusion[2:]}),
		"absent":       appendAbsent(nil, absent{7, CodeDamaged}),
		"log":          appendLogEntry(nil, entry),
		"log bare":     appendLogEntry(nil, &LogEntry{Manifest: log.manifest, Checkpoint: cp}),
		"logs-end":     appendLogsEnd(nil, 2),
		"request":      appendRequest(nil, &request{"quota.set", []byte(`{"bytes":1}`)}),
		"reply":        appendReply(nil, &reply{true, []byte(`{"part":`)}),
		"part":         appendReply(nil, &reply{true, []byte("cobox-bundle")}),
		"part last":    appendReply(nil, &reply{false, nil}),
		"take":         appendTake(nil, 32),
		"bare receipt": AppendReceipt(nil, rc),
	}
}

func codecOfSample(name string) codec {
	for _, c := range codecs {
		if c.name == name {
			return c
		}
	}
	return codecNamed(name[:strings.LastIndexByte(name, ' ')])
}

// TestVectors freezes every encoding: a difference is another protocol.
func TestVectors(t *testing.T) {
	file := filepath.Join("testdata", "vectors.txt")
	got := samples()
	if *update {
		var out bytes.Buffer
		fmt.Fprintln(&out, "# name = hexadecimal bytes of a message's body (of the header for the first)")
		for _, c := range codecs {
			for _, name := range slices.Sorted(maps.Keys(got)) {
				if codecOfSample(name).name == c.name {
					fmt.Fprintf(&out, "%s = %x\n", name, got[name])
				}
			}
		}
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seen := 0
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, text, ok := strings.Cut(lines.Text(), " = ")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		want, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		seen++
		if !bytes.Equal(got[name], want) {
			t.Errorf("%s: encoding changed:\n%x", name, got[name])
		}
		again, err := codecOfSample(name).parse(want)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !bytes.Equal(again(), want) {
			t.Errorf("%s: parsed and encoded to\n%x", name, again())
		}
	}
	if seen != len(got) {
		t.Errorf("%d vectors, want %d", seen, len(got))
	}
}

// TestTruncatedOrLonger feeds every parser each beginning of a valid body, and
// the body with a byte more: lengths are part of the form.
func TestTruncatedOrLonger(t *testing.T) {
	for name, b := range samples() {
		c := codecOfSample(name)
		for n := range len(b) {
			again, err := c.parse(b[:n:n])
			if err == nil && !bytes.Equal(again(), b[:n]) {
				t.Errorf("%s: accepted %d of %d bytes and made %x of them", name, n, len(b), again())
			}
			if err == nil && !endsAnywhere[c.name] {
				t.Errorf("%s: accepted %d of %d bytes", name, n, len(b))
			}
		}
		if again, err := c.parse(append(bytes.Clone(b), 0)); err == nil && !endsAnywhere[c.name] {
			t.Errorf("%s: accepted a byte too many: %x", name, again())
		}
	}
}

// endsAnywhere are the bodies that end with free bytes.
var endsAnywhere = map[string]bool{"error": true, "request": true, "reply": true, "part": true}

func TestLimitsOfBodies(t *testing.T) {
	log := NewTestLog("alice", "laptop", "log").Add(3)
	cp := log.Checkpoint()
	many := make([]merklelog.Range, 65)
	for i := range many {
		many[i] = merklelog.Range{First: uint64(2 * i), Count: 1}
	}
	rc := testReceipt(cp, []merklelog.Range{{First: 1, Count: 1}})
	for name, b := range map[string][]byte{
		"header unknown":       {0x40, 0, 0, 0, 1, 0, 0, 0, 0},
		"header long":          {byte(kindWant), 0, 0, 0, 1, 0, 0, 0x40, 1},
		"header longest":       {byte(kindWant), 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff},
		"header block":         {byte(kindBlock), 0, 0, 0, 1, 0, 1, 0, 9},
		"header session id":    {byte(kindPing), 0, 0, 0, 1, 0, 0, 0, 0},
		"header no id":         {byte(kindWant), 0, 0, 0, 0, 0, 0, 0, 0},
		"hello control":        appendHello(nil, &Hello{Name: "a\nb"}),
		"hello address":        appendHello(nil, &Hello{Addresses: []string{"a b"}}),
		"hello addresses":      appendHello(nil, &Hello{Addresses: make([]string, 9)}),
		"known more blocks":    appendKnown(nil, &known{cp, 2, 3}),
		"known more leaves":    appendKnown(nil, &known{cp, 4, 1}),
		"advance backwards":    appendAdvance(nil, &advance{cp, 4, nil}),
		"want-leaves none":     appendWantLeaves(nil, &wantLeaves{0, 0, 9}),
		"want-leaves many":     appendWantLeaves(nil, &wantLeaves{0, maxWantLeaves + 1, 1 << 20}),
		"want-leaves beyond":   appendWantLeaves(nil, &wantLeaves{5, 5, 9}),
		"want many":            appendWant(nil, many),
		"want much":            appendWant(nil, []merklelog.Range{{First: 0, Count: 65}}),
		"want nothing":         appendWant(nil, nil),
		"hole empty":           appendHole(nil, merklelog.Range{First: 3}),
		"hole huge":            appendHole(nil, merklelog.Range{First: 3, Count: 1 << 63}),
		"ask nothing":          appendAsk(nil, 0),
		"receipt other holes":  appendReceipted(nil, &receipted{rc, 3, false, []merklelog.Range{{First: 2, Count: 1}}}),
		"receipt hidden holes": appendReceipted(nil, &receipted{rc, 3, false, nil}),
		"receipt not cut":      appendReceipted(nil, &receipted{rc, 3, true, []merklelog.Range{{First: 1, Count: 1}}}),
		"receipt settled":      appendReceipted(nil, &receipted{rc, 4, true, nil}),
		"read unaligned":       appendRead(nil, &read{size: 9, paths: []subtree{{2, 2}}, indexes: []uint64{1}}),
		"read high":            appendRead(nil, &read{size: 9, paths: []subtree{{0, 9}}, indexes: []uint64{1}}),
		"read beyond":          appendRead(nil, &read{size: 9, indexes: []uint64{9}}),
		"read nothing":         appendRead(nil, &read{size: 9}),
		"read many":            appendRead(nil, &read{size: 900, indexes: make([]uint64, 65)}),
		"path empty":           appendPath(nil, &path{}),
		"path long":            appendPath(nil, &path{leaves: make([]merklelog.Leaf, 257)}),
		"absent fine":          appendAbsent(nil, absent{1, CodeNone}),
		"log unreadable":       appendLogEntry(nil, &LogEntry{Manifest: log.manifest, Checkpoint: cp, Leaves: 2, Readable: &cp}),
		"request upper":        appendRequest(nil, &request{"Status", nil}),
		"request empty":        appendRequest(nil, &request{"", nil}),
		"reply empty more":     appendReply(nil, &reply{true, nil}),
		"part empty more":      appendReply(nil, &reply{true, nil}),
		"part flag":            {2, 1},
		"take nothing":         appendTake(nil, 0),
		"take much":            appendTake(nil, maxTake+1),
	} {
		c := codecNamed(name[:strings.IndexByte(name, ' ')])
		if again, err := c.parse(b); err == nil {
			t.Errorf("%s: accepted as %x", name, again())
		}
	}
}

func TestCleanText(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", "zwölf": "zwölf", "a\x1b[31mb": "a?[31mb", "a\xffb": "a?b", "": "",
		strings.Repeat("ü", 600): strings.Repeat("ü", 512),
	} {
		if got := cleanText(in, 1024); got != want || cleanText(got, 1024) != got {
			t.Errorf("%q became %q", in, got)
		}
	}
}

func TestReceiptTampered(t *testing.T) {
	cp := NewTestLog("alice", "laptop", "log").Add(3).Checkpoint()
	b := AppendReceipt(nil, testReceipt(cp, nil))
	if err := must(ParseReceipt(b)).Verify(); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= 1
		if r, err := ParseReceipt(c); err == nil && r.Verify() == nil {
			t.Errorf("a receipt with byte %d changed still verifies", i)
		}
	}
	r := NewReceipt(&merklelog.Durable{Checkpoint: cp, Held: 2, HolesDigest: merklelog.DigestRanges(nil)})
	if err := SignReceipt(&r, edKey("box")); err == nil {
		t.Error("a receipt was signed whose digest denies its holes")
	}
}

func fuzzCodec(f *testing.F, name string) {
	c := codecNamed(name)
	for sample, b := range samples() {
		if codecOfSample(sample).name == name {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := c.parse(b)
		if err == nil && !bytes.Equal(again(), b) {
			t.Errorf("%x was parsed and encoded to %x", b, again())
		}
	})
}

func FuzzParseHeader(f *testing.F)     { fuzzCodec(f, "header") }
func FuzzParseHello(f *testing.F)      { fuzzCodec(f, "hello") }
func FuzzParseError(f *testing.F)      { fuzzCodec(f, "error") }
func FuzzParseOffer(f *testing.F)      { fuzzCodec(f, "offer") }
func FuzzParseKnown(f *testing.F)      { fuzzCodec(f, "known") }
func FuzzParseAdvance(f *testing.F)    { fuzzCodec(f, "advance") }
func FuzzParseWantLeaves(f *testing.F) { fuzzCodec(f, "want-leaves") }
func FuzzParseWant(f *testing.F)       { fuzzCodec(f, "want") }
func FuzzParseHole(f *testing.F)       { fuzzCodec(f, "hole") }
func FuzzParseAsk(f *testing.F)        { fuzzCodec(f, "ask") }
func FuzzParseReceipted(f *testing.F)  { fuzzCodec(f, "receipt") }
func FuzzParseReceipt(f *testing.F)    { fuzzCodec(f, "bare receipt") }
func FuzzParseRead(f *testing.F)       { fuzzCodec(f, "read") }
func FuzzParsePath(f *testing.F)       { fuzzCodec(f, "path") }
func FuzzParseAbsent(f *testing.F)     { fuzzCodec(f, "absent") }
func FuzzParseLogEntry(f *testing.F)   { fuzzCodec(f, "log") }
func FuzzParseLogsEnd(f *testing.F)    { fuzzCodec(f, "logs-end") }
func FuzzParseRequest(f *testing.F)    { fuzzCodec(f, "request") }
func FuzzParseReply(f *testing.F)      { fuzzCodec(f, "reply") }
func FuzzParsePart(f *testing.F)       { fuzzCodec(f, "part") }
func FuzzParseTake(f *testing.F)       { fuzzCodec(f, "take") }
