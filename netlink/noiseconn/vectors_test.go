package noiseconn

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flynn/noise"
)

// TestFlynnVectors runs the library's vectors through the library, with the
// suite and patterns that newHandshake sets up, and through the reference.
func TestFlynnVectors(t *testing.T) {
	raw, err := os.ReadFile("testdata/flynn_vectors.txt")
	if err != nil {
		t.Fatal(err)
	}
	ran := map[Mode]int{}
	for _, block := range strings.Split(string(raw), "\n\n") {
		if strings.HasPrefix(block, "#") {
			continue
		}
		v := map[string]string{}
		for _, line := range strings.Split(strings.TrimSpace(block), "\n") {
			key, value, ok := strings.Cut(line, "=")
			if !ok {
				t.Fatalf("bad line %q", line)
			}
			v[key] = value
		}
		mode := ModePair
		if strings.HasPrefix(v["handshake"], "Noise_IKpsk2_") {
			mode = ModeLink
		}
		ran[mode]++
		in := refInput{
			prologue:   unhex(t, v["prologue"]),
			initStatic: unhex(t, v["init_static"]), respStatic: unhex(t, v["resp_static"]),
			initEphemeral: unhex(t, v["gen_init_ephemeral"]), respEphemeral: unhex(t, v["gen_resp_ephemeral"]),
			psk: unhex(t, v["preshared_key"]),
		}
		var want [][]byte
		for i := 0; ; i++ {
			c, ok := v[fmt.Sprintf("msg_%d_ciphertext", i)]
			if !ok {
				break
			}
			in.payloads = append(in.payloads, unhex(t, v[fmt.Sprintf("msg_%d_payload", i)]))
			want = append(want, unhex(t, c))
		}
		compare(t, "reference", in.run(mode), want)
		compare(t, "library", runLibrary(t, mode, in), want)
	}
	if ran[ModePair] != 4 || ran[ModeLink] != 4 {
		t.Errorf("ran %v vectors, want 4 of each", ran)
	}
}

// TestCacophonyVector runs the published vector of another implementation for
// the link's pattern; cacophony has none for XKpsk0.
func TestCacophonyVector(t *testing.T) {
	raw, err := os.ReadFile("testdata/cacophony_IKpsk2.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Prologue      string   `json:"init_prologue"`
		PSKs          []string `json:"init_psks"`
		InitStatic    string   `json:"init_static"`
		InitEphemeral string   `json:"init_ephemeral"`
		RespStatic    string   `json:"resp_static"`
		RespEphemeral string   `json:"resp_ephemeral"`
		Messages      []struct{ Payload, Ciphertext string }
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	in := refInput{
		prologue:   unhex(t, v.Prologue),
		initStatic: unhex(t, v.InitStatic), respStatic: unhex(t, v.RespStatic),
		initEphemeral: unhex(t, v.InitEphemeral), respEphemeral: unhex(t, v.RespEphemeral),
		psk: unhex(t, v.PSKs[0]),
	}
	var want [][]byte
	for _, m := range v.Messages {
		in.payloads = append(in.payloads, unhex(t, m.Payload))
		want = append(want, unhex(t, m.Ciphertext))
	}
	if len(want) != 6 {
		t.Fatalf("%d messages, want 6", len(want))
	}
	compare(t, "reference", in.run(ModeLink), want)
	compare(t, "library", runLibrary(t, ModeLink, in), want)
}

func compare(t *testing.T, who string, got, want [][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d messages, want %d", who, len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Errorf("%s: message %d is %x, want %x", who, i, got[i], want[i])
		}
	}
}

func runLibrary(t *testing.T, m Mode, in refInput) [][]byte {
	side := func(initiator bool, static, ephemeral []byte) *handshake {
		h, err := newHandshake(m, initiator, in.prologue, StaticPrivate(static), bytes.NewReader(ephemeral))
		if err != nil {
			t.Fatal(err)
		}
		if initiator {
			h.cfg.PeerStatic = refPublic(in.respStatic)
		}
		psk := PSK(in.psk)
		if err := h.start(&psk); err != nil {
			t.Fatal(err)
		}
		return h
	}
	init, resp := side(true, in.initStatic, in.initEphemeral), side(false, in.respStatic, in.respEphemeral)
	from, to := init, resp
	var out [][]byte
	var send, recv *noise.CipherState
	messages := 3
	if m == ModeLink {
		messages = 2
	}
	for i, payload := range in.payloads {
		var msg, got []byte
		var err error
		if i == messages {
			from, to = init, resp
		}
		if i < messages {
			var c1, c2, d1, d2 *noise.CipherState
			if msg, c1, c2, err = from.hs.WriteMessage(nil, payload); err != nil {
				t.Fatal(err)
			}
			if got, d1, d2, err = to.hs.ReadMessage(nil, msg); err != nil {
				t.Fatal(err)
			}
			from.advance(c1, c2)
			to.advance(d1, d2)
		} else {
			send, recv = from.send, to.recv
			if msg, err = send.Encrypt(nil, nil, payload); err != nil {
				t.Fatal(err)
			}
			if got, err = recv.Decrypt(nil, nil, msg); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, payload) {
			t.Fatalf("message %d: payload is %x, want %x", i, got, payload)
		}
		out = append(out, msg)
		from, to = to, from
	}
	return out
}

