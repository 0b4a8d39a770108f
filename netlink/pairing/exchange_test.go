package pairing

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/mlkem"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"cobox/netlink/noiseconn"
	"cobox/storage/account"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func seed(name string) []byte { s := sha512.Sum512([]byte(name)); return s[:] }

func kemKey(t testing.TB, name string) account.KEMKey {
	t.Helper()
	pq, err := mlkem.NewDecapsulationKey768(seed(name))
	if err != nil {
		t.Fatal(err)
	}
	x, err := ecdh.X25519().NewPrivateKey(seed(name + " x")[:32])
	if err != nil {
		t.Fatal(err)
	}
	return account.KEMKey(append(pq.EncapsulationKey().Bytes(), x.PublicKey().Bytes()...))
}

var boxStatic = noiseconn.StaticPrivate(seed("box")[:32])

func deviceStatic(name string) noiseconn.StaticPrivate {
	return noiseconn.StaticPrivate(seed("device " + name)[:32])
}

// testEnrollment is what the device of that name sends.
func testEnrollment(t testing.TB, name string) *Enrollment {
	t.Helper()
	key := ed25519.NewKeyFromSeed(seed("account " + name)[:32])
	id := account.ID(key.Public().(ed25519.PublicKey))
	card := &account.Card{ID: id, KEM: kemKey(t, "account "+name),
		Recovery: account.NoiseKey(noiseconn.StaticPrivate(seed("recovery " + name)[:32]).Public())}
	if err := account.SignCard(card, key); err != nil {
		t.Fatal(err)
	}
	device := ed25519.NewKeyFromSeed(seed("signer " + name)[:32])
	cert := &account.Certificate{Account: id, Device: account.DeviceKey(device.Public().(ed25519.PublicKey)),
		Noise: account.NoiseKey(deviceStatic(name).Public()), KEM: kemKey(t, "device "+name), Issued: 1700000000}
	if err := account.SignCertificate(cert, key); err != nil {
		t.Fatal(err)
	}
	return &Enrollment{Card: card, Certificate: cert, RecoveryPSK: noiseconn.PSK(seed("rec")[:32]), DeviceName: name + "'s laptop"}
}

func testEnrolled(t testing.TB) *Enrolled {
	return &Enrolled{Role: RoleMember, Quota: 5 << 30, SigningKey: BoxKey(seed("signing")[:32]),
		LinkPSK: noiseconn.PSK(seed("link")[:32]), BoxName: "Küche",
		Addresses: addresses(t, "192.168.1.5:26269", "[2001:db8::5]:26269", "box.example.org:26269")}
}

type enrollFunc func(context.Context, noiseconn.InviteID, noiseconn.StaticPublic, *Enrollment) (*Enrolled, error)

func (f enrollFunc) Enroll(ctx context.Context, id noiseconn.InviteID, remote noiseconn.StaticPublic, e *Enrollment) (*Enrolled, error) {
	return f(ctx, id, remote, e)
}

// connect is a connection in ModePair of the device of that name.
func connect(t testing.TB, name string) (device, box *noiseconn.Conn) {
	t.Helper()
	code := testCode(t)
	a, b := net.Pipe()
	var wg sync.WaitGroup
	var berr error
	wg.Go(func() {
		box, berr = noiseconn.Accept(context.Background(), b, noiseconn.ServerConfig{Static: boxStatic,
			PairingPSK: func(id noiseconn.InviteID) (noiseconn.PSK, bool) { return code.PSK(), id == code.Invite }})
	})
	device, err := noiseconn.Dial(context.Background(), a, noiseconn.Config{Mode: noiseconn.ModePair,
		Static: deviceStatic(name), Remote: boxStatic.Public(), PSK: code.PSK(), Invite: code.Invite})
	wg.Wait()
	if err != nil || berr != nil {
		t.Fatal(err, berr)
	}
	t.Cleanup(func() { device.Close(); box.Close() })
	return device, box
}

