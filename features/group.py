"""A fold group at work: decoded records in, changed states and a new position out.

Pure: it holds the states that it has been given and says which it needs. Whoever drives it (worker, replay, verify)
reads them, sends the outputs and commits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from . import keys
from .clock import LAST, NEVER
from .errors import EventRefused, StateCorrupt
from .fold import Folded, fold
from .forgetting import FORGETTING, Forgetting, decode_forgetting
from .partition import partition_of
from .plan import StatePlan
from .small import is_small, stamp_of
from .source import Source
from .state import (
    Kept,
    State,
    changes,
    decode,
    encode,
    newest_event,
    opened,
    weight,
    whole,
)
from .store import Group, Patch, Position, Writes

ENTITIES = 256  # entities a commit
BYTES = 256 * 1024  # bytes of keys and states a commit, beyond which it takes no further record
NO_TIME = -1  # the timestamp of a record that has none
KNOWN = 1 << 16  # keys whose partition is remembered

FOLDED, REVISED = Folded.FOLDED, Folded.REVISED
# what changed: the bytes of a small state, or a state and how many bytes of it are to be written; None of one that goes
Dirty = dict[str, bytes | tuple[StatePlan, State, int] | None]


class Prepared(msgspec.Struct, gc=False):
    """One record made ready: what each plan takes of its event, or why it is refused."""

    offset: int
    t: int
    event: Any  # None of a tombstone
    parts: Sequence[tuple[StatePlan, str, int, Sequence[Any]]]  # plan, key of the state, identity, values
    refused: EventRefused | None = None
    forgetting: Forgetting | None = None  # then it is no event: the states of its parts go


class Batch(NamedTuple):
    """What one commit writes, and where it ends."""

    records: Sequence[Prepared]
    writes: Writes
    start: Position
    end: Position


class FoldGroup:
    """The states of one partition of one log.

    Args:
        group: its place in the store.
        source: what its records are.
        plans: what they are folded into.
        codes: the store's short code of each plan.
        position: where it stands.
        partitions: how many the log has.
        cache: how many states are kept decoded; the others are read again when they are needed.
    """

    def __init__(
        self,
        group: Group,
        source: Source[Any],
        plans: Sequence[StatePlan],
        codes: Mapping[str, str],
        position: Position,
        partitions: int,
        cache: int = 100_000,
    ) -> None:
        self.group = group
        self.source = source
        self.plans = list(plans)
        self._stand(position)
        self.counts: Counter[str] = Counter()
        self.prefixes = [keys.state_prefix(group.tag, codes[plan.fingerprint]) for plan in self.plans]
        self._partitions = partitions
        keyed = source.key is not None and source.partitioner == "murmur2"
        self._key = source.key.name if keyed and source.key is not None else None
        self._at_home: set[Any] = set()  # keys that are known to belong here
        self._folded = list(zip(self.plans, self.prefixes, strict=True))
        self._retain = {prefix: plan.retain for plan, prefix in self._folded}
        self._cache = cache
        # two generations: a cheap approximation of the least recently used
        self._young: dict[str, Kept | None] = {}
        self._old: dict[str, Kept | None] = {}

    def prepare(
        self, offset: int, key: bytes | None, value: bytes | None, timestamp: int = NO_TIME
    ) -> Prepared:
        """Returns a record decoded and taken apart; a bad one carries its refusal.

        Whether a record counts is decided here, by the record and the definition alone. Its timestamp, in milliseconds,
        is the event time of a tombstone; whatever has a value has its event time there.
        """
        try:
            if value is None and self.source.compacted:
                return self._clear(offset, key, timestamp)
            event = self._accept(key, value)
            return self.take(offset, event)
        except EventRefused as refused:
            if refused.reason == FORGETTING and value is not None:
                return self._forget(offset, value)
            return Prepared(offset, 0, None, (), refused)

    def _forget(self, offset: int, value: bytes) -> Prepared:
        try:
            what = decode_forgetting(value)
        except EventRefused as refused:
            return Prepared(offset, 0, None, (), refused)
        parts = [
            (plan, prefix + what.key, 0, ()) for plan, prefix in self._folded if plan.entity == what.entity
        ]
        return Prepared(offset, NEVER, None, parts, None, what)

    def _accept(self, key: bytes | None, value: bytes | None) -> Any:
        source = self.source
        event = source.accept(value)
        if source.compacted and self._given(key) != source.key_bytes(event):
            raise EventRefused(
                "other_key",
                f"the record has the key {key!r}, not its {source.key}",
                where=source.topic,
                fix=f"send {source.key} as its key, as text: by the key it is replaced and cleared",
            )
        if self._key is not None:
            self._given(key)
            column = getattr(event, self._key)
            if column not in self._at_home:
                self._place(source.key_bytes(event) or b"")
                self._at_home.add(column)
        return event

    def _given(self, key: bytes | None) -> bytes:
        if key is None:
            raise EventRefused("no_key", "the record has no key", fix=f"send {self.source.key} as its key")
        return key

    def _clear(self, offset: int, key: bytes | None, timestamp: int) -> Prepared:
        """Returns a tombstone as the event that it is: one of its entity, without any value."""
        entity = self.source.entity_of(self._given(key))
        if self._key is not None:
            self._place(self._given(key))
        if not 0 <= timestamp <= LAST:
            raise EventRefused(
                "time_out_of_range",
                f"the tombstone has the timestamp {timestamp}",
                where=self.source.topic,
                fix="send it with the time at which its key was cleared, in milliseconds since 1970",
            )
        id32 = offset & 0xFFFFFFFF  # as `identify` has it of the records with values
        parts = [(plan, prefix + entity, id32, plan.nothing) for plan, prefix in self._folded]
        return Prepared(offset, timestamp, None, parts)

    def _place(self, key: bytes) -> None:
        """Checks that a key is on its partition."""
        belongs = partition_of(key, self._partitions)
        if belongs != self.group.partition:
            raise EventRefused(
                "misplaced",
                f"an event of {self.source.key} belongs to partition {belongs}, not {self.group.partition}",
                fix='make the producer partition by murmur2, or declare partitioner="any"',
            )
        if len(self._at_home) >= KNOWN:
            self._at_home.clear()

    def take(self, offset: int, event: Any) -> Prepared:
        """Returns what the plans take of an event.

        Raises:
            EventRefused: a value cannot be kept.
        """
        id32 = self.source.identify(event, offset)
        parts = [
            plan.part(event, prefix, id32)
            for plan, prefix in self._folded
            if plan.keep is None or plan.keep(event)
        ]
        return Prepared(offset, self.source.time_of(event), event, parts)

    def missing(self, records: Sequence[Prepared]) -> list[str]:
        """Returns the keys of the states that these records need and that are not at hand."""
        young, old = self._young, self._old
        if len(young) > self._cache // 2:
            old = self._old = young
            young = self._young = {}
        wanted: dict[str, None] = {}
        for record in records:
            for _, key, _, _ in record.parts:
                if key in young:
                    continue
                if key in old:
                    young[key] = old.pop(key)
                else:
                    wanted[key] = None
        return list(wanted)

    def load(self, names: Sequence[str], values: Sequence[bytes | None]) -> None:
        """Takes states as they are stored.

        Raises:
            StateCorrupt: one was changed beyond the group's position.
        """
        by_prefix = dict(zip(self.prefixes, self.plans, strict=True))
        for key, data in zip(names, values, strict=True):
            if data is None:
                self._young[key] = None
                continue
            if stamp_of(data) > self._next:
                raise StateCorrupt(
                    f"a state was changed at {stamp_of(data)}, beyond position {self._next}",
                    where=f"{self.group.name}, key {key}",
                    fix="restore Redis from one backup, or rebuild the features under a new project name",
                )
            state = opened(by_prefix[key[: key.index(".") + 1]], data)
            if not isinstance(state, bytes):
                state.stored(len(data))
            self._young[key] = state

    def state(self, plan: int, entity: str) -> State | None:
        """Returns a state at hand, as it stands now."""
        key = self.prefixes[plan] + entity
        state = self._young.get(key) or self._old.get(key)
        return None if state is None else whole(self.plans[plan], state)

    def cached(self, names: Sequence[str], into: dict[str, Kept | None]) -> list[str]:
        """Puts the states at hand into a mapping and returns the keys of those that are not; an expired one is none."""
        young, old = self._young, self._old
        absent = []
        for key in names:
            if key in young:
                state = young[key]
            elif key in old:
                state = old[key]
            else:
                absent.append(key)
                continue
            expired = state is not None and self.expired(key, newest_event(state))
            into[key] = None if expired else state
        return absent

    def expired(self, key: str, newest: int) -> bool:
        """Whether a state whose newest event is that old reads as none."""
        return newest <= self._clock - self._retain[key[: key.index(".") + 1]]

    def removable(self, heads: Iterable[tuple[str, int]]) -> list[str]:
        """Returns which of stored states can be removed, and forgets them.

        Args:
            heads: the keys of states and the time of the newest event in each, as stored.
        """
        gone = []
        for key, newest in heads:
            state = self._young.get(key) or self._old.get(key)
            if self.expired(key, newest if state is None else newest_event(state)):
                gone.append(key)
                self._young.pop(key, None)
                self._old.pop(key, None)
        return gone

    def dump(self) -> Iterator[tuple[str, str, bytes]]:
        """Yields (fingerprint of the plan, entity, state) of every state at hand."""
        by_prefix = dict(zip(self.prefixes, self.plans, strict=True))
        for key, state in (*self._young.items(), *self._old.items()):
            if state is not None:
                prefix, _, entity = key.partition(".")
                plan = by_prefix[f"{prefix}."]
                yield plan.fingerprint, entity, encode(plan, state)

    def restore(self, states: Iterable[tuple[str, str, bytes]]) -> None:
        """Takes states as `dump` gave them."""
        by_fingerprint = {plan.fingerprint: (plan, prefix) for plan, prefix in self._folded}
        for fingerprint, entity, data in states:
            plan, prefix = by_fingerprint[fingerprint]
            self._young[prefix + entity] = opened(plan, data)

    @property
    def position(self) -> Position:
        """Where it stands."""
        return Position(self._topic_id, self._next, self._clock, self._previous, self._first, self._token)

    def _stand(self, position: Position) -> None:
        self._topic_id, self._next, self._clock, self._previous, self._first, self._token = position

    def drop(self, position: Position) -> None:
        """Forgets everything cached and stands at a position that the store named."""
        self._young.clear()
        self._old.clear()
        self._stand(position)

    def fold(self, records: Sequence[Prepared], next_offset: int) -> Iterator[Batch]:
        """Folds records whose states are at hand, a commit's worth at a time.

        Args:
            records: in the order of their offsets.
            next_offset: the position after the last of them (beyond its offset where the log has gaps).

        Yields:
            Batches; the position has moved to the end of each when it is yielded.
        """
        dirty: Dirty = {}
        start = self.position
        begun = size = 0
        for k, record in enumerate(records):
            size += self.step(record, dirty)
            if len(dirty) >= ENTITIES or size >= BYTES:
                yield self._batch(records[begun : k + 1], dirty, start, record.offset + 1)
                dirty = {}
                begun, size, start = k + 1, 0, self.position
        if begun < len(records) or start.next < next_offset:
            yield self._batch(records[begun:], dirty, start, next_offset)

    def step(self, record: Prepared, dirty: Dirty) -> int:
        """Folds one record; `dirty` receives the states that it changed.

        Returns:
            How many more bytes there are to write.
        """
        offset, t = record.offset, record.t
        self._next = offset + 1
        if record.refused is not None or t == NEVER:  # no event of ours: it moves no clock
            return self._pass_over(record, dirty)
        clock = self._clock
        young = self._young
        more = 0
        for plan, key, id32, values in record.parts:
            gone = clock - plan.retain
            if t <= gone:
                self.counts["expired"] += 1
                continue
            state = young.get(key)
            append = plan.append
            if append is not None and (state is None or isinstance(state, bytes)):
                data = append(state, t, id32, values, offset + 1, gone)
                if data is not None:
                    more += len(data) - _size(dirty.get(key), key)
                    young[key] = dirty[key] = data
                    continue
            if state is None or newest_event(state) <= gone:
                # whether an expired one has been removed yet must not show in any bit
                state = State()
            elif isinstance(state, bytes):
                state = decode(plan, state)
            outcome = fold(plan, state, t, id32, values, offset)
            if outcome is not FOLDED:
                self.counts[outcome.name.lower()] += 1
                if outcome is not REVISED:
                    continue
            young[key] = state
            size = weight(plan, state)
            more += size - _size(dirty.get(key), key)
            dirty[key] = (plan, state, size)
        agreed = t if t < self._previous else self._previous
        if agreed > clock:
            self._clock = agreed
        self._previous = t
        return more

    def _pass_over(self, record: Prepared, dirty: Dirty) -> int:
        """Counts a record that is no event; what it forgets leaves nothing that would tell it from what never was."""
        more = 0
        if record.forgetting is None:
            self.counts["foreign" if record.refused is None else record.refused.reason] += 1
            return 0
        for _, key, _, _ in record.parts:
            if self._young.get(key) is not None:
                more -= _size(dirty.get(key), key)
                self._young[key] = dirty[key] = None
        self.counts["forgotten"] += 1
        return more

    def _batch(self, records: Sequence[Prepared], dirty: Dirty, start: Position, next_offset: int) -> Batch:
        self._next = next_offset
        sets: dict[str, bytes] = {}
        patches: dict[str, Patch] = {}
        deletes: list[str] = []
        for key, changed in dirty.items():
            if changed is None:
                deletes.append(key)
                continue
            if isinstance(changed, bytes):
                sets[key] = changed
                continue
            plan, state, _ = changed
            change = changes(plan, state)
            if isinstance(change, Patch):
                patches[key] = change
            else:
                sets[key] = change
                if plan.append is not None and is_small(change, len(plan.codes)):
                    self._young[key] = change
        return Batch(records, Writes(sets, deletes, patches=patches), start, self.position)


def _size(written: bytes | tuple[StatePlan, State, int] | None, key: str) -> int:
    """Returns how many bytes of a state were to be written before; where there were none, less: those of its key."""
    if written is None:
        return -len(key)
    return len(written) if isinstance(written, bytes) else written[2]
