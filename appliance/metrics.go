package appliance

import (
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"cobox/netlink/noiseconn"
	"cobox/storage/replica"
)

// metrics is what a box shows of itself, on a registry of its own. METRICS.md
// explains each; a test compares.
type metrics struct {
	registry *prometheus.Registry

	refused      *prometheus.CounterVec
	receipts     prometheus.Counter
	sessions     *prometheus.CounterVec
	ended        *prometheus.CounterVec
	denied       *prometheus.CounterVec
	pairings     *prometheus.CounterVec
	requests     *prometheus.CounterVec
	quotaRefused prometheus.Counter
	commit       prometheus.Histogram
}

// Labels of the metrics that have some; all of them are there at 0.
var (
	sessionKinds   = []string{"device", "recovery", "key"}
	deniedKinds    = []string{deniedDeliver, deniedRead, deniedList}
	requestResults = []string{"ok", "refused", "failed"}
)

func newMetrics(version string, pairingResults, methods []string, waiting bool) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cobox_handshakes_refused_total", Help: "Connections closed before they were authenticated, by reason."}, []string{"reason"}),
		receipts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "cobox_receipts_total", Help: "Receipts given."}),
		sessions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cobox_sessions_total", Help: "Links that were authenticated, by who logged in."}, []string{"peer"}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cobox_sessions_ended_total", Help: "Links that have ended, by what ended them."}, []string{"reason"}),
		denied: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cobox_denied_total", Help: "Times that a peer wanted what it may not have, by what."}, []string{"what"}),
		pairings: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cobox_pairings_total", Help: "Exchanges with somebody who held a pairing secret, by result."}, []string{"result"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cobox_admin_requests_total", Help: "Requests of administration, by method and result."}, []string{"method", "result"}),
		quotaRefused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "cobox_quota_refusals_total", Help: "Times that new data was refused because the account's quota was used up."}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "cobox_commit_seconds", Help: "Time that it took to make a log's blocks durable.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "cobox_build_info", Help: "1, with the version in its labels.",
		ConstLabels: prometheus.Labels{"version": version, "go": runtime.Version(), "arch": runtime.GOARCH}})
	build.Set(1)
	waits := prometheus.NewGauge(prometheus.GaugeOpts{Name: "cobox_waiting", Help: "1 if the box waits for its data, which is elsewhere."})
	if waiting {
		waits.Set(1)
	}
	m.registry.MustRegister(m.refused, m.receipts, m.sessions, m.ended, m.denied, m.pairings, m.requests, m.quotaRefused, m.commit, build, waits,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, r := range noiseconn.Reasons() {
		m.refused.WithLabelValues(string(r))
	}
	for _, k := range sessionKinds {
		m.sessions.WithLabelValues(k)
	}
	for _, e := range endings() {
		m.ended.WithLabelValues(e)
	}
	for _, d := range deniedKinds {
		m.denied.WithLabelValues(d)
	}
	for _, r := range pairingResults {
		m.pairings.WithLabelValues(r)
	}
	for _, method := range methods {
		for _, r := range requestResults {
			m.requests.WithLabelValues(method, r)
		}
	}
	return m
}

// observe registers what is read when somebody asks.
func (m *metrics) observe(b *box) {
	m.registry.MustRegister(&storeCollector{b: b})
}

// storeCollector reads the store's numbers, once for each time that they are
// asked for.
type storeCollector struct{ b *box }

type storeMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*box, *replica.Metrics) float64
}

func gauge(name, help string, value func(*box, *replica.Metrics) float64) storeMetric {
	return storeMetric{prometheus.NewDesc(name, help, nil, nil), prometheus.GaugeValue, value}
}

func counter(name, help string, value func(*box, *replica.Metrics) float64) storeMetric {
	return storeMetric{prometheus.NewDesc(name, help, nil, nil), prometheus.CounterValue, value}
}

