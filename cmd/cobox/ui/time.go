package ui

import (
	"fmt"
	"time"
)

// Time is a time for JSON: RFC 3339 in UTC, to the nanosecond. File systems
// know years that RFC 3339 cannot write; those get ISO 8601's expanded form,
// a sign and six or more digits.
type Time struct{ time.Time }

// MarshalJSON implements json.Marshaler.
func (t Time) MarshalJSON() ([]byte, error) {
	u := t.UTC()
	if y := u.Year(); y < 0 || y > 9999 {
		return fmt.Appendf(nil, `"%+07d%s"`, y, u.Format("-01-02T15:04:05.999999999Z07:00")), nil
	}
	return u.AppendFormat(nil, `"`+time.RFC3339Nano+`"`), nil
}