func TestExchange(t *testing.T) {
	device, box := connect(t, "ann")
	sent, answer := testEnrollment(t, "ann"), testEnrolled(t)
	var wg sync.WaitGroup
	var serr error
	wg.Go(func() {
		serr = Serve(context.Background(), box, enrollFunc(func(_ context.Context, id noiseconn.InviteID, remote noiseconn.StaticPublic, e *Enrollment) (*Enrolled, error) {
			if id != testCode(t).Invite || !remote.Equal(deviceStatic("ann").Public()) || !reflect.DeepEqual(e, sent) {
				t.Errorf("the roster was asked for %x, %v, %+v", id, remote, e)
			}
			return answer, nil
		}))
	})
	got, err := Join(context.Background(), device, sent)
	wg.Wait()
	if err != nil || serr != nil || !reflect.DeepEqual(got, answer) {
		t.Errorf("got %+v, %v, %v", got, err, serr)
	}
	if _, err := device.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("behind the answer: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	for code := RefusedUsed; code <= RefusedBusy; code++ {
		device, box := connect(t, "ann")
		var wg sync.WaitGroup
		var serr error
		wg.Go(func() {
			serr = Serve(context.Background(), box, enrollFunc(func(context.Context, noiseconn.InviteID, noiseconn.StaticPublic, *Enrollment) (*Enrolled, error) {
				return nil, fmt.Errorf("roster: %w", &RefusedError{code})
			}))
		})
		_, err := Join(context.Background(), device, testEnrollment(t, "ann"))
		wg.Wait()
		for _, e := range []error{err, serr} {
			refused := new(RefusedError)
			if !errors.As(e, &refused) || refused.Refusal != code {
				t.Errorf("%v: %v", code, e)
			}
		}
	}
	// An accident of the box is told as busy, and the box's own error stays there.
	for name, f := range map[string]enrollFunc{
		"error": func(context.Context, noiseconn.InviteID, noiseconn.StaticPublic, *Enrollment) (*Enrolled, error) {
			return nil, io.ErrNoProgress
		},
		"bad answer": func(context.Context, noiseconn.InviteID, noiseconn.StaticPublic, *Enrollment) (*Enrolled, error) {
			return &Enrolled{}, nil
		},
	} {
		device, box := connect(t, "ann")
		var wg sync.WaitGroup
		var serr error
		wg.Go(func() { serr = Serve(context.Background(), box, f) })
		_, err := Join(context.Background(), device, testEnrollment(t, "ann"))
		wg.Wait()
		if refused := new(RefusedError); !errors.As(err, &refused) || refused.Refusal != RefusedBusy {
			t.Errorf("%s: %v", name, err)
		}
		if serr == nil || errors.As(serr, new(*RefusedError)) {
			t.Errorf("%s: Serve: %v", name, serr)
		}
	}
}

// TestVerify: records that do not belong together or to the peer never reach
// the roster.
func TestVerify(t *testing.T) {
	ann, bob := testEnrollment(t, "ann"), testEnrollment(t, "bob")
	for name, change := range map[string]func(*Enrollment){
		"card of another account":      func(e *Enrollment) { e.Card = bob.Card },
		"certificate of another":       func(e *Enrollment) { e.Certificate = bob.Certificate },
		"both of another":              func(e *Enrollment) { e.Card, e.Certificate = bob.Card, bob.Certificate },
		"signature of the card":        func(e *Enrollment) { c := *e.Card; c.Sig[5] ^= 1; e.Card = &c },
		"signature of certificate":     func(e *Enrollment) { c := *e.Certificate; c.Sig[5] ^= 1; e.Certificate = &c },
		"another key in certificate":   func(e *Enrollment) { c := *e.Certificate; c.Noise[0] ^= 1; e.Certificate = &c },
		"another recovery key in card": func(e *Enrollment) { c := *e.Card; c.Recovery[0] ^= 1; e.Card = &c },
	} {
		e := *ann
		change(&e)
		device, box := connect(t, "ann")
		var wg sync.WaitGroup
		var serr error
		wg.Go(func() {
			serr = Serve(context.Background(), box, enrollFunc(func(context.Context, noiseconn.InviteID, noiseconn.StaticPublic, *Enrollment) (*Enrolled, error) {
				t.Errorf("%s: the roster was asked", name)
				return testEnrolled(t), nil
			}))
		})
		_, err := Join(context.Background(), device, &e)
		wg.Wait()
		if refused := new(RefusedError); !errors.As(err, &refused) || refused.Refusal != RefusedBadCertificate || serr == nil {
			t.Errorf("%s: %v, %v", name, err, serr)
		}
	}
}

