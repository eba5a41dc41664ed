"""What every aggregation promises. A new one is tested by being exported; only its arguments stand here."""

from __future__ import annotations

import inspect
import math
import random
from array import array
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import isclose
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import features.aggregations
from features import Aggregation, Count, Distinct, Quantile, Ratio, Sum
from features.aggregation import Events, Segment
from features.column import Column, hashed, number
from features.restore import restored

from .oracle import bits
from .strategies import Payment, amounts, ms

# how the contract tests make one; a class that is exported and not named here fails the first test
EXAMPLES: dict[str, Callable[[], Aggregation[Any]]] = {
    "Count": Count,
    "DecayedCount": lambda: features.aggregations.DecayedCount(ms(7)),
    "DecayedSum": lambda: features.aggregations.DecayedSum(Payment.amount, ms(7)),
    "Distinct": lambda: Distinct(Payment.note),
    "First": lambda: features.aggregations.First(Payment.note),
    "Last": lambda: features.aggregations.Last(Payment.fee),
    "LastK": lambda: features.aggregations.LastK(Payment.units, 3),
    "Max": lambda: features.aggregations.Max(Payment.fee),
    "Mean": lambda: features.aggregations.Mean(Payment.amount),
    "Min": lambda: features.aggregations.Min(Payment.units),
    "Quantile": lambda: Quantile(Payment.amount, 0.5),
    "Ratio": lambda: Ratio(Sum(Payment.amount), Count()),
    "StdDev": lambda: features.aggregations.StdDev(Payment.fee),
    "Sum": lambda: Sum(Payment.amount),
    "TimeSinceFirst": lambda: features.aggregations.TimeSinceFirst(),
    "TimeSinceLast": lambda: features.aggregations.TimeSinceLast(),
    "TopK": lambda: features.aggregations.TopK(Payment.shop, 2),
    "Variance": lambda: features.aggregations.Variance(Payment.amount),
}

# Last as it is over a compacted source, where a missing value is one: what the verbs promise of Last holds of it too
EXAMPLES["lookup"] = lambda: features.aggregations.Last(Payment.fee).lookup()

KEPT = [part for example in EXAMPLES.values() for part in example().parts()]

# the documented value of a window without events; missing is None
EMPTY: dict[str, Any] = {
    "Count": 0, "Distinct": 0, "Sum": 0.0, "DecayedSum": 0.0, "DecayedCount": 0.0, "LastK": (), "TopK": (),
}  # fmt: skip

ORDERED = {"First", "Last", "LastK", "lookup"}  # merges name the older partial first
FILLER: dict[str | None, Any] = {
    None: None,
    "number": 99.0,
    "hash": 99,
    "text": "zz",
}  # any value, as it is kept
NEAR = {"Quantile": 0.008}  # exact from slices, within its buckets from a partial

pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode

Timed = tuple[int, Any]


def exported() -> list[str]:
    return sorted(features.aggregations.__all__)


def tried() -> list[str]:
    return [*exported(), "lookup"]


def atoms(name: str) -> list[Aggregation[Any]]:
    """The aggregations that hold partials: the one of this name, or its parts."""
    if name not in EXAMPLES:
        pytest.fail(f"{name} is exported by features.aggregations: give EXAMPLES arguments to make one, here")
    return list(EXAMPLES[name]().parts())


@pytest.mark.parametrize("name", exported())
def test_every_exported_aggregation_has_an_example_here_and_a_promise(name: str) -> None:
    assert name in EXAMPLES, f"give EXAMPLES the arguments of {name}, so that the contract tests try it"
    kind = getattr(features.aggregations, name)
    assert issubclass(kind, Aggregation)
    assert inspect.cleandoc(kind.__doc__ or "").endswith((".", "`", "over 10m", "0.25"))


def test_every_aggregation_class_is_exported() -> None:
    def below(kind: type[Any]) -> set[type[Any]]:
        return {kind}.union(*(below(k) for k in kind.__subclasses__()))

    ours: set[type[Any]] = {
        k for k in below(Aggregation) if k.__module__.startswith("features.aggregations.")
    }
    names = {k.__name__ for k in ours if not k.__name__.startswith("_") and k.__name__ != "SpanAggregation"}
    assert names == set(features.aggregations.__all__)


