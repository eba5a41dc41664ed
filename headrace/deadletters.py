"""The dead letters of a project: counted, shown, written to a file to be mended, and sent again."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct, field

from features.clock import from_ms
from features.errors import EventRefused
from features.partition import partition_of
from features.source import Source
from models.deployment import topics_of
from models.outcomes import Outcomes
from models.project import Project
from models.topics import dead_letter_topic
from streams.letters import REPLAYED, Letter, Origin, letter_of, note_of
from streams.log import LogReader, Partition
from streams.producer import Outgoing, Producer
from streams.security import Kafka

from .errors import DataRefused, NothingChecked

BATCH = 500  # records that are acknowledged together
_SHOWN = 2_000  # characters of a value that are shown


class Count(Struct):
    """The letters of a topic with one reason."""

    topic: str
    reason: str
    letters: int = 0
    repeats: int = 0
    """The same origin and reason again: a worker was killed between sending it and its commit."""
    replayed: int = 0
    newest: int = 0
    """Time of the newest of the records, in milliseconds."""
    example: str = ""
    """Origin of the one that came last."""


class Wanted(NamedTuple):
    """Which letters are meant; an empty part means all."""

    topics: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()
    origins: frozenset[Origin] = frozenset()

    def has(self, letter: Letter) -> bool:
        """Whether a letter is meant; it may be named by its origin or by its own place."""
        return (
            (not self.topics or letter.origin.topic in self.topics)
            and (not self.reasons or letter.reason in self.reasons)
            and (not self.origins or letter.origin in self.origins or letter.at in self.origins)
        )


class Line(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One letter in a file that is to be mended: `value` is what will be sent."""

    origin: str
    reason: str = ""
    message: str = ""
    at: str = ""
    time: str = ""
    key: str | None = None
    value: str | None = None
    value_base64: str | None = None
    cut: int | None = None


class Resent(Struct):
    """What a replay came to."""

    sent: int = 0
    by_reason: dict[str, int] = field(default_factory=dict)
    already: int = 0
    """Left out, since they were sent again before."""
    refused: dict[str, int] = field(default_factory=dict)
    """Left out, since they would be refused again, by reason."""
    foreign: int = 0
    """Left out: records of topics that only Headrace writes."""
    gone: int = 0
    """Left out: only their beginning is here, and the log no longer holds the rest."""
    first_refusal: str = ""


class Letters:
    """The letters of a project that are meant, notes of replays included, topic by topic in their order.

    Each walk reads them anew.

    Args:
        reader: of the log.
        project: whose letters they are.
        wanted: which.

    Raises:
        NothingChecked: no topic of the project has a topic of dead letters.
    """

    def __init__(self, reader: LogReader, project: Project, wanted: Wanted) -> None:
        names = [dead_letter_topic(topic) for topic in topics_of(project)]
        there = reader.topics()
        self._reader = reader
        self._wanted = wanted
        self._names = [name for name in names if name in there]
        if not self._names:
            raise NothingChecked(
                f"there are no dead letters of project {project.name!r}",
                why=f"the broker has none of {', '.join(names)}",
                fix="create them: headrace topics apply",
            )

    def __iter__(self) -> Iterator[Letter]:
        for name in self._names:
            for number, bounds in sorted(self._reader.bounds(name).items()):
                for batch in self._reader.read(name, number, bounds.earliest, bounds.highwater):
                    for record in batch:
                        letter = letter_of(Partition(name, number), record)
                        if letter.note or self._wanted.has(letter):
                            yield letter


class Foreign(Exception):
    """A record of a topic that only Headrace writes."""


class Gone(Exception):
    """A record of which only the beginning is left."""


