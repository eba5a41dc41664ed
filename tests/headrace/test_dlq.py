"""Dead letters of a real worker, read by the commands, mended and sent back to it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer as Client

from features.partition import partition_of
from headrace.deadletters import shown
from models.records import PredictionRecord
from models.topics import dead_letter_topic
from streams.deadletter import CUT
from streams.letters import Letter, Origin, letter_of
from streams.log import Partition, Record
from tests.headrace.conftest import Answer, Cli
from tests.parts.broker import Broker
from tests.streams.audit import entries
from tests.streams.rig import Rig, rig
from tests.streams.shop import HOUR, MINUTE, START, Payment, Verdict, build, sent
from tests.streams.test_end_to_end import builder

HOME = partition_of(b"c1", 4)
AWAY = (HOME + 1) % 4
SPOILT = b'{"id":"spoilt","card":"c1","shop":"s1","amount":"12","at":1767225780000}'
LARGE = (
    b'{"id":"large","card":"c1","shop":"s1","amount":12,"at":1767225780000,"more":"'
    + b"x" * 1_010_000
    + b'"}'
)


def payment(ident: str, minutes: int) -> Payment:
    return Payment(ident, "c1", "s1", 5.0, START + minutes * MINUTE)


def vectors(shop: Rig) -> dict[str, set[object]]:
    """Per id, what the predictions say of its card."""
    place = shop.model.vector.names.index("Card.count_7d")
    found: dict[str, set[object]] = {}
    for entry in entries(shop.log, shop.model):
        if isinstance(entry, PredictionRecord):
            found.setdefault(entry.id, set()).add(entry.vector[place])
    return found


class Shell:
    """`headrace dlq` on one project, beside a running loop."""

    def __init__(self, cli: Cli, shop: Rig) -> None:
        self._cli = cli
        self._shop = shop

    async def __call__(self, command: str, *words: object) -> Answer:
        where = ("--kafka", self._shop.bootstrap)
        return await asyncio.to_thread(self._cli, "dlq", command, self._shop.file, *words, *where)

    async def json(self, command: str, *words: object) -> Any:
        answer = await self(command, *words, "--json")
        return json.loads(answer.out)

    async def counts(self) -> dict[tuple[str, str], dict[str, Any]]:
        told = await self.json("list")
        return {(c["topic"], c["reason"]): c for c in told["counts"]}


async def test_dead_letters_are_counted_shown_mended_and_sent_again_once(
    kafka: Broker, redis_url: str, tmp_path: Path, topic_prefix: str, cli: Cli
) -> None:
    project = build(topic_prefix)
    payments = project.sources[0].topic
    letters = dead_letter_topic(payments)
    good = [payment(f"p{k}", k) for k in range(3)]
    moved, keyless = sent(project, payment("moved", 3), payment("keyless", 4))
    async with rig(project, builder(topic_prefix), tmp_path, kafka, redis_url) as shop:
        client = Client({"bootstrap.servers": kafka.bootstrap, "message.max.bytes": 1_048_000})
        client.produce(payments, moved.value, b"c1", AWAY, timestamp=START, headers=[("trace", b"\x1b[2J")])
        client.produce(payments, keyless.value, None, AWAY, timestamp=START)
        client.produce(payments, SPOILT, b"c1", AWAY, timestamp=START)
        client.produce(payments, LARGE, b"c1", AWAY, timestamp=START)
        client.flush()
        await shop.produce(sent(project, *good))
        await shop.finish(shop.start())
        shell = Shell(cli, shop)

        # what a worker that was killed sends again, and what other programs wrote there
        (again,) = [r for batch in shop.log.read(letters, 0, 0, 1) for r in batch]
        client.produce(letters, again.value, again.key, headers=list(again.headers), timestamp=START)
        streams = [("topic", payments), ("partition", "7"), ("offset", "99"), ("exception", "a.b.Oops: no")]
        client.produce(
            letters,
            b"\xff",
            headers=[(f"__streams.errors.{name}", text) for name, text in streams],
            timestamp=START,
        )
        client.produce(letters, b"?", timestamp=START)
        client.flush()

        counts = await shell.counts()
        assert {reason: (c["letters"], c["repeats"]) for (_, reason), c in counts.items()} == {
            "misplaced": (1, 1),
            "no_key": (1, 0),
            "undecodable": (1, 0),
            "too_large": (1, 0),
            "a.b.Oops": (1, 0),
            "unknown": (1, 0),
        }
        assert counts[payments, "a.b.Oops"]["example"] == f"{payments}/7/99"
        assert "misplaced" in (await shell("list")).out

        by_origin = await shell.json("show", f"{payments}/{AWAY}/0")
        by_place = await shell.json("show", f"{letters}/0/{again.offset}")
        assert by_origin == by_place
        assert (by_origin["reason"], by_origin["headers"]) == ("misplaced", [["trace", "\\x1b[2J"]])
        assert by_origin["value"] == (moved.value or b"").decode()
        cut = await shell.json("show", f"{payments}/{AWAY}/3")
        assert (cut["bytes"], cut["cut"]) == (len(LARGE), True)
        assert len(cut["value"]) < 3_000
        assert (await shell("show", f"{payments}/{AWAY}/77")).code == 2
        assert (await shell("show", "nowhere")).code == 2

        # nothing without a choice, nothing in a dry run
        assert (await shell("replay")).code == 2
        chosen = ("--reason", "misplaced", "--reason", "no_key")
        ends = shop.log.bounds(payments)
        planned = await shell.json("replay", *chosen, "--dry-run")
        assert (planned["sent"], planned["by_reason"]) == (2, {"misplaced": 1, "no_key": 1})
        assert shop.log.bounds(payments) == ends

        # sent where they belong, each once
        assert (await shell("replay", *chosen)).code == 0
        assert (await shell.json("replay", *chosen))["already"] == 2
        assert (await shell.counts())[payments, "misplaced"]["replayed"] == 1
        assert shop.log.bounds(payments)[HOME].highwater == ends[HOME].highwater + 2
        (record, _) = [
            r
            for b in shop.log.read(payments, HOME, ends[HOME].highwater, ends[HOME].highwater + 2)
            for r in b
        ]
        assert record.headers == (
            ("trace", b"\x1b[2J"),
            ("headrace-replayed", f"{payments}/{AWAY}/0".encode()),
        )
        assert (record.key, record.value, record.timestamp) == (b"c1", moved.value, START + 3 * MINUTE)

        # mended by hand
        file = tmp_path / "bad.ndjson"
        assert (await shell.json("export", "--reason", "undecodable", "--to", file))["letters"] == 1
        (line,) = map(json.loads, file.read_text().splitlines())
        assert line["value"] == SPOILT.decode()
        assert (await shell("replay", "--from", file)).code == 1  # not mended yet
        file.write_text(json.dumps({**line, "value": line["value"].replace('"12"', "12")}) + "\n")
        assert (await shell.json("replay", "--from", file))["sent"] == 1
        file.write_text("{}\n")
        assert "line 1" in (await shell("replay", "--from", file)).err

        # a cut one is taken from its place, and is as bad as before
        answer = await shell("replay", "--all")
        assert answer.code == 1
        assert "too_large" in answer.out
        left = await shell.json("replay", "--all", "--dry-run")
        assert (left["already"], left["sent"], left["foreign"]) == (3, 0, 1)
        assert left["refused"] == {"too_large": 1, "undecodable": 1}

        # sent twice on purpose: what has an id counts once
        assert (await shell.json("replay", "--reason", "misplaced", "--force"))["sent"] == 1
        await shop.produce(sent(project, payment("last", 5), Verdict("moved", "s1", True, START + HOUR)))
        await shop.finish(shop.start())
        found = vectors(shop)
        assert found.keys() == {"p0", "p1", "p2", "moved", "keyless", "spoilt", "last"}
        assert found["last"] == {7}
        assert Counter(len(values) for values in found.values()) == {1: 7}


async def test_a_project_without_topics_of_dead_letters_says_so(
    kafka: Broker, tmp_path: Path, topic_prefix: str, cli: Cli
) -> None:
    file = tmp_path / f"{topic_prefix}.py"
    file.write_text(builder(topic_prefix))

    answer = await asyncio.to_thread(cli, "dlq", "list", file, "--kafka", kafka.bootstrap)

    assert answer.code == 3
    assert "topics apply" in answer.err


def letter(*headers: tuple[str, bytes | None]) -> Letter:
    return letter_of(Partition("x.dlq", 1), Record(5, 0, None, b"", headers))


@pytest.mark.parametrize("prefix", ["__connect.errors.", "__streams.errors."])
def test_a_letter_tells_its_origin_in_either_dialect(prefix: str) -> None:
    found = letter(
        (prefix + "topic", b"a.b"), (prefix + "partition", b"3"), (prefix + "offset", b"12"), ("more", None)
    )

    assert str(found.origin) == "a.b/3/12"
    assert Origin.parse("a.b/3/12") == found.origin
    assert found.headers == (("more", None),)


@pytest.mark.parametrize("offset", [b"", b"-1", b"1.5", b"\xff", "٣".encode(), b"1e3", None])
def test_a_letter_without_a_usable_origin_stands_for_itself(offset: bytes | None) -> None:
    prefix = "__connect.errors."
    found = letter((prefix + "topic", b"a"), (prefix + "partition", b"0"), (prefix + "offset", offset))

    assert found.origin == found.at == Origin("x.dlq", 1, 5)


def test_bytes_are_shown_so_that_no_terminal_obeys_them() -> None:
    told = shown(bytes(range(256)) + "\u202e\u2028é".encode())

    assert told.isprintable()
    assert "\\x1b" in told
    assert "é" in told
    assert len(shown(b"\x00" * 10_000_000)) < 10_000


@pytest.mark.parametrize("digits", ["9" * 20, "9" * 5_000])
@pytest.mark.parametrize("name", ["partition", "offset"])
def test_a_place_that_no_log_has_is_no_origin(name: str, digits: str) -> None:
    told = {"topic": "t", "partition": "1", "offset": "1", name: digits}
    headers = tuple((f"__connect.errors.{key}", text.encode()) for key, text in told.items())
    letter = letter_of(Partition("x.dlq", 1), Record(5, 0, None, b"", (*headers, (CUT, digits.encode()))))

    assert letter.origin == letter.at == Origin("x.dlq", 1, 5)
    assert letter.cut is None
