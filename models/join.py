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

Where predictions are, keepers know: `join_cells` keeps each whole, `join_chunks` only names its record in the log. What
leaves does not depend on it.

Each record first moves the clocks, then lets leave what is due, in (deadline, id) order, then takes effect;
only a label in time is never beaten by the expiry that it causes itself.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush, merge
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, field

from features.errors import StateCorrupt
from features.forgetting import name_of
from models.join_cells import API, DONE, FOREIGN, KNOWN, Cells, Fields, Held, Keeper, Label, Writes
from models.join_chunks import Chunks
from models.join_clocks import NEVER, Clocks, seen
from models.join_forgotten import Forgotten, Named, nobody
from models.join_rules import JoinRules, RulesError
from models.records import (
    FALLBACK,
    Body,
    ForgetRecord,
    LabelRecord,
    LoggedPrediction,
    LogRecord,
    PredictionRecord,
    ProgressRecord,
    Sample,
)

__all__ = ["Join", "JoinRules", "Leaving", "RulesError", "portions", "settle"]

_REVISIONS = 8  # labels kept of an id whose prediction has not come: a retrying producer must not grow a cell

_Prediction = LoggedPrediction | PredictionRecord
Kind = Literal["label", "absent", "correction"]


class Leaving(Struct, gc=False):
    """A sample on its way out. `settle` makes it whole once the record of its prediction is at hand.

    Attributes:
        at: the offset of that record; -1 where the body is here.
        due: its deadline, if that is why it leaves: those of one deadline leave in the order of their ids.
        known: the time of the record that released it.
        offset: of that record.
        index: among what that record released.
    """

    ident: str
    t: int
    kind: Kind
    label: Label
    body: Body | None
    at: int
    due: int | None
    known: int
    offset: int
    index: int


class _Early(Struct, array_like=True, gc=False):
    """Labels, in time order, whose prediction has not come; `fallback` when only a fallback score has."""

    until: int
    labels: list[Label]
    fallback: bool = False


class _Head(Struct, array_like=True):
    rules: bytes  # first in every format


class _Meta(_Head, array_like=True):
    clocks: Clocks
    forgets: dict[str, int] = field(
        default_factory=dict
    )  # of each group of requests: those before were heard


_encode = msgspec.msgpack.Encoder().encode
_early = msgspec.msgpack.Decoder(_Early).decode
_head = msgspec.msgpack.Decoder(_Head).decode
_meta = msgspec.msgpack.Decoder(_Meta).decode