def counted(found: Iterable[Letter]) -> list[Count]:
    """Returns how many letters there are by topic and reason, each origin once."""
    counts: dict[tuple[str, str], Count] = {}
    seen: dict[tuple[str, str, int], set[int]] = {}  # by reason and partition of origin: offsets
    noted: set[Origin] = set()
    for letter in found:
        topic, number, offset = letter.origin
        if letter.note:
            noted.add(letter.origin)
            continue
        count = counts.setdefault((topic, letter.reason), Count(topic, letter.reason))
        offsets = seen.setdefault((topic, letter.reason, number), set())
        if offset in offsets:
            count.repeats += 1
            continue
        offsets.add(offset)
        count.letters += 1
        count.newest = max(count.newest, letter.record.timestamp)
        count.example = str(letter.origin)
    for topic, number, offset in noted:
        for (name, reason, partition), offsets in seen.items():
            if (name, partition) == (topic, number) and offset in offsets:
                counts[topic, reason].replayed += 1
    return sorted(counts.values(), key=lambda count: (count.topic, -count.letters, count.reason))


def sent_again(found: Iterable[Letter]) -> set[Origin]:
    """Returns the origins of the letters that were sent again."""
    return {letter.origin for letter in found if letter.note}


def once(found: Iterable[Letter]) -> Iterator[Letter]:
    """Yields the first letter of each origin."""
    seen: set[Origin] = set()
    for letter in found:
        if not letter.note and letter.origin not in seen:
            seen.add(letter.origin)
            yield letter


def described(letter: Letter, replayed: bool) -> dict[str, Any]:
    """Returns a letter as plain data, its bytes shown so that no terminal is harmed."""
    record = letter.record
    value = record.value
    return {
        "origin": str(letter.origin),
        "at": str(letter.at),
        "reason": letter.reason,
        "message": letter.message,
        "time": _moment(record.timestamp),
        "replayed": replayed,
        "key": None if record.key is None else shown(record.key),
        "bytes": letter.cut if letter.cut is not None else None if value is None else len(value),
        "cut": letter.cut is not None,
        "headers": [[name, None if text is None else shown(text)] for name, text in letter.headers],
        "value": None if value is None else shown(value),
    }


def shown(data: bytes) -> str:
    r"""Returns bytes as text of one line: what is no printable character of UTF-8 is escaped.

    Example:
        >>> shown(b'{"id":"caf\xc3\xa9"}\x1b[2J\xff')
        '{"id":"café"}\\x1b[2J\\xff'
    """
    text = data[: 4 * _SHOWN].decode(errors="backslashreplace")
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:_SHOWN])
    return safe + ("…" if len(text) > _SHOWN or len(data) > 4 * _SHOWN else "")


def exported(letter: Letter) -> bytes:
    """Returns a letter as a line to be mended."""
    record = letter.record
    line = Line(
        str(letter.origin),
        letter.reason,
        letter.message,
        str(letter.at),
        _moment(record.timestamp),
        key=None if record.key is None else record.key.decode(errors="backslashreplace"),
        cut=letter.cut,
    )
    try:
        line.value = None if record.value is None else record.value.decode()
    except UnicodeDecodeError:
        line.value_base64 = base64.b64encode(record.value or b"").decode()
    return msgspec.json.encode(line) + b"\n"


def repaired(path: Path) -> dict[Origin, bytes]:
    """Returns the values of a mended file, by origin.

    Raises:
        DataRefused: a line is not as `dlq export` writes it; names the line.
    """
    values: dict[Origin, bytes] = {}
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                line = msgspec.json.decode(text, type=Line)
                origin = Origin.parse(line.origin)
                values[origin] = _value(line)
            except (msgspec.MsgspecError, ValueError) as error:
                raise DataRefused(
                    f"{path.name} holds what is no dead letter: {error}",
                    where=f"{path}, line {number}",
                    fix="keep the lines as `headrace dlq export` wrote them, and mend `value` alone",
                ) from error
    return values


def _value(line: Line) -> bytes:
    if (line.value is None) == (line.value_base64 is None):
        raise ValueError("give either value or value_base64")
    return base64.b64decode(line.value_base64, validate=True) if line.value is None else line.value.encode()  # type: ignore[arg-type]  # one of them is there


