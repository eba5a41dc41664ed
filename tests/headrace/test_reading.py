"""Files become the events of a source, or an error with file, line and field."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from features import Source
from features.errors import HeadraceError
from features.forgetting import Forgetting, encode_forgetting
from features.source import Tombstone
from headrace.producing import record
from headrace.reading import count_of, events_of


class Sale(msgspec.Struct, frozen=True):
    id: str
    amount: float
    count: int
    gift: bool
    note: str | None
    at: datetime


sales = Source("shop.sales.v1", Sale, id=Sale.id, time=Sale.at)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SALES = [
    Sale("1", 0.1, 3, True, "a, b", NOON),
    Sale("2", 1e17, -4, False, None, NOON + timedelta(milliseconds=1)),
    Sale("007", 2.0, 0, False, "ä", NOON + timedelta(days=1)),
]


def ndjson(folder: Path) -> Path:
    path = folder / "sales.ndjson"
    path.write_bytes(b"\n".join(msgspec.json.encode(sale) for sale in SALES) + b"\n\n")
    return path


def csv(folder: Path) -> Path:
    path = folder / "sales.csv"
    path.write_text(
        "id,other,amount,count,gift,note,at\n"
        '1,x,0.1,3,true,"a, b",2026-01-01T12:00:00Z\n'
        "2,x,1e17,-4,false,,2026-01-01T13:00:00.001+01:00\n"
        "007,x,2,0,false,ä,2026-01-02T12:00:00Z\n"
    )
    return path


def columns(folder: Path) -> Path:
    path = folder / "sales.parquet"
    rows = [msgspec.structs.asdict(sale) | {"other": 1} for sale in SALES]
    parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("write", [ndjson, csv, columns])
def test_each_form_gives_the_same_events(tmp_path: Path, write: object) -> None:
    path = write(tmp_path)  # type: ignore[operator]  # one of the three above

    assert [sales.decode(value) for value in events_of(sales, path) if isinstance(value, bytes)] == SALES


class Shop(msgspec.Struct, frozen=True):
    shop: str
    country: str | None
    size: int
    at: datetime


shops = Source("shop.shops.v1", Shop, time=Shop.at, key=Shop.shop, compacted=True)
TABLE = {
    "shops.ndjson": '{"shop":"s1","country":"CH","size":3,"at":"2026-01-01T12:00:00Z"}\n'
    '{"shop":"s1","at":"2026-01-02T12:00:00Z"}\n'
    '{"shop":"s2","country":null,"size":0,"at":"2026-01-02T12:00:00Z"}\n',
    "shops.csv": "shop,country,size,at\ns1,CH,3,2026-01-01T12:00:00Z\ns1,,,2026-01-02T12:00:00Z\n"
    "s2,,0,2026-01-02T12:00:00Z\n",
}


def table(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".parquet"):
        later = NOON + timedelta(days=1)
        rows = [("s1", "CH", 3, NOON), ("s1", None, None, later), ("s2", None, 0, later)]
        names = ("shop", "country", "size", "at")
        parquet.write_table(pa.Table.from_pylist([dict(zip(names, r, strict=True)) for r in rows]), path)
    else:
        path.write_text(TABLE[name])
    return path


@pytest.mark.parametrize("name", ["shops.ndjson", "shops.csv", "shops.parquet"])
def test_a_row_with_key_and_time_alone_clears_its_key(tmp_path: Path, name: str) -> None:
    first, cleared, second = events_of(shops, table(tmp_path, name))
    later = NOON + timedelta(days=1)

    assert isinstance(first, bytes)
    assert isinstance(second, bytes)
    assert shops.decode(first) == Shop("s1", "CH", 3, NOON)
    assert cleared == Tombstone(b"s1", round(later.timestamp() * 1000))
    assert shops.decode(second) == Shop("s2", None, 0, later)


def test_a_tombstone_becomes_a_record_of_key_and_time() -> None:
    made = record(shops, Tombstone(b"s1", 17), 5)

    assert (made.topic, made.key, made.value, made.timestamp_ms) == (shops.topic, b"s1", None, 17)


def test_a_row_that_is_neither_event_nor_tombstone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shops.ndjson"
    path.write_text('{"shop":"s1","at":"2026-01-02T12:00:00"}\n')
    with pytest.raises(HeadraceError, match="no time zone"):
        list(events_of(shops, path))


@pytest.mark.parametrize("write", [csv, columns])
def test_rows_are_counted_beforehand(tmp_path: Path, write: object) -> None:
    assert count_of(write(tmp_path)) == 3  # type: ignore[operator]  # likewise


@pytest.mark.parametrize(
    ("name", "content", "where", "field", "why"),
    [
        (
            "a.csv",
            "id,amount,count,gift,note,at\n1,x,1,true,,2026-01-01T00:00:00Z\n",
            "line 2",
            "amount",
            "as float",
        ),
        (
            "b.csv",
            "id,amount,count,gift,note,at\n1,1,1.5,true,,2026-01-01T00:00:00Z\n",
            "line 2",
            "count",
            "as int",
        ),
        (
            "c.csv",
            "id,amount,count,gift,note,at\n1,1,1,true,,2026-01-01T00:00:00\n",
            "line 2",
            "at",
            "datetime",
        ),
        ("d.csv", "id,count,gift,note,at\n", "d.csv", "amount", "its columns are id, count"),
        ("e.ndjson", '{"id":"1"}\n{"id":2}\n', "line 1", "amount", "as float"),
        ("f.ndjson", '\n{"id":2,"amount":1}\n', "line 2", "id", "as str"),
    ],
)
def test_a_bad_value_is_told_with_its_place(
    tmp_path: Path, name: str, content: str, where: str, field: str, why: str
) -> None:
    path = tmp_path / name
    path.write_text(content)

    with pytest.raises(HeadraceError) as caught:
        list(events_of(sales, path))

    assert str(path) in caught.value.where
    assert where in caught.value.where
    assert f"field {field}" in caught.value.where
    assert why in caught.value.why
    assert caught.value.fix


def test_a_row_with_a_value_too_many_is_told(tmp_path: Path) -> None:
    path = tmp_path / "many.csv"
    path.write_text("id,amount,count,gift,note,at\n1,1,1,true,a,b,2026-01-01T00:00:00Z\n")

    with pytest.raises(HeadraceError, match="more values than the header"):
        list(events_of(sales, path))


def test_a_parquet_row_with_a_missing_value_is_told(tmp_path: Path) -> None:
    path = tmp_path / "holes.parquet"
    rows = [msgspec.structs.asdict(sale) for sale in SALES]
    rows[1]["amount"] = None
    parquet.write_table(pa.Table.from_pylist(rows), path)

    with pytest.raises(HeadraceError) as caught:
        list(events_of(sales, path))

    assert caught.value.where == f"{path}, row 2, field amount"


def test_the_file_of_a_log_may_tell_what_is_forgotten_and_one_of_events_may_not(tmp_path: Path) -> None:
    path, value = ndjson(tmp_path), encode_forgetting(Forgetting("shop", "s1"))
    path.write_bytes(value + b"\n" + path.read_bytes())
    first, *others = events_of(sales, path, log=True)
    assert (first, len(others)) == (value, len(SALES))
    with pytest.raises(HeadraceError, match="no Sale"):
        list(events_of(sales, path))

    path.write_bytes(value[:-3] + b"\n")
    with pytest.raises(HeadraceError) as caught:
        list(events_of(sales, path, log=True))
    assert "line 1" in caught.value.where


def test_what_is_no_parquet_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_text("nothing")

    with pytest.raises(HeadraceError, match="no Parquet file"):
        events_of(sales, path).__next__()


def test_an_unknown_ending_is_told(tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match="ending"):
        events_of(sales, tmp_path / "sales.xlsx")
