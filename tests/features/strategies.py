"""Histories, windows and views to try the fold and the reads on, and the bridge from them to the oracle."""

from __future__ import annotations

import random
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
from hypothesis import strategies as st

from features import (
    Aggregation,
    Count,
    DecayedCount,
    DecayedSum,
    Distinct,
    Entity,
    Feature,
    FeatureView,
    First,
    Last,
    LastK,
    Max,
    Mean,
    Min,
    Quantile,
    Ratio,
    Source,
    StdDev,
    Sum,
    TimeSinceFirst,
    TimeSinceLast,
    TopK,
    Variance,
)
from features.fold import Folded, fold
from features.plan import StatePlan, plans_of
from features.read import Own, Reader, Row
from features.state import Kept, State, decode, encode, opened, whole

from . import oracle
from .oracle import Wanted


class Payment(msgspec.Struct, frozen=True):
    """An event with a column of every kind, some of them nullable."""

    id: str
    card: str
    amount: float
    fee: float | None
    units: int
    flag: bool
    shop: str
    note: str | None
    at: int


card = Entity("card", by=Payment.card)

COLUMNS = ("amount", "fee", "units", "flag", "shop", "note")
NUMBERS = ("amount", "fee", "units", "flag")

# every aggregation over every column that it takes
WANTED: tuple[Wanted, ...] = (
    Wanted("Count"),
    Wanted("TimeSinceLast"),
    Wanted("TimeSinceFirst"),
    Wanted("DecayedCount", parameter=7),
    Wanted("DecayedCount", parameter=1000),
    Wanted("DecayedSum", "amount", 50),
    Wanted("DecayedSum", "fee", 1),
    *(Wanted(name, c) for name in ("Sum", "Mean", "Min", "Max", "Variance", "StdDev") for c in NUMBERS),
    *(Wanted("Quantile", c, q) for c in ("amount", "fee", "units") for q in (0.0, 0.1, 0.5, 0.95, 1.0)),
    *(Wanted("Distinct", c) for c in COLUMNS),
    *(Wanted(name, c) for name in ("First", "Last") for c in COLUMNS),
    *(Wanted("LastK", c, 3) for c in COLUMNS),
    Wanted("LastK", "amount", 64),
    *(Wanted("TopK", c, k) for c in ("shop", "note") for k in (1, 5)),
    Wanted("Ratio", parts=(Wanted("Sum", "amount"), Wanted("Count"))),
    Wanted("Ratio", parts=(Wanted("Mean", "fee"), Wanted("StdDev", "fee"))),
    Wanted("Ratio", parts=(Wanted("Last", "units"), Wanted("Max", "units"))),
)

# of numbers and hashes alone: what a small state can have
PLAIN = (
    Wanted("Count"),
    Wanted("Sum", "amount"),
    Wanted("Max", "fee"),
    Wanted("Variance", "units"),
    Wanted("Distinct", "shop"),
    Wanted("DecayedSum", "amount", 50),
    Wanted("TimeSinceLast"),
)


def ms(n: int) -> timedelta:
    return timedelta(milliseconds=n)


def made(wanted: Wanted, event: type[msgspec.Struct] = Payment) -> Aggregation[Any]:
    """The aggregation that the oracle calls so."""
    column: Any = getattr(event, wanted.column) if wanted.column else None
    plain: dict[str, Callable[..., Aggregation[Any]]] = {
        "Sum": Sum, "Mean": Mean, "Min": Min, "Max": Max, "Variance": Variance, "StdDev": StdDev,
        "Distinct": Distinct, "First": First, "Last": Last,
    }  # fmt: skip
    match wanted.name:
        case "Count":
            return Count()
        case "TimeSinceLast":
            return TimeSinceLast()
        case "TimeSinceFirst":
            return TimeSinceFirst()
        case "DecayedCount":
            return DecayedCount(ms(wanted.parameter))
        case "DecayedSum":
            return DecayedSum(column, ms(wanted.parameter))
        case "Quantile":
            return Quantile(column, wanted.parameter)
        case "LastK":
            return LastK(column, wanted.parameter)
        case "TopK":
            return TopK(column, wanted.parameter)
        case "Ratio":
            return Ratio(*(made(part, event) for part in wanted.parts))
        case name:
            return plain[name](column)


def feature_of(wanted: Wanted, window: oracle.Window) -> Feature[Any]:
    aggregation = made(wanted)
    match window:
        case oracle.Sliding(width, delay):
            feature: Feature[Any] = aggregation.over(ms(width), delay=ms(delay))
            return feature
        case oracle.Calendar(since, tz, delay):
            return aggregation.since(since, tz=tz, delay=ms(delay))  # type: ignore[arg-type]  # drawn from the periods
        case oracle.Lifetime(0, delay):
            return aggregation.lifetime(unbounded=True, delay=ms(delay))
        case oracle.Lifetime(forget, delay):
            return aggregation.lifetime(forget_after=ms(forget), delay=ms(delay))


