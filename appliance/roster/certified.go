package roster

import (
	"fmt"

	"cobox/storage/account"
)

// CertifiedDevice is a device of an account with what proves that it is one.
type CertifiedDevice struct {
	Certificate *account.Certificate
	Name        string // may be empty
}

// Certified returns the account's devices that are not revoked, in no
// particular order, and the number of its newest revocation, 0 for none.
func (r *Roster) Certified(id account.ID) (list []CertifiedDevice, revocations uint32, err error) {
	r.mu.RLock()
	names := make(map[account.DeviceKey]string)
	for key, d := range r.devices {
		if d.Account == id && !r.isRevoked(id, key) {
			names[key] = d.Name
		}
	}
	revocations = r.newest[id]
	r.mu.RUnlock()
	for key, name := range names {
		value, err := r.store.Get(certificateKey(key))
		var cert *account.Certificate
		if err == nil {
			cert, err = account.ParseCertificate(value)
		}
		if err != nil {
			return nil, 0, fmt.Errorf("roster: reading the certificate of %v: %w", key, err)
		}
		list = append(list, CertifiedDevice{cert, name})
	}
	return list, revocations, nil
}