class Join:
    """The fold of one partition of a model's log, named `group`, into samples.

    Its state is the set of its cells: `load` of all cells continues exactly, with vectors kept here or there. The
    caller persists `take_writes` atomically with the position in the log and pauses the partition while `full`.
    """

    def __init__(self, rules: JoinRules, group: str, named: Named = nobody) -> None:
        self.counters: Counter[str] = Counter()
        """What happened to the records since the start of the process, by reason; no part of the state."""
        self._rules = rules
        self._group = group
        self._absent = None if rules.absent is UNSET else rules.absent
        self._first = rules.counts == "first"
        self._slack = rules.silence - rules.lateness

        self._clocks = Clocks.expecting(rules.feeds)
        self._passed = NEVER  # the earlier of the two clocks, what is due is due by it
        self._due = self._remembered = NEVER  # what is older is due, or forgotten
        self._moved = False

        cells, chunks = Cells(), Chunks(exact=not self._first)
        self._by_kind: dict[bytes, Keeper] = {b"p": cells, b"d": cells, b"c": chunks, b"n": chunks}
        # The first takes what comes; a second one has what came while the rules said otherwise.
        self._keepers: list[Keeper] = [cells if rules.vectors == "redis" else chunks]
        self._whole = rules.vectors == "redis"
        self._early = Fields(b"e")
        self._forgets: dict[str, int] = {}
        self._named = named
        self._forgotten = Forgotten(named)
        # (time, id): an entry stays when its id moves on, and is recognised as stale when it comes up
        self._give_up: list[tuple[int, str]] = []

        self._handlers: dict[type, Callable[[Any], None]] = {
            LoggedPrediction: self._on_prediction,
            PredictionRecord: self._on_prediction,
            LabelRecord: self._on_label,
            ProgressRecord: self._on_progress,
            ForgetRecord: self._on_forget,
        }
        self._folded = -1
        self._left_by, self._left_out = (
            -1,
            0,
        )  # the record whose samples `kept` saw last, and how many it left out
        self._t = NEVER  # time of the record that is folded
        self._out: list[Leaving] = []

    @classmethod
    def load(
        cls, rules: JoinRules, group: str, cells: Iterable[tuple[bytes, bytes]], named: Named = nobody
    ) -> Join:
        """The join that wrote these cells, at the position they were persisted with.

        Raises:
            RulesError: they were folded by other rules.
            StateCorrupt: they are not what a join writes.
        """
        join = cls(rules, group, named)
        stored = dict(cells)
        try:
            if b"m" in stored:
                join._resume(stored.pop(b"m"))
            for key, cell in stored.items():
                join._restore(key[:1], key[1:], cell)
            for keeper in join._keepers:
                keeper.restored()
            join._forgotten.restored()
        except (msgspec.DecodeError, struct.error, ValueError, OverflowError) as error:
            raise StateCorrupt(
                f"what the join of {group} has stored is damaged: {error}",
                fix="restore the store, or delete the join's keys, and it joins again what its log holds",
            ) from error
        heapify(join._give_up)
        join._early.changed.clear()
        join._pass()
        return join

    def step(self, record: LoggedPrediction | LogRecord, offset: int) -> list[Leaving]:
        """What the record at `offset` releases, in order but for ids of one deadline. Offsets must rise."""
        if offset <= self._folded:
            raise ValueError(
                f"{self._group}: offset {offset} after {self._folded}: fold each record once, in order"
            )
        self._folded, self._t = offset, record.t
        self._out = []
        self._moved = True
        self._handlers[record.__class__](record)
        return self._out

    def fold(self, record: LogRecord, offset: int) -> list[Sample]:
        """The samples that the record at `offset` releases, in order, where vectors do not wait in the log."""
        return settle(self.step(record, offset), {}, self._group, self._rules.name)

    def take_writes(self) -> Writes:
        """Cells that changed since the last call, by key: absolute values, None to delete."""
        writes: Writes = {}
        if self._moved:
            writes[b"m"] = _encode(_Meta(self._rules.digest(), self._clocks, self._forgets))
        self._moved = False
        for keeper in self._keepers:
            keeper.take(writes)
        self._early.take(writes)
        self._forgotten.leave(self._remembered)
        self._forgotten.take(writes)
        return writes

    @property
    def pending_count(self) -> int:
        """Predictions that wait for a label, and labels that wait for a prediction."""
        return sum(keeper.waiting for keeper in self._keepers) + len(self._early.of)

    @property
    def pending_bytes(self) -> int:
        """Bytes of all cells but the clocks', keys not counted."""
        return sum(keeper.stored for keeper in self._keepers) + self._early.bytes

    @property
    def full(self) -> bool:
        """Whether the quota is reached. Nothing makes room but a larger one: labels come through the same log."""
        return self.pending_count >= self._rules.max_pending

    def forgets(self, record: ForgetRecord) -> bool:
        """Whether a record has not been heard before: one that was sent twice says nothing of what came in between."""
        return record.offset >= self._forgets.get(record.source, 0)

    def kept(self, left: Iterable[Leaving], logged: Mapping[int, LoggedPrediction]) -> list[Leaving]:
        """What of it is not forgotten, where only the log knows whose it is; to be asked in the order of the log.

        Args:
            left: what left.
            logged: the predictions of those that have no body, by offset.
        """
        kept: list[Leaving] = []
        for leaving in left:
            if leaving.offset != self._left_by:
                self._left_by, self._left_out = leaving.offset, 0
            if leaving.body is None and self._forgotten.any:
                event = bytes(logged[leaving.at].event)
                if self._forgotten.between(event, leaving.at, leaving.offset):
                    self.counters["sample_foreign"] += 1
                    self._left_out += 1
                    continue
            leaving.index -= self._left_out
            kept.append(leaving)
        return kept

    def early_label(self, ident: str) -> int | None:
        """Time of the first label that waits for the prediction of an id; None where none does."""
        cell = self._early.of.get(ident)
        labels = [] if cell is None else _early(cell).labels
        return min(map(_time, labels), default=None)

    @property
    def oldest_pending(self) -> int | None:
        """Time of the waiting prediction that is due first."""
        times = [t for t in (keeper.oldest() for keeper in self._keepers) if t is not None]
        return min(times, default=None)

    @property
    def prediction_clock(self) -> int | None:
        """How far the predictions have come, in event time."""
        return seen(self._clocks.predictions.now)

    @property
    def label_clock(self) -> int | None:
        """How far all known groups of the label source have come, `silence` and `lateness` left out."""
        return seen(self._clocks.labels)

    # -- what a record does ----------------------------------------------------------------------------------

    def _on_prediction(self, record: _Prediction) -> None:
        if self._clocks.predictions.witness(record.id, record.t):
            self._pass()
        self._expire()
        if FALLBACK in record.flags:
            self.counters["prediction_fallback"] += 1
            self._mark_fallback(record)
            return
        found = self._find(record.id)
        if found is not None:
            self.counters["prediction_duplicate"] += 1
            self._prefer_api(record, *found)
        elif record.t + self._rules.within + self._rules.lateness < self._passed:
            # Its id may have been forgotten: it cannot be told from a repeat.
            self.counters["prediction_late"] += 1
        else:
            self._meet(record, self._take_early(record.id))

    def _on_label(self, record: LabelRecord) -> None:
        feed = self._clocks.feed(record.source)
        if record.offset < feed.next:
            self.counters["label_repeated"] += 1
            return
        feed.next = record.offset + 1
        if feed.clock.witness(record.id, record.t) and self._clocks.heard():
            self._pass()
        ident, label = record.id, (record.t, record.label)
        found = self._find(ident)
        if found is not None and not found[2].done and record.t <= found[2].t + self._rules.within:
            self._expire(*found[:2])
        elif self._expire():
            found = self._find(ident)
        if found is None:
            self._label_early(ident, label)
            return
        keeper, key, held = found
        if held.done:
            self._correct(ident, held, label)
        else:
            self._give(ident, held, label)
        keeper.put(key, held)

    def _on_progress(self, record: ProgressRecord) -> None:
        feed = self._clocks.feed(record.source)
        if record.offset < feed.next:
            self.counters["progress_repeated"] += 1
            return
        feed.next = record.offset
        # Progress is a clock already, guarded against strays where it was made.
        if feed.clock.reach(record.t) and self._clocks.heard():
            self._pass()
        self._expire()

    def _on_forget(self, record: ForgetRecord) -> None:
        if not self.forgets(record):
            self.counters["forgetting_repeated"] += 1
            return
        self._forgets[record.source] = record.offset + 1
        name = name_of(record.entity, record.key)
        untold = [keeper.scrub(lambda event: name in self._named(event)) for keeper in self._keepers]
        clock = self._clocks.predictions.now
        self._forgotten.note(record, self._folded, clock, max(clock, *untold), self._remembered)
        self.counters["forgetting"] += 1

    # -- predictions -----------------------------------------------------------------------------------------

    def _find(self, ident: str) -> tuple[Keeper, Any, Held] | None:
        for keeper in self._keepers:
            found = keeper.find(ident)
            if found is not None:
                return keeper, *found
        return None

    def _meet(self, record: _Prediction, labels: list[Label]) -> None:
        """Lets a prediction wait, unless one of the labels that came before it makes it leave at once."""
        flags = KNOWN
        if record.origin == "api":
            flags |= API
        if self._rules.only not in (None, record.fingerprint) or self._is_forgotten(record):
            flags |= FOREIGN
        held = Held(record.t, flags)
        if not self._whole:
            held.at = self._folded
        elif not flags & FOREIGN:
            held.body = Body.of(record)
        for label in labels:
            if self._give(record.id, held, label):
                break
        self._keepers[0].add(record.id, held)

    def _is_forgotten(self, record: _Prediction) -> bool:
        """Whether it was made of features that are forgotten, by somebody who had read them before they went."""
        if not self._forgotten.any or not self._forgotten.read(
            bytes(record.event), record.as_of, self._remembered
        ):
            return False
        self.counters["prediction_forgotten"] += 1
        return True

    def _prefer_api(self, record: _Prediction, keeper: Keeper, key: Any, held: Held) -> None:
        if record.origin == "api" and not held.done and not held.flags & API:
            keeper.drop(key)
            self._meet(record, sorted((label for label in (held.label, held.beyond) if label), key=_time))

    def _give(self, ident: str, held: Held, label: Label) -> bool:
        """Gives a label to a waiting prediction; whether its sample left."""
        in_time = label[0] <= held.t + self._rules.within
        if not self._first:
            if in_time:
                held.label = self._later(held.label, label)
            else:
                held.beyond = self._later(held.beyond, label)
            return False
        if held.beyond is not None:
            self.counters["label_duplicate"] += 1
            return False
        if not in_time:
            held.beyond = label
            return False
        held.label = label
        self._leave(ident, held, None)
        return True

    def _later(self, before: Label | None, label: Label) -> Label:
        if before is None:
            return label
        self.counters["label_revised"] += 1
        return label if label[0] >= before[0] else before

    def _leave(self, ident: str, held: Held, due: int | None) -> None:
        """Ends the wait: with the label that counts, else as absent, else dropped."""
        label, beyond = held.label, held.beyond
        if label is not None:
            self.counters["label_joined"] += 1
            self._release(ident, held, "label", label, due)
        elif self._absent is not None:
            self.counters["prediction_absent"] += 1
            self._release(ident, held, "absent", (held.t + self._rules.within, self._absent), due)
        else:
            self.counters["prediction_unlabelled"] += 1
        held.flags |= DONE
        held.label_t = None if label is None else label[0]
        held.label = held.beyond = None
        if not (self._rules.learn_corrections and (label is None or not self._first)):
            held.body = None
        if beyond is not None:
            self._correct(ident, held, beyond, due)

    def _correct(self, ident: str, held: Held, label: Label, due: int | None = None) -> None:
        """Takes a label of a prediction that is done."""
        if held.label_t is not None and (self._first or label[0] <= held.label_t):
            self.counters["label_duplicate"] += 1
            return
        self.counters["label_correction"] += 1
        if self._rules.learn_corrections:
            self._release(ident, held, "correction", label, due)
        held.label_t = label[0]
        if self._first:
            held.body = None

    def _release(self, ident: str, held: Held, kind: Kind, label: Label, due: int | None) -> None:
        if held.flags & FOREIGN:
            self.counters["sample_foreign"] += 1
            return
        index = len(self._out)
        self._out.append(
            Leaving(ident, held.t, kind, label, held.body, held.at, due, self._t, self._folded, index)
        )

    # -- labels without a prediction -------------------------------------------------------------------------

    def _label_early(self, ident: str, label: Label) -> None:
        until = label[0] + self._rules.within + self._rules.lateness
        cell = self._early.of.get(ident)
        if cell is None and until < self._clocks.predictions.now:
            self.counters["label_unknown"] += 1
            return
        early = _Early(until, []) if cell is None else _early(cell)
        if self._first and early.labels:
            self.counters["label_duplicate"] += 1
            return
        self._revise(early.labels, label)
        self._keep_early(ident, early, until)

    def _revise(self, labels: list[Label], label: Label) -> None:
        others = [other for other in labels if other[0] != label[0]]
        kept = sorted([*others, label], key=_time)[-_REVISIONS:]
        self.counters["label_revised"] += len(labels) + 1 - len(kept)
        labels[:] = kept

    def _mark_fallback(self, record: _Prediction) -> None:
        """Remembers that the id was scored, so that its label is not counted as one of an unknown event."""
        until = record.t + self._rules.within + self._rules.lateness
        if self._find(record.id) is not None:
            return
        cell = self._early.of.get(record.id)
        if cell is not None or until >= self._clocks.predictions.now:
            early = _Early(until, []) if cell is None else _early(cell)
            early.fallback = True
            self._keep_early(record.id, early, until)

    def _keep_early(self, ident: str, early: _Early, until: int) -> None:
        early.until = max(early.until, until)
        self._early.put(ident, _encode(early))
        heappush(self._give_up, (early.until, ident))

    def _take_early(self, ident: str) -> list[Label]:
        cell = self._early.of.get(ident)
        if cell is None:
            return []
        self._early.drop(ident)
        return _early(cell).labels

    # -- time ------------------------------------------------------------------------------------------------

    def _pass(self) -> None:
        """Reads the clocks, after one of them moved."""
        predictions = self._clocks.predictions.now
        labels = self._clocks.labels + self._slack
        self._passed = labels if labels < predictions else predictions
        self._due = self._passed - self._rules.within
        self._remembered = self._due - self._rules.memory
        for keeper in self._keepers:
            keeper.forget(self._remembered)

    def _expire(self, sparing: Keeper | None = None, spared: Any = None) -> bool:
        """Lets leave what is due, but for one prediction; whether there was anything."""
        ripe = False
        for keeper in self._keepers:
            if keeper.ripe(self._due, self._remembered):
                ripe = True
        if ripe:
            due = (_due(keeper, self._due, spared if keeper is sparing else None) for keeper in self._keepers)
            for keeper, ident, key, held in merge(*due, key=_due_time):
                self._leave(ident, held, held.t)
                keeper.put(key, held)
            for keeper in self._keepers:
                keeper.forget(self._remembered)
        while self._give_up and self._give_up[0][0] < self._clocks.predictions.now:
            self._expire_early(*heappop(self._give_up))
        return ripe

    def _expire_early(self, until: int, ident: str) -> None:
        cell = self._early.of.get(ident)
        if cell is None:
            return
        early = _early(cell)
        if early.until == until:
            self._early.drop(ident)
            self.counters["label_fallback" if early.fallback else "label_unknown"] += len(early.labels)

    def _restore(self, kind: bytes, name: bytes, cell: bytes) -> None:
        if kind in self._by_kind:
            keeper = self._by_kind[kind]
            if keeper not in self._keepers:
                self._keepers.append(keeper)
            keeper.restore(kind, name, cell)
        elif kind == b"f":
            self._forgotten.restore(name.decode(), cell)
        elif kind == b"e":
            ident = name.decode()
            self._early.put(ident, cell)
            self._give_up.append((_early(cell).until, ident))
        else:
            raise ValueError(f"there is a field {kind + name!r}")

    def _resume(self, cell: bytes) -> None:
        before, now = _head(cell).rules, self._rules.digest()
        if before != now:
            raise RulesError(
                f"{self._group} was joined by {before.decode()} so far, the project says {now.decode()}",
                why="what waits was judged by those rules, or stored in another format",
                fix="give the model a new version, or restore the rules; another format is of another Headrace: "
                "go back to it, or delete the join's keys, and it joins again what its log holds",
            )
        meta = _meta(cell)
        self._clocks, self._forgets = meta.clocks, meta.forgets


