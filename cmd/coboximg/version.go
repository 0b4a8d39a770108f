package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Long:    "version prints the version of this program." + "\n" + exitHelp,
		Example: "  coboximg version",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if p.json {
				p.emit("summary", struct {
					Version string `json:"version"`
					Go      string `json:"go"`
					System  string `json:"system"`
				}{version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH})
				return nil
			}
			fmt.Fprintf(p.stdout, "coboximg %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
}
