"""Scored requests as rows of a file: Parquet or NDJSON, a column for each slot of the vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import orjson

from features.clock import from_ms
from models.records import PredictionRecord
from models.spec import Model
from models.task import Task

from .errors import UsageRefused

OWN = ("id", "time", "origin", "score", "version", "flags", "label")
_GROUP = 10_000  # rows of one row group

Row = dict[str, Any]


class Rows(Protocol):
    """A file of rows."""

    def add(self, row: Row) -> None:
        """Writes a row."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Columns:
    """The columns of a model's rows."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.slots = [f"input.{name}" if name in OWN else name for name in model.vector.names]

    def row(self, made: PredictionRecord, vector: Sequence[Any], flags: Sequence[str]) -> Row:
        """Returns the row of a prediction; its label comes later."""
        row: Row = {"id": made.id, "time": made.t, "origin": made.origin}
        row.update(zip(self.slots, vector, strict=True))
        row |= {"score": made.score, "version": made.version, "flags": list(flags), "label": None}
        return row


def rows_to(path: Path, columns: Columns) -> Rows:
    """Returns the file to write rows to; its ending says the form.

    Raises:
        UsageRefused: the ending says nothing.
    """
    ending = path.suffix.lower()
    if ending in (".ndjson", ".jsonl"):
        return Ndjson(path)
    if ending in (".parquet", ".pq"):
        return Parquet(path, columns)
    raise UsageRefused(
        f"{path.name} has an ending that we do not write", where="--out", fix="use .parquet or .ndjson"
    )


class Ndjson:
    """One JSON object a line; floats in their shortest form, which keeps every bit."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def add(self, row: Row) -> None:
        """Writes a row."""
        shown = {**row, "time": from_ms(row["time"])}
        self._file.write(orjson.dumps(shown, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class Parquet:
    """Typed columns; the score of several classes is a map from class to probability."""

    def __init__(self, path: Path, columns: Columns) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self._pa = pa
        self._schema = _schema(columns)
        self._writer = parquet.ParquetWriter(path, self._schema)
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Writes a row, a row group at a time."""
        self._rows.append(row)
        if len(self._rows) == _GROUP:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(self._pa.Table.from_pylist(self._rows, self._schema))
        self._rows = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rows and error is None:
            self._flush()
        self._writer.close()


def _schema(columns: Columns) -> Any:
    import pyarrow as pa

    kinds: Mapping[type, Any] = {float: pa.float64(), int: pa.int64(), bool: pa.bool_(), str: pa.string()}
    model = columns.model
    label = model.spec.label
    classes = model.task is Task.MULTICLASS
    fields = [("id", pa.string()), ("time", pa.timestamp("ms", tz="UTC")), ("origin", pa.string())]
    fields += [(name, kinds[slot.type]) for name, slot in zip(columns.slots, model.vector.slots, strict=True)]
    fields += [
        ("score", pa.map_(pa.string(), pa.float64()) if classes else pa.float64()),
        ("version", pa.int64()),
        ("flags", pa.list_(pa.string())),
        ("label", kinds[label.type] if label else pa.bool_()),
    ]
    return pa.schema(fields)