def settle(
    left: Sequence[Leaving], logged: Mapping[int, LoggedPrediction], group: str, rules: str
) -> list[Sample]:
    """The samples of what left a join, in their order.

    Args:
        left: what left, in the order of the join.
        logged: the predictions of those that have no body, by offset.
        group: the partition of the model's log.
        rules: the name of those that they left by.
    """
    samples: list[Sample] = []
    begins, before = 0, None  # of what one record released at one deadline
    for leaving in left:
        ident, body = leaving.ident, leaving.body
        if body is None:
            record = logged[leaving.at]
            ident, body = record.id, Body.of(record)
        together = None if leaving.due is None else (leaving.offset, leaving.due)
        if together is None or together != before:
            _order(samples, begins)
            begins, before = len(samples), together
        samples.append(_sample(ident, leaving, body, group, rules))
    _order(samples, begins)
    return samples


def portions(left: Sequence[Leaving], size: int) -> Iterator[Sequence[Leaving]]:
    """Parts of what left a join that can be settled one after the other: about `size`, cut between deadlines."""
    begins = 0
    for k in range(1, len(left)):
        one, other = left[k - 1], left[k]
        if k - begins >= size and (one.due is None or (one.offset, one.due) != (other.offset, other.due)):
            yield left[begins:k]
            begins = k
    if begins < len(left):
        yield left[begins:]