class Replay:
    """Letters made into records of their sources again, checked as the worker would check them.

    Args:
        project: whose sources they are of.
        reader: of the log, for what is cut.
        values: mended ones, by origin.
    """

    def __init__(self, project: Project, reader: LogReader, values: Mapping[Origin, bytes]) -> None:
        self._project = project
        self._reader = reader
        self._values = values
        self._sources = {s.topic: s for s in project.sources if not isinstance(s, Outcomes)}
        self._partitions: dict[str, int] = {}

    def record(self, letter: Letter) -> Outgoing:
        """Returns what is to be sent.

        Raises:
            Foreign: the topic is none of the project's sources.
            EventRefused: it would be refused again.
            Gone: the rest of a cut value is.
        """
        source = self._sources.get(letter.origin.topic)
        if source is None:
            raise Foreign
        value = self._values.get(letter.origin)
        if value is None:
            value = letter.record.value if letter.cut is None else self._whole(letter)
        event = source.accept(value)
        for plan in self._project.plans_over(source):
            if plan.keep is None or plan.keep(event):
                plan.extract(event)
        key = source.key_bytes(event)
        if key is None:
            key = letter.record.key
        headers = tuple((name, text or b"") for name, text in letter.headers)
        told = (REPLAYED, str(letter.origin).encode())
        return Outgoing(
            source.topic, key, value, (*headers, told), source.time_of(event), self._place(source, key)
        )

    def _place(self, source: Source[Any], key: bytes | None) -> int | None:
        """The partition where an event belongs, whatever the producer's partitioner is set to."""
        if key is None:
            return None
        if source.topic not in self._partitions:
            self._partitions[source.topic] = self._reader.partitions(source.topic)
        return partition_of(key, self._partitions[source.topic])

    def _whole(self, letter: Letter) -> bytes | None:
        topic, number, offset = letter.origin
        bounds = self._reader.bounds_of([Partition(topic, number)])[Partition(topic, number)]
        if bounds.earliest <= offset < bounds.highwater:
            for batch in self._reader.read(topic, number, offset, offset + 1):
                for record in batch:
                    return record.value
        raise Gone


async def replay(
    found: Letters,
    made: Replay,
    kafka: Kafka | None,
    *,
    only: Collection[Origin] | None = None,
    force: bool = False,
) -> Resent:
    """Sends letters again, each origin once, and notes beside them that they were.

    A record is acknowledged before its note. Whoever is killed in between sends it again the next time; the worker
    takes an event with an id once.

    Args:
        found: the letters.
        made: what makes records of them.
        kafka: the brokers; None sends nothing and only says what would be.
        only: origins, where a mended file names them.
        force: also those that were sent before.
    """
    noted = sent_again(found)
    out = Resent()
    ready: list[tuple[Letter, Outgoing]] = []
    async with AsyncExitStack() as stack:
        producer = (
            None if kafka is None else await stack.enter_async_context(Producer(kafka, delivery_timeout=30.0))
        )
        for letter in once(found):
            if only is not None and letter.origin not in only:
                continue
            if letter.origin in noted and not force:
                out.already += 1
                continue
            outgoing = _checked(made, letter, out)
            if outgoing is not None:
                ready.append((letter, outgoing))
            if len(ready) == BATCH:
                await _send(ready, producer, out)
                ready = []
        await _send(ready, producer, out)
    return out


def _checked(made: Replay, letter: Letter, out: Resent) -> Outgoing | None:
    """Returns the record to be sent, or counts why there is none."""
    try:
        return made.record(letter)
    except EventRefused as refused:
        out.refused[refused.reason] = out.refused.get(refused.reason, 0) + 1
        out.first_refusal = out.first_refusal or f"{letter.origin}: {refused.what}"
    except Foreign:
        out.foreign += 1
    except Gone:
        out.gone += 1
    return None


async def _send(ready: Sequence[tuple[Letter, Outgoing]], producer: Producer | None, out: Resent) -> None:
    if producer is not None:
        await producer.send([outgoing for _, outgoing in ready])
        await producer.send([_note(letter) for letter, _ in ready])
    out.sent += len(ready)
    for letter, _ in ready:
        out.by_reason[letter.reason] = out.by_reason.get(letter.reason, 0) + 1


def _note(letter: Letter) -> Outgoing:
    at = letter.at
    return Outgoing(at.topic, letter.record.key, None, note_of(letter), letter.record.timestamp, at.partition)


def _moment(ms: int) -> str:
    return from_ms(ms).isoformat(timespec="milliseconds").replace("+00:00", "Z") if ms >= 0 else ""
