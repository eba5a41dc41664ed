"""Folding a partition of a source: events into states, labels on to the logs of their models."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

from features.clock import NEVER, turn
from features.errors import EventRefused
from features.group import Batch, FoldGroup, Prepared
from features.partition import partition_of
from features.source import Source
from features.store import NO_TOPIC, Group, Position
from models.records import LabelRecord, ProgressRecord, encode_record
from models.spec import Model
from models.topics import SENT

from .context import Context
from .elsewhere import END, Mark
from .log import Partition
from .producer import Outgoing
from .stage import Stage, logged
from .sweep import Sweep

SLICE = 2_000  # records folded at a time
STEPS = 64  # into which a silent partition divides the lateness: absents wait for one of them longer


class FoldStage(Stage):
    """The one writer of a fold group."""

    def __init__(
        self, context: Context, partition: Partition, group: Group, position: Position, source: Source[Any]
    ) -> None:
        super().__init__(context, partition, group, position)
        project = context.deployment.project
        self.source = source
        self.fold = FoldGroup(
            group,
            source,
            project.plans_over(source),
            context.deployment.codes,
            position,
            context.partitions(source.topic),
            context.cache,
        )
        self.sweep = Sweep(context, group, self.fold)
        self.labelled: list[Model] = project.labelled_by(source)
        # a model without labels learns from the passing of time alone: its requests tell it
        self.clocked: list[Model] = [m for m in project.requested_by(source) if m.spec.label is None]
        self.inbox: deque[tuple[Prepared, Any]] = deque()
        self.read = position.next  # the position after everything in the inbox
        self._spoken = NEVER  # the clock that was last forwarded although it has none
        self.ended = False  # whether the inbox reaches the end of the log

    @property
    def next(self) -> int:
        """The offset after everything that is committed."""
        return self.fold.position.next

    def wants(self) -> bool:
        """Whether there is room for another poll."""
        return not self.fenced and len(self.inbox) < 4 * SLICE

    async def take(self, records: Sequence[Any], next_offset: int) -> None:
        """Decodes records and keeps them until their time has come."""
        prepare, inbox, read = self.fold.prepare, self.inbox, self.read
        for record in records:
            offset = record.offset
            if offset >= read:
                inbox.append((prepare(offset, record.key, record.value, record.timestamp), record))
        self.read = max(read, next_offset)

    def prepare(self, record: Any) -> Prepared:
        """Returns a record decoded and checked."""
        return self.fold.prepare(record.offset, record.key, record.value, record.timestamp)

    def front(self) -> int:
        """Returns the event time that everything still to come has at least, strays aside."""
        upcoming = self._upcoming()
        if upcoming is not None:
            return upcoming
        return END if self.ended else self.fold.position.clock

    def _upcoming(self) -> int | None:
        """Returns the time of the next event; a stray from the future has that of the one behind it."""
        coming = self._coming()
        t = next(coming, None)
        if t is None:
            return None
        behind = next(coming, None)
        if behind is None and not self.ended:  # it may be one: whoever is behind it has not been read yet
            behind = self.fold.position.clock
        return t if behind is None else turn(t, behind, self.source.lateness)

    def _coming(self) -> Iterator[int]:
        """Yields the times of the events in the inbox."""
        return (p.t for p, _ in self.inbox if p.refused is None and p.t != NEVER)

    def _due(self, limit: int) -> bool:
        """Whether the next event has its turn up to a time."""
        coming = self._coming()
        t = next(coming)
        behind = next(coming, t)
        return t <= limit or turn(t, behind, self.source.lateness) <= limit

    def mark(self, scored: int, asks: int | None) -> Mark:
        """Returns what other workers may know of it.

        Args:
            scored: position of the scorer of its partition; its own where there is none.
            asks: time of the oldest request that waits there.
        """
        # not that its log has ended: others find out for themselves, and it may grow while nobody looks
        upcoming = self._upcoming()
        front = self.fold.position.clock if upcoming is None else upcoming
        return Mark(self.next, front, scored, front if asks is None else asks)

    async def fold_until(self, limit: int) -> list[tuple[Prepared, Any]] | None:
        """Folds and commits what the inbox has up to an event time, and returns it; None where nothing moved.

        Raises:
            Rewound: the store stands elsewhere; the inbox is empty and the position is the store's.
        """
        inbox = self.inbox
        batch: list[tuple[Prepared, Any]] = []
        while inbox and len(batch) < SLICE:
            upcoming = inbox[0][0]
            if upcoming.t > limit and upcoming.refused is None and not self._due(limit):
                break
            batch.append(inbox.popleft())
        end = inbox[0][0].offset if inbox else self.read
        if not batch and end == self.fold.position.next:
            return None
        records = [prepared for prepared, _ in batch]
        missing = self.fold.missing(records)
        if missing:
            store = self.context.store
            found = await self.context.patiently("read states", lambda: store.read({self.group: missing}))
            stored = found[self.group].position or Position.start(NO_TOPIC)
            expected = self.fold.position.next
            if stored.next != expected or stored.token != self.position.token:
                await self.moved(stored, expected)
            self.fold.load(missing, found[self.group].values)
        done = 0
        before = Counter(self.fold.counts)
        gone = await self.sweep.step() if self.sweep.due(self.fold.position.clock) else []
        for part in self.fold.fold(records, end):
            if gone:
                swept = [key for key in gone if key not in part.writes.sets]
                deletes = dict.fromkeys((*part.writes.deletes, *swept))
                part, gone = part._replace(writes=part.writes._replace(deletes=list(deletes))), []
            raw = [record for _, record in batch[done : done + len(part.records)]]
            done += len(part.records)
            await self.context.send(self._outputs(part, raw))
            await self.commit(part.start, part.end, part.writes)
            self._fresh(raw)
        self._count(len(records), before)
        return batch

    @property
    def silent(self) -> bool:
        """Whether joins wait for the clock of a partition whose log ends before it has one."""
        told = self.fenced or self.inbox or not self.ended or self.fold.position.clock != NEVER
        return not told and bool(self.labelled or self.clocked)

    async def speak(self, clock: int) -> None:
        """Forwards the clock of the whole source in the name of a silent partition, when it has moved on enough."""
        if clock == NEVER or clock < self._spoken + self.source.lateness // STEPS:
            return
        end = self.fold.position._replace(clock=clock)
        models = (*self.labelled, *self.clocked)
        await self.context.send([out for model in models for out in self._progress(model, end)])
        self._spoken = clock

    async def again(self) -> None:
        """Forgets every state: those of the store are of another prefix."""
        self.fold.drop(self.position)

    def rewind_inbox(self) -> None:
        """Forgets what was read beyond the position."""
        self.inbox.clear()
        self.read = self.fold.position.next
        self.ended = False  # what was read is to come again

    def _outputs(self, part: Batch, raw: Sequence[Any]) -> list[Outgoing]:
        out: list[Outgoing] = []
        labelled = bool(self.labelled)
        for prepared, record in zip(part.records, raw, strict=True):
            if prepared.refused is not None:
                out.append(self.letter(record, prepared.refused))
            elif labelled and prepared.forgetting is None:
                out.extend(self._labels(prepared, record))
        if part.end.clock != NEVER:
            for model in (*self.labelled, *self.clocked):
                out.extend(self._progress(model, part.end))
        return out

    def _labels(self, prepared: Prepared, record: Any) -> list[Outgoing]:
        out: list[Outgoing] = []
        failed: EventRefused | None = None
        for model in self.labelled:
            try:
                out.append(self._label(model, prepared))
            except EventRefused as refused:
                failed = refused
        return out if failed is None else [*out, self.letter(record, failed)]

    def _label(self, model: Model, prepared: Prepared) -> Outgoing:
        assert model.spec.label is not None
        ident = self.source.id_of(prepared.event)
        value = getattr(prepared.event, model.spec.label.value.name)
        made = LabelRecord(
            id=ident, t=prepared.t, label=value, source=self.group.name, offset=prepared.offset
        )
        key = ident.encode()
        partition = partition_of(key, self.context.partitions(model.log_topic))
        return Outgoing(model.log_topic, key, logged(made), (), prepared.t, partition)

    def _progress(self, model: Model, end: Position) -> list[Outgoing]:
        value = encode_record(ProgressRecord(source=self.group.name, offset=end.next, t=end.clock))
        return [
            Outgoing(model.log_topic, None, value, (), max(0, end.clock), partition)
            for partition in range(self.context.partitions(model.log_topic))
        ]

    def _fresh(self, raw: Sequence[Any]) -> None:
        now = time.time() * 1000
        observe = self.context.metrics.freshness.labels(self.partition.topic).observe
        for record in raw:
            for name, value in record.headers:
                if name == SENT and value is not None:
                    age = max(0.0, now - float(value))
                    observe(age / 1000)
                    self.context.fresh.append(age)

    def _count(self, records: int, before: Counter[str]) -> None:
        topic, metrics = self.partition.topic, self.context.metrics
        for outcome, n in (self.fold.counts - before).items():
            metrics.events.labels(topic, outcome).inc(n)
        metrics.events.labels(topic, "read").inc(records)
        self.context.counts[f"events:{topic}"] += records
        if self.fold.position.clock != NEVER:
            metrics.clock.labels(topic, self.partition.number).set(self.fold.position.clock / 1000)

    async def finish(self) -> None:
        """Leaves what is in the inbox to the next owner: nothing of it has been folded."""
        self.inbox.clear()
