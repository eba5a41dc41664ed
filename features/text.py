"""What any JSON that comes in must be before it is decoded: text to its last byte, and not nested too deep.

The decoder skips what no field asks for. So it would let bytes through that are no text, and pass them on to logs that
others read. And how deep it can go depends on how deep the call itself stands: without a bound the same record could be
read in one place and not in another.
"""

from __future__ import annotations

import re

DEEPEST = 64
"""Levels of objects and arrays in an event; its own object is the first."""

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{\]}]', re.DOTALL)


def check_json(data: bytes, deepest: int = DEEPEST) -> None:
    """Returns if the bytes may be given to a decoder of JSON.

    Raises:
        ValueError: they are not UTF-8, or nested deeper.

    Example:
        >>> check_json(b'{"id":"p1","more":[[1],[2]]}')
        >>> check_json(b"[" * 65)
        Traceback (most recent call last):
        ...
        ValueError: the JSON is nested deeper than 64 levels
    """
    if not data.isascii():
        str(data, "utf-8")
    # an object of plain columns, as most are, has one brace
    inner = b"[" in data or data.find(b"{", min(deepest, 1)) >= 0
    if inner and data.count(b"[") + data.count(b"{") > deepest and _deeper(data, deepest):
        raise ValueError(f"the JSON is nested deeper than {deepest} levels")


def _deeper(data: bytes, deepest: int) -> bool:
    level = 0
    for token in _TOKEN.finditer(data):
        first = data[token.start()]
        if first == 0x5B or first == 0x7B:
            level += 1
            if level > deepest:
                return True
        elif first != 0x22:
            level -= 1
    return False
