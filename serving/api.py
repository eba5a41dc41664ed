"""What the routes share: one process's API over a deployment."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import orjson
from starlette.responses import Response

from features.source import Source
from features.store import Store
from models.deployment import Deployment
from models.feed import ModelFeed
from models.outcomes import Outcomes

from .asking import Asking, Made
from .intake import Intake
from .latency import LastMinute
from .lookup import Lookup
from .metrics import Metrics
from .ports import Outbox
from .problems import not_found
from .produce import Produce
from .reads import Reads
from .settings import Settings


class Api:
    """The parts of the API, compiled once.

    Args:
        deployment: what is served.
        store: where its states are.
        feed: where its models come from.
        outbox: the way to the broker.
        settings: the limits.
        metrics: of the process.
        now_ms: the wall clock, in milliseconds.
    """

    def __init__(
        self,
        deployment: Deployment,
        store: Store,
        feed: ModelFeed,
        outbox: Outbox,
        settings: Settings,
        metrics: Metrics,
        now_ms: Callable[[], int],
    ) -> None:
        self.deployment, self.store, self.feed, self.outbox = deployment, store, feed, outbox
        self.settings, self.metrics, self.now_ms = settings, metrics, now_ms
        project = self.project = deployment.project
        self.recent = LastMinute()
        self.newest: deque[tuple[str, Made]] = deque(maxlen=settings.newest)
        self.started = time.time()
        self.reads = Reads(store, metrics.trip.observe)
        self.produce = Produce(project, outbox, metrics, now_ms)
        self.lookups = {view.__name__: Lookup(view, deployment) for view in project.views}
        self.intakes = {
            source.topic: Intake(source, now_ms, settings.max_batch)
            for source in project.sources
            if not isinstance(source, Outcomes)  # those are ours to write
        }
        self.models = {
            model.name: Asking(
                model,
                deployment,
                feed,
                self.reads,
                outbox,
                self.intakes[model.spec.request.topic],
                metrics,
                fallback=settings.fallback,
                newest=self.newest,
            )
            for model in project.models
        }
        metrics.watch(lambda: outbox.lost, feed.swaps, feed.refused, self._versions)

    def asking(self, name: str) -> Asking:
        """Returns a model.

        Raises:
            Problem: 404.
        """
        if name not in self.models:
            raise not_found("model", name, list(self.models))
        return self.models[name]

    def intake(self, name: str, *, labels: bool = False) -> Intake:
        """Returns the intake of a source, by its topic or by the dataset in it.

        Raises:
            Problem: 404; no source, or more than one, has the name.
        """
        known = self._known(labels)
        found = [i for i in known if name == i.source.topic]
        found = found or [i for i in known if name in i.source.topic.split(".")]
        if len(found) != 1:
            what = "label source" if labels else "source"
            raise not_found(what, name, [i.source.topic for i in known])
        return found[0]

    def source_names(self, *, labels: bool = False) -> dict[str, Source[Any]]:
        """Returns every name by which `intake` finds a source: the topics first."""
        known = [intake.source for intake in self._known(labels)]
        parts = Counter(part for source in known for part in set(source.topic.split(".")))
        found = {source.topic: source for source in known}
        for source in known:
            found |= {
                part: source for part in source.topic.split(".") if parts[part] == 1 and part not in found
            }
        return found

    def _known(self, labels: bool) -> list[Intake]:
        return [
            intake
            for intake in self.intakes.values()
            if not labels or self.project.labelled_by(intake.source)
        ]

    def _versions(self) -> dict[str, int]:
        return {name: self.feed.predictor(name).version for name in self.models}


def json(body: Any, status: int = 200) -> Response:
    """Returns a JSON answer."""
    return Response(orjson.dumps(body), status, media_type="application/json")
