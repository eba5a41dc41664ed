"""The aggregation: a function of the *set* of events in a window.

Its four pure verbs are an exact algebra: `merge` is associative and commutative, so the order of arrival, the batching
and the place where a partial was cut leave no trace in any bit of `result`. A subclass that can read whole slices of
events faster overrides `value`, which must give the bits that the verbs give (the contract tests compare them).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import compress
from types import FunctionType
from typing import Any, ClassVar, Generic, Literal, TypeVar, overload

from .clock import Duration
from .column import SCALARS, Column, Kind, column_of, require
from .errors import DefinitionError
from .fingerprint import function_fingerprint, short_digest
from .window import Period, Window, calendar, lifetime, sliding

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Kin = tuple[str, str, str | int]  # what a partial holds: its name, its column, its parameter
Home = Literal["cells", "base"]


class Segment:
    """A run of exact events in time order: rows `i` to `j` of a block."""

    __slots__ = ("cols", "i", "j", "t", "t0")

    def __init__(self, t0: int, t: Sequence[int], cols: Sequence[Sequence[Any]], i: int, j: int) -> None:
        self.t0, self.t, self.cols, self.i, self.j = t0, t, cols, i, j


class Events:
    """What one window holds: exact events in segments, and partials of events that are no longer kept one by one."""

    __slots__ = ("column", "end", "n", "nullable", "partials", "segments", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end
        self.n = 0
        self.segments: list[Segment] = []
        self.partials: list[Any] = []
        self.column = -1
        self.nullable = False

    def values(self) -> list[Sequence[Any]]:
        """Returns the column's values, a sequence a segment; missing ones are left out."""
        c = self.column
        slices = [s.cols[c][s.i : s.j] for s in self.segments]
        return _present(slices) if self.nullable else slices

    def timed(self) -> Iterator[tuple[int, Any]]:
        """Yields (time, value) of every exact event, a segment after the other; missing values are left out."""
        c = self.column
        for s in self.segments:
            t0 = s.t0
            if c < 0:
                for dt in s.t[s.i : s.j]:
                    yield t0 + dt, None
                continue
            for dt, x in zip(s.t[s.i : s.j], s.cols[c][s.i : s.j], strict=True):
                if not self.nullable or present(x):
                    yield t0 + dt, x


def present(x: Any) -> bool:
    """Whether a stored value stands for one that was there: not NaN, not the hash 0, not None."""
    return x is not None and x == x and not (x == 0 and type(x) is int)


def _present(slices: list[Sequence[Any]]) -> list[Sequence[Any]]:
    return [list(compress(xs, map(present, xs))) for xs in slices]


