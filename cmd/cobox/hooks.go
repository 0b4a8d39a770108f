package main

import (
	"cobox/cmd/cobox/ui"
	"cobox/storage/archive"
)

// fileEvent is one file that could not be dealt with, or not wholly.
type fileEvent struct {
	ui.Name
	Operation string `json:"operation"` // one of operations
	Message   string `json:"message"`
}

func (fileEvent) Type() string { return "file_error" }
func (fileEvent) Problem()     {}
func (e fileEvent) Text() string {
	return "! " + ui.Printable(e.Name.Text) + ": " + e.Message
}

// operations are the words of JSON for what failed.
var operations = map[archive.Op]string{
	archive.OpRead: "read", archive.OpChanged: "changed", archive.OpVanished: "vanished",
	archive.OpDamaged: "damaged", archive.OpWrite: "write", archive.OpMeta: "attributes",
}

func newFileEvent(e *archive.FileError) fileEvent {
	return fileEvent{ui.NameOf(e.Path), operations[e.Op], ui.Plain(e.Err.Error())}
}

// hooks shows the progress of an operation and the files that fail. Call done
// before anything else is shown.
func (a *app) hooks(operation string) (h archive.Hooks, done func()) {
	m := a.ui.Meter(operation)
	return archive.Hooks{
		Progress: func(p archive.Progress) {
			m.Update(ui.Progress{
				Files: p.Files, Bytes: p.Bytes, TotalFiles: p.TotalFiles, TotalBytes: p.TotalBytes,
				Final: p.TotalKnown, Errors: p.Errors, Current: p.Current,
			})
		},
		Error: func(e *archive.FileError) { a.ui.Emit(newFileEvent(e)) },
	}, m.Done
}
