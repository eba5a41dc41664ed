"""The log on disk: whole lines only, and the end found without reading the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.errors import SpoolDamaged
from streams.log import Record
from streams.spool import Spool


def records(*offsets: int, value: bytes = b"v") -> list[Record]:
    return [Record(offset, 7, b"k", value, ()) for offset in offsets]


def offsets(spool: Spool, topic: str) -> list[int]:
    return [record.offset for batch in spool.read(topic, 0, 0, 1 << 62) for record in batch]


def test_what_was_spooled_is_read_back(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append("t", 0, records(0, 1, value=b"\x00\xff\n"))
    spool.append("t", 0, [Record(4, -5, None, None, ())])
    spool.close()
    again = Spool(tmp_path)
    assert [record for batch in again.read("t", 0, 0, 9) for record in batch] == [
        *records(0, 1, value=b"\x00\xff\n"),
        Record(4, -5, None, None, ()),
    ]
    assert again.bounds("t")[0].highwater == 5


def test_records_that_are_there_are_not_written_twice(tmp_path: Path) -> None:
    for batch in ((0, 1, 2), (1, 2, 3)):
        spool = Spool(tmp_path)
        spool.append("t", 0, records(*batch))
        spool.close()
    assert offsets(Spool(tmp_path), "t") == [0, 1, 2, 3]


def test_a_line_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append("t", 0, records(0, 1))
    spool.close()
    with (tmp_path / "t@0.ndjson").open("ab") as file:
        file.write(b'[2,7,"a2')
    assert offsets(Spool(tmp_path), "t") == [0, 1]
    assert Spool(tmp_path).bounds("t")[0].highwater == 2


def test_the_end_is_found_behind_a_line_longer_than_a_step(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.declare("t", 2)
    spool.append("t", 0, [*records(0), *records(1, value=bytes(300_000))])
    spool.close()
    assert {n: bounds.highwater for n, bounds in Spool(tmp_path).bounds("t").items()} == {0: 2, 1: 0}


@pytest.mark.parametrize(
    "line", [b"", b"[", b"{}", b"[1,2,null]", b'[1,2,"?",null]', b'["1",2,null,null]', b"\xff"]
)
def test_a_line_that_is_no_record_is_damage_and_names_its_file(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "t@0.ndjson").write_bytes(line + b"\n")
    with pytest.raises(SpoolDamaged, match=r"t@0\.ndjson"):
        offsets(Spool(tmp_path), "t")
    with pytest.raises(SpoolDamaged, match=r"t@0\.ndjson"):
        Spool(tmp_path).bounds("t")


@pytest.mark.parametrize("text", [b"", b"[]", b'{"t":[["a"]]}', b"\xff"])
def test_layouts_that_nobody_wrote_are_damage(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "layouts.json").write_bytes(text)
    with pytest.raises(SpoolDamaged, match=r"layouts\.json"):
        Spool(tmp_path).layouts()
