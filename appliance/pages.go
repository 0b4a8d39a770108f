package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
)

// maxPages is how many connections the local pages take at a time.
const maxPages = 32

// health says how the box is.
func (b *box) health() (status int, text string) {
	switch {
	case !b.ready.Load():
		return http.StatusServiceUnavailable, "the box is starting or stopping"
	case b.store.ReadOnly():
		return http.StatusOK, "ok, but read-only: the store cannot be written"
	case b.store.Full():
		return http.StatusOK, "ok, but full: new data is refused"
	}
	return http.StatusOK, "ok"
}

// pages are /healthz and /metrics, and nothing else.
type pages struct {
	log     *slog.Logger
	metrics *metrics
	health  func() (status int, text string)
}

func (p *pages) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		status, text := p.health()
		w.WriteHeader(status)
		io.WriteString(w, text+"\n")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.metrics.registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(p.log.Handler(), slog.LevelError),
		MaxRequestsInFlight: 4,
		Timeout:             10 * time.Second,
	}))
	return mux
}

// serve serves the pages until ctx ends, and then a little longer, so that
// whoever watches the box sees it stop.
func (p *pages) serve(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           p.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		// Requests take milliseconds; whoever is slower is not waited for.
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(drain) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(netutil.LimitListener(ln, maxPages))
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("appliance: local pages: %w", err)
}
