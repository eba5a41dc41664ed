"""The join: one partition of a model's log, folded into samples.

Predictions wait for their labels; whatever leaves does so at a record of the log, so the samples are a
function of the folded prefix alone. All times are milliseconds of event time, and there is no clock but the
two that the log itself carries:

- the *prediction clock*, the largest `min(t, t of the prediction before)`: a single stray moves nothing;
- the *label clock*: per group of the label source the largest progress, or `min(t, t of the label before)`;
  of these the least, so a group that stands still holds the absents back. It is read with
  `silence - lateness` added: the source may be quiet that long, and may be late that much. It never goes back
  when another group turns up.

A record of the same id as the one before it in its feed is no second witness: retries are not independent.
A time has *passed* when a clock is later than it. What an event id goes through:

```
  label first        prediction                                           both clocks passed
 ───────────▶ early ───────────▶ waiting ──label in time, horizon passed──▶ done ─────────▶ forgotten
                │                  │ ▲                                       │
                ▼ nobody came      └─┘ api after stream                      └─▶ correction
             counted
```

Each record first moves the clocks, then lets leave what is due, in (deadline, id) order, then takes effect;
only a label in time is never beaten by the expiry that it causes itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field

from models.errors import ModelError
from models.records import (
    FALLBACK,
    LabelRecord,
    LogRecord,
    PredictionRecord,
    ProgressRecord,
    Sample,
    Scalar,
    Score,
    Value,
)

__all__ = ["Join", "JoinRules", "RulesError"]

_NEVER = -(2**60)  # earlier than every time, and still an int64 after any sum of durations
_LONGEST = 2**53
_REVISIONS = 8  # labels kept of an id whose prediction has not come: a retrying producer must not grow a cell


_Label = tuple[int, Scalar]  # its time, its value


class RulesError(ModelError):
    """The stored join was folded by other rules: start a new version of the model beside the old one."""


class JoinRules(Struct, frozen=True, kw_only=True):
    """When a prediction meets its label. Durations are in milliseconds.

    Attributes:
        within: the horizon: a label counts up to and including `t + within`.
        absent: what silence means; without a value a prediction that stays unlabelled is dropped.
        silence: how long the label source may say nothing and still be taken for alive.
        lateness: how late a record of the sources may be; also how long an id is remembered.
        counts: of several labels the first in the log, or the last in event time (samples then leave at the
            horizon).
        learn_corrections: a label after the sample left leaves as a sample of its own.
        max_pending: predictions and early labels that may wait before `Join.full`.
        feeds: groups of the label source that must have been heard before anything can be absent.
    """

    within: int
    absent: Scalar | UnsetType | None = UNSET
    silence: int = 0
    lateness: int = 0
    counts: Literal["first", "last"] = "first"
    learn_corrections: bool = False
    max_pending: int = 1_000_000
    feeds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("within", "silence", "lateness"):
            if not 0 <= getattr(self, name) <= _LONGEST:
                raise ValueError(f"{name}={getattr(self, name)} ms: expected 0 to {_LONGEST}")
        if self.max_pending < 1:
            raise ValueError(f"max_pending={self.max_pending}: expected at least 1")


class _Waiting(Struct, array_like=True, gc=False):
    """A prediction whose sample has not left, with the labels in time and beyond the horizon so far."""

    t: int
    origin: Literal["api", "stream"]
    vector: list[Value]
    score: Score
    version: int
    fingerprint: str
    event: bytes
    label: _Label | None = None
    beyond: _Label | None = None


class _Done(Struct, array_like=True, gc=False):
    """A prediction whose wait is over: time of the label that counted, the rest while it may be corrected."""

    deadline: int
    label_t: int | None
    kept: _Waiting | None


class _Early(Struct, array_like=True, gc=False):
    """Labels, in time order, whose prediction has not come; `fallback` when only a fallback score has."""

    until: int
    labels: list[_Label]
    fallback: bool = False


class _Clock(Struct, array_like=True, gc=False):
    now: int = _NEVER
    before: int = _NEVER
    ident: str = ""

    def witness(self, ident: str, t: int) -> bool:
        """Whether the clock moved."""
        before = self.before
        if ident == self.ident and before != _NEVER:
            return False
        self.before, self.ident = t, ident
        return self.reach(t if t < before else before)

    def reach(self, time: int) -> bool:
        if time <= self.now:
            return False
        self.now = time
        return True


class _Feed(Struct, array_like=True, gc=False):
    """One group of the label source: everything before `next` was seen."""

    next: int = 0
    clock: _Clock = field(default_factory=_Clock)


class _Meta(Struct, array_like=True):
    rules: bytes
    predictions: _Clock
    labels: int
    feeds: dict[str, _Feed]


# Dicts keep their order: a score must leave in the bytes it came in, whichever way it took.
_encode = msgspec.msgpack.Encoder().encode
_waiting = msgspec.msgpack.Decoder(_Waiting).decode
_done = msgspec.msgpack.Decoder(_Done).decode
_early = msgspec.msgpack.Decoder(_Early).decode
_meta = msgspec.msgpack.Decoder(_Meta).decode


class _Cells:
    """The encoded cells of one stage, by event id, with what changed since the caller last asked."""

    __slots__ = ("bytes", "changed", "of", "prefix")

    def __init__(self, prefix: bytes) -> None:
        self.of: dict[str, bytes] = {}
        self.bytes = 0
        self.changed: dict[str, None] = {}  # a set whose order is that of the log
        self.prefix = prefix

    def put(self, ident: str, cell: bytes) -> None:
        old = self.of.get(ident)
        self.bytes += len(cell) if old is None else len(cell) - len(old)
        self.of[ident] = cell
        self.changed[ident] = None

    def drop(self, ident: str) -> None:
        self.bytes -= len(self.of.pop(ident))
        self.changed[ident] = None

    def take(self, into: dict[bytes, bytes | None]) -> None:
        prefix, of = self.prefix, self.of
        into.update({prefix + ident.encode(): of.get(ident) for ident in self.changed})
        self.changed.clear()


class Join:
    """The fold of one partition of a model's log, named `group`, into samples.

    Its state is the set of its cells: `load` of all cells continues exactly. The caller persists
    `take_writes` atomically with the position in the log and pauses the partition while `full`.
    """

    def __init__(self, rules: JoinRules, group: str) -> None:
        self.counters: Counter[str] = Counter()
        """What happened to the records since the start of the process, by reason; no part of the state."""
        self._rules = rules
        self._group = group
        self._absent = None if rules.absent is UNSET else rules.absent
        self._first = rules.counts == "first"
        self._slack = rules.silence - rules.lateness
        self._memory = rules.lateness + (rules.within if rules.learn_corrections else 0)

        self._meta = _Meta(_rules_bytes(rules), _Clock(), _NEVER, {name: _Feed() for name in rules.feeds})
        self._passed = _NEVER  # the earlier of the two clocks, what is due is due by it
        self._moved = False
        self._waiting = _Cells(b"p")
        self._done = _Cells(b"d")
        self._early = _Cells(b"e")

        # (time, id): an entry stays when its id moves on, and is recognised as stale when it comes up.
        self._due: list[tuple[int, str]] = []
        self._forget: list[tuple[int, str]] = []
        self._give_up: list[tuple[int, str]] = []

        self._handlers: dict[type, Callable[[Any], None]] = {
            PredictionRecord: self._on_prediction,
            LabelRecord: self._on_label,
            ProgressRecord: self._on_progress,
        }
        self._folded = -1
        self._t = _NEVER  # time of the record that is folded
        self._out: list[Sample] = []

    @classmethod
    def load(cls, rules: JoinRules, group: str, cells: Iterable[tuple[bytes, bytes]]) -> Join:
        """The join that wrote these cells, at the position they were persisted with.

        Raises:
            RulesError: they were folded by other rules.
        """
        join = cls(rules, group)
        for key, cell in cells:
            join._restore(key[:1], key[1:].decode(), cell)
        for heap in (join._due, join._forget, join._give_up):
            heapify(heap)
        for stage in (join._waiting, join._done, join._early):
            stage.changed.clear()
        join._pass()
        return join

    def fold(self, record: LogRecord, offset: int) -> list[Sample]:
        """The samples that the record at `offset` releases, in order. Offsets must rise."""
        if offset <= self._folded:
            raise ValueError(
                f"{self._group}: offset {offset} after {self._folded}: fold each record once, in order"
            )
        self._folded, self._t = offset, record.t
        self._out = []
        self._moved = True
        self._handlers[record.__class__](record)
        return self._out

    def take_writes(self) -> dict[bytes, bytes | None]:
        """Cells that changed since the last call, by key: absolute values, None to delete."""
        writes: dict[bytes, bytes | None] = {b"m": _encode(self._meta)} if self._moved else {}
        self._moved = False
        for stage in (self._waiting, self._done, self._early):
            stage.take(writes)
        return writes

    @property
    def pending_count(self) -> int:
        """Predictions that wait for a label, and labels that wait for a prediction."""
        return len(self._waiting.of) + len(self._early.of)

    @property
    def pending_bytes(self) -> int:
        """Bytes of all cells but the clocks', keys not counted."""
        return self._waiting.bytes + self._done.bytes + self._early.bytes

    @property
    def full(self) -> bool:
        """Whether the quota is reached."""
        return self.pending_count >= self._rules.max_pending

    def early_label(self, ident: str) -> int | None:
        """Time of the first label that waits for the prediction of an id; None where none does."""
        cell = self._early.of.get(ident)
        labels = [] if cell is None else _early(cell).labels
        return min(map(_time, labels), default=None)

    @property
    def oldest_pending(self) -> int | None:
        """Time of the waiting prediction that is due first."""
        while self._due:
            deadline, ident = self._due[0]
            cell = self._waiting.of.get(ident)
            if cell is not None and _waiting(cell).t + self._rules.within == deadline:
                return deadline - self._rules.within
            heappop(self._due)
        return None

    @property
    def prediction_clock(self) -> int | None:
        """How far the predictions have come, in event time."""
        return _seen(self._meta.predictions.now)

    @property
    def label_clock(self) -> int | None:
        """How far all known groups of the label source have come, `silence` and `lateness` left out."""
        return _seen(self._meta.labels)

    # -- what a record does ----------------------------------------------------------------------------------

    def _on_prediction(self, record: PredictionRecord) -> None:
        if self._meta.predictions.witness(record.id, record.t):
            self._pass()
        self._expire()
        if FALLBACK in record.flags:
            self.counters["prediction_fallback"] += 1
            self._mark_fallback(record)
        elif record.id in self._done.of:
            self.counters["prediction_duplicate"] += 1
        elif record.id in self._waiting.of:
            self.counters["prediction_duplicate"] += 1
            self._prefer_api(record)
        elif record.t + self._rules.within + self._rules.lateness < self._passed:
            # Its id may have been forgotten: it cannot be told from a repeat.
            self.counters["prediction_late"] += 1
        else:
            self._meet(record, self._take_early(record.id))

    def _on_label(self, record: LabelRecord) -> None:
        feed = self._feed(record.source)
        if record.offset < feed.next:
            self.counters["label_repeated"] += 1
            return
        feed.next = record.offset + 1
        if feed.clock.witness(record.id, record.t):
            self._pass_labels()
        ident, label = record.id, (record.t, record.label)
        cell = self._waiting.of.get(ident)
        if cell is not None:
            waiting = _waiting(cell)
            if record.t <= waiting.t + self._rules.within:
                self._expire(held=ident)
                self._label_waiting(ident, waiting, label)
                return
        self._expire()
        if ident in self._waiting.of:
            self._label_waiting(ident, _waiting(self._waiting.of[ident]), label)
        elif ident in self._done.of:
            self._label_done(ident, label)
        else:
            self._label_early(ident, label)

    def _on_progress(self, record: ProgressRecord) -> None:
        feed = self._feed(record.source)
        if record.offset < feed.next:
            self.counters["progress_repeated"] += 1
            return
        feed.next = record.offset
        # Progress is a clock already, guarded against strays where it was made.
        if feed.clock.reach(record.t):
            self._pass_labels()
        self._expire()

    def _feed(self, group: str) -> _Feed:
        feed = self._meta.feeds.get(group)
        if feed is None:
            feed = self._meta.feeds[group] = _Feed()
        return feed

    # -- stages ----------------------------------------------------------------------------------------------

    def _meet(self, record: PredictionRecord, labels: list[_Label]) -> None:
        """Lets a prediction wait, unless one of the labels that came before it makes it leave at once."""
        waiting = _Waiting(
            record.t,
            record.origin,
            record.vector,
            record.score,
            record.version,
            record.fingerprint,
            bytes(record.event),
        )
        for label in labels:
            if self._take(record.id, waiting, label):
                return
        self._waiting.put(record.id, _encode(waiting))
        heappush(self._due, (record.t + self._rules.within, record.id))

    def _prefer_api(self, record: PredictionRecord) -> None:
        waiting = _waiting(self._waiting.of[record.id])
        if record.origin == "api" and waiting.origin == "stream":
            self._waiting.drop(record.id)
            self._meet(
                record, sorted((label for label in (waiting.label, waiting.beyond) if label), key=_time)
            )

    def _label_waiting(self, ident: str, waiting: _Waiting, label: _Label) -> None:
        if self._take(ident, waiting, label):
            self._waiting.drop(ident)
        else:
            self._waiting.put(ident, _encode(waiting))

    def _take(self, ident: str, waiting: _Waiting, label: _Label) -> bool:
        """Gives a label to a waiting prediction; whether its sample left."""
        in_time = label[0] <= waiting.t + self._rules.within
        if not self._first:
            if in_time:
                waiting.label = self._later(waiting.label, label)
            else:
                waiting.beyond = self._later(waiting.beyond, label)
            return False
        if waiting.beyond is not None:
            self.counters["label_duplicate"] += 1
            return False
        if not in_time:
            waiting.beyond = label
            return False
        waiting.label = label
        self._leave(ident, waiting)
        return True

    def _later(self, held: _Label | None, label: _Label) -> _Label:
        if held is None:
            return label
        self.counters["label_revised"] += 1
        return label if label[0] >= held[0] else held

    def _leave(self, ident: str, waiting: _Waiting) -> None:
        """Ends the wait: with the label that counts, else as absent, else dropped."""
        deadline = waiting.t + self._rules.within
        label = waiting.label
        if label is not None:
            self.counters["label_joined"] += 1
            self._release(ident, waiting, "label", label)
        elif self._absent is not None:
            self.counters["prediction_absent"] += 1
            self._release(ident, waiting, "absent", (deadline, self._absent))
        else:
            self.counters["prediction_unlabelled"] += 1
        self._remember(ident, waiting, deadline)
        if waiting.beyond is not None:
            self._label_done(ident, waiting.beyond)

    def _remember(self, ident: str, waiting: _Waiting, deadline: int) -> None:
        kept = None
        if self._rules.learn_corrections and (waiting.label is None or not self._first):
            kept = msgspec.structs.replace(waiting, label=None, beyond=None)
        self._done.put(ident, _encode(_Done(deadline, _time(waiting.label) if waiting.label else None, kept)))
        heappush(self._forget, (deadline + self._memory, ident))

    def _label_done(self, ident: str, label: _Label) -> None:
        done = _done(self._done.of[ident])
        if done.label_t is not None and (self._first or label[0] <= done.label_t):
            self.counters["label_duplicate"] += 1
            return
        self.counters["label_correction"] += 1
        if done.kept is not None:
            self._release(ident, done.kept, "correction", label)
        done.label_t = label[0]
        if self._first:
            done.kept = None
        self._done.put(ident, _encode(done))

    def _label_early(self, ident: str, label: _Label) -> None:
        until = label[0] + self._rules.within + self._rules.lateness
        cell = self._early.of.get(ident)
        if cell is None and until < self._meta.predictions.now:
            self.counters["label_unknown"] += 1
            return
        early = _Early(until, []) if cell is None else _early(cell)
        if self._first and early.labels:
            self.counters["label_duplicate"] += 1
            return
        self._revise(early.labels, label)
        self._keep_early(ident, early, until)

    def _revise(self, labels: list[_Label], label: _Label) -> None:
        others = [other for other in labels if other[0] != label[0]]
        kept = sorted([*others, label], key=_time)[-_REVISIONS:]
        self.counters["label_revised"] += len(labels) + 1 - len(kept)
        labels[:] = kept

    def _mark_fallback(self, record: PredictionRecord) -> None:
        """Remembers that the id was scored, so that its label is not counted as one of an unknown event."""
        until = record.t + self._rules.within + self._rules.lateness
        if record.id in self._waiting.of or record.id in self._done.of:
            return
        cell = self._early.of.get(record.id)
        if cell is not None or until >= self._meta.predictions.now:
            early = _Early(until, []) if cell is None else _early(cell)
            early.fallback = True
            self._keep_early(record.id, early, until)

    def _keep_early(self, ident: str, early: _Early, until: int) -> None:
        early.until = max(early.until, until)
        self._early.put(ident, _encode(early))
        heappush(self._give_up, (early.until, ident))

    def _take_early(self, ident: str) -> list[_Label]:
        cell = self._early.of.get(ident)
        if cell is None:
            return []
        self._early.drop(ident)
        return _early(cell).labels

    # -- time ------------------------------------------------------------------------------------------------

    def _pass(self) -> None:
        """Reads the clocks, after one of them moved."""
        meta = self._meta
        predictions = meta.predictions.now
        labels = meta.labels + self._slack
        self._passed = labels if labels < predictions else predictions

    def _pass_labels(self) -> None:
        slowest = before = self._meta.labels
        for feed in self._meta.feeds.values():
            now = feed.clock.now
            if now <= before:
                return
            if now < slowest or slowest == before:
                slowest = now
        self._meta.labels = slowest
        self._pass()

    def _expire(self, held: str | None = None) -> None:
        passed = self._passed
        if self._due and self._due[0][0] < passed:
            self._expire_due(passed, held)
        while self._forget and self._forget[0][0] < passed:
            self._done.drop(heappop(self._forget)[1])
        while self._give_up and self._give_up[0][0] < self._meta.predictions.now:
            self._expire_early(*heappop(self._give_up))

    def _expire_due(self, passed: int, held: str | None) -> None:
        due, spared = self._due, []
        while due and due[0][0] < passed:
            entry = heappop(due)
            if entry[1] == held:
                spared.append(entry)
            elif entry[1] in self._waiting.of:
                self._expire_waiting(*entry)
        for entry in spared:
            heappush(due, entry)

    def _expire_waiting(self, deadline: int, ident: str) -> None:
        waiting = _waiting(self._waiting.of[ident])
        if waiting.t + self._rules.within == deadline:
            self._waiting.drop(ident)
            self._leave(ident, waiting)

    def _expire_early(self, until: int, ident: str) -> None:
        cell = self._early.of.get(ident)
        if cell is None:
            return
        early = _early(cell)
        if early.until == until:
            self._early.drop(ident)
            self.counters["label_fallback" if early.fallback else "label_unknown"] += len(early.labels)

    # -- in and out ------------------------------------------------------------------------------------------

    def _release(
        self, ident: str, waiting: _Waiting, kind: Literal["label", "absent", "correction"], label: _Label
    ) -> None:
        self._out.append(
            Sample(
                id=ident,
                t=waiting.t,
                label=label[1],
                label_t=max(label[0], waiting.t),
                known=max(label[0], waiting.t, self._t),
                kind=kind,
                vector=waiting.vector,
                score=waiting.score,
                version=waiting.version,
                fingerprint=waiting.fingerprint,
                origin=waiting.origin,
                event=Raw(waiting.event),
                source=self._group,
                offset=self._folded,
                index=len(self._out),
            )
        )

    def _restore(self, kind: bytes, ident: str, cell: bytes) -> None:
        if kind == b"p":
            self._waiting.put(ident, cell)
            self._due.append((_waiting(cell).t + self._rules.within, ident))
        elif kind == b"d":
            self._done.put(ident, cell)
            self._forget.append((_done(cell).deadline + self._memory, ident))
        elif kind == b"e":
            self._early.put(ident, cell)
            self._give_up.append((_early(cell).until, ident))
        else:
            meta = _meta(cell)
            if meta.rules != self._meta.rules:
                raise RulesError(
                    f"{self._group} was joined by {meta.rules.decode()} so far, the project says "
                    f"{self._meta.rules.decode()}: give the model a new version, or restore the rules"
                )
            self._meta = meta


def _rules_bytes(rules: JoinRules) -> bytes:
    """The rules that a sample depends on: a quota may change at any time."""
    return msgspec.json.encode(
        msgspec.structs.replace(rules, max_pending=1, feeds=tuple(sorted(rules.feeds)))
    )


def _time(label: _Label) -> int:
    return label[0]


def _seen(time: int) -> int | None:
    return None if time == _NEVER else time
