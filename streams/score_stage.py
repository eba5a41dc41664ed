"""Scoring a partition of requests: the second reader of a source, behind the fold.

It reads what a request reads in the API, by the same code, and its own event may stand in the states already or not. A
request waits until the sources that it reads have passed its time, while they catch up; nothing else waits with it.
What it then reads is taken if the store stands where the waiting ended: it may have gone back, or have another owner.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from features.clock import turn
from features.errors import EventRefused
from features.group import Prepared
from features.partition import partition_of
from features.source import Source
from features.state import Kept
from features.store import Group, Position, Writes
from models.project import Project
from models.records import ForgetRecord, PredictionRecord
from models.scorer import Place, Request, Scorer, decode_reads
from models.spec import Model

from .chain import Chain
from .context import Context
from .elsewhere import END, Elsewhere
from .fold_stage import FoldStage
from .log import Partition
from .producer import Outgoing
from .stage import Stage, logged

BATCH = 512  # requests scored at a time

Hold = Callable[[Prepared, float], bool]  # whether a request that came at a moment has to wait


class Moved(Exception):
    """The store does not stand where requests were let through; they wait again."""


def _asks(prepared: Prepared) -> bool:
    """Whether a record is a request."""
    return prepared.refused is None and prepared.forgetting is None


def outcomes_read(project: Project, models: Sequence[Model]) -> list[Model]:
    """Returns the models whose outcomes these models read."""
    sources = {wanted.plan.source for model in models for wanted in model.vector.wanted}
    return [
        model for model in project.models if model.spec.label is not None and model.spec.outcomes in sources
    ]


class ScoreStage(Stage):
    """Scores every request of one partition, for every model that is asked with it."""

    reader = "score"

    def __init__(
        self,
        context: Context,
        partition: Partition,
        group: Group,
        position: Position,
        source: Source[Any],
    ) -> None:
        super().__init__(context, partition, group, position)
        self.source = source
        self.models: list[Model] = context.deployment.project.requested_by(source)
        self.scorers: list[Scorer] = [context.deployment.scorers[model.name] for model in self.models]
        self.pending: deque[tuple[Any, Any, float]] = deque()  # prepared, record, when it came
        self.read = position.next
        self._folds: Mapping[Group, FoldStage] = {}
        self._elsewhere: Elsewhere | None = None
        self._chains: Sequence[Chain] = ()
        self._sent = -1e18  # when the last predictions were acknowledged
        groups = [group for scorer in self.scorers for group in scorer.groups]
        for model in outcomes_read(context.deployment.project, self.models):
            assert model.spec.label is not None
            groups.extend(context.deployment.groups[model.spec.label.source.topic])
        self._groups = tuple(dict.fromkeys(groups))

    def bind(
        self, folds: Mapping[Group, FoldStage], elsewhere: Elsewhere | None, chains: Mapping[str, Chain]
    ) -> None:
        """Learns which groups this process folds, who knows of the others, and the chains of the models."""
        self._folds = folds
        self._elsewhere = elsewhere
        project = self.context.deployment.project
        self._chains = [chains[m.name] for m in outcomes_read(project, self.models) if m.name in chains]

    def distant(self) -> list[Group]:
        """Returns the groups that its requests read and that another process folds."""
        return [g for g in self._groups if (fold := self._folds.get(g)) is None or fold.fenced]

    def rewind(self) -> None:
        """Forgets what was read beyond the position."""
        self.pending.clear()
        self.read = self.position.next

    def holds(self) -> Hold:
        """Returns whether a request of a time has to wait, as things stand: for a source that is catching up."""
        front, distant = END, []
        for group in self._groups:
            fold = self._folds.get(group)
            if fold is None or fold.fenced:
                distant.append(group)
            else:
                front = min(front, fold.front())
        elsewhere = self._elsewhere

        def hold(prepared: Prepared, since: float) -> bool:
            if prepared.t >= front:
                return True
            if elsewhere is not None and not all(elsewhere.passed(g, prepared.t, since) for g in distant):
                return True
            return not self._outcomes_passed(prepared, since)

        return hold

    def _outcomes_passed(self, prepared: Prepared, since: float) -> bool:
        if not self._chains:
            return True
        request = (self.source.id_of(prepared.event), prepared.t)
        return all(chain.passed(request, max(since, self._sent)) for chain in self._chains)

    def wants(self) -> bool:
        """Whether more requests may wait."""
        return not self.fenced and len(self.pending) < self.context.pending

    async def take(self, records: Sequence[Any], next_offset: int) -> None:
        """Takes requests that were folded before, by this process or another; the fold gives it the others."""
        fold = self._folds[self.group]
        for record in records:
            if self.read <= record.offset < fold.next:
                self.queue(fold.prepare(record), record)

    def queue(self, prepared: Any, record: Any) -> None:
        """Takes one request that the fold has decoded."""
        if record.offset >= self.read:
            self.pending.append((prepared, record, self.context.monotonic()))
            self.read = record.offset + 1

    def oldest(self) -> int | None:
        """Returns the time of the request that is scored next."""
        upcoming = self._upcoming()
        return None if upcoming is None else int(upcoming[0].t)

    def _upcoming(self) -> tuple[Any, float] | None:
        """Returns the request that is scored next, and when it came.

        A stray from the future goes with the one behind it: nobody who waits may have to wait for its time to come.
        """
        coming = ((prepared, since) for prepared, _, since in self.pending if _asks(prepared))
        first = next(coming, None)
        if first is None:
            return None
        behind = next(coming, first)
        return first if turn(first[0].t, behind[0].t, self.source.lateness) == first[0].t else behind

    def asked(self) -> Iterator[tuple[str, int]]:
        """Yields id and time of every request that waits."""
        for prepared, _, _ in self.pending:
            if _asks(prepared):
                yield self.source.id_of(prepared.event), prepared.t

    def next_one(self) -> tuple[int, float] | None:
        """Returns the time of the next request, and since when it waits for what others do."""
        upcoming = self._upcoming()
        if upcoming is None or not _asks(self.pending[0][0]):
            return None
        prepared, since = upcoming
        return prepared.t, max(since, self._sent)

    def waits_elsewhere(self) -> bool:
        """Whether its next request waits for a group that another process folds, or for outcomes."""
        upcoming = self._upcoming()
        if self._elsewhere is None or upcoming is None or not _asks(self.pending[0][0]):
            return False
        prepared, since = upcoming
        if not all(self._elsewhere.passed(group, prepared.t, since) for group in self.distant()):
            return True
        return not self._outcomes_passed(prepared, since)

    def _stands(self) -> dict[Group, int]:
        """Returns the position of every group that requests read, as it is when they have not to wait any more."""
        distant, elsewhere = self.distant(), self._elsewhere
        stands = {g: self._folds[g].fold.position.next for g in self._groups if g not in distant}
        if elsewhere is not None:
            stands.update((group, elsewhere.stood(group)) for group in distant)
        return stands

    async def score(self, hold: Hold) -> bool:
        """Scores what need not wait; returns whether there was anything.

        Args:
            hold: whether a request has to wait for a source.

        Raises:
            Rewound: another worker scores this partition now.
            Moved: the store stands elsewhere, and nothing was scored.
        """
        batch: list[tuple[Any, Any, float]] = []
        expired = 0
        now = self.context.monotonic()
        while self.pending and len(batch) < BATCH:
            prepared, _, since = self.pending[0]
            if prepared.forgetting is not None and batch:
                break  # what was asked before it is logged before it, and what is asked after it after
            if _asks(prepared) and hold(prepared, since) and hold(*(self._upcoming() or (prepared, since))):
                if now - since < self.context.hold:
                    break
                expired += 1
            batch.append(self.pending.popleft())
            if prepared.forgetting is not None:
                break
        if not batch:
            return False
        good = [(p, r, Request(p.event, p.t, self.partition.number)) for p, r, _ in batch if _asks(p)]
        stands = self._stands()
        out = self._forget(*batch[0][:2])
        try:
            for model, scorer in zip(self.models, self.scorers, strict=True):
                out.extend(await self._predictions(model, scorer, good, stands))
        except Moved:
            self.pending.extendleft(reversed(batch))
            raise
        for model in self.models:
            self.context.metrics.hold_expired.labels(model.name).inc(expired)
        self.context.counts["hold_expired"] += expired
        await self.context.send(out)
        self._sent = self.context.monotonic()
        end = self.position._replace(next=batch[-1][1].offset + 1)
        await self.commit(self.position, end, Writes())
        return True

    def _forget(self, prepared: Prepared, record: Any) -> list[Outgoing]:
        """Returns what tells the joins of what is forgotten, if the record does."""
        what = prepared.forgetting
        if what is None:
            return []
        made = ForgetRecord(
            entity=what.entity,
            key=what.key,
            source=self.group.name,
            offset=record.offset,
            t=max(0, record.timestamp),
        )
        value = logged(made)
        return [
            Outgoing(model.log_topic, None, value, (), made.t, partition)
            for model in self.models
            for partition in range(self.context.partitions(model.log_topic))
        ]

    async def _predictions(
        self,
        model: Model,
        scorer: Scorer,
        requests: Sequence[tuple[Any, Any, Request]],
        stands: Mapping[Group, int],
    ) -> list[Outgoing]:
        places = [scorer.places(request) for _, _, request in requests]
        states, positions = await self._states(scorer.reads(places), places, stands)
        predictor = self.context.feed.predictor(model.name)
        partitions = self.context.partitions(model.log_topic)
        out: list[Outgoing] = []
        for (_, record, request), where in zip(requests, places, strict=True):
            ident = self.source.id_of(request.event)
            try:
                prediction, assembled = scorer.score(request, where, states, predictor)
                made = PredictionRecord(
                    id=ident,
                    t=request.t,
                    origin="stream",
                    vector=assembled.vector,
                    score=prediction.score,
                    version=prediction.version,
                    fingerprint=model.fingerprint,
                    as_of=scorer.as_of(where, positions),
                    event=msgspec.Raw(record.value),
                    flags=assembled.flags,
                )
                value = logged(made)
            except EventRefused as refused:
                out.append(self.letter(record, refused))
                continue
            key = ident.encode()
            out.append(Outgoing(model.log_topic, key, value, (), request.t, partition_of(key, partitions)))
        self.context.metrics.predictions.labels(model.name).inc(len(requests))
        self.context.counts["predictions"] += len(requests)
        return out

    async def _states(
        self,
        wanted: Mapping[Group, Sequence[str]],
        places: Sequence[Sequence[Place]],
        stands: Mapping[Group, int],
    ) -> tuple[dict[str, Kept | None], dict[Group, int]]:
        """Returns the states behind requests: from the folds of this process where they hold them, or the store.

        Args:
            wanted: the keys, by group.
            places: where they come from.
            stands: where the groups stood when the requests were let through.

        Raises:
            Moved: one does not stand there any more: a fold of this process, or behind it one of another.
        """
        states: dict[str, Kept | None] = {}
        positions: dict[Group, int] = {}
        rest: dict[Group, list[str]] = {}
        for group, names in wanted.items():
            fold = self._folds.get(group)
            if fold is None or fold.fenced:
                rest[group] = list(names)
                continue
            positions[group] = fold.fold.position.next
            absent = fold.fold.cached(names, states)
            if absent:
                rest[group] = absent
        if rest:
            store = self.context.store
            found = await self.context.patiently("read states", lambda: store.read(rest))
            read, at = decode_reads(places, rest, found)
            if any(at[g] != positions.get(g, at[g]) or at[g] < stands.get(g, 0) for g in rest):
                raise Moved
            states.update(read)
            positions.update(at)
        return states, positions

    async def finish(self) -> None:
        """Leaves waiting requests to the next owner: its position has not passed them."""
        self.pending.clear()
