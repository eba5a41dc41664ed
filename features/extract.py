"""What a plan takes of an event, as one flat function made when the project is loaded.

The function is written out and compiled: a loop over columns and kinds would cost more for each event than the fold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import xxhash

from .column import KEY, LARGEST, SMALL, Column, Kind, hashed, number
from .errors import EventRefused

LONGEST_TEXT = 1024

_PLAIN = {
    # a float in the plain range is kept as it is; zero, tiny and huge ones take the long way
    ("number", float): "v if SMALL <= v < LARGEST or -LARGEST < v <= -SMALL else number(v, c{k})",
    ("number", int): "number(v, c{k})",
    ("number", bool): "1.0 if v else 0.0",
    ("hash", str): "xxh64(v.encode(), KEY) or 1",
    ("text", str): "v if len(v) <= LONGEST_TEXT else too_long(v, c{k})",
}
_MISSING = {"number": "NAN", "hash": "0", "text": "None"}


def extractor(
    paths: Sequence[str], columns: Sequence[Column], kinds: Sequence[Kind]
) -> Callable[[Any], tuple[Any, ...]]:
    """Returns the function from an event to the values that a state keeps, in the order of the columns.

    It raises EventRefused for a value that cannot be kept exactly.
    """
    lines = ["def extract(event):"]
    for k, (path, column, kind) in enumerate(zip(paths, columns, kinds, strict=True)):
        keep = _PLAIN.get((kind, column.type), "hashed(v)").format(k=k)
        lines.append(f"    v = event.{path}")
        lines.append(
            f"    x{k} = " + (f"{_MISSING[kind]} if v is None else ({keep})" if column.nullable else keep)
        )
    lines.append(f"    return ({''.join(f'x{k}, ' for k in range(len(paths)))})")
    known: dict[str, Any] = {
        "KEY": KEY,
        "LARGEST": LARGEST,
        "LONGEST_TEXT": LONGEST_TEXT,
        "NAN": float("nan"),
        "SMALL": SMALL,
        "hashed": hashed,
        "number": number,
        "too_long": _too_long,
        "xxh64": xxhash.xxh64_intdigest,
    }
    known.update({f"c{k}": column for k, column in enumerate(columns)})
    exec("\n".join(lines), known)  # noqa: S102  # made of attribute paths that were checked when the project was loaded
    made: Callable[[Any], tuple[Any, ...]] = known["extract"]
    return made


def _too_long(value: str, column: Column) -> str:
    raise EventRefused(
        "text_too_long", f"{column} has {len(value)} characters", fix=f"keep texts of at most {LONGEST_TEXT}"
    )
