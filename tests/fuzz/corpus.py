"""The bytes that are kept: `corpus/<target>`, one a line in base64, each of which once went a way of its own."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def kept(name: str) -> list[bytes]:
    """Returns what is kept for a target."""
    path = CORPUS / name
    return [base64.b64decode(line) for line in path.read_text().split()] if path.exists() else []


def keep(name: str, found: Iterable[bytes]) -> None:
    """Writes what is to be kept for a target, the shortest first."""
    lines = [base64.b64encode(each).decode() for each in sorted(set(found), key=lambda b: (len(b), b))]
    CORPUS.mkdir(exist_ok=True)
    (CORPUS / name).write_text("".join(f"{line}\n" for line in lines))
