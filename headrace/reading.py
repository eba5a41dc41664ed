"""Files of events: NDJSON, CSV or Parquet in, the JSON bytes of a source's events out, one at a time.

A row becomes an event by the names of its columns; columns that the event does not have are passed over. An NDJSON
line is taken byte for byte, so a replay reads what a producer would send. A row of a compacted source that gives the
key and the time and nothing else is a tombstone.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import orjson
from msgspec.structs import FieldInfo, fields

from features.column import columns_of
from features.errors import EventRefused
from features.forgetting import decode_forgetting, is_forgetting
from features.lookup import tombstone_in
from features.source import Source, Tombstone

from .errors import DataRefused

ENDINGS = {
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "ndjson",
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_FIELD = re.compile(r" - at `\$\.?([^`]*)`$")
_MISSING = re.compile(r"missing required field `(.*?)`")
_ROWS = 10_000


def events_of(
    source: Source[Any], path: Path, *, check: bool = True, log: bool = False
) -> Iterator[bytes | Tombstone]:
    """Yields the JSON of each event in a file, or its tombstone, in the file's order.

    Args:
        source: whose events they are.
        path: the file; its ending says its form.
        check: refuse what the source cannot decode. Without it an NDJSON line is passed on as it is, as a producer
            of bad records would.
        log: the file is read as the log of the source, where records may tell what is forgotten.

    Raises:
        DataRefused: a row is no event; names file, line and field.
    """
    form = form_of(path)
    if form == "ndjson":
        return _ndjson(source, path, check, log)
    return _csv(source, path) if form == "csv" else _parquet(source, path)


def form_of(path: Path) -> str:
    """Returns "ndjson", "csv" or "parquet".

    Raises:
        DataRefused: the ending is none that we read.
    """
    form = ENDINGS.get(path.suffix.lower())
    if form is None:
        raise DataRefused(
            f"{path.name} has an ending that says nothing",
            where=str(path),
            fix=f"name the file with one of {', '.join(ENDINGS)}",
        )
    return form


def count_of(path: Path) -> int:
    """Returns how many rows a file has, for a progress bar; a quoted line break in a CSV counts as a row."""
    if form_of(path) == "parquet":
        return int(_parquet_file(path).metadata.num_rows)
    with path.open("rb") as file:
        lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    return lines - 1 if form_of(path) == "csv" else lines


def _ndjson(source: Source[Any], path: Path, check: bool, log: bool) -> Iterator[bytes | Tombstone]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            value = line.strip()
            if not value:
                continue
            cleared = None
            try:
                cleared = _tombstone(source, value)
                if log and is_forgetting(value):
                    decode_forgetting(value)
                elif check and cleared is None:
                    source.decode(value)
            except EventRefused as refused:
                if check:
                    raise _refused(source, path, f"line {number}", refused) from refused
            yield cleared or value


def _tombstone(source: Source[Any], value: bytes) -> Tombstone | None:
    if not source.compacted:
        return None
    try:
        row = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None  # it is no event either
    return tombstone_in(source, row) if isinstance(row, dict) else None


def _csv(source: Source[Any], path: Path) -> Iterator[bytes | Tombstone]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        _require(source, path, rows.fieldnames or ())
        take = _taker(source, texts=True)
        for row in rows:
            place = f"line {rows.line_num}"
            if None in row or None in row.values():
                raise DataRefused(
                    f"a row of {path.name} has {'more' if None in row else 'fewer'} values than the header",
                    where=f"{path}, {place}",
                    fix="mend the row, or quote values with commas in them",
                )
            given = {name: value or None for name, value in row.items()}
            yield _event(source, path, place, given, take(row))


def _parquet(source: Source[Any], path: Path) -> Iterator[bytes | Tombstone]:
    known = _parquet_file(path).schema_arrow.names
    _require(source, path, known)
    wanted = [field.encode_name for field in fields(source.event) if field.encode_name in known]
    take = _taker(source, texts=False)
    for number, row in enumerate(parquet_rows(path, wanted), 1):
        yield _event(source, path, f"row {number}", row, take(row))


def parquet_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yields the rows of a Parquet file.

    Raises:
        DataRefused: it is no Parquet file.
    """
    for batch in _parquet_file(path).iter_batches(_ROWS, columns=columns):
        yield from batch.to_pylist()


def _parquet_file(path: Path) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except pa.ArrowException as error:
        raise DataRefused(
            f"{path.name} is no Parquet file",
            where=str(path),
            why=str(error),
            fix="write it anew, or rename it",
        ) from error


def _require(source: Source[Any], path: Path, found: Any) -> None:
    missing = [
        field.encode_name
        for field in fields(source.event)
        if field.required and field.encode_name not in found
    ]
    if missing:
        raise DataRefused(
            f"{path.name} has no column {missing[0]!r}, which {source.event.__name__} requires",
            where=f"{path}, field {missing[0]}",
            why=f"its columns are {', '.join(found) or 'none'}",
            fix=f"rename the column to {missing[0]!r}, or give the field a default",
        )


def _taker(source: Source[Any], *, texts: bool) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Returns what makes a row ready: an empty cell of an optional field is a missing value."""
    wanted: list[tuple[FieldInfo, bool]] = [
        (field, columns_of(source.event)[field.name].nullable) for field in fields(source.event)
    ]

    def take(row: Mapping[str, Any]) -> dict[str, Any]:
        taken: dict[str, Any] = {}
        for field, nullable in wanted:
            name = field.encode_name
            if name not in row:
                continue
            value = row[name]
            if value is None or (texts and value == "" and (nullable or not field.required)):
                if nullable:
                    taken[name] = None
                elif field.required:
                    taken[name] = value  # refused with its name
                continue
            taken[name] = value
        return taken

    return take


def _event(
    source: Source[Any], path: Path, place: str, given: Mapping[str, Any], row: dict[str, Any]
) -> bytes | Tombstone:
    try:
        if source.compacted and (cleared := tombstone_in(source, given)) is not None:
            return cleared
        # a text is read as what the field is; int and float columns are widened, never cut
        value = msgspec.json.encode(msgspec.convert(row, source.event, strict=False))
        source.decode(value)
    except (msgspec.ValidationError, OverflowError) as error:
        raise _refused(source, path, place, EventRefused("undecodable", str(error))) from error
    except EventRefused as refused:
        raise _refused(source, path, place, refused) from refused
    return value


def _refused(source: Source[Any], path: Path, place: str, refused: EventRefused) -> DataRefused:
    text = refused.what
    at, missing = _FIELD.search(text), _MISSING.search(text)
    name = (
        source.time.name if refused.reason == "naive_time" else at[1] if at else missing[1] if missing else ""
    )
    return DataRefused(
        f"{path.name} holds what is no {source.event.__name__}: {_FIELD.sub('', text)}",
        where=f"{path}, {place}" + (f", field {name}" if name else ""),
        why=f"{source.topic} declares {_declared(source, name)}" if name else "",
        fix=refused.fix
        or ("mend the value, or change the field in the project file" if name else "mend the line"),
    )


def _declared(source: Source[Any], name: str) -> str:
    column = columns_of(source.event).get(name)
    if column is None:
        return f"the fields {', '.join(source.event.__struct_fields__)}"
    return f"{column} as {column.type.__name__}{' or missing' if column.nullable else ''}"
