"""Recomputing logged predictions from the log alone: the fold up to each one's `as_of`, the vector, the score.

Nothing is taken from the store. Each group's log is read forward once for a chunk of predictions; a prediction that
needs an earlier prefix than the reading has reached is kept for another pass.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from features.errors import EventRefused, StateCorrupt
from features.group import FoldGroup
from features.state import Kept, encode, opened
from features.store import NO_TOPIC, Group, Position
from features.vector import Assembled
from models.deployment import Deployment
from models.learner import vector_to_x
from models.records import PredictionRecord, Value, decode_record, decode_sample
from models.scorer import Place, Request
from models.snapshot import Snapshot
from models.spec import Model
from models.task import score

from .bases import Bases, restore

T = TypeVar("T")

CHUNK = 5_000


class Log(Protocol):
    """Records by their offsets: on a broker, or spooled to disk."""

    def bounds(self, topic: str) -> Mapping[int, Any]:
        """Returns `earliest` and `highwater` of each partition."""
        ...

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[list[Any]]:
        """Yields records from start up to, not including, end."""
        ...


class Recomputed(NamedTuple):
    """A logged prediction and the vector that the log gives; or why none could be made."""

    prediction: PredictionRecord
    assembled: Assembled | None
    reason: str = ""
    cut: frozenset[str] = frozenset()  # compacted topics of whose records before the positions some are gone


class Walk:
    """One group, read forward from the log or from a base."""

    def __init__(self, deployment: Deployment, group: Group, log: Log, first: int, end: int) -> None:
        project = deployment.project
        source = next(source for source in project.sources if source.topic == group.topic)
        position = Position.start(NO_TOPIC, first)
        plans = project.plans_over(source)
        partitions = deployment.partitions(source)
        self.fold = FoldGroup(group, source, plans, deployment.codes, position, partitions, 1 << 62)
        self._plans = dict(zip(self.fold.prefixes, plans, strict=True))
        self._log = log
        self._records: Iterator[Any] | None = None
        self._head: Any = None
        self._encoded: dict[str, tuple[int, bytes]] = {}
        self._end = end
        self._compacted = source.compacted
        self._gap: int | None = None  # the first offset whose record was compacted away

    def begin(self, bases: Bases | None, at_most: int) -> None:
        """Starts from the newest base at or before a position, if there is one beyond the start."""
        base = None if bases is None else bases.newest(self.fold, at_most)
        if base is not None and base.header.next > self.fold.position.next:
            restore(self.fold, base)

    def to(self, position: int) -> None:
        """Folds everything before a position."""
        if self._records is None:
            group = self.fold.group
            batches = self._log.read(group.topic, group.partition, self.fold.position.next, self._end)
            self._records = (record for batch in batches for record in batch)
            self._head = next(self._records, None)
        while self._head is not None and self._head.offset < position:
            head = self._head
            self._missed(head.offset)
            self.fold.step(self.fold.prepare(head.offset, head.key, head.value, head.timestamp), {})
            self._head = next(self._records, None)
        self._missed(position)

    def _missed(self, offset: int) -> None:
        """Notes the first record that compaction took, when all before an offset have been read."""
        if self._compacted and self._gap is None and self.fold.position.next < offset:
            self._gap = self.fold.position.next

    def cut(self, position: int) -> bool:
        """Whether compaction has taken records before a position, all of which have been read."""
        return self._gap is not None and self._gap < position

    def state(self, key: str) -> bytes | None:
        """Returns the bytes of a state as it stands."""
        found: dict[str, Kept | None] = {}
        self.fold.cached([key], found)
        state = found.get(key)
        if state is None or isinstance(state, bytes):
            return state
        known = self._encoded.get(key)
        if known is None or known[0] != state.stamp:
            known = self._encoded[key] = (state.stamp, encode(self._plans[key[: key.index(".") + 1]], state))
        return known[1]


class Recompute:
    """The vectors of a model's logged predictions, from the log.

    Args:
        deployment: the project, with the groups that the log's partitions are.
        model: whose predictions these are.
        log: where the records are.
        first: the offset at which each group began, where that was not the start of the log.
        bases: states to begin from, where the log has become too short or too long.
    """

    def __init__(
        self,
        deployment: Deployment,
        model: Model,
        log: Log,
        first: Mapping[str, int] | None = None,
        bases: Bases | None = None,
    ) -> None:
        self.deployment = deployment
        self.model = model
        self.log = log
        self.scorer = deployment.scorers[model.name]
        self._first = dict(first or {})
        self._bases = bases
        self._walks: dict[Group, Walk] = {}
        self.groups = {group.name: group for group in self.scorer.groups}
        bounds = {topic: log.bounds(topic) for topic in {group.topic for group in self.scorer.groups}}
        self._ends = {g.name: bounds[g.topic][g.partition].highwater for g in self.scorer.groups}
        self._earliest = {g.name: bounds[g.topic][g.partition].earliest for g in self.scorer.groups}

    def vectors(self, predictions: Iterator[PredictionRecord]) -> Iterator[Recomputed]:
        """Yields every prediction with its vector, in the order of the log but for those kept for another pass."""
        while True:
            later: list[PredictionRecord] = []
            self._walks = {}
            for chunk in _chunks(predictions):
                good: list[PredictionRecord] = []
                for prediction in chunk:
                    reason = self._uncheckable(prediction)
                    if reason:
                        yield Recomputed(prediction, None, reason)
                    else:
                        good.append(prediction)
                self._begin(good)
                yield from self._chunk(good, later)
            if not later:
                return
            predictions = iter(sorted(later, key=lambda p: sum(p.as_of.values())))

    def _begin(self, chunk: Sequence[PredictionRecord]) -> None:
        """Starts the groups that a chunk needs and that have not been read yet, as late as it allows."""
        for group in self.scorer.groups:
            needed = [p.as_of[group.name] for p in chunk if group.name in p.as_of]
            if needed and group not in self._walks:
                first = self._first.get(group.name, 0)
                walk = Walk(self.deployment, group, self.log, first, self._ends[group.name])
                walk.begin(self._bases, min(needed))
                self._walks[group] = walk

    def _uncheckable(self, prediction: PredictionRecord) -> str:
        if prediction.fingerprint != self.model.fingerprint:
            return "made by another version of the project"
        if "sequential" in prediction.flags:
            return "made with the items before it in a batch, which no position names"
        for name, position in prediction.as_of.items():
            if name not in self.groups:
                return f"read from {name}, which the project does not read now"
            if position > self._ends[name]:
                return f"the log of {name} ends before {position}"
            if not self._reachable(name, position):
                return f"the log of {name} begins at {self._earliest[name]}, and no base reaches back from {position}"
        return ""

    def _reachable(self, name: str, position: int) -> bool:
        earliest = self._earliest[name]
        if earliest <= self._first.get(name, 0):
            return True
        if self._bases is None:
            return False
        found = self._bases.newest_position(self.groups[name], position)
        return found is not None and found >= earliest

    def _chunk(
        self, chunk: Sequence[PredictionRecord], later: list[PredictionRecord]
    ) -> Iterator[Recomputed]:
        ready: list[tuple[PredictionRecord, Request, list[Place]]] = []
        for prediction in chunk:
            if any(
                self._walks[self.groups[name]].fold.position.next > p for name, p in prediction.as_of.items()
            ):
                later.append(prediction)
                continue
            source = self.model.spec.request
            event = source.decode(bytes(prediction.event))
            request = Request(event, source.time_of(event), self.deployment.home(source, event))
            ready.append((prediction, request, self.scorer.places(request)))
        taken: list[dict[str, bytes | None]] = [{} for _ in ready]
        for group, walk in self._walks.items():
            due = [
                (prediction.as_of[group.name], k)
                for k, (prediction, _, _) in enumerate(ready)
                if group.name in prediction.as_of
            ]
            for position, k in sorted(due):
                walk.to(position)
                for place in ready[k][2]:
                    for other, key in place.reads:
                        if other == group:
                            taken[k][key] = walk.state(key)
        for (prediction, request, places), data in zip(ready, taken, strict=True):
            states = {
                key: None if data[key] is None else opened(place.plan, data[key] or b"")
                for place in places
                for _, key in place.reads
            }
            try:
                assembled = self.scorer.assemble(request, places, states)
            except EventRefused as refused:
                yield Recomputed(prediction, None, f"refused: {refused.what}")
                continue
            yield Recomputed(prediction, assembled, cut=self._cut(prediction))

    def _cut(self, prediction: PredictionRecord) -> frozenset[str]:
        as_of = prediction.as_of.items()
        return frozenset(
            self.groups[name].topic
            for name, position in as_of
            if self._walks[self.groups[name]].cut(position)
        )


def _chunks(predictions: Iterator[PredictionRecord]) -> Iterator[list[PredictionRecord]]:
    while chunk := list(islice(predictions, CHUNK)):
        yield chunk


def make_bases(
    deployment: Deployment, log: Log, bases: Bases, first: Mapping[str, int] | None = None
) -> list[Path]:
    """Writes a base of every group that has states, at the end of its log; returns the files.

    Raises:
        StateCorrupt: events between the newest base and the start of the log are gone.
    """
    made = []
    for source in deployment.project.sources:
        if not deployment.project.plans_over(source):
            continue
        bounds = log.bounds(source.topic)
        for group in deployment.groups[source.topic]:
            earliest, end = bounds[group.partition].earliest, bounds[group.partition].highwater
            walk = Walk(deployment, group, log, (first or {}).get(group.name, 0), end)
            walk.begin(bases, end)
            if walk.fold.position.next < earliest:
                raise StateCorrupt(
                    f"the log of {group.name} begins at {earliest}",
                    why=f"events from {walk.fold.position.next} on are gone, and no base reaches that far",
                    fix="keep the log for longer than the time between two bases",
                )
            walk.to(end)
            made.append(bases.write(walk.fold))
    return made


def predictions_of(log: Log, model: Model) -> Iterator[PredictionRecord]:
    """Yields the predictions in a model's log, a partition after the other."""
    for partition, bounds in sorted(log.bounds(model.log_topic).items()):
        for batch in log.read(model.log_topic, partition, bounds.earliest, bounds.highwater):
            for _, entry in _decoded(batch, decode_record):
                if isinstance(entry, PredictionRecord):
                    yield entry