def source_of(lateness: int, *, revises: bool = False) -> Source[Payment]:
    return Source(
        "shop.payments.v1",
        Payment,
        id=Payment.id,
        time=Payment.at,
        key=Payment.card,
        lateness=ms(lateness),
        revises=revises,
    )


class EveryWay(Reader):
    """A reader that goes the flat way, the general one and that from bytes, and takes nothing for granted."""

    def read(self, states: Sequence[Kept | None], t: int, own: Own | None) -> Row:
        plan = self.plan
        row = super().read(states, t, own)
        apart = [None if s is None else whole(plan, s) for s in states]
        quick = self._flat.read(apart, t, own)
        if quick is not None:
            slow, bounds = self._general(apart, t, own)
            assert (oracle.bits(quick), row.bounds) == (oracle.bits(slow), bounds)
        if plan.plain:
            kept = [None if s is None else opened(plan, encode(plan, s)) for s in states]
            same = super().read(kept, t, own)
            assert (oracle.bits(same.values), same[1:]) == (oracle.bits(row.values), row[1:])
        return row


@dataclass(frozen=True)
class Bench:
    """A view with its plan and reader, next to what the oracle knows of it."""

    plan: StatePlan
    reader: Reader
    wanted: Sequence[tuple[Wanted, oracle.Window]]

    def event(self, payment: Payment, partition: int = 0) -> oracle.Event:
        values = {name: getattr(payment, name) for name in COLUMNS}
        return oracle.Event(payment.at, self.plan.source.identify(payment, 0), values, partition)

    def own(self, payment: Payment, state: int = 0) -> Own:
        return Own(payment.at, self.plan.source.identify(payment, 0), self.plan.extract(payment), state)

    def fold(self, state: State, payment: Payment, offset: int) -> Folded:
        plan = self.plan
        return fold(
            plan, state, payment.at, plan.source.identify(payment, offset), plan.extract(payment), offset
        )

    def folded(self, payments: Iterable[Payment]) -> State:
        state = State()
        for offset, payment in enumerate(payments):
            self.fold(state, payment, offset)
        return state

    def restarted(self, state: State) -> State:
        return decode(self.plan, encode(self.plan, state))

    def expected(self, seen: Sequence[oracle.Event], t: int) -> list[Any]:
        held = {window: oracle.members(seen, window, t) for _, window in self.wanted}
        return [oracle.value(wanted, held[window], t - window.delay) for wanted, window in self.wanted]

    def differences(self, row: Row, seen: Sequence[oracle.Event], t: int) -> list[str]:
        """Every feature whose bits are not those of the oracle, with both values."""
        return [
            f"{wanted} over {window} at {t}: {got!r}, not {expected!r}"
            for (wanted, window), got, expected in zip(
                self.wanted, row.values, self.expected(seen, t), strict=True
            )
            if oracle.bits(got) != oracle.bits(expected)
        ]


def _by_buckets(wanted: Wanted, window: oracle.Window) -> bool:
    """Whether old events are in the value by their buckets only, so that no oracle knows its bits."""
    return wanted.name == "Quantile" and isinstance(window, oracle.Lifetime)


def bench(
    windows: Sequence[oracle.Window],
    *,
    lateness: int,
    wanted: Sequence[Wanted] = WANTED,
    own_event: bool = True,
    revises: bool = False,
) -> Bench:
    """A view of every wanted aggregation over every window."""
    pairs = [(w, window) for window in dict.fromkeys(windows) for w in wanted if not _by_buckets(w, window)]
    body = {f"f{k}": feature_of(w, window) for k, (w, window) in enumerate(pairs)}
    view: type[FeatureView] = types.new_class(
        "Activity",
        (FeatureView,),
        {"of": card, "source": source_of(lateness, revises=revises), "own_event": own_event},
        lambda namespace: namespace.update(body),
    )
    (plan,) = plans_of([view])
    return Bench(plan, EveryWay(view, plan), pairs)


# values

AMOUNTS = (
    0.0, -0.0, 1.0, -1.0, 0.1, 0.2, 0.3, -0.1, 1e-30, -1e-30, 3e-39, -3e-39, 2.0**-128, 1.75 * 2.0**-75, 1e27,
    -1e27, 1e16, 5e-324, 2.5, 19.99, 1234.56, 7.0, 1 / 3,
)  # fmt: skip

