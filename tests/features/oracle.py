"""What the documented semantics say, computed the slow way: loops over the raw list of events.

It shares nothing with the code under test: no import, no incremental state, exact arithmetic by `Fraction`
and `fsum`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

UNIT = Fraction(1, 2**128)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE = 60_000


@dataclass(frozen=True)
class Event:
    """One event of one entity; `tie` orders those of one instant, `partition` those of several partitions."""

    t: int
    tie: int
    values: dict[str, Any]
    partition: int = 0

    @property
    def place(self) -> tuple[int, int, int]:
        return (self.t, self.partition, self.tie)


@dataclass(frozen=True)
class Sliding:
    width: int
    delay: int = 0


@dataclass(frozen=True)
class Calendar:
    since: str
    tz: str
    delay: int = 0


@dataclass(frozen=True)
class Lifetime:
    forget_after: int = 0
    delay: int = 0


Window = Sliding | Calendar | Lifetime


@dataclass(frozen=True)
class Wanted:
    """One aggregation: its name, its column, its parameter; a ratio has two aggregations instead."""

    name: str
    column: str = ""
    parameter: Any = None
    parts: tuple[Wanted, ...] = ()


def kept(x: Any) -> Any:
    """A value as the state keeps it: floats as multiples of 2^-128, cut towards zero, never minus zero."""
    return _cut(x) if isinstance(x, float) else x


@lru_cache(maxsize=4096)
def _cut(x: float) -> float:
    return float(math.trunc(Fraction(x) / UNIT) * UNIT)


# which events there are


def accepted(
    events: Iterable[Event], lateness: int, *, revises: bool = False
) -> tuple[list[Event], list[str]]:
    """The events of one partition that count after all have arrived, and what became of each arrival."""
    there: list[Event] = []
    outcomes: list[str] = []
    newest: int | None = None
    for event in events:
        if newest is not None and event.t <= newest - lateness:
            outcomes.append("LATE")
            continue
        twin = next((k for k, e in enumerate(there) if (e.t, e.tie) == (event.t, event.tie)), None)
        if twin is None:
            there.append(event)
            outcomes.append("FOLDED")
            newest = event.t if newest is None else max(newest, event.t)
        elif there[twin].values == event.values:
            outcomes.append("DUPLICATE")
        elif revises:
            there[twin] = event
            outcomes.append("REVISED")
        else:
            outcomes.append("CONFLICT")
    return sorted(there, key=lambda e: e.place), outcomes


# which of them a window holds


def members(events: Sequence[Event], window: Window, t: int) -> list[Event]:
    """The events in a window at time t, in the order of (time, partition, tie)."""
    end = t - window.delay
    past = sorted((e for e in events if e.t <= end), key=lambda e: e.place)
    if isinstance(window, Sliding):
        return [e for e in past if e.t > end - window.width]
    if isinstance(window, Calendar):
        began = began_at(window.since, window.tz, end)
        return [e for e in past if e.t >= began]
    if not window.forget_after:
        return past
    life: list[Event] = []
    edge = end
    for event in reversed(past):
        if edge - event.t > window.forget_after:
            break
        life.append(event)
        edge = event.t
    return life[::-1]


def began_at(since: str, tz: str, t: int) -> int:
    """When the local hour, day, week, month or year of `t` began, found by walking through UTC.

    An hour began at the minute where the clock showed :00 or jumped past it. The others began at the first
    minute of the period's label: a clock set back over midnight does not begin a day anew.
    """
    zone = ZoneInfo(tz)
    minute = t - t % MINUTE
    wanted = _label(since, minute, zone)
    if since == "hour":
        while _local(minute, zone).minute and _label(since, minute - MINUTE, zone) == wanted:
            minute -= MINUTE
        return minute
    reach = {"day": 32, "week": 8 * 24, "month": 32 * 24, "year": 367 * 24}[since]
    hours = [minute - k * 60 * MINUTE for k in range(reach)]
    first = min(h for h in hours if _label(since, h, zone) == wanted)
    return min(
        m for m in range(first - 60 * MINUTE, first + MINUTE, MINUTE) if _label(since, m, zone) == wanted
    )


def _local(t: int, zone: ZoneInfo) -> datetime:
    return (EPOCH + timedelta(milliseconds=t)).astimezone(zone)


def _label(since: str, t: int, zone: ZoneInfo) -> tuple[int, ...]:
    local = _local(t, zone)
    if since == "week":
        return tuple(local.isocalendar())[:2]
    whole = (local.year, local.month, local.day, local.hour)
    return whole[: {"year": 1, "month": 2, "day": 3, "hour": 4}[since]]


def seen_by(events: Sequence[Event], own: Event | None, *, counted: bool) -> list[Event]:
    """The events that a request sees: its own exactly once, or not at all."""
    if own is None:
        return list(events)
    there = any((e.t, e.tie) == (own.t, own.tie) for e in events)
    if counted:
        return [*events] if there else [*events, own]
    return [e for e in events if (e.t, e.tie) != (own.t, own.tie)]


# what a key stands for in a table


@dataclass(frozen=True)
class Said:
    """A record of a compacted topic about one key; without values it clears the key."""

    t: int
    offset: int
    values: dict[str, Any] | None


def stands_for(records: Iterable[Said], lateness: int, t: int, forget_after: int = 0) -> dict[str, Any]:
    """What a key stands for at a time; empty where it was never named, cleared, or not named for too long.

    Records come in the order of the log. Of one instant the later in the log holds.
    """
    there: list[Said] = []
    for record in records:
        if all(record.t > other.t - lateness for other in there):
            there.append(record)
    past = [record for record in there if record.t <= t]
    if not past:
        return {}
    newest = max(past, key=lambda record: (record.t, record.offset))
    if newest.values is None or (forget_after and t - newest.t > forget_after):
        return {}
    return {name: kept(x) for name, x in newest.values.items()}


# what they are worth


def value(wanted: Wanted, events: Sequence[Event], end: int) -> Any:
    """The value of an aggregation of the events in a window that ends at `end`, events in order."""
    if wanted.name == "Ratio":
        dividend, divisor = (value(part, events, end) for part in wanted.parts)
        return float(dividend / divisor) if dividend is not None and divisor else None
    if not wanted.column:
        return _TIMED[wanted.name]([e.t for e in events], end, wanted.parameter)
    present = [(e.t, e.values[wanted.column]) for e in events if e.values[wanted.column] is not None]
    if wanted.name == "Distinct":
        return len({x for _, x in present})
    present = [(t, kept(x)) for t, x in present]
    if wanted.name == "DecayedSum":
        return decayed(present, end, wanted.parameter)
    return _VALUED[wanted.name]([x for _, x in present], wanted.parameter)


def _since_last(times: list[int], end: int, _: Any) -> float | None:
    return (end - max(times)) / 1000 if times else None


def _since_first(times: list[int], end: int, _: Any) -> float | None:
    return (end - min(times)) / 1000 if times else None


def _mean(xs: list[Any], _: Any) -> float | None:
    return math.fsum(xs) / len(xs) if xs else None


def _variance(xs: list[Any], _: Any) -> float | None:
    if len(xs) < 2:
        return None
    exact = [Fraction(x) for x in xs]
    mean = sum(exact, Fraction()) / len(xs)
    return float(sum(((x - mean) ** 2 for x in exact), Fraction()) / (len(xs) - 1))


def _deviation(xs: list[Any], _: Any) -> float | None:
    variance = _variance(xs, None)
    return None if variance is None else math.sqrt(variance)


def _quantile(xs: list[Any], q: float) -> float | None:
    return float(sorted(xs)[max(1, math.ceil(q * len(xs))) - 1]) if xs else None


def _top(xs: list[Any], k: int) -> tuple[tuple[str, int], ...]:
    counts = {x: xs.count(x) for x in set(xs)}
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:k])


def decayed(timed: Sequence[tuple[int, float]], end: int, half_life: int) -> float:
    """The sum of x * 2^((t - end) / h): fractions of the exponent are rounded once, the rest is exact.

    Whole half-lives are powers of two; the sums of those 128 and more below the newest are dropped.
    """
    if not timed:
        return 0.0
    newest = max(t // half_life for t, _ in timed)
    alive = [(t, x) for t, x in timed if t // half_life > newest - 128]
    oldest = min(t // half_life for t, _ in alive)
    total = Fraction()
    for t, x in alive:
        term = float(x) * 2.0 ** (t % half_life / half_life)
        total += math.trunc(Fraction(term) / UNIT) * UNIT * 2 ** (t // half_life - oldest)
    scale: float = 2.0 ** (oldest - end // half_life) * 2.0 ** -(end % half_life / half_life)
    return float(total) * scale


_TIMED: dict[str, Callable[[list[int], int, Any], Any]] = {
    "Count": lambda times, end, _: len(times),
    "TimeSinceLast": _since_last,
    "TimeSinceFirst": _since_first,
    "DecayedCount": lambda times, end, h: decayed([(t, 1.0) for t in times], end, h),
}

_VALUED: dict[str, Callable[[list[Any], Any], Any]] = {
    "Sum": lambda xs, _: math.fsum(xs),
    "Mean": _mean,
    "Min": lambda xs, _: min(xs, default=None),
    "Max": lambda xs, _: max(xs, default=None),
    "Variance": _variance,
    "StdDev": _deviation,
    "Quantile": _quantile,
    "TopK": _top,
    "First": lambda xs, _: xs[0] if xs else None,
    "Last": lambda xs, _: xs[-1] if xs else None,
    "LastK": lambda xs, k: tuple(reversed(xs[-k:])),
}


def bits(x: Any) -> str:
    """A value with its type, such that two are equal only if every bit is."""
    if isinstance(x, tuple | list):
        return f"({', '.join(map(bits, x))})"
    return f"{type(x).__name__} {x.hex() if isinstance(x, float) else repr(x)}"
