"""What a plan takes of an event, as flat functions made when the project is loaded.

A function is written out and compiled: a loop over columns and kinds would cost more for each event than the fold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import xxhash

from .column import KEY, LARGEST, SMALL, Column, Kind, hashed, number
from .errors import EventRefused
from .source import key_text

LONGEST_TEXT = 1024

Part = Callable[[Any, str, int], tuple[Any, str, int, tuple[Any, ...]]]

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
    lines, row = _row(paths, columns, kinds)
    made: Callable[[Any], tuple[Any, ...]] = _compiled(
        "extract(event)", [*lines, f"return {row}"], columns, {}
    )
    return made


def parter(
    plan: object, by: Sequence[str], paths: Sequence[str], columns: Sequence[Column], kinds: Sequence[Kind]
) -> Part:
    """Returns the function from an event to all that the fold needs of it: plan, key of the state, identity, values.

    Its arguments are the event, what stands before the entity in the key, and the identity.
    """
    lines, row = _row(paths, columns, kinds)
    if len(by) == 1:
        lines.append(f"key = event.{by[0]}")
        key = "key if type(key) is str else str(key)"
    else:
        key = f"key_text(({', '.join(f'event.{path}' for path in by)}))"
    lines.append(f"return (plan, prefix + ({key}), id32, {row})")
    made: Part = _compiled("part(event, prefix, id32)", lines, columns, {"plan": plan, "key_text": key_text})
    return made


def _row(paths: Sequence[str], columns: Sequence[Column], kinds: Sequence[Kind]) -> tuple[list[str], str]:
    """Returns lines that compute the values of an event, and the tuple of them."""
    lines = []
    for k, (path, column, kind) in enumerate(zip(paths, columns, kinds, strict=True)):
        keep = _PLAIN.get((kind, column.type), "hashed(v)").format(k=k)
        lines.append(f"v = event.{path}")
        lines.append(
            f"x{k} = " + (f"{_MISSING[kind]} if v is None else ({keep})" if column.nullable else keep)
        )
    return lines, f"({''.join(f'x{k}, ' for k in range(len(paths)))})"


def _compiled(signature: str, lines: Sequence[str], columns: Sequence[Column], more: dict[str, Any]) -> Any:
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
        **{f"c{k}": column for k, column in enumerate(columns)},
        **more,
    }
    body = "\n".join(f"    {line}" for line in lines)
    # made of attribute paths that were checked when the project was loaded
    exec(f"def {signature}:\n{body}", known)  # noqa: S102
    return known[signature[: signature.index("(")]]


def _too_long(value: str, column: Column) -> str:
    raise EventRefused(
        "text_too_long", f"{column} has {len(value)} characters", fix=f"keep texts of at most {LONGEST_TEXT}"
    )
