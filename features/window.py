"""Windows: which events, by their time, an aggregation sees at time t.

Every window is half open, `(start, end]`, in milliseconds of event time: an event exactly at its end is in, one exactly
at its start is out.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from .clock import NEVER, Duration, duration_ms, duration_text, from_ms, to_ms
from .errors import DefinitionError

Period = Literal["hour", "day", "week", "month", "year"]

# the longest that a period can last: since 1970 no clock was set back by more than seven hours (Vostok, 1994)
_LONGEST = {"hour": "2h", "day": "31h", "week": "175h", "month": "751h", "year": "8791h"}


@dataclass(frozen=True, slots=True)
class Sliding:
    """The last `width` milliseconds before `t - delay`."""

    width: int
    delay: int = 0

    @property
    def reach(self) -> int:
        """How far back from t an event can be and still be in the window, in milliseconds."""
        return self.width + self.delay

    def start(self, t: int) -> int:
        """Returns the exclusive start of the window at time t."""
        return t - self.delay - self.width

    def __str__(self) -> str:
        return duration_text(self.width) + (f" delayed {duration_text(self.delay)}" if self.delay else "")


@dataclass(frozen=True, slots=True)
class Calendar:
    """Since the hour, day, week (Monday), month or year of `t - delay` began in a time zone."""

    since: Period
    tz: str
    delay: int = 0

    @property
    def width(self) -> int:
        """The longest the window can be, in milliseconds."""
        return duration_ms(_LONGEST[self.since])

    @property
    def reach(self) -> int:
        """How far back from t an event can be and still be in the window, in milliseconds."""
        return self.width + self.delay

    def start(self, t: int) -> int:
        """Returns the exclusive start: one millisecond before the period began."""
        return _began(self.since, self.tz, t - self.delay) - 1

    def __str__(self) -> str:
        return f"since {self.since} ({self.tz})" + (
            f" delayed {duration_text(self.delay)}" if self.delay else ""
        )


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Everything since the entity's last silence longer than `forget_after` (0: everything ever)."""

    forget_after: int = 0
    delay: int = 0
    width: int = 0

    @property
    def reach(self) -> int:
        """Older events live on in the base of the state, so only the delay needs exact events."""
        return self.delay

    def start(self, t: int) -> int:
        """Returns the start of time."""
        return NEVER

    def __str__(self) -> str:
        kept = f"forgotten after {duration_text(self.forget_after)}" if self.forget_after else "unbounded"
        return f"lifetime, {kept}" + (f" delayed {duration_text(self.delay)}" if self.delay else "")


Window = Sliding | Calendar | Lifetime


def sliding(width: Duration, delay: Duration = "0ms") -> Sliding:
    """Returns the window of a duration; a length below one millisecond is refused."""
    ms = duration_ms(width, "window")
    if ms < 1:
        raise DefinitionError(
            f"window {str(width)!r} has no length", why="no event can be in it", fix='give it at least "1ms"'
        )
    return Sliding(ms, duration_ms(delay, "delay"))


def calendar(since: Period, tz: str, delay: Duration = "0ms") -> Calendar:
    """Returns the window of a calendar period in a time zone of the IANA database."""
    if since not in _LONGEST:
        raise DefinitionError(
            f"calendar window since {since!r} is unknown", fix=f"use one of {', '.join(_LONGEST)}"
        )
    try:
        ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise DefinitionError(
            f"time zone {tz!r} is unknown", fix='use a name like "UTC" or "Europe/Zurich"'
        ) from error
    return Calendar(since, tz, duration_ms(delay, "delay"))


def lifetime(forget_after: Duration | None, unbounded: bool, delay: Duration = "0ms") -> Lifetime:
    """Returns the window of a whole life; its end must be said, so that nobody keeps data for ever by accident."""
    if (forget_after is None) is not unbounded:
        raise DefinitionError(
            "a lifetime must say when an entity is forgotten",
            fix='write lifetime(forget_after="90d"), or lifetime(unbounded=True) to keep entities for ever',
        )
    forget = 0 if forget_after is None else duration_ms(forget_after, "forget_after")
    if forget_after is not None and forget < 1:
        raise DefinitionError(f"forget_after {forget_after!r} has no length", fix='give it at least "1ms"')
    return Lifetime(forget, duration_ms(delay, "delay"))


def _began(since: Period, tz: str, t: int) -> int:
    local = from_ms(t).astimezone(ZoneInfo(tz))
    if since == "hour":
        # an hour that is repeated begins anew; one that is stretched by a shift of minutes does not
        return to_ms(local.replace(minute=0, second=0, microsecond=0))
    return _day_began(since, tz, local.year, local.month, local.day)


@lru_cache(maxsize=4096)
def _day_began(since: Period, tz: str, year: int, month: int, day: int) -> int:
    midnight = datetime(year, month, day)  # noqa: DTZ001  # it gets its zone last: arithmetic is on the local calendar
    if since == "week":
        midnight -= timedelta(days=midnight.weekday())
    elif since == "month":
        midnight = midnight.replace(day=1)
    elif since == "year":
        midnight = midnight.replace(month=1, day=1)
    return to_ms(midnight.replace(tzinfo=ZoneInfo(tz)))