// TestHostileMessages: what is not the message expected ends the exchange on
// either side, without reading on.
func TestHostileMessages(t *testing.T) {
	frame := func(t messageType, body []byte) []byte {
		return append(binary.BigEndian.AppendUint16([]byte{byte(t)}, uint16(len(body))), body...)
	}
	good, err := AppendEnrollment(nil, testEnrollment(t, "ann"))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := AppendEnrolled(nil, testEnrolled(t))
	if err != nil {
		t.Fatal(err)
	}
	roster := enrollFunc(func(context.Context, noiseconn.InviteID, noiseconn.StaticPublic, *Enrollment) (*Enrolled, error) {
		return nil, errors.New("the roster was asked")
	})
	for name, wire := range map[string][]byte{
		"nothing":         nil,
		"half a header":   {1, 0},
		"type":            frame(9, good),
		"answer":          frame(messageEnrolled, answer),
		"refusal":         frame(messageRefused, []byte{1}),
		"too long":        {1, 0xFF, 0xFF},
		"empty":           frame(messageEnroll, nil),
		"short body":      frame(messageEnroll, good[:len(good)-1]),
		"long body":       frame(messageEnroll, append(bytes.Clone(good), 'x')),
		"cut short":       frame(messageEnroll, good)[:1000],
		"no recovery PSK": frame(messageEnroll, zeroed(good, account.CardSize+account.CertificateSize, 32)),
	} {
		device, box := connect(t, "ann")
		go func() { device.Write(wire); device.CloseWrite(); io.Copy(io.Discard, device) }()
		if err := Serve(context.Background(), box, roster); err == nil || err.Error() == "the roster was asked" {
			t.Errorf("to the box, %s: %v", name, err)
		}
		box.Close()
		device.Close()
	}
	for name, wire := range map[string][]byte{
		"nothing":          nil,
		"type":             frame(9, answer),
		"enrollment":       frame(messageEnroll, good),
		"too long":         {2, 0xFF, 0xFF},
		"empty":            frame(messageEnrolled, nil),
		"long body":        frame(messageEnrolled, append(bytes.Clone(answer), 7)),
		"unknown role":     frame(messageEnrolled, append([]byte{9}, answer[1:]...)),
		"no link PSK":      frame(messageEnrolled, zeroed(answer, 41, 32)),
		"unknown refusal":  frame(messageRefused, []byte{99}),
		"refusal of none":  frame(messageRefused, []byte{0}),
		"refusal too long": frame(messageRefused, []byte{1, 1}),
	} {
		device, box := connect(t, "ann")
		go func() {
			io.ReadFull(box, make([]byte, messageHeader+len(good)))
			box.Write(wire)
			box.CloseWrite()
		}()
		if got, err := Join(context.Background(), device, testEnrollment(t, "ann")); err == nil || errors.As(err, new(*RefusedError)) {
			t.Errorf("to the device, %s: %+v, %v", name, got, err)
		}
	}
}

func zeroed(b []byte, at, n int) []byte {
	b = bytes.Clone(b)
	clear(b[at : at+n])
	return b
}

// TestExchangeTimeout: neither side waits longer than it says, nor longer than
// its context.
func TestExchangeTimeout(t *testing.T) {
	for _, limit := range []time.Duration{time.Hour, 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			device, box := connect(t, "ann")
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			start := time.Now()
			if err := Serve(ctx, box, nil); err == nil {
				t.Error("Serve succeeded")
			}
			if took := time.Since(start); took != min(limit, ExchangeTimeout) {
				t.Errorf("Serve took %v", took)
			}
			device.Close()
			box.Close()

			device, box = connect(t, "ann")
			ctx, cancel = context.WithTimeout(context.Background(), limit)
			defer cancel()
			start = time.Now()
			if _, err := Join(ctx, device, testEnrollment(t, "ann")); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Join: %v", err)
			}
			if took := time.Since(start); took != min(limit, ExchangeTimeout) {
				t.Errorf("Join took %v", took)
			}
			device.Close()
			box.Close()
		})
	}
}

func TestModeLinkIsRefused(t *testing.T) {
	a, b := net.Pipe()
	var wg sync.WaitGroup
	var box *noiseconn.Conn
	psk := noiseconn.PSK{1}
	wg.Go(func() {
		box, _ = noiseconn.Accept(context.Background(), b, noiseconn.ServerConfig{Static: boxStatic,
			LinkPSK: func(noiseconn.StaticPublic) (noiseconn.PSK, any, bool) { return psk, nil, true }})
	})
	device, err := noiseconn.Dial(context.Background(), a, noiseconn.Config{Mode: noiseconn.ModeLink, Static: deviceStatic("ann"), Remote: boxStatic.Public(), PSK: psk})
	wg.Wait()
	if err != nil || box == nil {
		t.Fatal(err)
	}
	defer device.Close()
	defer box.Close()
	if err := Serve(context.Background(), box, nil); !errors.Is(err, errMode) {
		t.Errorf("Serve: %v", err)
	}
	if _, err := Join(context.Background(), device, testEnrollment(t, "ann")); !errors.Is(err, errMode) {
		t.Errorf("Join: %v", err)
	}
}

// TestMessageVectors freezes the messages.
func TestMessageVectors(t *testing.T) {
	enroll, err := AppendEnrollment(nil, testEnrollment(t, "ann"))
	if err != nil {
		t.Fatal(err)
	}
	enrolled, err := AppendEnrolled(nil, testEnrolled(t))
	if err != nil {
		t.Fatal(err)
	}
	frozen(t, "messages.json", map[string]string{
		"enroll":   fmt.Sprintf("%x", enroll),
		"enrolled": fmt.Sprintf("%x", enrolled),
		"refused":  fmt.Sprintf("%x", AppendRefused(nil, RefusedClaimed)),
	})
	for n := range enroll {
		if _, err := ParseEnrollment(enroll[:n]); err == nil {
			t.Errorf("%d of %d bytes of an enrollment parsed", n, len(enroll))
		}
	}
	for n := range enrolled {
		if e, err := ParseEnrolled(enrolled[:n]); err == nil && len(e.Addresses) == 3 {
			t.Errorf("%d of %d bytes of an answer parsed", n, len(enrolled))
		}
	}
}
