"""What can go wrong at the command line, and how every failure is told: what, where, why, fix.

HeadraceError
├── UsageRefused     an option or argument cannot be used; exit code 2
├── DataRefused      a file of events cannot be read; names file, line and field
├── ServiceFailed    a process or server that a command started did not come up
└── NothingChecked   a check had nothing to look at; exit code 3
"""

from __future__ import annotations

import difflib
import re
from enum import IntEnum
from typing import NamedTuple

import msgspec

from features.embedded import EmbeddedRedisError
from features.errors import HeadraceError
from streams.embedded import EmbeddedKafkaError
from streams.errors import SecurityUnusable, StreamsError


class Code(IntEnum):
    """What a command answers to the shell."""

    OK = 0
    FAILED = 1  # it failed, or found differences
    USAGE = 2  # it was called wrongly
    UNCHECKED = 3  # a check had nothing to look at


class UsageRefused(HeadraceError):
    """An option or argument cannot be used."""


class DataRefused(HeadraceError):
    """A file of events cannot be read as a source declares."""


class ServiceFailed(HeadraceError):
    """Something that a command started did not come up."""


class NothingChecked(HeadraceError):
    """A check had nothing to look at."""


FAILURES = (HeadraceError, StreamsError, EmbeddedKafkaError, EmbeddedRedisError, OSError)
"""What a user can meet and mend; anything else is an error of ours and shows its traceback."""


class Told(NamedTuple):
    """A failure in four parts; a part that nobody knows is empty."""

    what: str
    where: str
    why: str
    fix: str


_PLACE = re.compile(r"\b[a-z0-9][a-z0-9.-]*/\d+\b|\b[\w.-]+:\d{2,5}\b")
_ASIDE = re.compile(r"\s*\((?P<why>.*)\)")
_SENTENCE = re.compile(r"(?<=\.)\s+(?=[A-Z`])")


def told(error: BaseException) -> Told:
    """Returns a failure in its four parts."""
    if isinstance(error, HeadraceError):
        guess = _column_guess(error.__cause__)
        return (
            guess._replace(where=error.where)
            if guess
            else Told(error.what, error.where, error.why, error.fix)
        )
    if isinstance(error, OSError) and not isinstance(error, ConnectionError):
        return Told(
            error.strerror or str(error), str(error.filename or ""), "", "check the path and its permissions"
        )
    return _from_sentences(str(error) or type(error).__name__)


def code_of(error: BaseException) -> Code:
    """Returns what a failure answers to the shell."""
    if isinstance(error, (UsageRefused, SecurityUnusable)):
        return Code.USAGE
    return Code.UNCHECKED if isinstance(error, NothingChecked) else Code.FAILED


def _from_sentences(text: str) -> Told:
    """Takes a message of sentences apart: the first says what, an aside in it why, the last what to do."""
    first, *rest = _SENTENCE.split(text.strip())
    why = ""
    aside = _ASIDE.search(first)
    if aside:
        why = aside["why"]
        first = first[: aside.start()] + first[aside.end() :]
    place = _PLACE.search(first)
    fix = " ".join(rest[-1:])
    more = " ".join(rest[:-1])
    return Told(first.rstrip(".: "), place[0] if place else "", " ".join(filter(None, (why, more))), fix)


def _column_guess(cause: BaseException | None) -> Told | None:
    """Tells a misspelt column with the columns that there are."""
    if not isinstance(cause, AttributeError) or not isinstance(cause.obj, type):
        return None
    if not issubclass(cause.obj, msgspec.Struct):
        return None
    owner, columns, name = cause.obj.__name__, cause.obj.__struct_fields__, cause.name or ""
    close = difflib.get_close_matches(name, columns, 1)
    names = ", ".join(columns)
    return Told(
        f"{owner} has no column {name!r}",
        "",
        f"the columns of {owner} are {names}",
        f"write {owner}.{close[0]}" if close else f"use one of them, or add {name} to {owner}",
    )
