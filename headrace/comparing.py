"""Comparing replayed vectors with the logged ones: how far a live run was from one without lag."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import orjson

from models.records import FALLBACK, PredictionRecord, Value
from models.spec import Model
from streams.recompute import same_value

from .errors import DataRefused
from .reading import form_of, parquet_rows
from .rows import OWN, Columns

_pack = msgspec.json.Encoder().encode
_unpack = msgspec.json.Decoder(list[Value]).decode


class Vector(NamedTuple):
    """A logged vector; or the reason why no replay can give it."""

    id: str
    origin: str
    values: Sequence[Value]
    reason: str = ""


class Example(NamedTuple):
    """The first difference of a feature."""

    id: str
    logged: Value
    replayed: Value


class Comparison:
    """The logged vectors of a model beside the replayed ones.

    Of the vectors logged under one id the one counts that the join takes: the first of the API, else the first.

    Args:
        model: whose vectors these are.
        vectors: as they were logged. They are read to their end and held, packed.
    """

    def __init__(self, model: Model, vectors: Iterable[Vector]) -> None:
        self.rows = 0
        """How many rows were compared."""
        self.different = 0
        """How many of them differ."""
        self.features: Counter[str] = Counter()
        """In how many rows each feature differs."""
        self.examples: dict[str, Example] = {}
        self.replayed_only = 0
        """Replayed rows whose id was not logged."""
        self.unchecked: Counter[str] = Counter()
        """Logged vectors that no replay can give, by reason."""
        self._names = model.vector.names
        self._logged: dict[str, tuple[bool, bytes | str]] = {}
        self._met: set[str] = set()
        for vector in vectors:
            known = self._logged.get(vector.id)
            by_api = vector.origin == "api"
            if known is None or (by_api and not known[0]):
                self._logged[vector.id] = by_api, vector.reason or _pack(vector.values)

    @property
    def logged_only(self) -> int:
        """How many logged ids were not replayed, so far."""
        return len(self._logged) - len(self._met)

    def add(self, ident: str, vector: Sequence[Value]) -> None:
        """Compares a replayed vector, slot by slot, in type and bits."""
        if ident not in self._logged:
            self.replayed_only += 1
            return
        self._met.add(ident)
        _, logged = self._logged[ident]
        if isinstance(logged, str):
            self.unchecked[logged] += 1
            return
        self.rows += 1
        differing = [
            (name, Example(ident, one, other))
            for name, one, other in zip(self._names, _unpack(logged), vector, strict=True)
            if not same_value(one, other)
        ]
        self.different += bool(differing)
        for name, example in differing:
            self.features[name] += 1
            self.examples.setdefault(name, example)

    def as_dict(self) -> dict[str, Any]:
        """Returns it as plain data."""
        return {
            "compared": self.rows,
            "different": self.different,
            "features": [
                {"feature": name, "rows": rows, **self.examples[name]._asdict()}
                for name, rows in self.features.most_common()
            ],
            "replayed_only": self.replayed_only,
            "logged_only": self.logged_only,
            "not_comparable": dict(self.unchecked),
        }


def vectors_of(model: Model, predictions: Iterable[PredictionRecord]) -> Iterator[Vector]:
    """Yields the vectors of logged predictions."""
    for made in predictions:
        reason = ""
        if made.fingerprint != model.fingerprint:
            reason = "made by another version of the project"
        elif FALLBACK in made.flags:
            reason = "a fallback score, made without features"
        elif len(made.vector) != len(model.vector.names):
            reason = f"logged with {len(made.vector)} slots"
        yield Vector(made.id, made.origin, made.vector, reason)


def vectors_in(path: Path, model: Model) -> Iterator[Vector]:
    """Yields the vectors of a file of rows, as `replay --as-of logged --out` writes it.

    Raises:
        DataRefused: the file is none of this model's rows.
    """
    slots = Columns(model).slots
    for number, row in enumerate(_rows(path), 1):
        missing = [name for name in (*OWN, *slots) if name not in row]
        if missing:
            raise DataRefused(
                f"{path.name} has no column {missing[0]!r}",
                where=f"{path}, row {number}",
                why=f"it holds no rows of {model.name} as the project declares it now",
                fix="write it with headrace replay --as-of logged --out, from the same project file",
            )
        reason = "a fallback score, made without features" if FALLBACK in row["flags"] else ""
        yield Vector(row["id"], row["origin"], [row[name] for name in slots], reason)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    form = form_of(path)
    if form == "parquet":
        yield from parquet_rows(path)
        return
    if form == "csv":
        raise DataRefused(
            f"{path.name} cannot be compared with",
            where=str(path),
            why="a CSV does not tell an integer from a float or a text",
            fix="write the rows as .parquet or .ndjson",
        )
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise _no_row(path, number, str(error)) from None
            if not isinstance(row, dict):
                raise _no_row(path, number, "a row is a JSON object")
            yield row


def _no_row(path: Path, number: int, why: str) -> DataRefused:
    return DataRefused(
        f"{path.name} holds what is no row", where=f"{path}, line {number}", why=why, fix="mend the line"
    )
