package replicate

import (
	"crypto/ed25519"

	"cobox/storage/account"
)

// What the tests in package replicate_test use of the fixtures.

func AccountOf(name string) account.ID     { return testAccount(name) }
func KeyOf(name string) ed25519.PrivateKey { return edKey(name) }

// Fill makes the log's block i.
func (l *TestLog) Fill(i uint64, dst []byte) { l.fill(i, dst) }
