"""Records: events, a model's log and its samples, what a join keeps of them, the log on disk, dead letters."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from features.errors import EventRefused, StateCorrupt
from features.group import FoldGroup
from features.plan import plans_of
from features.store import NO_TOPIC, Group, Position
from models.join import Join, JoinRules, RulesError
from models.records import (
    LogRecord,
    decode_record,
    decode_sample,
    encode_record,
    encode_sample,
    read_record,
)
from streams.deadletter import CUT
from streams.errors import SpoolDamaged
from streams.letters import Origin, letter_of, note_of
from streams.log import Partition, Record
from streams.spool import Spool
from tests.features import sample_project
from tests.features.sample_project import transactions
from tests.models.test_join import GROUP, Store, label, prediction, predictions_until, progress

EVENT = (
    b'{"id":"t1","card":"c1","terminal":"x","amount":12.5,"fee":null,"items":3,"country":"CH",'
    b'"latitude":47.1,"longitude":-8.5,"at":"2026-01-01T00:00:00.5+01:00"}'
)


# events


@cache
def group() -> FoldGroup:
    """A fold group of one partition, which is every key's home."""
    plans = plans_of(sample_project.views)
    codes = {plan.fingerprint: f"{k}" for k, plan in enumerate(plans)}
    return FoldGroup(
        Group(transactions.topic, 0, "tag"), transactions, plans, codes, Position.start(NO_TOPIC), 1
    )


def event(data: bytes) -> bool:
    """The value of a record of a source is an event of which every state can keep its part, or is refused."""
    prepared = group().prepare(7, b"c1", data)
    try:
        read = transactions.decode(data)
    except EventRefused as error:
        return _refused_alike(prepared.refused, error)
    assert transactions.key_bytes(read) == read.card.encode()
    assert transactions.decode(msgspec.json.encode(read)) == read
    return prepared.refused is None


def _refused_alike(one: EventRefused | None, other: EventRefused) -> bool:
    assert one is not None
    assert (one.reason, one.what) == (other.reason, other.what)
    return False


def events() -> list[bytes]:
    """One with a number of every kind."""
    return [
        EVENT,
        EVENT.replace(b"null", b"-0.0").replace(b'"CH"', b'"\\u00e9\\ud83d\\ude00"'),
        EVENT[:-1] + b',"more":{"a":[1,[2.5e-8,"x"]]}}',
    ]


# a model's log


def record(data: bytes) -> bool:
    """A record of the log comes back from its JSON, and the join reads what others read."""
    try:
        read = decode_record(data)
    except msgspec.DecodeError:
        with suppress(msgspec.DecodeError):
            read_record(data)  # which does not look into what no sample repeats
        return False
    assert read_record(data).t == read.t
    try:
        again = encode_record(read)
    except ValueError:  # one that is too large
        assert len(data) > 9_000
        return True
    assert decode_record(again) == read
    return True


def records() -> list[bytes]:
    """One of each kind."""
    made: list[LogRecord] = [
        prediction("a", 5, flags=["fallback"]),
        label("a", 9, 1, value="x"),
        label("b", 9, 1, value=-0.5),
        progress(7),
    ]
    return [encode_record(each) for each in made]


def sample(data: bytes) -> bool:
    """A sample comes back from its JSON."""
    try:
        read = decode_sample(data)
    except msgspec.DecodeError:
        return False
    assert decode_sample(encode_sample(read)) == read
    return True


def samples() -> list[bytes]:
    """Of a label, and of silence."""
    join = Join(JoinRules(within=100, absent=False, lateness=20, name="r"), GROUP)
    left: list[LogRecord] = [prediction("a", 1_000), label("a", 1_050, 0), prediction("b", 1_000)]
    left += predictions_until(9_000)
    return [encode_sample(s) for offset, each in enumerate(left) for s in join.fold(each, offset)]


# what a join keeps


RULES = [
    JoinRules(within=100, absent=False, lateness=20, counts=counts, vectors=vectors)
    for counts in ("first", "last")
    for vectors in ("redis", "log")
]  # fmt: skip


