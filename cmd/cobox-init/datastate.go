//go:build linux

package main

import (
	"sync"
	"time"

	"cobox/appliance/machine"
)

// dataState is where the data is, for whoever asks.
type dataState struct {
	moves chan *move // to runData; holds one

	mu      sync.Mutex
	disk    string    // short name of the disk that the card names; "": the card has the data
	device  string    // of that disk, while it is in use
	missing string    // why the data is not there, for people; "": it is
	since   time.Time // when it was missed; zero while it is there
	away    time.Duration
	move    *machine.Move
}

func newDataState() *dataState { return &dataState{moves: make(chan *move, 1)} }

// found says that the data is there, on a device or, if that is "", on the card.
func (d *dataState) found(disk, device string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.disk, d.device, d.missing, d.away = disk, device, "", 0
	if !d.since.IsZero() {
		d.away, d.since = max(time.Since(d.since), time.Second), time.Time{}
	}
}

// lost says that it is not.
func (d *dataState) lost(disk, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.disk, d.device, d.missing = disk, "", why
	if d.since.IsZero() {
		d.since = time.Now()
	}
}

func (d *dataState) setMove(m *machine.Move) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.move = m
}

func (d *dataState) status() machine.Data {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := machine.Data{Disk: d.disk, Problem: d.missing, Away: int64(d.away.Round(time.Second).Seconds())}
	if d.move != nil {
		m := *d.move
		s.Move = &m
	}
	return s
}

// where returns the names of the disk with the data and of its device.
func (d *dataState) where() (disk, device string, missing bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.disk, d.device, d.missing != ""
}
