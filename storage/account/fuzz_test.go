package account_test

import (
	"bytes"
	"testing"

	"cobox/storage/account"
)

// Each target holds that what a parser accepts is exactly what the encoder
// makes of it: one record, one encoding.

func FuzzParseCard(f *testing.F) {
	c, _ := newCard(f, "account")
	f.Add(account.AppendCard(nil, c))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := account.ParseCard(b)
		if err != nil {
			return
		}
		if again := account.AppendCard(nil, c); !bytes.Equal(again, b) {
			t.Errorf("parsed and encoded again: %x, was %x", again, b)
		}
		_ = c.Verify() // any answer, but no panic
	})
}

func FuzzParseCertificate(f *testing.F) {
	c, _, _ := newCertificate(f, "account", "device")
	f.Add(account.AppendCertificate(nil, c))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := account.ParseCertificate(b)
		if err != nil {
			return
		}
		if again := account.AppendCertificate(nil, c); !bytes.Equal(again, b) {
			t.Errorf("parsed and encoded again: %x, was %x", again, b)
		}
		_ = c.Verify()
	})
}

func FuzzParseRevocation(f *testing.F) {
	for _, logs := range []int{0, 1, 5} {
		r, _ := newRevocation(f, "account", "device", logs)
		f.Add(account.AppendRevocation(nil, r))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := account.ParseRevocation(b)
		if err != nil {
			return
		}
		if again := account.AppendRevocation(nil, r); !bytes.Equal(again, b) {
			t.Errorf("parsed and encoded again: %x, was %x", again, b)
		}
		_ = r.Verify()
	})
}

func FuzzParseID(f *testing.F) {
	c, _ := newCard(f, "account")
	f.Add(c.ID.String())
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := account.ParseID(s); err == nil && id.String() != s {
			t.Errorf("%q is read as %q", s, id)
		}
	})
}