amounts = st.one_of(
    st.sampled_from(AMOUNTS),
    st.floats(-1e27, 1e27),
    st.floats(-1000, 1000).map(lambda x: round(x, 2)),
    st.floats(-1e-30, 1e-30),
)
units = st.one_of(st.integers(-3, 3), st.sampled_from((2**53, -(2**53), 10**6)))
shops = st.sampled_from(("a", "b", "c", "ä", "", "a long name of a shop", "東"))


@st.composite
def payments(draw: st.DrawFn, times: st.SearchStrategy[int]) -> Payment:
    return Payment(
        id=draw(st.sampled_from("pqrstu")),
        card="c1",
        amount=draw(amounts),
        fee=draw(st.none() | amounts),
        units=draw(units),
        flag=draw(st.booleans()),
        shop=draw(shops),
        note=draw(st.none() | shops),
        at=draw(times),
    )


def random_payment(r: random.Random, t: int, id: str) -> Payment:
    return Payment(
        id=id,
        card="c1",
        amount=r.choice((r.choice(AMOUNTS), round(r.lognormvariate(3, 2), 2), r.uniform(-1, 1) * 1e-9)),
        fee=r.choice((None, round(r.random(), 2), r.choice(AMOUNTS))),
        units=r.randrange(-5, 50),
        flag=r.random() < 0.3,
        shop=f"s{r.randrange(12)}",
        note=r.choice((None, f"n{r.randrange(30)}")),
        at=t,
    )


STARTS = (0, -40, 1_700_000_000_000)


@dataclass(frozen=True)
class History:
    """Arrivals of one entity, and the numbers that they were drawn for."""

    lateness: int
    span: int
    arrivals: tuple[Payment, ...]
    seed: int | None = None  # of long ones, which are too long to be shown

    def __repr__(self) -> str:
        shown = self.arrivals if self.seed is None else f"{len(self.arrivals)} of seed {self.seed}"
        return f"History({self.lateness}, {self.span}, {shown})"


@st.composite
def short_histories(draw: st.DrawFn) -> History:
    """Up to 24 events, shrinkable: ties, lateness and repeats are likely because times and ids are few."""
    lateness = draw(st.sampled_from((1, 2, 5, 30, 1000)))
    span = draw(st.sampled_from((3, 20, 300, 5000)))
    start = draw(st.sampled_from(STARTS))
    drawn = draw(st.lists(payments(st.integers(0, span)), max_size=24))
    late = draw(st.lists(st.integers(0, 2 * lateness), min_size=len(drawn), max_size=len(drawn)))
    order = sorted(range(len(drawn)), key=lambda k: drawn[k].at + late[k])
    moved = tuple(msgspec.structs.replace(drawn[k], at=drawn[k].at + start) for k in order)
    return History(lateness, span, moved)


@st.composite
def long_histories(draw: st.DrawFn, most: int = 450) -> History:
    """Up to `most` events from a seed: enough for many blocks, splits and events that left all windows."""
    seed = draw(st.integers(0, 1 << 32))
    r = random.Random(seed)
    n = draw(st.sampled_from([k for k in (63, 64, 65, 66, 130, 200, 450) if k <= most]))
    lateness = draw(st.sampled_from((1, 10, 400, 5000, 60_000)))
    step = draw(st.sampled_from((1, 5, 300)))
    t = start = draw(st.sampled_from(STARTS))
    timed: list[tuple[int, Payment]] = []
    for k in range(n):
        t += r.choice((0, 0, 1, r.randrange(step + 1), r.randrange(2 * step + 1)))
        payment = random_payment(r, t, f"p{k}")
        timed.append((t + r.choice((0, 0, 0, r.randrange(lateness), r.randrange(2 * lateness))), payment))
        if r.random() < 0.08:
            again = payment if r.random() < 0.5 else random_payment(r, t, f"p{k}")
            timed.append((t + r.randrange(2 * lateness), again))
    timed.sort(key=lambda pair: pair[0])
    return History(lateness, max(1, t - start), tuple(payment for _, payment in timed), seed)


histories = st.one_of(short_histories(), long_histories())


@st.composite
def windows_for(draw: st.DrawFn, span: int, *, lifetimes: bool = True) -> list[oracle.Window]:
    """Some windows from 1 ms to beyond the history, delayed or not, and lifetimes."""
    widths = st.one_of(st.integers(1, 3), st.integers(1, span + 2), st.just(10 * span + 7))
    delays = st.one_of(st.just(0), st.integers(0, span))
    kinds: list[st.SearchStrategy[oracle.Window]] = [
        st.builds(oracle.Sliding, widths),
        st.builds(oracle.Sliding, widths, delays),
    ]
    if lifetimes:
        kinds += [
            st.builds(oracle.Lifetime, st.just(0), delays),
            st.builds(oracle.Lifetime, widths, delays),
        ]
    return draw(st.lists(st.one_of(kinds), min_size=1, max_size=4))
