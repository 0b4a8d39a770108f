//go:build linux

package main

import "time"

// backoff says how long to wait before the next try: first, twice as long each
// time, and never more than limit.
type backoff struct {
	first, limit time.Duration
	next         time.Duration
}

func (b *backoff) wait() time.Duration {
	d := max(b.next, b.first)
	b.next = min(2*d, b.limit)
	return d
}

func (b *backoff) reset() { b.next = 0 }
