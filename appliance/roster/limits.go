package roster

import (
	"errors"
	"fmt"
	"time"

	"cobox/storage/account"
)

// Limits of the number of logs.
const (
	MaxNewLogs     = 10   // a device and day of the box's own time
	MaxSpaceLogs   = 64   // of one device in one space
	MaxAccountLogs = 4096 // of one account, but for first logs of new devices
	MaxFirstLogs   = 8192 // of one account, with first logs of new devices
	MaxNewDevices  = 1000 // of one account that begin logs on one day
)

const day = int64(24 * time.Hour / time.Millisecond)

// LogCount says how many logs the box holds already.
type LogCount struct {
	Account int // of the account
	Device  int // of the device
	Space   int // of the device in the space of the new log
}

// AdmitLog decides whether a device may begin one more log here, and counts
// it. The certificate is the one in the log's manifest, verified by the caller.
//
// A device whose certificate is newer than the account's newest revocation
// gets a first log although the account is full: a thief who has used up the
// limits cannot keep the owner's new device out. Only MaxFirstLogs and
// MaxNewDevices end that, because an account can certify any number of devices.
func (r *Roster) AdmitLog(cert *account.Certificate, have LogCount) error {
	full := func(format string, args ...any) error {
		return &RefusedError{ReasonFull, fmt.Errorf(format, args...)}
	}
	return r.change(func(c *change) error {
		m := r.members[cert.Account]
		switch {
		case m == nil || m.Removed != nil:
			return &RefusedError{ReasonNotMember, errors.New("the log's account is no member here")}
		case r.isRevoked(cert.Account, cert.Device):
			return &RefusedError{ReasonRevoked, errors.New("the log's device has been revoked")}
		}
		first := have.Device == 0 && cert.Revocations >= r.newest[cert.Account]
		switch {
		case have.Account >= MaxFirstLogs, !first && have.Account >= MaxAccountLogs:
			return full("the account has %d logs here, and no more are taken", have.Account)
		case !first && have.Space >= MaxSpaceLogs:
			return full("the device has %d logs in this space, and no more are taken", have.Space)
		}

		today, devices := r.now().Elapsed/day, 0
		for key, count := range r.counters {
			if key.account != cert.Account {
				continue
			}
			if count.Day == today {
				devices++
			} else {
				c.remove(counterKey(key), func() { delete(r.counters, key) })
			}
		}
		key := certified{cert.Account, cert.Device}
		count, counted := r.counters[key]
		if !counted || count.Day != today {
			count = counterRecord{V: recordVersion, Day: today}
			if devices >= MaxNewDevices {
				return full("%d devices of the account have begun logs today; try again tomorrow", devices)
			}
		}
		if !first && count.Count >= MaxNewLogs {
			return full("the device has begun %d logs today; try again tomorrow", count.Count)
		}
		count.Count++
		c.put(counterKey(key), appendRecord(&count), func() { r.counters[key] = count })
		return nil
	})
}
