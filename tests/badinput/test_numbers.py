"""The table of numbers in docs/reliability.md is what happens: in topics, at the API and in files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import Entity, FeatureView, Source, Sum
from features.group import FoldGroup
from features.plan import plans_of
from features.store import NO_TOPIC, Group, Position
from headrace.errors import DataRefused
from headrace.reading import events_of
from tests.serving.parts import Served, payment
from tests.serving.parts import serve as serving

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
COLUMNS = {"f": 1, "i": 2, "b": 3}  # of the table
TAKEN = "taken"


class Numbers(msgspec.Struct, frozen=True):
    id: str
    card: str
    f: float
    i: int
    b: bool
    at: int


source = Source("n.numbers.v1", Numbers, id=Numbers.id, time=Numbers.at, key=Numbers.card)
card = Entity("card", by=Numbers.card)


class Sums(FeatureView, of=card, source=source):
    f = Sum(Numbers.f).over("1d")
    i = Sum(Numbers.i).over("1d")
    b = Sum(Numbers.b).over("1d")


class Case(NamedTuple):
    """A cell of the table: a value as JSON, where it stands, and what it gets."""

    value: str
    column: str
    gets: str


@cache
def table() -> list[Case]:
    """The cells for the three kinds of columns, each by its first word: a reason, or that it is taken."""
    text = PAGE.read_text().partition("### Numbers")[2].partition("\n#")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]
    cases, above = [], dict[str, str]()
    for row in rows[2:]:
        before = ""
        for column, at in COLUMNS.items():
            cell = row[at]
            gets = above[column] if cell == "as above" else before if cell == "the same" else _first(cell)
            above[column] = before = gets
            cases += [Case(_json(name), column, gets) for name in re.findall(r"`([^`]+)`", row[0])]
    return cases


def _first(cell: str) -> str:
    if cell.startswith("taken"):
        return TAKEN
    found = re.match(r"`(\w+)`", cell)
    assert found, f"the cell {cell!r} begins neither with a reason nor with {TAKEN!r}"
    return found[1]


def _json(name: str) -> str:
    base, power, exponent = name.partition("**")
    return str(int(base) ** int(exponent)) if power else name


def record(case: Case) -> bytes:
    fields = {"id": '"x"', "card": '"c"', "f": "1.5", "i": "2", "b": "false", "at": "1700000000000"}
    fields[case.column] = case.value
    return ("{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}").encode()


def names(case: Case) -> str:
    return f"{case.column}={case.value[:12]}"


def test_the_table_has_every_number_that_is_asked_about() -> None:
    said = {case.value for case in table()}
    assert {"NaN", "Infinity", "1e308", "-0.0", "5e-324", str(2**63), str(2**64), str(10**400)} <= said
    assert {"true", "null", '"1"'} <= said
    assert len(table()) == len(said) * len(COLUMNS)


@pytest.mark.parametrize("case", table(), ids=names)
def test_a_record_of_a_topic_gets_what_the_table_says(case: Case) -> None:
    (plan,) = plans_of([Sums])
    group = FoldGroup(
        Group(source.topic, 0, "tag"), source, [plan], {plan.fingerprint: "s"}, Position.start(NO_TOPIC), 1
    )
    refused = group.prepare(0, b"c", record(case)).refused

    assert (TAKEN if refused is None else refused.reason) == case.gets


@pytest.mark.parametrize("case", table(), ids=names)
def test_a_line_of_a_file_is_refused_where_it_is_undecodable(tmp_path: Path, case: Case) -> None:
    path = tmp_path / "x.ndjson"
    path.write_bytes(record(case) + b"\n")
    if case.gets == "undecodable":
        with pytest.raises(DataRefused, match="line 1"):
            list(events_of(source, path))
    else:
        assert len(list(events_of(source, path))) == 1


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e308, -0.0, 5e-324])
def test_a_number_of_a_parquet_file_gets_what_the_table_says(tmp_path: Path, number: float) -> None:
    path = tmp_path / "x.parquet"
    row = {"id": ["x"], "card": ["c"], "f": [number], "i": [2], "b": [False], "at": [1_700_000_000_000]}
    pq.write_table(pa.table(row), path)
    if math.isfinite(number):
        (event,) = events_of(source, path)
        assert isinstance(event, bytes)
        read = source.decode(event).f
        assert (read, math.copysign(1, read)) == (number, math.copysign(1, number))
    else:
        with pytest.raises(DataRefused, match=r"\bf\b"):
            list(events_of(source, path))


def _asked(case: Case) -> Iterator[tuple[str, str, int, int]]:
    """Where a float of an event is sent: path, body, the status where it is taken, and where it is not."""
    body = json.dumps(payment(1) | {"amount": "@@"}).replace('"@@"', case.value)
    for path, taken in (("/v1/models/loss/predict", 200), ("/v1/events/payments", 202)):
        yield path, body, taken, 422
        yield path, f"[{json.dumps(payment(2))},{body}]", taken, 422
    tensor = {"name": "event", "datatype": "BYTES", "shape": [1], "data": [body]}
    yield "/v2/models/loss/infer", json.dumps({"inputs": [tensor]}), 200, 400


async def test_the_api_refuses_what_the_table_refuses(redis_url: str) -> None:
    served: Served = await serving(redis_url)
    wrong = []
    async with served.client as client:
        for case in table():
            asked = list(_asked(case)) if case.column == "f" else []
            if case.column == "b":
                label = f'{{"payment":"p","fraud":{case.value},"at":"{payment(1)["at"]}"}}'
                asked = [("/v1/labels/chargebacks", label, 202, 422)]
            for path, body, taken, refused in asked:
                answer = await client.post(path, content=body, headers={"content-type": "application/json"})
                if answer.status_code != (taken if case.gets == TAKEN else refused):
                    wrong.append((names(case), path, answer.status_code, answer.text[:200]))
    await served.store.close()

    assert wrong == []


@pytest.mark.parametrize("datatype", ["FP64", "FP32"])
async def test_an_integer_beyond_a_double_is_no_tensor_of_floats(redis_url: str, datatype: str) -> None:
    served: Served = await serving(redis_url)
    async with served.client as client:
        slots = (await client.get("/v2/models/loss")).json()["inputs"][1:]
        inputs = [
            {"name": slot["name"], "datatype": datatype if slot["name"] == "amount" else slot["datatype"],
             "shape": [1], "data": [10**400 if slot["name"] == "amount" else 1]}
            for slot in slots
        ]  # fmt: skip
        answer = await client.post("/v2/models/loss/infer", content=json.dumps({"inputs": inputs}))
    await served.store.close()

    assert (answer.status_code, "amount" in answer.json()["error"]) == (400, True)
