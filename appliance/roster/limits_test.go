package roster

import (
	"crypto/rand"
	"testing"
	"time"
)

func TestNewLogLimits(t *testing.T) {
	d, c := &disk{}, &clock{}
	r, _, _ := claimed(t, d, c)
	p, cert, _ := join(t, r, 5)
	for i := range MaxNewLogs {
		if err := r.AdmitLog(cert, LogCount{Account: i, Device: i, Space: i}); err != nil {
			t.Fatal(i, err)
		}
	}
	wantReason(t, "eleventh", r.AdmitLog(cert, LogCount{10, 10, 10}), ReasonFull)
	r = openRoster(t, d, c)
	c.wall = c.wall.Add(48 * time.Hour)
	wantReason(t, "after a restart, by a clock that jumped", r.AdmitLog(cert, LogCount{10, 10, 10}), ReasonFull)
	c.elapsed += 24 * time.Hour
	if err := r.AdmitLog(cert, LogCount{10, 10, 10}); err != nil {
		t.Errorf("next day: %v", err)
	}
	wantReason(t, "space", r.AdmitLog(cert, LogCount{64, 64, MaxSpaceLogs}), ReasonFull)
	wantReason(t, "account", r.AdmitLog(cert, LogCount{MaxAccountLogs, 1, 0}), ReasonFull)

	// A new device of a full account, certified by one who knows of every
	// revocation, gets its log; a thief's from before does not.
	if err := r.Revoke(p.revoke(t, 1, cert.Device)); err != nil {
		t.Fatal(err)
	}
	full := LogCount{Account: MaxAccountLogs}
	wantReason(t, "old certificate", r.AdmitLog(p.device(t, 0), full), ReasonFull)
	if err := r.AdmitLog(p.device(t, 1), full); err != nil {
		t.Errorf("new certificate: %v", err)
	}
	wantReason(t, "without end", r.AdmitLog(p.device(t, 1), LogCount{Account: MaxFirstLogs}), ReasonFull)
}

// An account can certify any number of devices; what the box remembers of
// them stays bounded, and goes the next day.
func TestNewLogCountersAreBounded(t *testing.T) {
	d, c := &disk{}, &clock{}
	r, _, _ := claimed(t, d, c)
	p, _, _ := join(t, r, 5)
	cert := *p.device(t, 0)
	for range MaxNewDevices {
		rand.Read(cert.Device[:])
		if err := r.AdmitLog(&cert, LogCount{}); err != nil {
			t.Fatal(err)
		}
	}
	rand.Read(cert.Device[:])
	wantReason(t, "one too many", r.AdmitLog(&cert, LogCount{}), ReasonFull)
	c.elapsed += 24 * time.Hour
	if err := r.AdmitLog(&cert, LogCount{}); err != nil {
		t.Fatal(err)
	}
	if n := len(openRoster(t, d, c).counters); n != 1 {
		t.Errorf("%d counters are kept", n)
	}
}
