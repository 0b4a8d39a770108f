package archive

import (
	"sync"
	"sync/atomic"
	"time"
)

// A meter counts, collects file errors and calls the hooks.
type meter struct {
	hooks Hooks

	files, dirs, bytes, added      atomic.Uint64
	totalFiles, totalBytes, errors atomic.Uint64
	final                          atomic.Bool
	current                        atomic.Pointer[string]

	mu   sync.Mutex // also serializes the hooks
	errs []*FileError
}

func (m *meter) known() { m.final.Store(true) }

// fail records a file error; counted says whether it is one of those that the
// summary's number counts.
func (m *meter) fail(e *FileError, counted bool) {
	if counted {
		m.errors.Add(1)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.errs) < MaxErrors {
		m.errs = append(m.errs, e)
	}
	if m.hooks.Error != nil {
		m.hooks.Error(e)
	}
}

func (m *meter) list() []*FileError {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.errs
}

// run calls the progress hook until stop is called, and then a last time.
func (m *meter) run(blocks func() uint64) (stop func()) {
	if m.hooks.Progress == nil {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(100 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				m.report(blocks())
			case <-done:
				m.report(blocks())
				return
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

func (m *meter) report(blocks uint64) {
	p := Progress{
		Files: m.files.Load(), Dirs: m.dirs.Load(), Bytes: m.bytes.Load(),
		TotalFiles: m.totalFiles.Load(), TotalBytes: m.totalBytes.Load(), TotalKnown: m.final.Load(),
		New: m.added.Load(), Blocks: blocks, Errors: m.errors.Load(),
	}
	if s := m.current.Load(); s != nil {
		p.Current = *s
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hooks.Progress(p)
}