def _due(keeper: Keeper, limit: int, spared: Any) -> Iterator[tuple[Keeper, str, Any, Held]]:
    for ident, key, held in keeper.due(limit, spared):
        yield keeper, ident, key, held


def _due_time(due: tuple[Keeper, str, Any, Held]) -> int:
    return due[3].t


def _order(samples: list[Sample], begins: int) -> None:
    """Brings the last samples into the order of their ids; the places keep their indexes."""
    if len(samples) - begins > 1:
        part = sorted(samples[begins:], key=_ident)
        indexes = [sample.index for sample in samples[begins:]]
        samples[begins:] = map(_at_index, part, indexes)


def _at_index(sample: Sample, index: int) -> Sample:
    return sample if sample.index == index else msgspec.structs.replace(sample, index=index)


def _ident(sample: Sample) -> str:
    return sample.id


def _sample(ident: str, leaving: Leaving, body: Body, group: str, rules: str) -> Sample:
    return Sample(
        id=ident,
        t=leaving.t,
        label=leaving.label[1],
        label_t=max(leaving.label[0], leaving.t),
        known=max(leaving.label[0], leaving.t, leaving.known),
        kind=leaving.kind,
        vector=body.vector,
        score=body.score,
        version=body.version,
        fingerprint=body.fingerprint,
        origin=body.origin,
        event=Raw(body.event),
        source=group,
        offset=leaving.offset,
        index=leaving.index,
        rules=rules,
    )


def _time(label: Label) -> int:
    return label[0]
