package noiseconn_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"cobox/netlink/noiseconn"
)

func TestSecretsDoNotPrint(t *testing.T) {
	private := noiseconn.StaticPrivate(bytes.Repeat([]byte{0xAB}, 32))
	psk := noiseconn.PSK(bytes.Repeat([]byte{0xAB}, 32))
	var log bytes.Buffer
	timeless := func(_ []string, a slog.Attr) slog.Attr { // a time of day may well have a 171 in it
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: timeless}))
	type holder struct {
		K noiseconn.StaticPrivate
		P noiseconn.PSK
	}
	for _, secret := range []any{private, &private, psk, &psk, holder{private, psk}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%d", "%q", "%08b"} {
			fmt.Fprintf(&log, verb+"\n", secret)
		}
		logger.Info("secret", "value", secret)
	}
	out := strings.ToLower(log.String())
	for _, leak := range []string{"abab", "171", "0xab", "10101011"} {
		if strings.Contains(out, leak) {
			t.Errorf("printed secrets contain %q:\n%s", leak, out)
		}
	}
}

func TestStaticPublicText(t *testing.T) {
	private, err := noiseconn.NewStaticPrivate(nil)
	if err != nil {
		t.Fatal(err)
	}
	public := private.Public()
	back, err := noiseconn.ParseStaticPublic(public.String())
	if err != nil || !back.Equal(public) {
		t.Fatalf("ParseStaticPublic(%q) = %v, %v", public, back, err)
	}
	good := public.String()
	for _, bad := range []string{"", "noise:", good[:len(good)-1], good + "0", good[6:], strings.ToUpper(good), "noise:" + strings.Repeat("g", 64)} {
		if _, err := noiseconn.ParseStaticPublic(bad); err == nil {
			t.Errorf("ParseStaticPublic(%q) succeeded", bad)
		}
	}
}

// The key pair of Alice in RFC 7748, section 6.1.
func TestPublicVector(t *testing.T) {
	raw, err := hex.DecodeString("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
	if err != nil {
		t.Fatal(err)
	}
	const want = "noise:8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
	if got := noiseconn.StaticPrivate(raw).Public().String(); got != want {
		t.Errorf("public key is %s, want %s", got, want)
	}
}