def stored(column: Column | None, keeps: str | None, x: Any) -> Any:
    """A value as the state keeps it; None for one that is missing."""
    if column is None or x is None:
        return None
    if keeps == "number":
        return number(x, column)
    return hashed(x) if keeps == "hash" else x


def drawn(data: st.DataObject, a: Aggregation[Any]) -> list[Timed]:
    """Events in order of time, missing values left out, as the verbs receive them."""
    values: dict[type, st.SearchStrategy[Any]] = {
        float: amounts, int: st.integers(-5, 5), str: st.sampled_from("abcdefg"), bool: st.booleans(),
    }  # fmt: skip
    kind = float if a.column is None else a.column.type
    raw = data.draw(st.lists(st.tuples(st.integers(0, 60), values[kind]), max_size=14))
    raw.sort(key=lambda event: event[0])
    kept = [(t, stored(a.column, a.keeps, x)) for t, x in raw]
    if not a.counts_missing:
        return kept
    gone = data.draw(st.lists(st.booleans(), min_size=len(kept), max_size=len(kept)))
    return [(t, float("nan") if none else x) for (t, x), none in zip(kept, gone, strict=True)]


def folded(a: Aggregation[Any], events: Sequence[Timed]) -> Any:
    partial = a.zero()
    for t, x in events:
        partial = a.add(partial, t, x)
    return partial


def frozen(a: Aggregation[Any], partial: Any) -> bytes:
    return pack(a.freeze(partial))


def cut(data: st.DataObject, events: list[Timed]) -> list[list[Timed]]:
    """Three consecutive runs of events, some of them perhaps empty."""
    i, j = sorted((data.draw(st.integers(0, len(events))), data.draw(st.integers(0, len(events)))))
    return [events[:i], events[i:j], events[j:]]


@pytest.mark.parametrize("name", tried())
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_merge_associates_and_has_a_neutral_element(name: str, data: st.DataObject) -> None:
    for a in atoms(name):
        one, two, three = (folded(a, run) for run in cut(data, drawn(data, a)))
        left = a.merge(a.merge(one, two), three)
        right = a.merge(one, a.merge(two, three))
        assert frozen(a, left) == frozen(a, right)
        assert frozen(a, a.merge(left, a.zero())) == frozen(a, left) == frozen(a, a.merge(a.zero(), left))


@pytest.mark.parametrize("name", sorted(set(tried()) - ORDERED))
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_merge_commutes_and_order_does_not_matter(name: str, data: st.DataObject) -> None:
    for a in atoms(name):
        events = drawn(data, a)
        one, two, three = (folded(a, run) for run in cut(data, events))
        assert frozen(a, a.merge(one, three)) == frozen(a, a.merge(three, one))
        shuffled = data.draw(st.permutations(events))
        assert frozen(a, folded(a, shuffled)) == frozen(a, folded(a, events))
        assert frozen(a, a.merge(a.merge(three, one), two)) == frozen(a, folded(a, events))


@pytest.mark.parametrize("name", sorted(ORDERED & set(tried())))
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_events_of_different_instants_may_come_in_any_order(name: str, data: st.DataObject) -> None:
    for a in atoms(name):
        events = list({t: (t, x) for t, x in drawn(data, a)}.values())
        shuffled = data.draw(st.permutations(events))
        assert frozen(a, folded(a, shuffled)) == frozen(a, folded(a, events))
        one, two, three = (folded(a, run) for run in cut(data, events))
        assert frozen(a, a.merge(a.merge(three, one), two)) == frozen(a, folded(a, events))


@pytest.mark.parametrize("name", tried())
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_a_batch_equals_a_stream(name: str, data: st.DataObject) -> None:
    for a in atoms(name):
        events = drawn(data, a)
        batched = a.zero()
        for run in cut(data, events):
            batched = a.merge(batched, folded(a, run))
        assert frozen(a, batched) == frozen(a, folded(a, events))


