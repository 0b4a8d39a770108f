package console_test

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"cobox/cmd/console"
)

func TestWantsJSON(t *testing.T) {
	for args, want := range map[string]bool{
		"": false, "--json": true, "status --json": true, "frobnicate --json --nope": true,
		"--json=true status": true, "--json=1": true, "--json=false": false, "--json --json=false": false,
		"backup -- --json": false, "--jsonx": false, "--json=perhaps": false,
	} {
		if got := console.WantsJSON(strings.Fields(args)); got != want {
			t.Errorf("%q: %v", args, got)
		}
	}
}

func TestArguments(t *testing.T) {
	for args, want := range map[string]string{
		"take x":             "",
		"take":               "root take needs the image",
		"take x y":           "root take needs the image and nothing else, but was given x y",
		"plain":              "",
		"plain x y":          "root plain takes no arguments, but was given x y",
		"else":               "there is no command \"else\"",
		"plain --count 3":    "",
		"plain --count x":    "--count: \"x\" is no whole number",
		"plain --number -1":  "--number: \"-1\" is no whole number from 0 to 4294967295",
		"plain --json=maybe": "--json: \"maybe\" is neither true nor false",
		"plain --number":     "flag needs an argument: --number",
	} {
		nothing := func(*cobra.Command, []string) error { return nil }
		root := &cobra.Command{Use: "root", Args: console.NoArguments, RunE: nothing, SilenceErrors: true, SilenceUsage: true}
		root.SetFlagErrorFunc(console.FlagError)
		root.PersistentFlags().Bool("json", false, "")
		plain := &cobra.Command{Use: "plain", Args: console.NoArguments, RunE: nothing}
		plain.Flags().Int("count", 0, "")
		plain.Flags().Uint32("number", 0, "")
		root.AddCommand(plain, &cobra.Command{Use: "take", Args: console.OneArgument("the image"), RunE: nothing})
		root.SetArgs(strings.Fields(args))
		got := ""
		if err := root.Execute(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
}
