"""What the join must do, by brute force: the clocks are read anew off the whole prefix at every record.

Written from the rules alone, with none of the code under test: no heaps, no cells, nothing incremental but
the stage that each id is in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, Protocol

from msgspec import Raw, UnsetType

from models.records import ForgetRecord, LabelRecord, LogRecord, PredictionRecord, ProgressRecord, Sample

FOREVER_AGO = float("-inf")
EARLY_LABELS_OF_AN_ID = 8


class Rules(Protocol):
    """What of the rules a sample depends on."""

    @property
    def within(self) -> int: ...
    @property
    def absent(self) -> Any: ...
    @property
    def silence(self) -> int: ...
    @property
    def lateness(self) -> int: ...
    @property
    def counts(self) -> Literal["first", "last"]: ...
    @property
    def learn_corrections(self) -> bool: ...
    @property
    def feeds(self) -> tuple[str, ...]: ...


@dataclass
class Story:
    """One event id: `labels` in the order they came, as (time, value)."""

    stage: Literal["early", "waiting", "done"]
    prediction: PredictionRecord | None = None
    labels: list[tuple[int, Any]] = field(default_factory=list)
    fallback: bool = False
    gives_up: float = FOREVER_AGO
    counted: int | None = None
    forgotten: bool = False


@dataclass
class Oracle:
    rules: Rules
    group: str
    names: Callable[[bytes], Collection[tuple[str, str]]] = lambda _: ()
    forgets: list[ForgetRecord] = field(default_factory=list)
    clocks_then: list[float] = field(default_factory=list)  # of the predictions, at each of these
    log: list[LogRecord] = field(default_factory=list)
    effective: list[LogRecord] = field(default_factory=list)
    label_time: float = FOREVER_AGO
    stories: dict[str, Story] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    offset: int = 0
    now: int = 0

    def fold(self, record: LogRecord, offset: int) -> list[Sample]:
        self.offset, self.now = offset, record.t
        before = len(self.samples)
        if isinstance(record, ForgetRecord):
            self.forget(record)
            return []
        if not isinstance(record, PredictionRecord) and record.offset < self.next_of(record.source):
            self.counters["label_repeated" if isinstance(record, LabelRecord) else "progress_repeated"] += 1
            return []
        self.effective.append(record)
        predictions = witnessed([r for r in self.effective if isinstance(r, PredictionRecord)])
        self.label_time = max(self.label_time, self.slowest_feed())
        horizon = min(predictions, self.label_time + self.rules.silence - self.rules.lateness)

        self.expire(record, horizon)
        for ident in [i for i, s in self.stories.items() if s.stage == "done"]:
            if self.deadline(ident) + self.memory() < horizon:
                del self.stories[ident]
        for ident in [i for i, s in self.stories.items() if s.stage == "early" and s.gives_up < predictions]:
            story = self.stories.pop(ident)
            for _ in story.labels:
                self.counters["label_fallback" if story.fallback else "label_unknown"] += 1

        if isinstance(record, PredictionRecord):
            self.predict(record, horizon, predictions)
        elif isinstance(record, LabelRecord):
            self.label(record, predictions)
        return self.samples[before:]

    def forget(self, record: ForgetRecord) -> None:
        if any(
            (r.source, r.offset) >= (record.source, record.offset)
            for r in self.forgets
            if r.source == record.source
        ):
            self.counters["forgetting_repeated"] += 1
            return
        self.forgets.append(record)
        self.clocks_then.append(witnessed([r for r in self.effective if isinstance(r, PredictionRecord)]))
        self.counters["forgetting"] += 1
        for story in self.stories.values():
            if story.prediction is not None:
                whom = self.names(bytes(story.prediction.event))
                story.forgotten |= (record.entity, record.key) in whom

    # -- clocks

    def next_of(self, source: str) -> int:
        seen = 0
        for r in self.effective:
            if isinstance(r, LabelRecord) and r.source == source:
                seen = max(seen, r.offset + 1)
            elif isinstance(r, ProgressRecord) and r.source == source:
                seen = max(seen, r.offset)
        return seen

    def slowest_feed(self) -> float:
        heard = {r.source for r in self.effective if not isinstance(r, PredictionRecord)} | set(
            self.rules.feeds
        )
        times = []
        for source in heard:
            of_source = [
                r for r in self.effective if not isinstance(r, PredictionRecord) and r.source == source
            ]
            labels = witnessed([r for r in of_source if isinstance(r, LabelRecord)])
            progress = [r.t for r in of_source if isinstance(r, ProgressRecord)]
            times.append(max([labels, *progress]))
        return min(times, default=FOREVER_AGO)

    def deadline(self, ident: str) -> int:
        prediction = self.stories[ident].prediction
        assert prediction is not None
        return prediction.t + self.rules.within

    def memory(self) -> int:
        return self.rules.lateness + (self.rules.within if self.rules.learn_corrections else 0)

    # -- expiry

    def expire(self, record: LogRecord, horizon: float) -> None:
        due = sorted(
            (self.deadline(ident), ident)
            for ident, story in self.stories.items()
            if story.stage == "waiting" and self.deadline(ident) < horizon
        )
        for deadline, ident in due:
            own = isinstance(record, LabelRecord) and record.id == ident and record.t <= deadline
            if not own:
                self.leave(ident)

    def leave(self, ident: str) -> None:
        story = self.stories[ident]
        deadline = self.deadline(ident)
        in_time, beyond = self.split(story)
        story.stage = "done"
        if in_time:
            story.counted = in_time[0]
            self.counters["label_joined"] += 1
            self.emit(story, "label", in_time)
        elif isinstance(self.rules.absent, UnsetType) or self.rules.absent is None:
            self.counters["prediction_unlabelled"] += 1
        else:
            self.counters["prediction_absent"] += 1
            self.emit(story, "absent", (deadline, self.rules.absent))
        if beyond:
            self.correct(story, beyond)

    def split(self, story: Story) -> tuple[tuple[int, Any] | None, tuple[int, Any] | None]:
        """The label that counts in time, and the one beyond the horizon."""
        assert story.prediction is not None
        horizon = story.prediction.t + self.rules.within
        if self.rules.counts == "first":
            first = story.labels[0] if story.labels else None
            return (first, None) if first and first[0] <= horizon else (None, first)
        in_time, beyond = None, None
        for label in story.labels:
            if label[0] <= horizon and (in_time is None or label[0] >= in_time[0]):
                in_time = label
            if label[0] > horizon and (beyond is None or label[0] >= beyond[0]):
                beyond = label
        return in_time, beyond

    # -- records

    def predict(self, record: PredictionRecord, horizon: float, predictions: float) -> None:
        story = self.stories.get(record.id)
        forgets = record.t + self.rules.within + self.rules.lateness
        if "fallback" in record.flags:
            self.counters["prediction_fallback"] += 1
            if story is None and forgets >= predictions:
                self.stories[record.id] = Story("early", fallback=True, gives_up=forgets)
            elif story is not None and story.stage == "early":
                story.fallback = True
                story.gives_up = max(story.gives_up, forgets)
        elif story is not None and story.stage == "done":
            self.counters["prediction_duplicate"] += 1
        elif story is not None and story.stage == "waiting":
            self.counters["prediction_duplicate"] += 1
            assert story.prediction is not None
            if (story.prediction.origin, record.origin) == ("stream", "api"):
                labels = [label for label in self.split(story) if label]
                self.wait(record, sorted(labels, key=lambda label: label[0]), horizon)
        elif forgets < horizon:
            self.counters["prediction_late"] += 1
        else:
            self.wait(record, story.labels if story else [], horizon)

    def wait(self, record: PredictionRecord, labels: list[tuple[int, Any]], horizon: float) -> None:
        whom = self.names(bytes(record.event)) if self.forgets else ()
        remembered = horizon - self.rules.within - self.memory()
        of_them = [
            (r, t) for r, t in zip(self.forgets, self.clocks_then, strict=True) if (r.entity, r.key) in whom
        ]
        # each names its own position, and the newest of them says how long that is remembered
        newest: dict[tuple[str, str], float] = {}
        for r, t in of_them:
            newest[r.entity, r.key] = max(t, newest.get((r.entity, r.key), t))
        stale = [
            r
            for r, _ in of_them
            if record.as_of.get(r.source, r.offset + 1) <= r.offset and newest[r.entity, r.key] >= remembered
        ]
        self.counters["prediction_forgotten"] += bool(stale)
        self.stories[record.id] = Story("waiting", prediction=record, forgotten=bool(stale))
        for label in labels:
            self.take(record.id, label)

    def take(self, ident: str, label: tuple[int, Any]) -> None:
        story = self.stories[ident]
        if self.rules.counts == "first":
            if story.labels:
                self.counters["label_duplicate"] += 1
                return
            story.labels.append(label)
            if label[0] <= self.deadline(ident):
                self.leave(ident)
            return
        earlier = self.split(story)
        side = 0 if label[0] <= self.deadline(ident) else 1
        if earlier[side]:
            self.counters["label_revised"] += 1
        story.labels.append(label)

    def label(self, record: LabelRecord, predictions: float) -> None:
        label = (record.t, record.label)
        story = self.stories.get(record.id)
        if story is not None and story.stage == "waiting":
            self.take(record.id, label)
        elif story is not None and story.stage == "done":
            self.correct(story, label)
        else:
            self.early(record.id, story, label, predictions)

    def correct(self, story: Story, label: tuple[int, Any]) -> None:
        revises = story.counted is None or (self.rules.counts == "last" and label[0] > story.counted)
        if not revises:
            self.counters["label_duplicate"] += 1
            return
        self.counters["label_correction"] += 1
        story.counted = label[0]
        if self.rules.learn_corrections:
            self.emit(story, "correction", label)

    def early(self, ident: str, story: Story | None, label: tuple[int, Any], predictions: float) -> None:
        gives_up = label[0] + self.rules.within + self.rules.lateness
        if story is None:
            if gives_up < predictions:
                self.counters["label_unknown"] += 1
                return
            story = self.stories[ident] = Story("early")
        if self.rules.counts == "first" and story.labels:
            self.counters["label_duplicate"] += 1
            return
        latest_of_each_time = {**dict(story.labels), label[0]: label[1]}
        kept = sorted(latest_of_each_time.items(), key=lambda item: item[0])[-EARLY_LABELS_OF_AN_ID:]
        if len(kept) == len(story.labels):
            self.counters["label_revised"] += 1
        story.labels = kept
        story.gives_up = max(story.gives_up, gives_up)

    def emit(
        self, story: Story, kind: Literal["label", "absent", "correction"], label: tuple[int, Any]
    ) -> None:
        prediction = story.prediction
        assert prediction is not None
        if story.forgotten:
            self.counters["sample_foreign"] += 1
            return
        index = sum(1 for sample in self.samples if sample.offset == self.offset)
        self.samples.append(
            Sample(
                id=prediction.id,
                t=prediction.t,
                label=label[1],
                label_t=max(label[0], prediction.t),
                known=max(label[0], prediction.t, self.now),
                kind=kind,
                vector=prediction.vector,
                score=prediction.score,
                version=prediction.version,
                fingerprint=prediction.fingerprint,
                origin=prediction.origin,
                event=Raw(bytes(prediction.event)),
                source=self.group,
                offset=self.offset,
                index=index,
            )
        )


def witnessed(records: list[PredictionRecord] | list[LabelRecord]) -> float:
    """The largest time that two records in a row, of different ids, both reached."""
    witnesses: list[PredictionRecord | LabelRecord] = []
    for record in records:
        if not witnesses or witnesses[-1].id != record.id:
            witnesses.append(record)
    return max(
        (min(one.t, other.t) for one, other in pairwise(witnesses)),
        default=FOREVER_AGO,
    )