func storeMetrics() []storeMetric {
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	return []storeMetric{
		gauge("cobox_replica_bytes", "Bytes of blocks held.", func(_ *box, m *replica.Metrics) float64 { return float64(m.Held) }),
		gauge("cobox_replica_garbage_bytes", "Bytes of dropped blocks that are not yet gone from the disk.", func(_ *box, m *replica.Metrics) float64 { return float64(m.Garbage) }),
		gauge("cobox_replica_logs", "Logs held.", func(_ *box, m *replica.Metrics) float64 { return float64(m.Logs) }),
		gauge("cobox_replica_holes", "Blocks below the logs' newest checkpoints that are not held, as counted within the last minute.", func(b *box, _ *replica.Metrics) float64 { return float64(b.holes.count(b.store)) }),
		gauge("cobox_replica_read_only", "1 if the box takes in nothing because its store cannot be written.", func(_ *box, m *replica.Metrics) float64 { return flag(m.ReadOnly) }),
		gauge("cobox_disk_low", "1 if new data is refused for lack of disk space.", func(_ *box, m *replica.Metrics) float64 { return flag(m.Low) }),
		gauge("cobox_disk_free_bytes", "Free bytes of the disk.", func(_ *box, m *replica.Metrics) float64 { return float64(m.FreeBytes) }),
		gauge("cobox_store_disk_bytes", "Bytes that the store's database occupies on the disk.", func(_ *box, m *replica.Metrics) float64 { return float64(m.DiskBytes) }),
		counter("cobox_blocks_received_total", "Blocks taken in.", func(_ *box, m *replica.Metrics) float64 { return float64(m.BlocksIn) }),
		counter("cobox_blocks_served_total", "Blocks read and verified for a peer.", func(_ *box, m *replica.Metrics) float64 { return float64(m.BlocksOut) }),
		counter("cobox_blocks_refused_total", "Blocks refused, for whatever reason.", func(_ *box, m *replica.Metrics) float64 { return float64(m.Refused) }),
		counter("cobox_blocks_lost_total", "Blocks received whose index was missing after a crash; never receipted.", func(_ *box, m *replica.Metrics) float64 { return float64(m.Orphans) }),
		counter("cobox_damaged_total", "Times that something stored was found to be damaged.", func(_ *box, m *replica.Metrics) float64 { return float64(m.Damaged + m.Corruptions) }),
		counter("cobox_forks_total", "Logs frozen because their writer forked them.", func(_ *box, m *replica.Metrics) float64 { return float64(m.Forks) }),
		counter("cobox_tables_ingested_total", "Tables of blocks added to the store.", func(_ *box, m *replica.Metrics) float64 { return float64(m.Tables) }),
		counter("cobox_write_stalls_total", "Times that writers had to wait for the store.", func(_ *box, m *replica.Metrics) float64 { return float64(m.Stalls) }),
		gauge("cobox_members", "Members, without removed ones.", func(b *box, _ *replica.Metrics) float64 { return float64(b.roster.CountMembers()) }),
		gauge("cobox_claimed", "1 if the box has an administrator.", func(b *box, _ *replica.Metrics) float64 { return flag(b.roster.Claimed()) }),
		gauge("cobox_sessions", "Links open now.", func(b *box, _ *replica.Metrics) float64 { return float64(b.links.count()) }),
		gauge("cobox_handshakes_half_open", "Connections in their handshake now.", func(b *box, _ *replica.Metrics) float64 { return float64(b.gate.HalfOpen()) }),
		gauge("cobox_credit_bytes", "Bytes that peers have been asked for and have not delivered.", func(b *box, _ *replica.Metrics) float64 {
			blocks, _ := b.limits.InUse()
			return float64(blocks) * (64 << 10)
		}),
		counter("cobox_elapsed_seconds_total", "How long the box has been running in its whole life.", func(b *box, _ *replica.Metrics) float64 { return b.memory.elapsed().Seconds() }),
	}
}

// holes counts the blocks that are missing below the newest checkpoints. That
// takes a look at every log, so it is done once a minute at most.
type holes struct {
	mu     sync.Mutex
	looked time.Time
	n      uint64
}

func (h *holes) count(s *replica.Store) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.looked.IsZero() && time.Since(h.looked) < time.Minute {
		return h.n
	}
	h.looked, h.n = time.Now(), 0
	for info, err := range s.AllLogs() {
		if err == nil {
			h.n += info.Checkpoint.Size - info.Held
		}
	}
	return h.n
}

// Describe implements prometheus.Collector.
func (c *storeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range storeMetrics() {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *storeCollector) Collect(ch chan<- prometheus.Metric) {
	now := c.b.store.Metrics()
	for _, m := range storeMetrics() {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(c.b, &now))
	}
}
