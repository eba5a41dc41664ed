"""Time: integer milliseconds since the epoch, and the durations that people write."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from .errors import DefinitionError

MILLISECONDS = {
    "ms": 1,
    "s": 1_000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 7 * 86_400_000,
    "y": 365 * 86_400_000,
}
NEVER = -(1 << 62)  # a time before every event

FIRST = -30_610_224_000_000  # the year 1000: no event is older
LAST = 221_845_391_999_999  # nor younger than the year 9000, so that windows have room on both sides

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_DURATION = re.compile(r"(\d+)\s*(ms|s|m|h|d|w|y)")

Duration = str | timedelta


def duration_ms(text: Duration, what: str = "duration") -> int:
    """Returns the milliseconds of a duration like `"10m"`, `"1h30m"`, `"1 ms"` or a timedelta.

    Raises:
        DefinitionError: the text is not a duration.
    """
    if isinstance(text, timedelta):
        if text < timedelta():
            raise DefinitionError(f"{what} {text} is negative", fix="give it a length of zero or more")
        return text // _MILLISECOND
    compact = str(text)  # a number is refused below, with the way to write it
    pieces = _DURATION.findall(compact)
    if not pieces or _DURATION.sub("", compact).strip():
        raise DefinitionError(
            f"{what} {text!r} is not a duration",
            fix='write a number and a unit of ms, s, m, h, d, w or y, such as "10m", "36h" or "30d"',
        )
    return sum(int(number) * MILLISECONDS[unit] for number, unit in pieces)


def duration_text(ms: int) -> str:
    """Returns the shortest duration text, such as `"36h"` for 129,600,000."""
    for unit in ("d", "h", "m", "s"):
        if ms and ms % MILLISECONDS[unit] == 0:
            return f"{ms // MILLISECONDS[unit]}{unit}"
    return f"{ms}ms"


def to_ms(moment: datetime) -> int:
    """Returns a moment in milliseconds, floored.

    Raises:
        ValueError: the datetime is naive: it names no instant.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone")
    since = moment - _EPOCH  # its seconds and microseconds are never negative, so this floors as well
    return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000


def from_ms(ms: int) -> datetime:
    """Returns the UTC datetime of a time in milliseconds."""
    return _EPOCH + timedelta(milliseconds=ms)


def turn(t: int, behind: int, lateness: int) -> int:
    """Returns the event time at which a record has its turn, given that of the record behind it.

    A record that is ahead of the one behind it by the lateness is a stray from the future: it goes with that one, so
    that nobody waits for its own time to come.
    """
    return behind if t - behind >= lateness else t
