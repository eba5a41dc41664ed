"""What is fuzzed: a decoder that takes any bytes, and a few that were written as they should be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Target(NamedTuple):
    """A decoder with what it may do.

    Attributes:
        run: gives bytes to it, and returns whether they were taken; raises only where it does what it must not.
        seeds: bytes that it takes, which others are made of.
    """

    run: Callable[[bytes], bool]
    seeds: Callable[[], Sequence[bytes]]