def join(data: bytes) -> bool:
    """The first byte names the rules, then come the fields; the join that has them goes on with any record."""
    if not data:
        return False
    rules = RULES[data[0] % len(RULES)]
    try:
        made = Join.load(rules, GROUP, _fields(data[1:]))
    except (StateCorrupt, RulesError):
        return False
    assert made.pending_count >= 0
    assert made.pending_bytes >= 0
    coming: list[LogRecord] = [label("a", 1_050, 2), prediction("a", 1_000), prediction("new", 1_100)]
    coming += [label("b", 1_500, 3), progress(2_000), *predictions_until(2_000)]
    coming += [progress(2**53 - 1), *predictions_until(2**53 - 1)]
    for offset, each in enumerate(coming, 1_000):
        made.step(each, offset)
    made.take_writes()
    return True


def joins() -> list[bytes]:
    """Of each rules, with what waits, what is done and labels that came early; and with more than one chunk."""
    made = []
    for number, rules in enumerate(RULES):
        for many in (3, 70):
            join, store = Join(rules, GROUP), Store()
            coming: list[LogRecord] = [prediction("a", 1_000), prediction("b", 1_000)]
            coming += [prediction(f"{k}", 1_000 + k) for k in range(many)]
            coming += [label("0", 1_050, 0), label("early", 1_020, 1), label("1", 5_000, 2)]
            for offset, each in enumerate(coming):
                join.step(each, offset)
            store.commit(join)
            made.append(bytes((number,)) + b"".join(map(_field, store.items())))
    return made


def _field(item: tuple[bytes, bytes]) -> bytes:
    key, cell = item
    return bytes((len(key),)) + key + len(cell).to_bytes(2, "little") + cell


def _fields(data: bytes) -> list[tuple[bytes, bytes]]:
    fields, at = [], 0
    while at < len(data):
        end = at + 1 + data[at]
        size = int.from_bytes(data[end : end + 2], "little")
        fields.append((data[at + 1 : end], data[end + 2 : end + 2 + size]))
        at = end + 2 + size
    return fields


# the log on disk


def spool(data: bytes) -> bool:
    """A file is a partition: its records and its end, or it is said to be damaged. So are the layouts beside it."""
    folder = _folder()
    (folder / "t@0.ndjson").write_bytes(data)
    (folder / "layouts.json").write_bytes(data)
    read = Spool(folder)
    taken = False
    for look in (
        lambda: [each for batch in read.read("t", 0, 0, 1 << 62) for each in batch],
        lambda: [read.bounds("t")[0]],
        lambda: [each for several in read.layouts().values() for each in several],
    ):
        try:
            found: list[Any] = look()
        except SpoolDamaged:
            continue
        taken = taken or bool(found)
    return taken


def spools() -> list[bytes]:
    """A file of a partition, and one of layouts."""
    folder = _folder()
    (folder / "t@0.ndjson").unlink(missing_ok=True)
    read = Spool(folder)
    read.append("t", 0, [Record(0, 7, b"k", b"v", ()), Record(4, -5, None, None, ())])
    read.close()
    layouts = b'{"t":[["needed","layout",""],["other","layout","AAAA"]]}'
    return [(folder / "t@0.ndjson").read_bytes(), layouts]


@cache
def _folder() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="headrace-fuzz-")
    _kept.append(folder)
    return Path(folder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


# dead letters


def letters(data: bytes) -> bool:
    """Headers, one a line as name=value, are those of a letter, whatever they say."""
    headers = tuple(
        (name.decode(errors="replace"), None if value == b"\0" else value)
        for name, _, value in (line.partition(b"=") for line in data.split(b"\n"))
    )
    at = Partition("t.dlq", 3)
    found = letter_of(at, Record(5, 0, b"k", None, headers))
    assert Origin.parse(str(found.at)) == Origin("t.dlq", 3, 5)
    assert found.reason
    note = letter_of(at, Record(6, 0, None, None, note_of(found)))
    assert note.note
    assert note.origin == found.origin
    return found.origin != found.at


def told() -> list[bytes]:
    """What Connect, Streams and Headrace write."""
    connect = b"__connect.errors."
    return [
        b"\n".join(connect + each for each in (
            b"topic=a.b", b"partition=3", b"offset=17", b"class.name=undecodable", b"exception.message=why",
        )) + f"\n{CUT}=17".encode(),
        b"\n".join(b"__streams.errors." + each for each in (
            b"topic=a.b", b"partition=3", b"offset=17", b"exception=org.X: y", b"message=why",
        )),
    ]  # fmt: skip
