"""Every metric of the API, with what it means. Base units, bounded labels, never an entity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 5.0)


class Metrics:
    """The API's metrics in one registry."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = r = registry or CollectorRegistry()
        self.requests = Histogram(
            "headrace_request_seconds",
            "Time of a request, by route, model (empty where the route has none) and status",
            ["route", "model", "status"],
            buckets=_SECONDS,
            registry=r,
        )
        self.active = Gauge("headrace_requests_in_hand", "Requests that are being answered", registry=r)
        self.predictions = Counter(
            "headrace_api_predictions_total",
            "Predictions answered, by what the version was: learned, untrained, or asked without features",
            ["model", "version"],
            registry=r,
        )
        self.trip = Histogram(
            "headrace_store_trip_seconds",
            "Time of one read of the store, for one prediction or several",
            buckets=(0.0001, 0.0002, 0.0004, *_SECONDS[1:]),
            registry=r,
        )
        self.accepted = Counter(
            "headrace_accepted_events_total", "Events that the broker has acknowledged", ["topic"], registry=r
        )
        self.corrupt = Counter(
            "headrace_state_corrupt_total",
            "Reads of states that contradict their position",
            registry=r,
        )

    def watch(
        self,
        lost: Callable[[], int],
        swaps: Mapping[str, int],
        refused: Mapping[tuple[str, str], int],
        versions: Callable[[], Mapping[str, int]],
    ) -> None:
        """Adds what others count, read when it is asked for."""
        self.registry.register(_Watched(lost, swaps, refused, versions))


class _Watched(Collector):
    def __init__(
        self,
        lost: Callable[[], int],
        swaps: Mapping[str, int],
        refused: Mapping[tuple[str, str], int],
        versions: Callable[[], Mapping[str, int]],
    ) -> None:
        self._lost, self._swaps, self._refused, self._versions = lost, swaps, refused, versions

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(
            "headrace_prediction_log_lost_total",
            "Records of predictions that were not written, for want of room or of a broker",
            value=self._lost(),
        )
        swaps = CounterMetricFamily(
            "headrace_feed_swaps_total", "Model versions taken over from the store", labels=["model"]
        )
        for model, n in list(self._swaps.items()):
            swaps.add_metric([model], n)
        yield swaps
        refused = CounterMetricFamily(
            "headrace_feed_refused_total",
            "Snapshots that were not taken over, by what was wrong with them",
            labels=["model", "reason"],
        )
        for (model, reason), n in list(self._refused.items()):
            refused.add_metric([model, reason], n)
        yield refused
        versions = GaugeMetricFamily(
            "headrace_served_version", "Samples that the served version has learned", labels=["model"]
        )
        for model, n in self._versions().items():
            versions.add_metric([model], n)
        yield versions
