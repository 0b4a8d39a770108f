package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"cobox/appliance"
	"cobox/appliance/admin"
	"cobox/appliance/config"
	"cobox/cmd/console"
)

func (p *program) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Verify everything that the box holds",
		Long: `check verifies every checkpoint, leaf and block of every replica in the data
directory and changes nothing. The box must not be running; while it is, an
administrator can run: cobox box check

It fails if anything is damaged, and names it. What is intact stays restorable,
and a running box asks devices for what is damaged.
` + exitHelp,
		Example: "  coboxd check --data ~/box",
		Args:    console.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return p.check(ctx, config.DataDir(p.flags(cmd), os.Getenv))
		},
	}
}

func (p *program) check(ctx context.Context, data string) error {
	tellEvery, told := 5*time.Second, time.Now()
	progress := func(done admin.CheckProgress) {
		if p.JSON {
			p.Emit("progress", done)
			return
		}
		if time.Since(told) >= tellEvery {
			told = time.Now()
			fmt.Fprintf(p.Stderr, "checked %d of %d blocks in %d of %d logs\n", done.Blocks, done.TotalBlocks, done.Logs, done.TotalLogs)
		}
	}
	report, err := appliance.Check(ctx, data, p.logger(slog.LevelWarn), progress)
	if err != nil {
		return err
	}
	if !p.JSON {
		for _, d := range report.Damaged {
			where := "the store"
			if d.Log != "" {
				where = "log " + d.Log
			}
			fmt.Fprintf(p.Stdout, "damaged: %s: %s %d: %s\n", where, d.What, d.Index, d.Error)
		}
		fmt.Fprintf(p.Stdout, "%d logs, %d leaves and %d blocks are verified\n", report.Logs, report.Leaves, report.Blocks)
		if report.Missing > 0 {
			fmt.Fprintf(p.Stdout, "%d blocks are not there: lost, or not sent yet\n", report.Missing)
		}
	}
	if report.DamageCount > 0 {
		if p.JSON {
			p.Emit("report", report)
		}
		return &damageError{report.DamageCount}
	}
	if p.JSON {
		p.Emit("summary", report)
	}
	return nil
}

// damageError says that a check has found damage.
type damageError struct{ count uint64 }

func (e *damageError) Error() string {
	if e.count == 1 {
		return "one thing is damaged"
	}
	return fmt.Sprintf("%d things are damaged", e.count)
}

func isDamage(err error) bool {
	var d *damageError
	return errors.As(err, &d)
}
