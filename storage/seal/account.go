package seal

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha512"
	"fmt"
	"io"
	"time"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// NoisePrivate is an X25519 private key that logs in to a box.
type NoisePrivate [32]byte

// Public returns the public half.
func (k NoisePrivate) Public() account.NoiseKey {
	key, err := ecdh.X25519().NewPrivateKey(k[:])
	if err != nil {
		panic("seal: X25519 key of 32 bytes: " + err.Error()) // only for other lengths
	}
	return account.NoiseKey(key.PublicKey().Bytes())
}

// KEMPrivate is an X-Wing private key, for which envelopes are sealed.
type KEMPrivate [32]byte

// Public returns the public half.
func (k KEMPrivate) Public() account.KEMKey {
	return account.KEMKey(k.key().PublicKey().Bytes())
}

func (k KEMPrivate) key() hpke.PrivateKey {
	key, err := hpke.MLKEM768X25519().NewPrivateKey(k[:])
	if err != nil {
		panic("seal: X-Wing key of 32 bytes: " + err.Error()) // only for other lengths
	}
	return key
}

// RecoveryRoot is kept by the devices of an account so that they can register
// the account's recovery key with further boxes. It logs in nowhere by itself.
type RecoveryRoot [32]byte

// PSK returns the pre-shared key of recovery for one box: what the account
// must know, beside its recovery key, to log in there with the phrase alone.
func (r RecoveryRoot) PSK(boxStatic [32]byte) [32]byte {
	return expand(r[:], "cobox/v1/rec-psk\x00", boxStatic[:])
}

// Account is the private half of an account. It exists only while a phrase
// has just been made or typed, and is never stored.
type Account struct {
	hidden
	sign     ed25519.PrivateKey
	kem      KEMPrivate
	recovery NoisePrivate
	root     RecoveryRoot
	card     account.Card
}

// DeriveAccount derives the account of a phrase. The same entropy always gives
// the same account.
func DeriveAccount(e Entropy) (*Account, error) {
	prk, err := hkdf.Extract(sha512.New, e[:], []byte("cobox/v1/root"))
	if err != nil {
		return nil, fmt.Errorf("seal: deriving account: %w", err)
	}
	seed := expand(prk, "cobox/v1/acct-sign")
	a := &Account{
		sign:     ed25519.NewKeyFromSeed(seed[:]),
		kem:      expand(prk, "cobox/v1/acct-kem"),
		recovery: expand(prk, "cobox/v1/acct-noise"),
		root:     expand(prk, "cobox/v1/rec-root"),
	}
	a.card = account.Card{
		ID:       account.ID(a.sign.Public().(ed25519.PublicKey)),
		KEM:      a.kem.Public(),
		Recovery: a.recovery.Public(),
	}
	if err := account.SignCard(&a.card, a.sign); err != nil {
		return nil, fmt.Errorf("seal: deriving account: %w", err)
	}
	return a, nil
}

// ID returns the account's public identity.
func (a *Account) ID() account.ID { return a.card.ID }

// Card returns the account's signed card, the same for every derivation.
func (a *Account) Card() *account.Card { c := a.card; return &c }

// Certify signs a certificate for a device. revocations is the number of the
// newest revocation of the account that is known, 0 for none.
func (a *Account) Certify(d DevicePublic, revocations uint32, issued time.Time) (*account.Certificate, error) {
	c := &account.Certificate{
		Account: a.card.ID, Device: d.Key, Noise: d.Noise, KEM: d.KEM,
		Revocations: revocations, Issued: issued.Unix(),
	}
	if err := account.SignCertificate(c, a.sign); err != nil {
		return nil, fmt.Errorf("seal: certifying device: %w", err)
	}
	return c, nil
}

// Revoke signs the end of a device. number is one more than that of the newest
// revocation; logs are the positions up to which the account stands by the
// device's logs, and are not changed.
func (a *Account) Revoke(number uint32, device account.DeviceKey, logs []merklelog.Position) (*account.Revocation, error) {
	r := &account.Revocation{
		Account: a.card.ID, Number: number, Device: device,
		Logs: append([]merklelog.Position(nil), logs...),
	}
	if err := account.SignRevocation(r, a.sign); err != nil {
		return nil, fmt.Errorf("seal: revoking device: %w", err)
	}
	return r, nil
}

// RecoveryKey returns the X25519 key that logs in to a box without a device.
func (a *Account) RecoveryKey() NoisePrivate { return a.recovery }

// RecoveryRoot returns what the account's devices keep, see [RecoveryRoot].
func (a *Account) RecoveryRoot() RecoveryRoot { return a.root }

// KEM returns the key that opens the account's stanza of an envelope.
func (a *Account) KEM() KEMPrivate { return a.kem }

// signer is an Ed25519 key that prints nothing of itself.
type signer struct {
	hidden
	key ed25519.PrivateKey
}

func (s *signer) Public() crypto.PublicKey { return s.key.Public() }

func (s *signer) Sign(rand io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.key.Sign(rand, message, opts)
}
