package account

import (
	"fmt"

	"cobox/storage/merklelog"
)

// VerifyManifest checks a log's manifest and the certificate inside it: the
// account certified the device, and the device, not another, signed the
// manifest. The certificate tells whose log it is.
func VerifyManifest(m *merklelog.Manifest) (*Certificate, error) {
	c, err := ParseCertificate(m.Certificate)
	if err != nil {
		return nil, fmt.Errorf("account: verifying manifest: %w", err)
	}
	if c.Device != DeviceKey(m.Writer) {
		return nil, fmt.Errorf("account: verifying manifest: certificate is for %v, writer is %v", c.Device, m.Writer)
	}
	if err := c.Verify(); err != nil {
		return nil, fmt.Errorf("account: verifying manifest: %w", err)
	}
	if err := m.Verify(); err != nil {
		return nil, fmt.Errorf("account: verifying manifest: %w", err)
	}
	return c, nil
}