// TestTranscripts freezes every byte of a connection: the opening, the handshake
// and records in both directions. The frozen bytes are made by the reference.
func TestTranscripts(t *testing.T) {
	for _, mode := range bothModes {
		initEphemeral, respEphemeral := bytes.Repeat([]byte{0x11}, 32), bytes.Repeat([]byte{0x22}, 32)
		cc, sc := clientConfig(mode), serverConfig()
		cc.random, sc.random = bytes.NewReader(initEphemeral), bytes.NewReader(respEphemeral)
		a, b := net.Pipe()
		ra, rb := &recordConn{Conn: a}, &recordConn{Conn: b}
		c, s, cerr, serr := shake(ra, rb, cc, sc)
		if cerr != nil || serr != nil {
			t.Fatal(cerr, serr)
		}
		say := func(from, to *Conn, text string) {
			sent := make(chan error)
			go func() {
				_, err := from.Write([]byte(text))
				if err == nil {
					err = from.Flush()
				}
				sent <- err
			}()
			buf := make([]byte, 100)
			n, err := to.Read(buf)
			if err != nil || string(buf[:n]) != text {
				t.Fatalf("read %q, %v, want %q", buf[:n], err, text)
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
		}
		say(c, s, "from the device")
		say(s, c, "from the box")
		c.Close()
		s.Close()

		header := opening{mode, Version, cc.Invite}.appendHeader(nil)
		static, device := testBox, testDevice
		in := refInput{prologue: header, initStatic: device[:], respStatic: static[:],
			initEphemeral: initEphemeral, respEphemeral: respEphemeral, psk: testPSK[:]}
		var client, server []byte
		record := func(dst, body []byte) []byte {
			return append(append(dst, byte(len(body)>>8), byte(len(body))), body...)
		}
		if mode == ModePair {
			in.payloads = [][]byte{nil, nil, nil, []byte("from the device"), []byte("from the box")}
			m := in.run(mode)
			client = record(append(append([]byte(nil), m[0]...), m[2]...), m[3])
			server = record(append([]byte(nil), m[1]...), m[4])
		} else {
			in.payloads = [][]byte{nil, nil, nil, []byte("from the box"), []byte("from the device")}
			m := in.run(mode)
			client = record(record(append([]byte(nil), m[0]...), m[2]), m[4])
			server = record(append([]byte(nil), m[1]...), m[3])
		}
		mac := openingMAC(testBox.Public(), header, client[:firstMessage(mode)])
		client = bytes.Join([][]byte{header, mac[:], client}, nil)

		if !bytes.Equal(ra.sent, client) {
			t.Errorf("%v: the device sent %x, want %x", mode, ra.sent, client)
		}
		if !bytes.Equal(rb.sent, server) {
			t.Errorf("%v: the box sent %x, want %x", mode, rb.sent, server)
		}
		text := fmt.Sprintf("device %x\nbox    %x\n", ra.sent, rb.sent)
		frozen(t, "transcript_"+mode.String()+".txt", text)
	}
}

// frozen compares with a file of testdata. COBOX_UPDATE_VECTORS=1 writes it,
// which is right only for a new version of the protocol.
func frozen(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("COBOX_UPDATE_VECTORS") == "1" {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("%s: the encoding has changed: got\n%swant\n%s", name, text, want)
	}
}

func TestOpeningMACVector(t *testing.T) {
	box := StaticPublic(bytes.Repeat([]byte{7}, 32))
	mac := openingMAC(box, []byte("0123456789abcdef"), []byte("message"))
	const want = "9c7f82af01c114ee241f34b89eda4e78"
	if got := hex.EncodeToString(mac[:]); got != want {
		t.Errorf("MAC is %s, want %s", got, want)
	}
}

// TestPSKIsNeeded holds that what the library would let pass does not pass here.
func TestPSKIsNeeded(t *testing.T) {
	for _, mode := range bothModes {
		for _, zero := range []string{"client", "server", "both"} {
			cc, sc := clientConfig(mode), serverConfig()
			if zero != "server" {
				cc.PSK = PSK{}
			}
			if zero != "client" {
				sc.PairingPSK = func(InviteID) (PSK, bool) { return PSK{}, true }
				sc.LinkPSK = func(StaticPublic) (PSK, any, bool) { return PSK{}, nil, true }
			}
			a, b := net.Pipe()
			_, _, cerr, serr := shake(a, b, cc, sc)
			if cerr == nil || serr == nil {
				t.Errorf("%v, zero PSK on %s: dial: %v, accept: %v", mode, zero, cerr, serr)
			}
		}
		h, err := newHandshake(mode, false, nil, testBox, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.start(&PSK{}); err == nil {
			t.Errorf("%v: a handshake started with a zero PSK", mode)
		}
	}
	// A link whose box forgets to set the PSK must not get to write message 2.
	a, b := net.Pipe()
	defer b.Close()
	ra := &recordConn{Conn: a}
	go b.Read(make([]byte, 1000))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Dial(ctx, ra, clientConfig(ModeLink)); err == nil {
		t.Fatal("dialled with a dead context")
	}
	hs, err := newHandshake(ModeLink, false, opening{ModeLink, Version, InviteID{}}.appendHeader(nil), testBox, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := hs.start(nil); err != nil {
		t.Fatal(err)
	}
	in := refInput{prologue: opening{ModeLink, Version, InviteID{}}.appendHeader(nil), initStatic: testDevice[:], respStatic: testBox[:],
		initEphemeral: bytes.Repeat([]byte{9}, 32), respEphemeral: bytes.Repeat([]byte{8}, 32), psk: testPSK[:], payloads: [][]byte{nil, nil}}
	if err := hs.read(in.run(ModeLink)[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := hs.write(nil, linkMessage2); err == nil {
		t.Error("message 2 was written without a PSK")
	}
}
