package seal_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"cobox/storage/seal"
)

// TestSecretsPrintNothing fills every secret with one byte and looks for it in
// whatever fmt, slog and JSON make of the value, alone, behind a pointer, in a
// slice and in a struct. (%p asks no method; vet refuses it for such values.)
func TestSecretsPrintNothing(t *testing.T) {
	fill := bytes.Repeat([]byte{0xa7}, 32)
	key := [32]byte(fill)
	// A device reads its keys from bytes; the other types are made from them.
	device := mustDevice(t, key)
	acct := must(seal.DeriveAccount(seal.Entropy(fill[:16])))
	env := newEnvelope(1, 1, 1)
	env.Keys[0], env.Space.ChunkID, env.Space.Chunker = key, key, key
	root := acct.RecoveryRoot()
	kemKey, noise := acct.KEM(), acct.RecoveryKey()

	secrets := [][]byte{fill, root[:], kemKey[:], noise[:]}
	var traces []string
	for _, s := range secrets {
		// Any six bytes in a row, as every notation would show them.
		part := s[4:10]
		traces = append(traces, string(part), hex.EncodeToString(part), strings.ToUpper(hex.EncodeToString(part)),
			base64.StdEncoding.EncodeToString(s[3:12]), base64.StdEncoding.EncodeToString(s[:9]),
			strings.Trim(fmt.Sprint(part), "[]"), strings.Trim(fmt.Sprintf("% x", part), "[]"),
			strings.Trim(fmt.Sprintf("%#v", part), "[]byte{}"), strings.ReplaceAll(strings.Trim(fmt.Sprint(part), "[]"), " ", ","))
	}
	traces = append(traces, seal.Entropy(fill[:16]).Phrase()[:12])

	for _, v := range []any{
		seal.Entropy(fill[:16]), root, noise, kemKey, seal.LogKey(key),
		seal.ChunkIDKey(key), seal.ChunkerKey(key), env.Space, *env, env.Keys, seal.KeyRing{key},
		acct, *acct, device, *device, device.Signer(), device.Noise(), device.KEM(),
		seal.NewSealer(testLog, 0, key), seal.NewOpener(testLog, seal.KeyRing{key}),
	} {
		p := &v
		forms := []any{v, p, []any{v}, map[string]any{"k": v}, struct{ K any }{v}}
		for _, f := range forms {
			var outs []string
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U", "% x", "%#x", "%t"} {
				outs = append(outs, fmt.Sprintf(verb, f))
			}
			outs = append(outs, fmt.Sprint(f), fmt.Sprintln(f), fmt.Errorf("because of %v", f).Error())
			var log bytes.Buffer
			slog.New(slog.NewTextHandler(&log, nil)).Info("m", "k", f, slog.Any("g", f))
			slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "k", f, slog.Group("g", "k", f))
			outs = append(outs, log.String())
			if j, err := json.Marshal(f); err == nil {
				outs = append(outs, string(j))
			}
			for i, out := range outs {
				for _, trace := range traces {
					if strings.Contains(out, trace) {
						t.Errorf("%T shows itself in form %d: %q contains %q", v, i, out, trace)
					}
				}
			}
		}
		if got := fmt.Sprint(v); !strings.Contains(got, "(secret)") {
			t.Errorf("%T prints %q", v, got)
		}
	}
}