@pytest.mark.parametrize("name", tried())
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_several_events_at_once_equal_one_after_the_other(name: str, data: st.DataObject) -> None:
    for a in atoms(name):
        one, two, _ = cut(data, [(t, x) for t, x in drawn(data, a) if x is not None or a.column is None])
        begun = folded(a, one)
        extended = a.extend(begun, [t for t, _ in two], [x for _, x in two])
        assert frozen(a, extended) == frozen(a, folded(a, one + two))


@pytest.mark.parametrize("name", tried())
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_verbs_leave_their_arguments_alone(name: str, data: st.DataObject) -> None:
    for a in atoms(name):
        events = drawn(data, a)
        one, other = folded(a, events), folded(a, events[:3])
        before = (frozen(a, one), frozen(a, other))
        a.merge(one, other)
        a.add(
            one,
            61,
            events[-1][1] if events else stored(a.column, a.keeps, a.column.type(1) if a.column else 0),
        )
        a.trim(one)
        a.expire(one, 30)
        assert (frozen(a, one), frozen(a, other)) == before


@pytest.mark.parametrize("name", tried())
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_a_partial_survives_freezing_and_thawing(name: str, data: st.DataObject) -> None:
    for a in atoms(name):
        events = drawn(data, a)
        partial = folded(a, events)
        again = a.thaw(unpack(frozen(a, partial)))
        window = window_of(a, [], [], end=70)
        assert frozen(a, again) == frozen(a, partial)
        assert bits(a.result(again, window)) == bits(a.result(partial, window))
        assert frozen(a, a.add(again, 61, FILLER[a.keeps])) == frozen(a, a.add(partial, 61, FILLER[a.keeps]))


def window_of(
    a: Aggregation[Any], runs: Sequence[Sequence[Timed]], partials: Sequence[Any], end: int
) -> Events:
    """A window whose exact events lie in segments of blocks, with other rows around them."""
    window = Events(-1, end)
    for run in runs:
        if not run:
            continue
        xs: Any = [FILLER[a.keeps], *(x for _, x in run), FILLER[a.keeps]]
        if a.keeps in ("number", "hash"):
            xs = array("d" if a.keeps == "number" else "Q", xs)
        t0 = run[0][0]
        times = array("I", [0, *(t - t0 for t, _ in run), run[-1][0] - t0])
        window.segments.append(Segment(t0, times, [xs], 1, len(run) + 1))
        window.n += len(run)
    window.partials = list(partials)
    window.column = -1 if a.column is None else 0
    window.nullable = a.column is not None and a.column.nullable and not a.counts_missing
    return window


@pytest.mark.parametrize("name", tried())
@pytest.mark.parametrize("with_partials", [False, True])
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_the_value_of_slices_has_the_bits_of_the_folded_verbs(
    name: str, with_partials: bool, data: st.DataObject
) -> None:
    for a in atoms(name):
        old, one, two = cut(data, drawn(data, a))
        partials = [folded(a, old)] if with_partials else []
        if not with_partials:
            one = old + one
        got = a.value(window_of(a, [one, two], partials, end=70))
        everything = folded(a, [*old, *one, *two] if with_partials else [*one, *two])
        expected = a.result(everything, window_of(a, [], [], end=70))
        if type(a).__name__ in NEAR and expected is not None:
            assert isclose(got, expected, rel_tol=NEAR[type(a).__name__], abs_tol=1e-38)
        else:
            assert bits(got) == bits(expected)


@pytest.mark.parametrize("name", tried())
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_the_value_of_values_alone_has_the_bits_of_the_folded_verbs(name: str, data: st.DataObject) -> None:
    for a in atoms(name):
        of_values = a.of_values()
        if of_values is None:
            continue
        run = drawn(data, a)
        xs: Sequence[Any] = range(len(run)) if a.column is None else [x for _, x in run]
        got = of_values(xs)
        expected = a.result(folded(a, run), window_of(a, [], [], end=70))
        assert bits(got) == bits(expected)
        if not a.ordered:
            assert bits(of_values(xs[::-1])) == bits(expected)
        of_sum = a.of_sum()
        if of_sum is not None:
            assert bits(of_sum(math.fsum(xs), len(xs))) == bits(expected)


