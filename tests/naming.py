"""Names of test cases that are the same in every process, by which pytest tells them apart on several cores."""

from __future__ import annotations

import re

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def steady(value: object) -> str:
    """Returns the representation of a value without addresses."""
    return _ADDRESS.sub("", repr(value))
