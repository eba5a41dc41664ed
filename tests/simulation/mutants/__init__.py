"""Faults seeded into our own code, one at a time: each must be found, by a simulated life or by a test of the suite.

They stand in the TOML files beside this one, by area. A mutant replaces one snippet, which must occur in its file
exactly once (`test_mutants.py`), so none of them can quietly stop being a fault of today's code.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[3]


class Mutant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One fault."""

    name: str
    loses: str  # what the code stands for
    file: str
    old: str
    new: str
    tests: list[str]  # asked if no life finds it
    area: str = ""


def mutants() -> list[Mutant]:
    """Returns all, by area."""
    return [
        msgspec.convert({**each, "area": path.stem}, Mutant)
        for path in sorted(Path(__file__).parent.glob("*.toml"))
        for each in tomllib.loads(path.read_text())["mutant"]
    ]


def mutated(mutant: Mutant, root: Path = ROOT) -> str:
    """Returns the text of a mutant's file, with the fault in it.

    Raises:
        ValueError: the snippet is not there exactly once, or nothing changes.
    """
    text = (root / mutant.file).read_text()
    if (found := text.count(mutant.old)) != 1 or mutant.old == mutant.new:
        raise ValueError(f"{mutant.name}: its snippet is {found} times in {mutant.file}: write it anew")
    return text.replace(mutant.old, mutant.new)