class Aggregation(Generic[T]):
    """A summary of the events in a window, over one column or over the events themselves.

    A subclass says what it keeps of its column (`keeps`), what its partial is called (`kin`: aggregations of one kin
    share a partial), and gives the four verbs. `missing` in its docstring is the value of an empty window.
    """

    keeps: ClassVar[Kind | None] = None
    takes: ClassVar[tuple[type, ...]] = SCALARS
    home: ClassVar[Home] = (
        "cells"  # where partials of old events live: tiles by time, or the base of the state
    )
    compact: ClassVar[bool] = False  # whether closed blocks carry the partial as well, to be read in one step
    ordered: ClassVar[bool] = (
        False  # whether `of_values` depends on the order of the values, which is that of time
    )
    counts_missing: bool = False  # whether a missing value is one of its values; else it is passed over
    width: int = 1  # how many slots of a vector its value takes
    version: ClassVar[int] = 1  # goes up when what it keeps, or a bit of its value, changes

    def __init__(self, column: object = None) -> None:
        use = type(self).__name__
        self.column: Column | None = (
            None if column is None else require(column_of(column, use), self.takes, use)
        )
        if (self.column is None) is not (self.keeps is None):
            raise DefinitionError(
                f"{use} needs a column" if self.keeps else f"{use} takes no column",
                fix=f"write {use}({'<event class>.<column>' if self.keeps else ''})",
            )

    @property
    def kin(self) -> Kin:
        """Names the partial; equal kin means interchangeable partials."""
        return (type(self).__name__.lower(), self.column.name if self.column else "", self.parameter)

    @property
    def parameter(self) -> str | int:
        """What distinguishes two aggregations of one class over one column."""
        return ""

    @property
    def code(self) -> str:
        """Names the code: the version, and a digest of what is not Headrace's own."""
        kind: Any = type(self)
        return _code(kind)

    # the four verbs

    def zero(self) -> Any:
        """Returns the partial of no events."""
        raise NotImplementedError(type(self).__name__)

    def add(self, partial: Any, t: int, x: Any) -> Any:
        """Returns the partial with one more event, at time t and with value x."""
        raise NotImplementedError(type(self).__name__)

    def merge(self, one: Any, other: Any) -> Any:
        """Returns the partial of both sets of events, which are disjoint."""
        raise NotImplementedError(type(self).__name__)

    def result(self, partial: Any, events: Events) -> T:
        """Returns the value of a partial as it stands at the end of the window, `events.end`."""
        raise NotImplementedError(type(self).__name__)

    # what may be faster, and what is stored

    def extend(self, partial: Any, times: Sequence[int], values: Sequence[Any]) -> Any:
        """Returns the partial with events more, in the order of time."""
        for t, x in zip(times, values, strict=True):
            partial = self.add(partial, t, x)
        return partial

    def gather(self, events: Events) -> Any:
        """Returns the partial of everything in a window."""
        partial = self.zero()
        for part in events.partials:
            partial = self.merge(partial, part)
        for t, x in events.timed():
            partial = self.add(partial, t, x)
        return partial

    def value(self, events: Events) -> T:
        """Returns the value of a window."""
        return self.result(self.gather(events), events)

    def of_values(self) -> Callable[[Sequence[Any]], T] | None:
        """Returns the value of a window as a function of its present values, where they alone decide it.

        The values come as one sequence in the order of time; without a column as a range of as many. It must give the
        bits that the verbs give.
        """
        return None

    def of_sum(self) -> Callable[[float, int], T] | None:
        """Returns the value as a function of the correctly rounded sum of the values and of their number, if it is one.

        Several such values of one window then share the sum.
        """
        return None

    def freeze(self, partial: Any) -> Any:
        """Returns the partial as MessagePack can hold it, in one canonical form."""
        return partial

    def thaw(self, frozen: Any) -> Any:
        """Returns the partial that `freeze` was given."""
        return frozen

    def trim(self, partial: Any) -> Any:
        """Returns the partial within its bounds; called after every block, so that no restart decides what is cut."""
        return partial

    def expire(self, partial: Any, before: int) -> Any:
        """Returns the partial without what no window can see any more (a base that remembers times)."""
        return partial

    # the tiles of one state, oldest first: what they may share

    def trim_cells(self, partials: Sequence[Any], ends: Sequence[int]) -> Sequence[Any]:
        """Returns the partials of all tiles within the bounds of them together; called after every block.

        Args:
            partials: trimmed one by one.
            ends: the time of the newest event in each tile.
        """
        return partials

    def freeze_cells(self, partials: Sequence[Any]) -> Any:
        """Returns the partials of all tiles as MessagePack can hold them, in one canonical form."""
        return [self.freeze(p) for p in partials]

    def thaw_cells(self, frozen: Any, ends: Sequence[int]) -> Sequence[Any]:
        """Returns the partials that `freeze_cells` was given, as `trim_cells` left them."""
        return [self.thaw(p) for p in frozen]

    def parts(self) -> tuple[Aggregation[Any], ...]:
        """Returns the aggregations that read the state: this one, unless it is made of others."""
        return (self,)

    def combine(self, values: Sequence[Any]) -> T:
        """Returns the value made of the parts' values, in the order of `parts`."""
        value: T = values[0]
        return value

    # windows

    @overload
    def over(self, w1: Duration, /, *, delay: Duration = ...) -> Feature[T]: ...
    @overload
    def over(
        self, w1: Duration, w2: Duration, /, *, delay: Duration = ...
    ) -> tuple[Feature[T], Feature[T]]: ...
    @overload
    def over(
        self, w1: Duration, w2: Duration, w3: Duration, /, *, delay: Duration = ...
    ) -> tuple[Feature[T], Feature[T], Feature[T]]: ...
    @overload
    def over(
        self, w1: Duration, w2: Duration, w3: Duration, w4: Duration, /, *, delay: Duration = ...
    ) -> tuple[Feature[T], Feature[T], Feature[T], Feature[T]]: ...
    @overload
    def over(
        self,
        w1: Duration,
        w2: Duration,
        w3: Duration,
        w4: Duration,
        w5: Duration,
        /,
        *,
        delay: Duration = ...,
    ) -> tuple[Feature[T], Feature[T], Feature[T], Feature[T], Feature[T]]: ...

    def over(self, *widths: Duration, delay: Duration = "0ms") -> Any:
        """Returns the feature over the last `width` of event time, or one feature for each width given.

        Args:
            widths: lengths of the windows, such as "10m" or "30d"; from 1 ms to years.
            delay: shifts the windows back: `over("7d", delay="7d")` sees `(t - 14d, t - 7d]`, and gives the value
                as it stood at `t - 7d`.
        """
        if not widths:
            raise DefinitionError(f"{type(self).__name__}.over() names no window", fix='write over("1d")')
        features = tuple(Feature(self, sliding(width, delay)) for width in widths)
        return features if len(features) > 1 else features[0]

    def since(self, period: Period, *, tz: str = "UTC", delay: Duration = "0ms") -> Feature[T]:
        """Returns the feature since the hour, day, week, month or year began in a time zone."""
        return Feature(self, calendar(period, tz, delay))

    def lifetime(
        self, *, forget_after: Duration | None = None, unbounded: bool = False, delay: Duration = "0ms"
    ) -> Feature[T]:
        """Returns the feature over the entity's whole life, which ends with a silence longer than `forget_after`."""
        return Feature(self, lifetime(forget_after, unbounded, delay))

    def __repr__(self) -> str:
        inner = "" if self.column is None else str(self.column)
        parameter = f"{', ' if inner else ''}{self.parameter}" if self.parameter != "" else ""
        return f"{type(self).__name__}({inner}{parameter})"


