package main

import (
	"strings"

	"github.com/spf13/cobra"

	"cobox/cmd/cobox/ui"
)

// helpEvent is the help of a command.
type helpEvent struct {
	Command string `json:"command"`
	Help    string `json:"help"`
}

func (helpEvent) Type() string   { return "summary" }
func (e helpEvent) Text() string { return e.Help }

// helpers adds the commands that only explain the others.
func (a *app) helpers(root *cobra.Command) {
	root.SetHelpFunc(a.help(root.HelpFunc()))
	root.SetHelpCommand(&cobra.Command{
		Use: "help [COMMAND]", Short: "Explain a command", Example: "  cobox help backup\n  cobox help box invite",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return ui.Usagef("See 'cobox help' for the commands.", "there is no command %q", strings.Join(args, " "))
			}
			return c.Help()
		},
	})
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		c.Short = "Write a script that completes commands in a shell"
		c.Example = "  cobox completion bash > ~/.local/share/bash-completion/completions/cobox"
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return ui.Usagef("See 'cobox completion --help'.", "no completion for %q is known", args[0])
			}
			return cmd.Help()
		}
		for _, shell := range c.Commands() {
			shell.Example = "  cobox completion " + shell.Name()
			shell.PreRunE = a.textOnly
		}
	}
}

// help shows the help of a command, which in JSON is its summary.
func (a *app) help(asText func(*cobra.Command, []string)) func(*cobra.Command, []string) {
	return func(cmd *cobra.Command, args []string) {
		if !a.ui.JSON() {
			asText(cmd, args)
			return
		}
		var b strings.Builder
		cmd.SetOut(&b)
		asText(cmd, args)
		a.ui.Emit(helpEvent{cmd.CommandPath(), b.String()})
	}
}

// textOnly refuses --json where the output is for a shell to read.
func (a *app) textOnly(cmd *cobra.Command, _ []string) error {
	if a.flags.json {
		return ui.Usagef("Leave out --json.", "%s writes a script for the shell, not JSON", cmd.CommandPath())
	}
	return nil
}