@pytest.mark.parametrize("name", tried())
def test_an_empty_window_gives_the_documented_value(name: str) -> None:
    parts = atoms(name)
    values = [a.value(window_of(a, [], [], end=70)) for a in parts]
    folded_values = [a.result(a.zero(), window_of(a, [], [], end=70)) for a in parts]
    whole = EXAMPLES[name]()

    assert bits(whole.combine(values)) == bits(EMPTY.get(name))
    assert bits(whole.combine(folded_values)) == bits(EMPTY.get(name))
    documented = inspect.getdoc(type(whole)) or ""
    wanted = {"None": "missing", "()": "fewer|Empty", "0": "0", "0.0": "0.0"}[repr(EMPTY.get(name))]
    assert any(word in documented for word in wanted.split("|")), (
        "the docstring says what an empty window gives"
    )


@pytest.mark.parametrize("name", tried())
def test_many_values_leave_a_partial_of_bounded_size(name: str) -> None:
    r = random.Random(5)
    for a in atoms(name):
        partial = a.zero()
        sizes = []
        for block in range(60):
            for k in range(64):
                x = {"number": r.lognormvariate(0, 1), "hash": hashed(r.random()), "text": str(r.random())}
                partial = a.add(partial, block * 64 + k, x[a.keeps] if a.keeps else None)
            partial = a.trim(partial)
            sizes.append(len(frozen(a, partial)))
        assert max(sizes) < 16 * 1024


def tiles(a: Aggregation[Any], r: random.Random, count: int, values: int) -> tuple[list[Any], list[int]]:
    """The partials of consecutive tiles of up to a hundred events each, and their last times."""
    partials, ends = [], []
    for cell in range(count):
        partial, times = (
            a.zero(),
            sorted(r.choices(range(1000 * cell, 1000 * cell + 999), k=r.randrange(1, 100))),
        )
        for t in times:
            v = r.randrange(values)
            x = {"number": v / 8, "hash": hashed(v), "text": str(v)}
            partial = a.add(partial, t, x[a.keeps] if a.keeps else None)
        partials.append(a.trim(partial))
        ends.append(times[-1])
    return partials, ends


@pytest.mark.parametrize("name", tried())
@pytest.mark.parametrize("values", [5, 300, 50_000])
def test_tiles_survive_freezing_and_thawing_together(name: str, values: int) -> None:
    for a in atoms(name):
        for count in (0, 1, 2, 40):
            partials, ends = tiles(a, random.Random(count), count, values)
            before = [frozen(a, partial) for partial in partials]
            trimmed = a.trim_cells(partials, ends)
            stored = pack(a.freeze_cells(trimmed))
            again = a.thaw_cells(unpack(stored), ends)

            assert [frozen(a, partial) for partial in partials] == before, "arguments are left alone"
            assert [frozen(a, partial) for partial in again] == [frozen(a, partial) for partial in trimmed]
            assert pack(a.freeze_cells(again)) == stored
            assert pack(a.freeze_cells(a.trim_cells(again, ends))) == stored, "trimmed once is trimmed"


@pytest.mark.parametrize("count", [1, 33, 173])
@pytest.mark.parametrize("values", [400, 5000, 1_000_000])
def test_the_tiles_of_a_distinct_are_bounded_together(count: int, values: int) -> None:
    a = Distinct(Payment.note)
    partials, ends = tiles(a, random.Random(count), count, values)
    trimmed = a.trim_cells(partials, ends)

    assert len({x for _, seen in trimmed for x in seen}) <= 512
    assert len(pack(a.freeze_cells(trimmed))) <= 8 * 512 + count * (64 + 4) + 16
    together = {x for _, seen in partials for x in seen}
    if len(together) <= 512:
        assert {x for _, seen in trimmed for x in seen} == together
        assert {level for level, _ in trimmed} == {0}


def test_a_tile_with_few_values_stays_exact_beside_full_ones() -> None:
    a = Distinct(Payment.note)
    partials, ends = tiles(a, random.Random(1), 40, 1_000_000)
    partials[7] = folded(a, [(7000 + k, hashed(f"few{k}")) for k in range(5)])
    trimmed = a.trim_cells(partials, ends)

    assert trimmed[7][0] == 0
    assert len(trimmed[7][1]) == 5