@lru_cache(maxsize=256)
def _code(kind: Any) -> str:
    told: list[str] = []
    for cls in kind.__mro__:
        room = cls.__module__.partition(".")[0]
        if room == __name__.partition(".")[0] or room in sys.stdlib_module_names:
            continue
        for name, member in sorted(vars(cls).items()):
            inner = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if name.startswith("__"):
                continue  # how one is made shows in its parameter
            if isinstance(inner, FunctionType):
                told.append(f"{name} {function_fingerprint(inner)}")
            elif isinstance(inner, str | int | float | bool | tuple):
                told.append(f"{name} {inner!r}")
    return ":".join((str(kind.version), *([short_digest("\n".join(told).encode())] if told else [])))


class Feature(Generic[T_co]):
    """One aggregation over one window: an attribute of a view.

    On the class it is the feature itself, to be named as an input of a model; on a row of the view it is the value.
    """

    __slots__ = ("aggregation", "name", "view", "window")

    def __init__(self, aggregation: Aggregation[T_co], window: Window) -> None:
        self.aggregation = aggregation
        self.window = window
        self.name = ""
        self.view: Any = None

    def __set_name__(self, owner: type, name: str) -> None:
        if self.view is None:
            self.view, self.name = owner, name

    @overload
    def __get__(self, row: None, owner: type) -> Feature[T_co]: ...
    @overload
    def __get__(self, row: object, owner: type) -> T_co: ...

    def __get__(self, row: object | None, owner: type) -> Any:
        if row is None:
            return self
        return row._values[self.name]  # type: ignore[attr-defined]  # noqa: SLF001  # a row keeps no public names of its own

    def __repr__(self) -> str:
        owner = f"{self.view.__name__}.{self.name}: " if self.view is not None else ""
        return f"{owner}{self.aggregation!r} over {self.window}"