def _decoded(records: Sequence[Any], decode_value: Callable[[bytes], T]) -> Iterator[tuple[int, T]]:
    """Yields offsets and what stands there, but for what cannot be read: it went to the dead letters."""
    for record in records:
        try:
            entry = decode_value(record.value or b"")
        except msgspec.DecodeError:
            continue
        yield record.offset, entry


def same_vector(one: Sequence[Value], other: Sequence[Value]) -> bool:
    """Tells whether two vectors are equal in type and bits."""
    return len(one) == len(other) and all(map(same_value, one, other))


def same_value(one: object, other: object) -> bool:
    """Tells whether two values are equal in type and bits."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack("<d", one) == struct.pack("<d", other)
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same_value(one[k], other[k]) for k in one)
    return one == other


def rescored(
    log: Log,
    model: Model,
    predictions: Sequence[PredictionRecord],
    tick: Callable[[int], None] | None = None,
    begin: Snapshot | None = None,
) -> Iterator[tuple[PredictionRecord, Any, str]]:
    """Yields every prediction with the score that its version gives for its vector, or why there is none.

    Versions are rebuilt from the samples: version n is what the first n of them make.

    Args:
        log: where the samples are.
        model: whose predictions these are.
        predictions: what is scored, in any order; they come back by version.
        tick: is told of each sample that was replayed.
        begin: a version to go on from, which saves the samples before it. Its learner is trained on.
    """
    order = sorted(predictions, key=lambda p: p.version)
    learner = model.new_learner()
    if begin is not None:
        learner.resume(begin.learner, begin.version, begin.position, learner.monitor)
    bounds = log.bounds(model.samples_topic)[0]
    if bounds.earliest > learner.next_offset:
        for prediction in order:
            yield (
                prediction,
                None,
                f"the samples begin at {bounds.earliest}, and no kept version reaches back",
            )
        return
    batches = log.read(model.samples_topic, 0, learner.next_offset, bounds.highwater)
    samples = (found for batch in batches for found in _decoded(batch, decode_sample))
    for prediction in order:
        while learner.version < prediction.version:
            found = next(samples, None)
            if found is None:
                break
            offset, sample = found
            learner.on_sample(sample, offset)
            if tick is not None:
                tick(learner.version)
        if learner.version != prediction.version:
            yield prediction, None, f"the samples end at version {learner.version}"
            continue
        x = vector_to_x(model.vector.names, prediction.vector, model.spec.missing)
        yield prediction, score(learner.model, x, model.task), ""
