package main

import (
	"os"

	"github.com/spf13/cobra"

	"cobox/appliance/config"
	"cobox/appliance/datadir"
	"cobox/cmd/console"
)

func (p *program) qrCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "qr",
		Short: "Show the box's pairing code again",
		Long: `qr shows the code of a box that has no administrator yet, as "coboxd run" does
at the first start. It works while the box is running.
` + exitHelp,
		Example: "  coboxd qr --data ~/box",
		Args:    console.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, picture, err := datadir.ReadPairing(config.DataDir(p.flags(cmd), os.Getenv))
			if err != nil {
				return err
			}
			if p.JSON {
				p.Emit("summary", struct {
					Code    string `json:"code"`
					Picture string `json:"picture"`
				}{text, picture})
				return nil
			}
			p.showCode(text, picture)
			return nil
		},
	}
}
