"""Replay: the handlers of the worker over records in memory, without broker or store.

It is the run that a worker without any lag would have made: sources are merged by event time, and at equal instants
what only informs comes before what is asked. The vectors are those of the worker at the same prefix, by the same code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heapreplace
from typing import Any, NamedTuple

import msgspec

from features.clock import NEVER
from features.errors import EventRefused
from features.forgetting import Forgetting, encode_forgetting
from features.group import FoldGroup, Prepared
from features.source import Source, Tombstone
from features.state import Kept
from features.store import NO_TOPIC, Group, Position
from models.join import Join
from models.join_forgotten import naming
from models.join_rules import UNLABELLED
from models.learner import Learner
from models.outcomes import Outcomes
from models.predictor import Predictor
from models.project import Project
from models.records import ForgetRecord, LabelRecord, LogRecord, PredictionRecord, ProgressRecord, Sample
from models.scorer import Request, Scorer
from models.spec import Model

UNBOUNDED = 1 << 62


class Scoring(NamedTuple):
    """One request, scored."""

    model: str
    prediction: PredictionRecord


class _Asked(NamedTuple):
    model: Model
    scorer: Scorer
    join: Join
    learner: Learner


class Replay:
    """A project at work on one partition of every source.

    Args:
        project: what is replayed.
        learn: whether models learn on the way; without it every score is version 0's.
    """

    def __init__(self, project: Project, *, learn: bool = True) -> None:
        self.project = project
        self.counts: Counter[str] = Counter()
        self._learn = learn
        codes = {plan.fingerprint: str(k) for k, plan in enumerate(project.plans)}
        topics = [source.topic for source in project.sources]
        self._groups = {topic: [Group(topic, 0, f"{{g{k}}}")] for k, topic in enumerate(topics)}
        self._folds = {
            source.topic: FoldGroup(
                self._groups[source.topic][0],
                source,
                project.plans_over(source),
                codes,
                Position.start(NO_TOPIC),
                1,
                UNBOUNDED,
            )
            for source in project.sources
        }
        self._offsets: Counter[str] = Counter()
        self.models = [self._asked(model, codes) for model in project.models]

    def _asked(self, model: Model, codes: Mapping[str, str]) -> _Asked:
        label = model.spec.label
        feed = (model.spec.request if label is None else label.source).topic + "/0"
        rules = UNLABELLED if label is None else label.rules((feed,))
        rules = msgspec.structs.replace(
            rules, feeds=(feed,), vectors="redis"
        )  # there is no log to read them from
        scorer = Scorer(model, self._groups, codes)
        named = naming(model.spec.request, [view.of for view in self.project.views])
        return _Asked(model, scorer, Join(rules, f"{model.log_topic}/0", named), model.new_learner())

    def learner(self, model: str) -> Learner:
        """Returns the learner of a model as it stands."""
        return next(asked.learner for asked in self.models if asked.model.name == model)

    def event(self, source: Source[Any], value: bytes | Tombstone) -> list[Scoring]:
        """Folds one record; scores it if it is a request, learns from it if it is a label."""
        return self.prepared(source, self.prepare(source, value), value)

    def prepared(self, source: Source[Any], prepared: Prepared, value: bytes | Tombstone) -> list[Scoring]:
        """Does the same for a record that has been decoded."""
        fold = self._folds[source.topic]
        fold.step(prepared, {})
        self.counts[f"events:{source.topic}"] += 1
        if prepared.refused is not None:
            self.counts[f"dead_letter:{prepared.refused.reason}"] += 1
            return []
        made: list[Scoring] = []
        if prepared.forgetting is not None:
            for asked in self.models:
                if asked.model.spec.request is source:
                    self._forget(asked, prepared.forgetting, fold)
            return made
        for asked in self.models:
            label = asked.model.spec.label
            if label is not None and label.source is source:
                ident, truth = source.id_of(prepared.event), getattr(prepared.event, label.value.name)
                offset = fold.position.next - 1
                self._log(
                    asked,
                    LabelRecord(id=ident, t=prepared.t, label=truth, source=fold.group.name, offset=offset),
                )
                self._progress(asked, fold)
            if asked.model.spec.request is source and not isinstance(value, Tombstone):
                scoring = self._score(asked, prepared, value)
                if scoring is not None:
                    made.append(scoring)
                    self._log(asked, scoring.prediction)
                if label is None:
                    self._progress(asked, fold)
        return made

    def prepare(self, source: Source[Any], value: bytes | Tombstone) -> Prepared:
        """Decodes the next record of a source for `prepared`."""
        fold, offset = self._folds[source.topic], self._offsets[source.topic]
        self._offsets[source.topic] += 1
        if isinstance(value, Tombstone):
            return fold.prepare(offset, value.key, None, value.t)
        return fold.prepare(offset, _key_of(source, value), value)

    def _score(self, asked: _Asked, prepared: Prepared, value: bytes) -> Scoring | None:
        request = Request(prepared.event, prepared.t, 0)
        places = asked.scorer.places(request)
        states: dict[str, Kept | None] = {}
        for place in places:
            for group, key in place.reads:
                if self._folds[group.topic].cached([key], states):
                    states[key] = None
        predictor = Predictor(asked.model, asked.learner.model, asked.learner.version)
        try:
            prediction, assembled = asked.scorer.score(request, places, states, predictor)
        except EventRefused as refused:
            self.counts[f"dead_letter:{refused.reason}"] += 1
            return None
        positions = {group: self._folds[group.topic].position.next for group in asked.scorer.groups}
        self.counts["predictions"] += 1
        record = PredictionRecord(
            id=asked.model.spec.request.id_of(prepared.event),
            t=prepared.t,
            origin="stream",
            vector=assembled.vector,
            score=prediction.score,
            version=prediction.version,
            fingerprint=asked.model.fingerprint,
            as_of=asked.scorer.as_of(places, positions),
            event=msgspec.Raw(value),
            flags=assembled.flags,
        )
        return Scoring(asked.model.name, record)

    def _progress(self, asked: _Asked, fold: FoldGroup) -> None:
        clock = fold.position.clock
        if clock > -(1 << 53):  # a clock that has begun
            self._log(asked, ProgressRecord(source=fold.group.name, offset=fold.position.next, t=clock))

    def _forget(self, asked: _Asked, what: Forgetting, fold: FoldGroup) -> None:
        """Takes back what waits to be learned, and the outcomes that were counted."""
        at = fold.position.next - 1
        self._log(
            asked, ForgetRecord(entity=what.entity, key=what.key, source=fold.group.name, offset=at, t=0)
        )
        outcomes = self._folds.get(asked.model.samples_topic)
        if outcomes is not None:
            offset = self._offsets[asked.model.samples_topic]
            self._offsets[asked.model.samples_topic] += 1
            outcomes.step(outcomes.prepare(offset, None, encode_forgetting(what)), {})

    def _log(self, asked: _Asked, record: LogRecord) -> None:
        offset = self._offsets[asked.model.log_topic]
        self._offsets[asked.model.log_topic] += 1
        for sample in asked.join.fold(record, offset):
            self._sample(asked, sample)

    def _sample(self, asked: _Asked, sample: Sample) -> None:
        offset = self._offsets[asked.model.samples_topic]
        self._offsets[asked.model.samples_topic] += 1
        self.counts[f"sample:{sample.kind}"] += 1
        if self._learn:
            asked.learner.on_sample(sample, offset)
        fold = self._folds.get(asked.model.samples_topic)
        if fold is not None:
            outcomes = fold.source
            assert isinstance(outcomes, Outcomes)
            fold.step(fold.take(offset, outcomes.of(sample)), {})


def _key_of(source: Source[Any], value: bytes) -> bytes:
    """Returns the key of a record that came without one: that of its event, where anything depends on it."""
    if not source.compacted:
        return b""  # one partition: any key is in its place
    try:
        return source.key_bytes(source.decode(value)) or b""
    except EventRefused:
        return b""  # the fold tells why


class Stream(NamedTuple):
    """The records of one source, in the order of its log."""

    source: Source[Any]
    values: Iterable[bytes | Tombstone]


def merged(
    replay: Replay, streams: Sequence[Stream]
) -> Iterator[tuple[Source[Any], Prepared, bytes | Tombstone]]:
    """Yields the records of all streams by event time, each stream in its own order.

    At equal instants a source that is only read comes before one that is asked.
    """
    heads: list[tuple[int, bool, int, Prepared, bytes | Tombstone, Iterator[bytes | Tombstone]]] = []
    asked = {id(model.spec.request) for model in replay.project.models}
    for k, stream in enumerate(streams):
        values = iter(stream.values)
        for value in values:
            prepared = replay.prepare(stream.source, value)
            heads.append((prepared.t, id(stream.source) in asked, k, prepared, value, values))
            break
    heapify(heads)
    while heads:
        _, late, k, prepared, value, values = heads[0]
        source = streams[k].source
        yield source, prepared, value
        following = next(values, None)
        if following is None:
            heads[0] = heads[-1]
            heads.pop()
            heapify(heads)
        else:
            upcoming = replay.prepare(source, following)
            # a record that is no event has no time: it keeps its place behind the one before
            t = upcoming.t if upcoming.refused is None and upcoming.t != NEVER else heads[0][0]
            heapreplace(heads, (t, late, k, upcoming, following, values))
