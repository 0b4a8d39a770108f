package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

type versionEvent struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func (versionEvent) Type() string { return "summary" }
func (v versionEvent) Text() string {
	return fmt.Sprintf("cobox %s (%s, %s/%s)", v.Version, v.Go, v.OS, v.Arch)
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Tell which version this is", Example: "  cobox version",
		Args: exactly(0, ""),
		RunE: func(*cobra.Command, []string) error {
			a.ui.Emit(versionEvent{version, runtime.Version(), runtime.GOOS, runtime.GOARCH})
			return nil
		},
	}
}
