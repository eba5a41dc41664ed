"""Every metric of the worker, with what it means. Base units, bounded labels, never an entity."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The worker's metrics in one registry."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        r = self.registry
        self.events = Counter(
            "headrace_events_total",
            "Records folded, by topic and what became of them",
            ["topic", "outcome"],
            registry=r,
        )
        self.dead_letters = Counter(
            "headrace_dead_letters_total",
            "Records sent to the dead letters, by reason",
            ["topic", "reason"],
            registry=r,
        )
        self.lag = Gauge(
            "headrace_lag_records",
            "Records between a reader and the end of its log",
            ["topic", "partition"],
            registry=r,
        )
        self.clock = Gauge(
            "headrace_clock_seconds",
            "Event time up to which a group has come",
            ["topic", "partition"],
            registry=r,
        )
        self.commit = Histogram(
            "headrace_commit_seconds", "Time of one atomic commit", ["topic"], buckets=_SECONDS, registry=r
        )
        self.commits = Counter(
            "headrace_commits_total", "Commits, by what the store answered", ["topic", "status"], registry=r
        )
        self.freshness = Histogram(
            "headrace_freshness_seconds",
            "From the producer's send to the event being readable, where the record says when it was sent",
            ["topic"],
            buckets=_SECONDS,
            registry=r,
        )
        self.predictions = Counter(
            "headrace_stream_predictions_total", "Requests scored by the worker", ["model"], registry=r
        )
        self.held = Gauge(
            "headrace_held_requests", "Requests waiting to be scored", ["topic", "partition"], registry=r
        )
        self.hold_expired = Counter(
            "headrace_hold_expired_total",
            "Requests scored although a source was still behind",
            ["model"],
            registry=r,
        )
        self.pending = Gauge(
            "headrace_join_pending",
            "Predictions and labels that wait for each other, by partition of the model's log",
            ["model", "partition"],
            registry=r,
        )
        self.pending_bytes = Gauge(
            "headrace_join_pending_bytes",
            "Bytes of the join's state, by partition of the model's log",
            ["model", "partition"],
            registry=r,
        )
        self.full = Gauge(
            "headrace_join_full",
            "1 while a join stands still because as many wait as max_pending allows: alert on it",
            ["model", "partition"],
            registry=r,
        )
        self.join = Counter(
            "headrace_join_records_total", "What the join did with records", ["model", "what"], registry=r
        )
        self.label_delay = Histogram(
            "headrace_label_delay_seconds",
            "From a request's time to its label's",
            ["model"],
            buckets=(1, 60, 3600, 86400, 3 * 86400, 7 * 86400, 14 * 86400, 30 * 86400, 90 * 86400),
            registry=r,
        )
        self.learned = Counter(
            "headrace_samples_total", "Samples, by what the learner did", ["model", "what"], registry=r
        )
        self.version = Gauge(
            "headrace_model_version", "Samples that the newest version has learned", ["model"], registry=r
        )
        self.quality = Gauge(
            "headrace_model_quality",
            "Metric of a model: served (logged scores) or progressive (just before learning), with its baseline",
            ["model", "board", "metric"],
            registry=r,
        )
        self.snapshot_bytes = Gauge(
            "headrace_snapshot_bytes", "Size of the newest snapshot", ["model"], registry=r
        )
        self.publish = Histogram(
            "headrace_publish_seconds",
            "Time to dump, seal and commit a snapshot",
            ["model"],
            buckets=_SECONDS,
            registry=r,
        )
        self.pauses = Counter(
            "headrace_pauses_total", "Attempts that found the store or the broker away", ["what"], registry=r
        )
        self.fenced = Counter(
            "headrace_fenced_total", "Partitions lost to another owner", ["topic"], registry=r
        )
        self.restarts = Counter(
            "headrace_restarts_total",
            "Partitions claimed again because they stood still while their logs grew",
            ["topic"],
            registry=r,
        )
