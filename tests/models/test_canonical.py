"""Canonical bytes: the same for the same model in any process, others for any other model."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import fractions
import functools
import hashlib
import json
import math
import os
import pickle
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import (
    anomaly,
    compose,
    drift,
    ensemble,
    feature_extraction,
    forest,
    linear_model,
    naive_bayes,
    neighbors,
    optim,
    preprocessing,
    stats,
    tree,
)

from models.canonical import canonical_bytes, digest, digest_and_unseeded, explore
from models.errors import NotCanonical
from tests.naming import steady

ROOT = Path(__file__).parents[2]
SAMPLES = 400

LEARNERS: dict[str, Callable[[], Any]] = {
    "scaler | logistic": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    "min-max | perceptron": lambda: preprocessing.MinMaxScaler() | linear_model.Perceptron(),
    "gaussian naive bayes": naive_bayes.GaussianNB,
    "hoeffding tree": lambda: tree.HoeffdingTreeClassifier(grace_period=50),
    "adaptive tree": lambda: tree.HoeffdingAdaptiveTreeClassifier(grace_period=50, seed=1),
    "adaptive forest": lambda: forest.ARFClassifier(n_models=3, seed=1),
    "adaptive forest, regression": lambda: forest.ARFRegressor(n_models=3, seed=1),
    "mondrian forest": lambda: forest.AMFClassifier(n_estimators=3, seed=1),
    "leveraging bagging": lambda: ensemble.LeveragingBaggingClassifier(
        linear_model.LogisticRegression(), n_models=3, seed=1
    ),
    "half-space trees": lambda: anomaly.HalfSpaceTrees(n_trees=3, height=4, window_size=100, seed=1),
    "text | multinomial": lambda: feature_extraction.BagOfWords(on="text") | naive_bayes.MultinomialNB(),
    "one-hot + numbers | logistic": lambda: (
        ((compose.Select("word") | preprocessing.OneHotEncoder()) + compose.SelectType(float))
        | linear_model.LogisticRegression()
    ),
    "imputer | logistic": lambda: (
        preprocessing.StatImputer(("gap", stats.Mean())) | linear_model.LogisticRegression()
    ),
    "linear with Adam": lambda: linear_model.LinearRegression(optim.Adam(0.01)),
    "neighbours": lambda: neighbors.KNNClassifier(
        engine=neighbors.SWINN(graph_k=5, maxlen=60, warm_up=30, seed=1)
    ),
}


def samples(name: str) -> Iterator[tuple[dict[str, Any], Any]]:
    """Built from parts at run time, so that equal strings are not one object."""
    rng = random.Random(7)
    for number in range(SAMPLES):
        x: dict[str, Any] = {letter: rng.gauss(0, 1) for letter in "abc"}
        target = x["a"] + 0.5 * x["b"] + rng.gauss(0, 0.1)
        if "text" in name:
            x["text"] = " ".join(f"w{rng.randrange(30)}" for _ in range(5))
        if "one-hot" in name:
            x["word"] = "w" + str(rng.randrange(9))
        if "imputer" in name:
            x["gap"] = None if number % 3 else x["c"]
        yield x, target if "regression" in name or "linear" in name else target > 0


def train(name: str, restart_at: int = -1, stop_at: int = SAMPLES) -> Any:
    """Predicts and learns each sample; at `restart_at` what is left is what pickle kept."""
    learner: Any = LEARNERS[name]()
    for number, (x, y) in enumerate(samples(name)):
        if number == stop_at:
            break
        if number == restart_at:
            learner = pickle.loads(pickle.dumps(learner))
        if "half-space" in name:
            learner.score_one(x)
            learner.learn_one(x)
        else:
            learner.predict_one(x)
            learner.learn_one(x, y)
    return learner


@pytest.fixture(scope="module")
def trained() -> dict[str, str]:
    return {name: digest(train(name)) for name in LEARNERS}


# -- the same model ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNERS)
def test_a_second_clean_run_is_the_same_model(name: str, trained: dict[str, str]) -> None:
    assert digest(train(name)) == trained[name]


@pytest.mark.parametrize("name", LEARNERS)
def test_a_restart_halfway_leaves_no_trace(name: str, trained: dict[str, str]) -> None:
    assert digest(train(name, restart_at=SAMPLES // 2)) == trained[name]


@pytest.mark.parametrize("name", LEARNERS)
def test_a_pickled_copy_is_the_same_model(name: str) -> None:
    learner = train(name)

    assert canonical_bytes(pickle.loads(pickle.dumps(learner))) == canonical_bytes(learner)


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_no_hash_seed_and_no_process_changes_a_model(hash_seed: str, trained: dict[str, str]) -> None:
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}

    run = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, check=True)

    assert json.loads(run.stdout) == trained


def test_what_a_pipeline_derives_at_its_first_prediction_is_no_part_of_it() -> None:
    asked, untouched = (compose.FuncTransformer(double) | linear_model.LogisticRegression() for _ in range(2))

    asked.predict_proba_one({"a": 1.0})

    assert digest(asked) == digest(untouched)


# -- another model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNERS)
def test_one_sample_less_is_another_model(name: str, trained: dict[str, str]) -> None:
    assert digest(train(name, stop_at=SAMPLES - 1)) != trained[name]


def test_the_lowest_bit_of_one_weight_counts(trained: dict[str, str]) -> None:
    learner = train("scaler | logistic")
    weights = learner["LogisticRegression"]._weights

    weights["a"] = math.nextafter(weights["a"], math.inf)
    changed = digest(learner)
    weights["a"] = math.nextafter(weights["a"], -math.inf)

    assert changed != trained["scaler | logistic"]
    assert digest(learner) == trained["scaler | logistic"]


@pytest.mark.parametrize(
    "make",
    [
        stats.EWMean,
        stats.EWVar,
        stats.IQR,
        stats.Skew,
        stats.Kurtosis,
        stats.PeakToPeak,
        stats.Quantile,
        drift.ADWIN,
    ],
)
def test_statistics_written_in_rust_show_their_state(make: Callable[[], Any]) -> None:
    first, second = make(), make()
    for value in (1.0, 2.5, 4.0):
        first.update(value)
        second.update(value)
    assert canonical_bytes(first) == canonical_bytes(second)

    second.update(9.0)

    assert canonical_bytes(first) != canonical_bytes(second)


# -- values --------------------------------------------------------------------------------------------------

ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
HASHABLE = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.tuples(st.integers(), st.text())
)
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.lists(inner, max_size=4).map(collections.deque)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.sets(HASHABLE, max_size=4)
        | st.frozensets(HASHABLE, max_size=4)
    ),
    max_leaves=12,
)


def spell(value: Any) -> str:
    """The value with its types, bits and order, written by other means than those under test."""
    kind = type(value).__name__
    if isinstance(value, float):
        return f"float:{np.float64(value).tobytes().hex()}"
    if isinstance(value, dict):
        return f"dict:[{','.join(f'{spell(key)}={spell(item)}' for key, item in value.items())}]"
    if isinstance(value, set | frozenset):
        return f"{kind}:[{','.join(sorted(spell(item) for item in value))}]"
    if isinstance(value, list | tuple | collections.deque):
        return f"{kind}:[{','.join(spell(item) for item in value)}]"
    return f"{kind}:{value!r}"


@given(VALUES, VALUES)
def test_bytes_are_equal_exactly_where_values_are(one: Any, other: Any) -> None:
    assert (canonical_bytes(one) == canonical_bytes(other)) == (spell(one) == spell(other))


@given(VALUES)
def test_a_copy_through_pickle_has_the_same_bytes(value: Any) -> None:
    assert canonical_bytes(pickle.loads(pickle.dumps(value))) == canonical_bytes(value)


def test_the_format_stands() -> None:
    """A digest that is stored must mean the same for later versions of Headrace and Python."""
    value = {"a": [1, -1.5, True, None, 2**70], "b": (b"x", {"z", "y"}, "é"), 3: collections.Counter("aab")}

    assert hashlib.sha256(canonical_bytes(value)).hexdigest() == GOLDEN


GOLDEN = "8ecd5d919a708dd965adb09a03ea858cdf6b96d357e8a5398fcee2a95ec69ecf"


EAST = dt.timezone(dt.timedelta(hours=1))


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Point(collections.namedtuple("Point", "x y")):
    __slots__ = ()


class Slotted:
    __slots__ = ("__hidden", "left", "right")

    def __init__(self, hidden: int) -> None:
        self.__hidden = hidden


DISTINCT: list[Any] = [
    *(
        0,
        0.0,
        -0.0,
        False,
        None,
        "",
        b"",
        (),
        [],
        {},
        set(),
        frozenset(),
        "0",
        0j,
        1,
        1.0,
        True,
        math.inf,
        math.nan,
    ),
    *(np.int64(1), np.int32(1), np.float64(1), np.float32(1), np.bool_(1), np.str_("0")),
    *(
        np.zeros(4),
        np.zeros((2, 2)),
        np.zeros(4, "f4"),
        np.array([0, 0, 0, -0.0]),
        np.array([None]),
        np.array(["0"]),
    ),
    *(np.zeros(1, [("a", "f8")]), np.zeros(1, [("b", "f8")]), np.dtype("f8"), np.dtype("f4")),
    *(Colour.RED, Colour.BLUE, Colour, Point, Point(1, 2), (1, 2), Point(2, 1), len, math.log, spell),
    *(
        dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
        dt.datetime(2020, 1, 1, tzinfo=EAST),
        dt.date(2020, 1, 1),
        dt.timedelta(1),
    ),
    *(decimal.Decimal("1.0"), decimal.Decimal("1.00"), fractions.Fraction(1, 2), range(3), slice(1, 2), ...),
    *(collections.deque(), collections.deque(maxlen=3), collections.Counter(), collections.OrderedDict()),
    *(collections.defaultdict(int), collections.defaultdict(float), bytearray(), bytearray(b"1")),
    *(random.Random(1), random.Random(2), np.random.default_rng(1), np.random.RandomState(1)),
    *(random.Random(1).random, random.Random(2).random, "a".upper, "b".upper, Slotted(1), Slotted(2)),
]


def test_values_that_differ_in_type_or_value_have_different_bytes() -> None:
    written = [canonical_bytes(value) for value in DISTINCT]

    assert len(set(written)) == len(written)


@pytest.mark.parametrize("value", DISTINCT, ids=steady)
def test_a_second_walk_writes_the_same(value: Any) -> None:
    assert (
        canonical_bytes([value])
        == canonical_bytes([value])
        == canonical_bytes(pickle.loads(pickle.dumps([value])))
    )


def test_equal_strings_count_alike_whether_or_not_they_are_one_object() -> None:
    one = "".join(["spe", "ed"])
    two = "".join(["spe", "ed"])
    assert one is not two

    assert canonical_bytes([one, one, {one: two}]) == canonical_bytes([one, two, {two: two}])


def test_equal_immutable_values_count_alike_whether_or_not_they_are_one_object() -> None:
    shared, again = (decimal.Decimal(1), Point(1, 2)), (decimal.Decimal(1), Point(1, 2))

    assert canonical_bytes([shared, shared, *shared]) == canonical_bytes([shared, again, *again])


def test_sharing_a_list_differs_from_holding_two() -> None:
    shared: list[int] = []

    assert canonical_bytes([shared, shared]) != canonical_bytes([[], []])


def test_a_cycle_ends() -> None:
    def ring(length: int) -> list[Any]:
        first: list[Any] = []
        last = first
        for _ in range(length):
            last.append([])
            last = last[0]
        last.append(first)
        return first

    assert canonical_bytes(ring(3)) == canonical_bytes(ring(3))
    assert canonical_bytes(ring(3)) != canonical_bytes(ring(4))


def test_nesting_of_any_depth_is_walked() -> None:
    deep: list[Any] = []
    for _ in range(50_000):
        deep = [deep]

    assert len(digest(deep)) == 64


def test_dicts_count_in_insertion_order_and_attributes_by_name() -> None:
    one, other = stats.Mean(), stats.Mean()
    other.__dict__ = dict(reversed(other.__dict__.items()))

    assert canonical_bytes({"a": 1, "b": 2}) != canonical_bytes({"b": 2, "a": 1})
    assert canonical_bytes(one) == canonical_bytes(other)


class Fresh:
    """Hands out new objects each time that it is written, as some reduce methods do."""

    def __init__(self, values: list[int]) -> None:
        self.values = values

    def __reduce__(self) -> Any:
        return Fresh, ([[value] for value in self.values],)


def test_looking_at_a_model_does_not_change_it() -> None:
    model = {"make": functools.partial(round, ndigits=1)}
    before = canonical_bytes(model)

    vars(model["make"])

    assert canonical_bytes(model) == before


def test_objects_made_for_the_walk_are_not_taken_for_each_other() -> None:
    written = canonical_bytes([Fresh([1, 2, 3]) for _ in range(50)])

    assert written == canonical_bytes([Fresh([1, 2, 3]) for _ in range(50)])
    assert b"\x05" not in canonical_bytes([Fresh([number]) for number in range(100, 200)])


# -- generators ----------------------------------------------------------------------------------------------


class Drawing:
    def __init__(self, seed: int | None, inner: Any = None) -> None:
        self.inner = inner
        self.seed = seed
        self.rng = random.Random(seed)


class Holder:
    def __init__(self, rng: Any) -> None:
        self.rng = rng


@pytest.mark.parametrize("make", [random.Random, np.random.RandomState, np.random.default_rng])
def test_the_state_of_a_generator_counts(make: Callable[[int], Any]) -> None:
    used = make(1)
    used.random()

    assert canonical_bytes(make(1)) == canonical_bytes(make(1))
    assert canonical_bytes(make(1)) != canonical_bytes(used)


def test_generators_of_owners_without_a_seed_do_not_count() -> None:
    assert canonical_bytes(Drawing(None)) == canonical_bytes(Drawing(None))
    assert canonical_bytes(Drawing(1)) != canonical_bytes(Drawing(2))


def test_the_nearest_owner_with_a_seed_decides() -> None:
    def below(owner: int | None, rng: int) -> bytes:
        return canonical_bytes(Drawing(owner, [Holder(random.Random(rng))]))

    assert below(None, 1) == below(None, 2)
    assert below(5, 1) != below(5, 2)
    assert canonical_bytes(Drawing(None, Drawing(1))) != canonical_bytes(Drawing(None, Drawing(2)))
    assert canonical_bytes(Drawing(1, Drawing(None))) == canonical_bytes(Drawing(1, Drawing(None)))


def test_a_generator_that_also_has_an_owner_with_a_seed_is_not_called_unseeded() -> None:
    shared = random.Random(1)
    unseeded, seeded = Drawing(None, Holder(shared)), Drawing(2, Holder(shared))

    left_out = digest_and_unseeded([unseeded, seeded]).unseeded

    assert left_out == [unseeded.rng]


# -- refusals ------------------------------------------------------------------------------------------------


def double(x: dict[str, float]) -> dict[str, float]:
    return {name: 2 * value for name, value in x.items()}


def test_a_function_counts_by_its_name() -> None:
    assert b"double" in canonical_bytes(compose.FuncTransformer(double))


def test_a_lambda_is_refused_with_the_way_to_it() -> None:
    learner = compose.Pipeline(
        ("twice", compose.FuncTransformer(lambda x: x)), linear_model.LinearRegression()
    )

    with pytest.raises(NotCanonical, match="lambda") as refusal:
        digest(learner)

    assert refusal.value.where == "Pipeline.steps['twice'].func"
    assert "top level" in refusal.value.fix


def test_a_local_class_is_refused() -> None:
    class Local:
        pass

    with pytest.raises(NotCanonical, match="the local class Local"):
        canonical_bytes({"held": Local()})


def test_a_lock_is_refused_with_the_way_to_it() -> None:
    with pytest.raises(NotCanonical, match="lock") as refusal:
        canonical_bytes([1, {"guard": threading.Lock()}])

    assert refusal.value.where == "list[1]['guard']"


def test_a_set_of_objects_hashed_by_address_is_refused() -> None:
    with pytest.raises(NotCanonical, match="addresses") as refusal:
        canonical_bytes(Holder({Holder(1), Holder(2)}))

    assert refusal.value.where == "Holder.rng"


def test_paths_are_written_as_one_would_write_them() -> None:
    places = {place.path for place in explore(LEARNERS["leveraging bagging"]())}

    assert "LeveragingBaggingClassifier.model.optimizer" in places


if __name__ == "__main__":
    print(json.dumps({name: digest(train(name, restart_at=SAMPLES // 3)) for name in LEARNERS}))  # noqa: T201
