"""What stands in the log, read by loops: which events there are, how far their clock is, what was sent for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from features.clock import NEVER
from models.records import ForgetRecord, LogRecord, PredictionRecord, Sample, decode_record, decode_sample
from streams.log import Partition, Record
from tests.features import oracle
from tests.simulation.drawn import REFUSED
from tests.streams.memory_log import MemoryLog


class Arrival(NamedTuple):
    """A record of a source that is an event."""

    offset: int
    clock: int  # of its partition, before it
    event: Any


class Arrivals:
    """The events of one partition, told without the code under test; it reads on as it is asked."""

    def __init__(self, records: Sequence[Record | None], event: type, keyed: bool) -> None:
        self._records, self._keyed = records, keyed
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(event).decode
        self._previous = NEVER
        self.events: list[Arrival] = []
        self.refused: list[int] = []
        self.forgets: list[tuple[int, str, str]] = []  # offset, entity, key
        self.clocks = [NEVER]  # the largest time that two records in a row have reached, by the next offset

    def read(self) -> Arrivals:
        """Reads what has come."""
        for offset in range(len(self.clocks) - 1, len(self._records)):
            record, clock = self._records[offset], self.clocks[-1]
            event = None if record is None else self._event(record)
            if record is not None and (record.value or b"").startswith(b'{"headrace.forget"'):
                told = json.loads(record.value or b"")["headrace.forget"]
                self.forgets.append((offset, told["entity"], told["key"]))
            elif event is None:
                self.refused.append(offset)
            else:
                self.events.append(Arrival(offset, clock, event))
                clock, self._previous = max(clock, min(event.at, self._previous)), event.at
            self.clocks.append(clock)
        return self

    def _event(self, record: Record) -> Any:
        try:
            event = self._decode(record.value or b"")
        except msgspec.DecodeError:
            return None
        no_use = str(getattr(event, "id", "")).startswith(REFUSED)
        return None if no_use else event


class Entities:
    """The events of each entity under one plan, in the order of their arrival."""

    def __init__(self, arrivals: Arrivals, plan: Any) -> None:
        self.plan = plan
        self._arrivals = arrivals
        self._read = 0
        self._of: dict[str, list[tuple[int, int, oracle.Event]]] = {}
        self._ties: dict[str, int] = {}

    def read(self) -> dict[str, list[tuple[int, int, oracle.Event]]]:
        """Returns (offset, clock before it, event) of every entity."""
        (by,) = self.plan.by
        events = self._arrivals.read().events
        for offset, clock, event in events[self._read :]:
            values = {name: getattr(event, name) for name in self.plan.paths}
            ident = event.id if hasattr(event, "id") else event.payment
            tie = self._ties.setdefault(ident, len(self._ties))
            found = oracle.Event(event.at, tie, values)
            self._of.setdefault(getattr(event, by), []).append((offset, clock, found))
        self._read = len(events)
        return self._of

    def accepted(self, entity: str, end: int) -> list[oracle.Event]:
        """The events of an entity that count, of those before an offset."""
        retain, lateness = self.plan.retain, self.plan.source.lateness
        there: list[oracle.Event] = []
        events, mine = self.read().get(entity, ()), (self.plan.entity, entity)
        begin = max(
            (at for at, *whom in self._arrivals.forgets if at < end and tuple(whom) == mine), default=0
        )
        for offset, clock, event in events:
            if offset < begin:
                continue
            if offset >= end:
                break
            if event.t <= clock - retain:
                continue  # nobody can see it any more
            if there and max(e.t for e in there) <= clock - retain:
                there = []  # what there was had been forgotten by then
            there.append(event)
        return oracle.accepted(there, lateness)[0]


class Sent:
    """What was written into the log of a model and into its samples, by what it is for."""

    def __init__(self, log: MemoryLog, model_log: str, samples: str) -> None:
        self._log = log
        self._model_log = [p for p in log.records if p.topic == model_log]
        self._samples_at = Partition(samples, 0)
        self._letters = {p: records for p, records in log.records.items() if p.topic.endswith(".dlq")}
        self._read: dict[Partition, int] = {}
        self.entries: dict[int, list[tuple[int, LogRecord]]] = {p.number: [] for p in self._model_log}
        self.predicted: set[tuple[str, str]] = set()  # id, fingerprint
        self.labels: set[tuple[str, int]] = set()  # group, offset
        self.progress: set[tuple[str, int, int]] = set()  # group, offset, partition
        self.forgets: set[tuple[str, int, int]] = set()  # group, offset, partition
        self.samples: list[Sample | None] = []  # by their offsets; None where something is forgotten
        self.origins: dict[tuple[str, str, int, int], Sample] = {}  # the first of each, in order
        self.firsts: dict[tuple[str, str, int, int], int] = {}  # where it stands
        self.lasts: dict[tuple[str, str, int, int], int] = {}  # and where it was sent last
        self.markers: dict[tuple[str, str], list[int]] = {}  # where an entity and key are forgotten
        self.letters: set[tuple[str, int, int]] = set()  # topic, partition, offset

    def read(self) -> Sent:
        """Reads what has come."""
        for partition in self._model_log:
            for record in self._new(partition):
                entry = decode_record(record.value or b"")
                self.entries[partition.number].append((record.offset, entry))
                if isinstance(entry, PredictionRecord):
                    self.predicted.add((entry.id, entry.fingerprint))
                elif isinstance(entry, ForgetRecord):
                    self.forgets.add((entry.source, entry.offset, partition.number))
                elif hasattr(entry, "label"):
                    self.labels.add((entry.source, entry.offset))
                else:
                    self.progress.add((entry.source, entry.offset, partition.number))
        for record in self._new(self._samples_at):
            if (record.value or b"").startswith(b'{"headrace.forget"'):
                told = json.loads(record.value or b"")["headrace.forget"]
                self.markers.setdefault((told["entity"], told["key"]), []).append(record.offset)
                self.samples.append(None)
                continue
            sample = decode_sample(record.value or b"")
            self.samples.append(sample)
            origin = (sample.fingerprint, sample.source, sample.offset, sample.index)
            self.origins.setdefault(origin, sample)
            self.firsts.setdefault(origin, record.offset)
            self.lasts[origin] = record.offset
        for partition in self._letters:
            for record in self._new(partition):
                told = {name: (value or b"").decode() for name, value in record.headers}
                number, offset = (int(told[f"__connect.errors.{name}"]) for name in ("partition", "offset"))
                self.letters.add((told["__connect.errors.topic"], number, offset))
        return self

    def learnt(self, fingerprint: str, end: int, corrections: bool) -> list[Sample]:
        """The samples before an offset that a model learns: each origin once, in their order."""
        newest: dict[str, tuple[int, int]] = {}
        found = []
        for sample in filter(None, self.samples[:end]):
            origin = (sample.offset, sample.index)
            if sample.fingerprint == fingerprint and origin > newest.get(sample.source, (-1, 0)):
                newest[sample.source] = origin
                if corrections or sample.kind != "correction":
                    found.append(sample)
        return found

    def _new(self, partition: Partition) -> Iterator[Record]:
        records = self._log.records[partition]
        begun = self._read.get(partition, 0)
        self._read[partition] = len(records)
        return (record for record in records[begun:] if record is not None)