def test_the_values_of_many_tiles_are_estimated_within_the_documented_error() -> None:
    a = Distinct(Payment.note)
    ratios = []
    for seed in range(20):
        r = random.Random(seed)
        partials, ends = tiles(a, r, 60, 10**9)
        truth = len({x for _, seen in partials for x in seen})
        window = window_of(a, [], a.trim_cells(partials, ends), end=60_000)
        level = max(level for level, _ in window.partials)
        m = sum(not x >> (64 - level) for _, seen in window.partials for x in seen)
        ratios.append((a.value(window) - truth) / truth * m**0.5)
    # in units of the standard error 1/sqrt(m)
    assert max(map(abs, ratios)) < 4
    assert sum(x * x for x in ratios) / len(ratios) < 2


@given(timed=st.lists(st.tuples(st.integers(-500, 500), amounts), max_size=12), end=st.integers(500, 900))
@settings(max_examples=100, deadline=None)
def test_decayed_sums_are_what_their_formula_says(timed: list[tuple[int, float]], end: int) -> None:
    a = features.aggregations.DecayedSum(Payment.amount, ms(100))
    assert a.column is not None
    partial = folded(a, [(t, number(x, a.column)) for t, x in timed])
    expected = sum(x * 2.0 ** ((t - end) / 100) for t, x in timed)
    size = sum(abs(x) * 2.0 ** ((t - end) / 100) for t, x in timed)

    assert abs(a.result(partial, Events(0, end)) - expected) <= 1e-13 * size + len(timed) * 2.0**-127


def test_a_decayed_sum_halves_with_every_half_life() -> None:
    a = features.aggregations.DecayedCount(ms(100))
    partial = folded(a, [(1000, None), (1000, None)])
    values = [a.result(partial, Events(0, 1000 + 100 * k)) for k in range(4)]

    assert values == [2.0, 1.0, 0.5, 0.25]
    assert all(x > y for x, y in pairwise(values))


def test_what_faded_long_ago_is_zero_and_nothing_overflows() -> None:
    a = features.aggregations.DecayedSum(Payment.amount, ms(1))
    partial = folded(a, [(0, 1e27), (1, -1e27)])

    assert a.result(partial, Events(0, 10**12)) == 0.0
    assert abs(a.result(partial, Events(-(10**7), -(10**6)))) <= 4e27


# -- what is stored of them


@pytest.mark.parametrize("part", KEPT, ids=repr)
def test_one_that_keeps_the_same_is_made_again_from_the_name_of_its_partial(part: Aggregation[Any]) -> None:
    name, _, parameter = part.kin
    again = restored(name, part.column, str(parameter))

    assert again is not None
    assert (again.kin, again.keeps, again.code) == (part.kin, part.keeps, part.code)


class Tally(Aggregation[int]):
    """One of a user's own."""

    step = 1

    def zero(self) -> int:
        return 0

    def add(self, partial: int, t: int, x: object) -> int:
        return partial + self.step

    def merge(self, one: int, other: int) -> int:
        return one + other

    def result(self, partial: int, events: Events) -> int:
        return self.doubled(partial)

    def doubled(self, n: int) -> int:
        return 2 * n


class Same(Tally):
    """Differs in nothing but its name and this text."""

    def add(self, partial: int, t: int, x: object) -> int:
        """Does what its base does."""
        return super().add(partial, t, x)


def changed(**members: Any) -> Aggregation[int]:
    made: type[Aggregation[int]] = type("Tally", (Tally,), members)
    return made()


def test_the_code_of_an_aggregation_of_a_users_own_names_it() -> None:
    def add(self: Tally, partial: int, t: int, x: object) -> int:
        return partial + 2 * self.step

    def doubled(self: Tally, n: int) -> int:
        return 3 * n

    codes = {
        Tally().code, Same().code, changed(add=add).code, changed(doubled=doubled).code, changed(step=2).code,
        changed(version=2).code,
    }  # fmt: skip
    assert len(codes) == 6
    assert changed().code == Tally().code
    assert Tally().code.startswith("1:")


def test_the_code_of_our_own_is_their_version_alone() -> None:
    assert {part.code for part in KEPT} == {"1"}
