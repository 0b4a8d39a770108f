package seal_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"testing/cryptotest"
	"time"

	"cobox/storage/account"
	"cobox/storage/merklelog"
	"cobox/storage/seal"
)

var update = flag.Bool("update", false, "write the vectors in testdata anew")

func hash(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

// TestVectors freezes what is derived from a phrase and the bytes of devices,
// blocks and plain envelopes. A difference is a change of format: whoever has
// a replica sealed before it could not open that any more.
func TestVectors(t *testing.T) {
	a := must(seal.DeriveAccount(must(seal.ParsePhrase(bip39Vectors[4][1]))))
	d := mustDevice(t, bytes32("device"))
	kemKey, noise, root, psk := a.KEM(), a.RecoveryKey(), a.RecoveryRoot(), a.RecoveryRoot().PSK(bytes32("box"))
	cert := must(a.Certify(d.Public(), 1, time.Unix(1_700_000_000, 0)))
	rev := must(a.Revoke(2, d.Key(), []merklelog.Position{{Log: testLog, Size: 7, Root: bytes32("root")}}))
	block := seal.NewSealerRand(repeating(9), testLog, 3, bytes32("key")).Seal(nil, 0x0102030405, payload("p"))
	got := map[string]string{
		"account id":             a.ID().String(),
		"account card":           hash(account.AppendCard(nil, a.Card())),
		"account KEM key":        hex.EncodeToString(kemKey[:]),
		"account recovery key":   hex.EncodeToString(noise[:]),
		"account recovery root":  hex.EncodeToString(root[:]),
		"recovery PSK":           hex.EncodeToString(psk[:]),
		"device":                 hex.EncodeToString(seal.AppendDevice(nil, d)),
		"device KEM public":      d.KEM().Public().String(),
		"certificate":            hash(account.AppendCertificate(nil, cert)),
		"revocation":             hex.EncodeToString(account.AppendRevocation(nil, rev)),
		"block, first 89 bytes":  hex.EncodeToString(block[:89]),
		"block":                  hash(block),
		"envelope plain":         hex.EncodeToString(must(seal.AppendEnvelope(nil, newEnvelope(2, 2, 2)))),
		"envelope plain, longer": hash(must(seal.AppendEnvelope(nil, newEnvelope(700, 3, 5)))),
	}
	file := filepath.Join("testdata", "vectors.json")
	if *update {
		if err := os.WriteFile(file, append(must(json.MarshalIndent(got, "", "  ")), '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var want map[string]string
	if err := json.Unmarshal(must(os.ReadFile(file)), &want); err != nil {
		t.Fatal(err)
	}
	if len(want) != len(got) {
		t.Errorf("file has %d vectors, test makes %d", len(want), len(got))
	}
	for name := range got {
		if got[name] != want[name] {
			t.Errorf("%s changed:\n got %s\nwant %s", name, got[name], want[name])
		}
	}
}

// TestEnvelopeVectors opens frozen envelopes of one and of two blocks. HPKE
// draws from the system's generator, so sealing cannot be compared byte for
// byte; opening what was sealed once, and opening what is sealed now
// (TestEnvelope), hold the format from both sides.
func TestEnvelopeVectors(t *testing.T) {
	for _, c := range []struct {
		file   string
		env    *seal.Envelope
		blocks int
	}{
		{"envelope-1.bin", newEnvelope(2, 2, 2), 1},
		{"envelope-2.bin", newEnvelope(700, 3, 5), 2},
	} {
		t.Run(c.file, func(t *testing.T) {
			file := filepath.Join("testdata", c.file)
			if *update {
				cryptotest.SetGlobalRandom(t, 1)
				blocks := must(seal.SealEnvelope(c.env, publics(kem("account"), kem("device")), repeating(9)))
				if err := os.WriteFile(file, bytes.Join(blocks, nil), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			frozen := must(os.ReadFile(file))
			if len(frozen) != c.blocks*merklelog.BlockSize {
				t.Fatal(len(frozen), "bytes")
			}
			var blocks [][]byte
			for i := range c.blocks {
				blocks = append(blocks, frozen[i*merklelog.BlockSize:(i+1)*merklelog.BlockSize])
			}
			for _, name := range []string{"account", "device"} {
				got, err := seal.OpenEnvelope(testLog, 9, blocks, kem(name))
				if err != nil || !reflect.DeepEqual(got, c.env) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
}
