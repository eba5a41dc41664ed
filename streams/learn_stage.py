"""Learning a model: samples in their one order become versions, and versions become what is served.

The snapshot is the learner's state: it is committed with the position in the samples, so a learner that was killed goes
on from its last snapshot and learns the same samples again, to the same digest.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from features import keys
from features.errors import StoreError
from features.forgetting import is_forgetting
from features.store import Group, Position, Writes
from models.learner import Learner
from models.monitor import Monitor
from models.records import decode_sample
from models.snapshot import open_sealed, seal, take
from models.spec import Model

from .context import Context
from .log import Partition
from .producer import Outgoing
from .stage import Stage

log = logging.getLogger("headrace.worker")

REST = 20  # after a publication that cost c, the next comes no sooner than 20 c
SHORTEST = 0.05  # seconds between publications
MONITOR = b"monitor"
KEEP_EVERY = 10_000  # samples between versions whose bytes are kept
KEEP = 24  # versions kept; any other is rebuilt from the nearest before it


class LearnStage(Stage):
    """The one writer of a model."""

    reader = "learn"

    def __init__(
        self, context: Context, partition: Partition, group: Group, position: Position, model: Model
    ) -> None:
        super().__init__(context, partition, group, position)
        self.model = model
        self.learner: Learner = model.new_learner()
        self.read = position.next
        self._due = 0.0
        self._kept: list[int] = []  # versions whose bytes are kept, oldest first
        self._letters: list[Outgoing] = []

    async def load(self) -> None:
        """Goes on from the newest snapshot, which stands at the position."""
        self.learner = self.model.new_learner()
        self.read = self.position.next
        store, tag = self.context.store, self.group.tag
        allow = (*self.context.allow, "models.monitor", "models.task")
        before = b""
        while True:
            found = await self.context.patiently("read the model", lambda: store.get(keys.model(tag)))
            if found is None:
                return
            cells = dict(await self.context.patiently("read the model", lambda: store.fields(keys.kept(tag))))
            snapshot = open_sealed(found, [self.context.key], allow)
            beside = open_sealed(cells[MONITOR], [self.context.key], allow) if MONITOR in cells else None
            if beside is not None and beside.version == snapshot.version:
                break
            if found == before:
                raise StoreError(
                    f"version {snapshot.version} of model {self.model.name} stands without its metrics",
                    where=f"keys {keys.model(tag)} and {keys.kept(tag)}",
                    fix="restore both from one backup, or delete both: the model is learned again from its samples",
                )
            before = found  # the store may have gone back between the two
        monitor: Monitor = beside.learner
        self._kept = sorted(kept_version(field) for field in cells if field != MONITOR)
        self.learner.resume(snapshot.learner, snapshot.version, snapshot.position, monitor)

    async def again(self) -> None:
        """Goes on from what is stored, unless another owner does."""
        if not self.fenced:
            await self.load()

    async def take(self, records: Sequence[Any], next_offset: int) -> None:
        """Learns samples; they are committed with the next snapshot."""
        metrics, name = self.context.metrics, self.model.name
        for record in records:
            if record.offset < self.read or is_forgetting(record.value):
                continue  # what was learned stays learned
            try:
                sample = decode_sample(record.value or b"")
            except msgspec.DecodeError as error:
                self._letters.append(self.unreadable(record, error))
                continue
            outcome = self.learner.on_sample(sample, record.offset)
            metrics.learned.labels(name, outcome.what).inc()
            self.context.counts[f"sample:{outcome.what}"] += 1
        self.read = max(self.read, next_offset)
        await self.work()

    async def work(self) -> None:
        """Publishes a snapshot when there is something new and the last one has been paid for."""
        if self.read > self.position.next and self.context.monotonic() >= self._due and not self.fenced:
            await self.publish()

    async def finish(self) -> None:
        """Publishes what has been learned."""
        if self.read > self.position.next and not self.fenced:
            await self.publish()

    async def publish(self) -> None:
        """Commits the model, its monitor and the position in one step.

        Raises:
            Rewound: the store stands elsewhere; the learner is the one of its snapshot.
        """
        began = self.context.monotonic()
        learner, context, name = self.learner, self.context, self.model.name
        learner.settle()
        position = learner.position
        facts = {"version": learner.version, "position": position, "created_ms": context.now_ms()}
        model = seal(
            take(learner.model, fingerprint=self.model.fingerprint, **facts),  # type: ignore[arg-type]
            context.key,
        )
        monitor = seal(
            take(learner.monitor, fingerprint=self.model.fingerprint, **facts),  # type: ignore[arg-type]
            context.key,
        )
        await context.send(self._letters)
        self._letters = []
        tag = self.group.tag
        fields: dict[bytes, bytes | None] = {MONITOR: monitor, **self._keep(learner.version, model)}
        writes = Writes(sets={keys.model(tag): model}, hash_key=keys.kept(tag), fields=fields)
        await self.commit(self.position, self.position._replace(next=self.read), writes)
        cost = self.context.monotonic() - began
        self._due = self.context.monotonic() + max(SHORTEST, REST * cost)
        metrics = context.metrics
        metrics.publish.labels(name).observe(cost)
        metrics.snapshot_bytes.labels(name).set(len(model))
        metrics.version.labels(name).set(learner.version)
        for board, figures in self.figures().items():
            for metric, value in figures.items():
                metrics.quality.labels(name, board, metric).set(value)

    def _keep(self, version: int, sealed: bytes) -> dict[bytes, bytes | None]:
        """Returns what changes in the kept versions when one is published."""
        if version - (self._kept[-1] if self._kept else 0) < KEEP_EVERY:
            return {}
        gone = self._kept[: len(self._kept) - KEEP + 1] if len(self._kept) >= KEEP else []
        self._kept = [*self._kept[len(gone) :], version]
        return {kept_field(version): sealed, **{kept_field(old): None for old in gone}}

    def figures(self) -> dict[str, dict[str, float]]:
        """Returns the served and the progressive metrics with their baselines."""
        monitor = self.learner.monitor
        boards = {"progressive": monitor.progressive} | {
            f"served_{origin}": b for origin, b in monitor.served.items()
        }
        figures: dict[str, dict[str, float]] = {}
        for name, board in boards.items():
            figures[name] = board.figures()
            figures[f"{name}_baseline"] = board.baseline()
        return figures


def kept_field(version: int) -> bytes:
    """Returns the field of a kept version."""
    return b"v%d" % version


def kept_version(field: bytes) -> int:
    """Returns the version of a kept field."""
    return int(field[1:])
