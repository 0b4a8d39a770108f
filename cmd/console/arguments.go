package console

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// WantsJSON looks for --json anywhere on a command line that may be wrong. Before
// the flags are parsed, a failure must already know its form.
func WantsJSON(args []string) (yes bool) {
	for _, s := range args {
		if s == "--" {
			break
		}
		switch value, ok := strings.CutPrefix(s, "--json="); {
		case s == "--json":
			yes = true
		case ok:
			yes, _ = strconv.ParseBool(value)
		}
	}
	return yes
}

// NoArguments is for commands that take flags only.
func NoArguments(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case cmd.HasSubCommands():
		return fmt.Errorf("there is no command %q", args[0])
	}
	return fmt.Errorf("%s takes no arguments, but was given %s", cmd.CommandPath(), strings.Join(args, " "))
}

// OneArgument is for commands that need one thing.
func OneArgument(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch len(args) {
		case 0:
			return fmt.Errorf("%s needs %s", cmd.CommandPath(), what)
		case 1:
			return nil
		}
		return fmt.Errorf("%s needs %s and nothing else, but was given %s", cmd.CommandPath(), what, strings.Join(args, " "))
	}
}

// FlagError says in plain words what is wrong with the value of a flag.
func FlagError(_ *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return err
	}
	flag := invalid.GetFlag()
	wants := map[string]string{
		"bool":   "neither true nor false",
		"int":    "no whole number",
		"uint32": "no whole number from 0 to 4294967295",
	}[flag.Value.Type()]
	if wants == "" {
		return err
	}
	return fmt.Errorf("--%s: %q is %s", flag.Name, invalid.GetValue(), wants)
}
