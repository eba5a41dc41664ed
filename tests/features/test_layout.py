"""Which states serve which definitions, and what is read from states that keep more than was asked for."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from features import Count, Distinct, Entity, FeatureView, LastK, Max, Mean, Quantile, Source, Sum, Variance
from features.fold import CAPACITY
from features.layout import choose, gaps, layout_in, name_of, uncovered, under
from features.plan import StatePlan, StateSpec, plans_of
from features.read import Reader
from features.state import NARROWED, State, encode
from features.store import Adoption

from . import oracle
from .oracle import Wanted
from .strategies import (
    WANTED,
    Bench,
    History,
    Payment,
    bench,
    card,
    histories,
    random_payment,
    source_of,
    windows_for,
)
from .test_hot_keys import EXACT, folded_with_restarts, known, steady

SOURCE = source_of(1000)


def adopted(needed: Bench, deployed: Bench) -> Bench:
    """The needed view, read from the states of the deployed one."""
    plan = needed.plan.adopting(deployed.plan.spec)
    return Bench(plan, Reader(needed.reader.view, plan), needed.wanted)


# -- what is read


@given(data=st.data(), history=histories, revises=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_covering_state_gives_the_bits_of_a_state_of_its_own(
    data: st.DataObject, history: History, revises: bool
) -> None:
    def of(windows: Sequence[oracle.Window], kinds: Sequence[Wanted]) -> Bench:
        made = dict.fromkeys([*kinds, Wanted("Count")])  # a lifetime of quantiles alone would leave nothing
        return bench(windows, lateness=history.lateness, wanted=list(made), revises=revises)

    def some(kinds: Sequence[Wanted]) -> list[Wanted]:
        return data.draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=6, unique=True))

    def covered(windows: Sequence[oracle.Window], kinds: Sequence[Wanted] = ()) -> bool:
        return not uncovered(deployed.plan.spec, of(windows, kinds).plan.spec)

    there = data.draw(windows_for(history.span))
    deployed = of(there, some(WANTED))
    kept = [wanted for wanted, _ in deployed.wanted]
    # what is covered alone is covered together, and what is there already always is: so nothing drawn is thrown away
    other = data.draw(windows_for(history.span, lifetimes=False) | st.just([]))
    windows = data.draw(st.lists(st.sampled_from(there), min_size=1)) + [w for w in other if covered([w])]
    more = some(kept + [w for w in WANTED if w.column in {k.column for k in kept}])
    needed = of(windows, [wanted for wanted in more if covered(windows, [wanted])])
    event("more than was there" if {*needed.wanted} - {*deployed.wanted} else "some of what was there")
    assert uncovered(deployed.plan.spec, needed.plan.spec) == []

    own, r = needed.folded(history.arrivals), random.Random(7)
    state, wide = State(), adopted(needed, deployed)
    for offset, payment in enumerate(history.arrivals):
        deployed.fold(state, payment, offset)
        if r.random() < 0.1:
            state = deployed.restarted(state)
    events, _ = oracle.accepted(map(needed.event, history.arrivals), history.lateness, revises=revises)
    t = own.newest + data.draw(st.integers(1 - history.lateness, 2 * history.span)) if events else 0
    row = wide.reader.read([state], t, None)

    assert wide.differences(row, events, t) == []
    assert oracle.bits(row.values) == oracle.bits(needed.reader.read([own], t, None).values)
    assert row.bounds == {}
    request = random_payment(r, t, "own")
    seen = oracle.seen_by(events, wide.event(request), counted=True)
    assert wide.differences(wide.reader.read([state], t, wide.own(request)), seen, t) == []


@given(
    seed=st.integers(0, 1 << 32),
    n=st.integers(CAPACITY + 1, 2500),
    ahead=st.integers(-399, 70_000),
    widths=st.lists(st.integers(1, 400_000), min_size=1, max_size=3),
)
@settings(max_examples=10, deadline=None)
def test_windows_within_the_reach_are_read_from_the_tiles_of_a_deployed_state(
    seed: int, n: int, ahead: int, widths: list[int]
) -> None:
    numbers = [Wanted("Count"), *(w for w in EXACT if w.name == "Sum")]
    deployed = bench([oracle.Sliding(400_000), oracle.Sliding(40)], lateness=400, wanted=numbers)
    ordinary = [
        w for w in EXACT if w.name in ("Count", "Sum", "Mean", "Min", "Max", "Variance", "TimeSinceFirst")
    ]
    needed = bench([oracle.Sliding(width) for width in widths], lateness=400, wanted=ordinary)
    assert uncovered(deployed.plan.spec, needed.plan.spec) == []

    arrivals = steady(seed, n, jitter=400)
    wide, state = adopted(needed, deployed), folded_with_restarts(deployed, arrivals, seed)
    own = folded_with_restarts(needed, arrivals, seed)
    events, t = known(needed, arrivals), state.newest + ahead
    row, narrow = wide.reader.read([state], t, None), needed.reader.read([own], t, None)

    for k, ((wanted, window), expected) in enumerate(zip(wide.wanted, wide.expected(events, t), strict=True)):
        bound, got = row.bounds.get(f"f{k}", 0), row.values[k]
        if not bound:
            assert oracle.bits(got) == oracle.bits(expected), (wanted, window)
            if not narrow.bounds.get(f"f{k}", 0):
                assert oracle.bits(got) == oracle.bits(narrow.values[k]), (wanted, window)
        elif wanted.name == "Count":
            assert abs(got - expected) <= bound
            assert isinstance(window, oracle.Sliding)
            # an eighth of its length at one edge, read up to a quarter late: one event in 40 ms on average
            assert bound <= window.width / 6 / 40 * 2 + 10, (bound, window)


@given(seed=st.integers(0, 1 << 32), n=st.integers(CAPACITY + 1, 1500))
@settings(max_examples=8, deadline=None)
def test_what_is_left_of_a_view_reads_as_it_did_before_the_rest_was_removed(seed: int, n: int) -> None:
    whole = (*EXACT, Wanted("Distinct", "note"), Wanted("TopK", "note", 5), Wanted("Quantile", "amount", 0.5))
    windows: list[oracle.Window] = [
        oracle.Sliding(1000), oracle.Sliding(60_000), oracle.Sliding(20_000, 30_000), oracle.Lifetime(0),
        oracle.Lifetime(75),
    ]  # fmt: skip
    deployed = bench(windows, lateness=400, wanted=whole)
    r = random.Random(seed)
    rest = bench(r.sample(windows, 2), lateness=400, wanted=r.sample(whole, 5))
    assert uncovered(deployed.plan.spec, rest.plan.spec) == []

    arrivals = steady(seed, n, jitter=400)
    state = folded_with_restarts(deployed, arrivals, seed)
    t = state.newest + r.randrange(-399, 5000)
    before, after = (b.reader.read([state], t, None) for b in (deployed, adopted(rest, deployed)))
    places = {pair: k for k, pair in enumerate(deployed.wanted)}
    for k, pair in enumerate(rest.wanted):
        place = places[pair]
        assert oracle.bits(after.values[k]) == oracle.bits(before.values[place]), pair
        assert after.bounds.get(f"f{k}", 0) == before.bounds.get(f"f{place}", 0)


def test_events_beyond_the_lateness_are_dropped_alike_by_a_state_that_reaches_further() -> None:
    deployed = bench([oracle.Sliding(10**7)], lateness=400, wanted=[Wanted("Count")])
    needed = bench([oracle.Sliding(500)], lateness=400, wanted=[Wanted("Count")])
    r = random.Random(3)
    arrivals = [random_payment(r, 10 * k - r.choice((0, 0, 300, 900)), f"p{k}") for k in range(900)]
    own, state = needed.folded(arrivals), deployed.folded(arrivals)

    assert not (own.flags | state.flags) & NARROWED
    for t in range(own.newest - 399, own.newest + 600, 37):
        narrow = needed.reader.read([own], t, None).values
        assert adopted(needed, deployed).reader.read([state], t, None).values == narrow


def test_a_total_that_closed_blocks_do_not_carry_is_summed_from_the_column() -> None:
    deployed = bench([oracle.Sliding(10**6)], lateness=400, wanted=[Wanted("Sum", "amount")])
    needed = bench(
        [oracle.Sliding(10**6)], lateness=400, wanted=[Wanted("Max", "amount"), Wanted("Mean", "amount")]
    )
    wide, arrivals = adopted(needed, deployed), steady(5, 400)
    assert [
        wide.plan.sum_index(part) for f in wide.reader.view.features for part in f.aggregation.parts()
    ] == [-1, 0]

    state = deployed.restarted(deployed.folded(arrivals))
    assert len(state.blocks) > 3
    assert all(block.totals for block in state.blocks[:-1])
    events = known(needed, arrivals)
    assert wide.differences(wide.reader.read([state], state.newest, None), events, state.newest) == []


# -- what is covered


class Wide(FeatureView, of=card, source=SOURCE):
    count_10m, count_30d = Count().over("10m", "30d")
    spent_1d = Sum(Payment.amount).over("1d")
    fees_7d = Mean(Payment.fee).over("7d")
    shops_7d = Distinct(Payment.shop).over("7d")
    last_7d = LastK(Payment.shop, 3).over("7d")
    ever = Sum(Payment.amount).lifetime(forget_after="90d")


def spec(*views: type[FeatureView]) -> StateSpec:
    (plan,) = plans_of(views)
    return plan.spec


def view(**features: Any) -> type[FeatureView]:
    return type("Other", (FeatureView,), features, of=card, source=SOURCE)


COVERED: dict[str, type[FeatureView]] = {
    "another window within the reach": view(n=Count().over("6h")),
    "the longest one": view(n=Count().over("30d")),
    "a calendar window": view(n=Sum(Payment.amount).since("day", tz="Europe/Zurich")),
    "other ordinary aggregations of a number": view(
        a=Max(Payment.amount).over("2h"),
        b=Variance(Payment.amount).over("3d"),
        c=Variance(Payment.fee).over("3d"),
    ),
    "other names": view(many=Count().over("10m"), total=Sum(Payment.amount).over("1d")),
    "less": view(n=Count().over("10m")),
    "a sample over a shorter reach": view(d=Distinct(Payment.shop).over("1h")),
    "the lifetime": view(e=Mean(Payment.amount).lifetime(forget_after="90d")),
}
UNCOVERED: dict[str, tuple[type[FeatureView], str]] = {
    "a longer window": (view(n=Count().over("31d")), "reaches back 30d, not 31d"),
    "a column": (view(n=Sum(Payment.units).over("1d")), r"does not keep units \(int\) as a number"),
    "a column as something else": (
        view(n=Distinct(Payment.amount).over("1d")),
        r"does not keep amount \(float\) as a hash",
    ),
    "a structure of its own": (
        view(q=Quantile(Payment.amount, 0.5).over("1d")),
        r"does not keep buckets\(amount\)",
    ),
    "more of the last": (view(k=LastK(Payment.shop, 4).over("7d")), r"does not keep lastk\(shop, 4\)"),
    "another end of a lifetime": (
        view(e=Sum(Payment.amount).lifetime(forget_after="91d")),
        "for a lifetime forgotten after 91d",
    ),
    "a short window long ago": (view(n=Count().over("1h", delay="7d")), "has tiles of .* at an age of 7d"),
}


@pytest.mark.parametrize("name", COVERED)
def test_a_state_covers(name: str) -> None:
    assert uncovered(spec(Wide), spec(COVERED[name])) == []


@pytest.mark.parametrize("name", UNCOVERED)
def test_a_state_does_not_cover_and_says_why(name: str) -> None:
    needed, why = UNCOVERED[name]
    found = uncovered(spec(Wide), spec(needed))
    assert re.search(why, found[0]), found


@pytest.mark.parametrize(
    "changed",
    [
        {"format": 0}, {"id": "other"}, {"time": "other"}, {"lateness": 999}, {"revises": True},
        {"columns": (("amount", "number", "int"),)},
    ],
)  # fmt: skip
def test_a_state_of_another_meaning_covers_nothing(changed: dict[str, Any]) -> None:
    assert uncovered(
        msgspec.structs.replace(spec(Wide), **changed), spec(view(n=Sum(Payment.amount).over("1d")))
    )


# -- which is chosen


def large(payment: Payment) -> bool:
    return payment.amount > 100


class Large(FeatureView, of=card, source=SOURCE, where=large):
    n_1d = Count().over("1d")


class Small(FeatureView, of=card, source=SOURCE):
    n_1d = Count().over("1d")


class Another(FeatureView, of=card, source=SOURCE):
    units_1d = Sum(Payment.units).over("1d")


def decided(known: list[Adoption], *views: type[FeatureView], source: Source[Any] = SOURCE) -> str:
    """Chooses and remembers, as a deployment does; returns the name of the layout."""
    choice = choose(known, source, plans_of(views))
    if choice.adoption not in known:
        known.append(choice.adoption)
    return choice.adoption.layout


def name(*views: type[FeatureView]) -> str:
    return name_of([plan.spec for plan in plans_of(views)])


def test_a_file_is_served_by_its_own_layout_else_by_the_newest_that_covers_it() -> None:
    known: list[Adoption] = []
    assert decided(known, Wide) == name(Wide)
    assert decided(known, Small) == name(Wide)
    assert decided(known, Wide, Another) == name(Wide, Another)
    assert decided(known, Wide) == name(Wide)
    assert decided(known, Small) == name(Wide), "what was decided stays"
    other = view(n=Count().over("2d"))
    assert decided(known, other) == name(Wide, Another), "the newest that covers it"
    assert [bool(one.states) for one in known] == [True, False, True, False]
    assert layout_in(known, name(Wide)) == tuple(plan.spec for plan in plans_of([Wide]))


def test_a_layout_says_why_it_does_not_serve() -> None:
    known: list[Adoption] = []
    decided(known, Small)
    choice = choose(known, SOURCE, plans_of([Another]))

    assert choice.missing == ["card (by card) does not keep units (int) as a number",
                              "card (by card) does not keep extremes(units) of events in tiles",
                              "card (by card) does not keep squares(units) of events in tiles",
                              "card (by card) does not keep sum(units) of events in tiles"]  # fmt: skip


def test_what_nothing_needs_goes_on_being_folded_from_its_spec_alone() -> None:
    shop = view(n=Count().over("1d"))
    layout = tuple(plan.spec for plan in plans_of([Wide]))
    (left,) = under(layout, SOURCE, [])
    (whole,) = plans_of([Wide])

    assert gaps(layout, SOURCE, plans_of([shop])) == []
    assert left.spec == whole.spec
    payment = random_payment(random.Random(1), 10, "p")
    assert left.extract(payment) == whole.extract(payment)
    assert left.key_of(payment) == whole.key_of(payment)
    made = [Bench(plan, Reader(Wide, plan), []) for plan in (left, whole)]
    arrivals = steady(4, 1500)
    states = [b.folded(arrivals) for b in made]
    assert encode(left, states[0]) == encode(whole, states[1])


def test_a_filter_that_the_file_no_longer_has_cannot_be_folded() -> None:
    known: list[Adoption] = []
    decided(known, Large, Small)

    assert decided(known, Small) == name(Small)
    missing = gaps(layout_in(known, name(Large, Small)), SOURCE, plans_of([Small]))
    assert missing == ["the state of card of shop.payments.v1 has a filter that is not in the file any more"]
    assert decided(known, Large, Small) == name(Large, Small)


class Fewer(msgspec.Struct, frozen=True):
    """The payment without a column that was kept of it."""

    id: str
    card: str
    amount: float
    at: int


class Retyped(msgspec.Struct, frozen=True):
    """The payment with another type of a column that was kept of it."""

    id: str
    card: str
    amount: float
    fee: int
    shop: str
    at: int


@pytest.mark.parametrize(
    ("event", "found"), [(Fewer, "that its events do not have"), (Retyped, "that is int now")]
)
def test_a_column_that_the_events_no_longer_have_cannot_be_folded_and_the_choice_is_made_anew(
    event: Any, found: str
) -> None:
    known: list[Adoption] = []
    decided(known, Wide)
    decided(known, Small)
    fewer = Source("shop.payments.v1", event, id=event.id, time=event.at, key=event.card, lateness="1s")
    same = type(
        "Small", (FeatureView,), {"n": Count().over("1d")}, of=Entity("card", by=event.card), source=fewer
    )

    assert name(same) == name(Small)
    missing = gaps(layout_in(known, name(Wide)), fewer, plans_of([same]))
    assert missing == [f"the state of card of shop.payments.v1 keeps the column fee (float | None), {found}"]
    assert decided(known, same, source=fewer) == name(Small)
    assert decided(known, same, source=fewer) == name(Small)
    assert decided(known, Small) == name(Wide), "the other file goes on as it was"


def test_a_layout_of_another_version_serves_nobody() -> None:
    known = [Adoption("x", "x", b'[{"format":99}]')]

    assert decided(known, Small) == name(Small)
    assert gaps(layout_in(known, "x"), SOURCE, plans_of([Small])) == [
        "it was stored by another version of Headrace"
    ]


def test_two_filters_of_one_meaning_share_a_state() -> None:
    def again(payment: Payment) -> bool:
        return payment.amount > 100

    def large(payment: Payment) -> bool:
        return payment.amount > 100

    one = type("One", (FeatureView,), {"n": Count().over("1d")}, of=card, source=SOURCE, where=large)
    other = type("Two", (FeatureView,), {"n": Count().over("2d")}, of=card, source=SOURCE, where=again)
    assert len(plans_of([one, Large])) == 1
    assert len(plans_of([other, Large])) == 2, "a function's name is part of what it means"


def plan_of(*views: type[FeatureView]) -> StatePlan:
    (plan,) = plans_of(views)
    return plan


def test_tiles_keep_a_number_in_every_ordinary_way_and_closed_blocks_do_not() -> None:
    plan = plan_of(view(n=Sum(Payment.amount).over("1d")))

    assert [kin[0] for kin in plan.spec.kept] == ["extremes", "squares", "sum"]
    assert [kin[0] for kin in plan.spec.sums] == ["sum"]
    assert plan_of(view(n=LastK(Payment.amount, 2).over("1d"))).spec.kept == (("lastk", "amount", "2", "1"),)


@pytest.mark.parametrize("stored", [b"\xff", b"[", b"[1]", b'[{"x":' + b"[" * 100_000, b"{}"])
def test_a_stored_layout_that_cannot_be_read_is_none(stored: bytes) -> None:
    known = [Adoption("needed", "x", stored)]
    assert layout_in(known, "x") is None
    assert choose(known, SOURCE, plans_of([Small])).missing


def test_a_stored_layout_that_keeps_more_of_a_column_it_does_not_have_is_told() -> None:
    plans = plans_of([Wide])
    spec = plans[0].spec
    torn = msgspec.structs.replace(spec, sums=(*spec.sums, ("sum", "nothing", "", spec.sums[0][3])))
    found = gaps((torn,), SOURCE, plans)

    assert found == [f"the state of {plans[0].name} keeps sum(nothing), which is unknown"]
