package main

import (
	"os"
	"runtime/pprof"
)

func (a *app) startProfile() error {
	if a.flags.profile == "" {
		return nil
	}
	f, err := os.Create(a.flags.profile)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	a.profile = func() {
		pprof.StopCPUProfile()
		f.Close()
	}
	return nil
}
