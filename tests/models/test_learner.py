from __future__ import annotations

import math
import pickle
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw
from river import datasets, linear_model, metrics, preprocessing, stats

from models.canonical import digest
from models.learner import LARGEST, Learner, VectorError, vector_to_x
from models.records import Sample, Scalar, Score, Value, decode_sample, encode_sample
from models.task import Task, score

River: Any = metrics


def sample(
    n: int,
    vector: list[Value],
    label: Scalar,
    *,
    logged: Score = 0.5,
    kind: Literal["label", "absent", "correction"] = "label",
    source: str = "log.v1/0",
) -> Sample:
    return Sample(
        id=f"event-{n}",
        t=n,
        label=label,
        label_t=n + 1,
        known=n + 1,
        kind=kind,
        vector=vector,
        score=logged,
        version=0,
        fingerprint="f",
        origin="api" if n % 3 else "stream",
        event=Raw(b"{}"),
        source=source,
        offset=n // 2,
        index=n % 2,
    )


def classifier() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def regressor() -> Any:
    return preprocessing.StandardScaler() | linear_model.LinearRegression(intercept_lr=0.1)


def plainly(model: Any, data: Iterable[tuple[dict[str, Any], Any]], task: Task, *scored: Any) -> list[Any]:
    """River's progressive validation, written out; what was predicted."""
    said = []
    for x, y in data:
        prediction = model.predict_one(x) if task is Task.REGRESSION else model.predict_proba_one(x)
        for metric in scored:
            label = metric.requires_labels if task is Task.BINARY else False
            metric.update(y, model.predict_one(x) if label else prediction)
        model.learn_one(x, y)
        said.append(prediction if task is Task.REGRESSION else prediction[True])
    return said


def as_samples(data: list[tuple[dict[str, Any], Any]]) -> Iterator[Sample]:
    """The data as it comes back from the samples topic."""
    for n, (x, y) in enumerate(data):
        yield decode_sample(encode_sample(sample(n, list(x.values()), y, logged=n / len(data))))


PHISHING = list(datasets.Phishing())
APPROVAL = list(datasets.TrumpApproval())
CASES = [
    pytest.param(PHISHING, classifier, Task.BINARY, ["LogLoss", "Accuracy", "F1"], id="phishing"),
    pytest.param(APPROVAL, regressor, Task.REGRESSION, ["MAE", "RMSE", "R2"], id="approval"),
]
EXTRA = {Task.BINARY: [River.Accuracy(), River.F1()], Task.REGRESSION: []}


def learner_of(data: list[tuple[dict[str, Any], Any]], prototype: Any, task: Task, **options: Any) -> Learner:
    return Learner("model", prototype, task, list(data[0][0]), "f", metrics=EXTRA[task], **options)


@pytest.mark.parametrize(("data", "prototype", "task", "names"), CASES)
def test_learner_is_plain_river_to_the_last_bit(
    data: Any, prototype: Any, task: Task, names: list[str]
) -> None:
    model, scored = prototype(), [getattr(River, name)() for name in names]
    said = plainly(model, data, task, *scored)

    learner = learner_of(data, prototype(), task)
    outcomes = [learner.on_sample(one, n) for n, one in enumerate(as_samples(data))]

    assert [outcome.score for outcome in outcomes] == said
    figures = learner.monitor.progressive.figures()
    assert {name: figures[name] for name in names} == {
        name: metric.get() for name, metric in zip(names, scored, strict=True)
    }
    assert digest(learner.model) == digest(model)
    assert (learner.version, learner.next_offset) == (len(data), len(data))


@pytest.mark.parametrize(("data", "prototype", "task", "names"), CASES)
def test_restart_from_a_snapshot_and_repeated_samples_change_nothing(
    data: Any, prototype: Any, task: Task, names: list[str]
) -> None:
    samples = list(as_samples(data))
    whole = learner_of(data, prototype(), task)
    for n, one in enumerate(samples):
        whole.on_sample(one, n)

    learner = learner_of(data, prototype(), task)
    for n, one in enumerate(samples[:400]):
        learner.on_sample(one, n)
    saved = pickle.dumps((learner.model, learner.version, learner.position, learner.monitor))
    learner = learner_of(data, prototype(), task)
    learner.resume(*pickle.loads(saved))
    # The producer of samples repeats some of them at new offsets of the topic.
    for n, one in enumerate([*samples[380:450], *samples[300:460], *samples[450:]], start=400):
        learner.on_sample(one, n)

    assert learner.counters["repeated"] == 20 + 150 + 10
    assert digest(learner.model) == digest(whole.model)
    assert (learner.version, learner.origins) == (whole.version, whole.origins)
    for origin in ("api", "stream"):
        assert learner.monitor.served[origin].figures() == whole.monitor.served[origin].figures()
    assert learner.monitor.progressive.figures() == whole.monitor.progressive.figures()
    assert learner.monitor.progressive.baseline() == whole.monitor.progressive.baseline()


def test_pickled_learner_goes_on_as_if_nothing_had_happened() -> None:
    samples = list(as_samples(PHISHING))
    whole = learner_of(PHISHING, classifier(), Task.BINARY)
    learner = learner_of(PHISHING, classifier(), Task.BINARY)
    for n, one in enumerate(samples):
        if n % 300 == 299:
            learner = pickle.loads(pickle.dumps(learner))
        assert learner.on_sample(one, n) == whole.on_sample(one, n)
    assert digest(learner.model) == digest(whole.model)


def test_version_n_is_the_fold_of_the_first_n_samples() -> None:
    names, samples = list(PHISHING[0][0]), list(as_samples(PHISHING))
    learner = learner_of(PHISHING, classifier(), Task.BINARY)
    for n, one in enumerate(samples[:50]):
        model = classifier()
        for earlier in samples[:n]:
            model.learn_one(vector_to_x(names, earlier.vector, "omit"), earlier.label)
        assert learner.version == n
        assert digest(learner.model) == digest(model)
        learner.on_sample(one, n)


def test_logged_prediction_is_scored_before_the_learner_sees_the_sample() -> None:
    learner = Learner("m", classifier(), Task.BINARY, ["a"], "f")
    asked = score(classifier(), {"a": 1.0}, Task.BINARY)
    outcome = learner.on_sample(sample(1, [1.0], True, logged=0.25), 0)
    assert outcome.score == asked
    assert learner.monitor.served["api"].figures()["LogLoss"] == -math.log(0.25)
    assert learner.monitor.progressive.figures()["LogLoss"] == -math.log(0.5)


@pytest.mark.parametrize(
    "prototype", [classifier(), preprocessing.StatImputer(("a", stats.Mean())) | classifier()]
)
def test_prototype_stays_untrained(prototype: Any) -> None:
    before = digest(prototype)
    learner = Learner("m", prototype, Task.BINARY, ["a"], "f")
    learner.on_sample(sample(0, [1.0], True), 0)
    assert digest(prototype) == before  # River's clone() would share the imputer's mean with it


def test_repeats_are_dropped_by_origin_per_group_of_the_log() -> None:
    learner = Learner("m", classifier(), Task.BINARY, ["a"], "f")
    what = [
        learner.on_sample(sample(n, [1.0], True, source=source), offset).what
        for offset, (n, source) in enumerate(
            [(4, "x/0"), (4, "x/0"), (3, "x/0"), (0, "x/1"), (5, "x/0"), (0, "x/1")]
        )
    ]
    assert what == ["learned", "repeated", "repeated", "learned", "learned", "repeated"]
    assert learner.origins == {"x/0": (2, 1), "x/1": (0, 0)}
    assert (learner.version, learner.next_offset) == (3, 6)


def test_sample_of_another_vector_is_counted_and_not_learned() -> None:
    learner = Learner("m", classifier(), Task.BINARY, ["a"], "g")
    assert learner.on_sample(sample(0, [1.0], True), 0).what == "foreign"
    assert (learner.version, learner.counters["foreign"], learner.next_offset) == (0, 1, 1)


def test_correction_is_learned_only_by_a_learner_that_wants_it_and_never_scored_again() -> None:
    correction = sample(2, [1.0], True, kind="correction")
    stubborn = Learner("m", classifier(), Task.BINARY, ["a"], "f")
    assert stubborn.on_sample(correction, 0).what == "correction"
    assert stubborn.version == 0
    willing = Learner("m", classifier(), Task.BINARY, ["a"], "f", learn_corrections=True)
    assert willing.on_sample(correction, 0).what == "learned"
    assert willing.monitor.progressive.samples == willing.monitor.served["api"].samples == 0


BAD = [math.nan, math.inf, -math.inf, 1e101, -1e308, 10**101]


@pytest.mark.parametrize("bad", BAD)
def test_number_that_would_ruin_the_model_is_refused_and_counted(bad: float) -> None:
    learner = Learner("m", classifier(), Task.BINARY, ["a", "b"], "f")
    before = digest(learner.model)
    assert learner.on_sample(sample(0, [1.0, bad], True), 0).what == "refused"
    assert (digest(learner.model), learner.version, learner.counters["refused"]) == (before, 0, 1)
    numbers = Learner("m", regressor(), Task.REGRESSION, ["a"], "f")
    assert numbers.on_sample(sample(0, [1.0], bad), 0).what == "refused"
    with pytest.raises(VectorError, match="b is"):
        vector_to_x(["a", "b"], [1.0, bad], "omit")


def test_vector_of_another_length_is_refused() -> None:
    with pytest.raises(VectorError, match="1 slots, the model has 2"):
        vector_to_x(["a", "b"], [1.0], "omit")


def test_missing_values_are_left_out_or_handed_over_as_none() -> None:
    vector: list[Value] = [1.5, None, "red", True, 3]
    names = list("abcde")
    assert vector_to_x(names, vector, "omit") == {"a": 1.5, "c": "red", "d": True, "e": 3}
    assert vector_to_x(names, vector, "none") == dict(zip(names, vector, strict=True))
    imputing = preprocessing.StatImputer(("b", stats.Mean())) | classifier()
    learner = Learner("m", imputing, Task.BINARY, ["a", "b"], "f", missing="none")
    learner.on_sample(sample(0, [1.0, 2.0], True), 0)
    assert learner.on_sample(sample(1, [1.0, None], False), 1).what == "learned"


@given(st.lists(st.one_of(st.floats(), st.integers(), st.text(), st.booleans(), st.none()), max_size=6))
@settings(max_examples=200, deadline=None)
def test_what_reaches_a_model_is_finite_and_in_slot_order(vector: list[Value]) -> None:
    names = [f"slot {n}" for n in range(len(vector))]
    numbers = [value for value in vector if isinstance(value, int | float)]
    small = all(math.isfinite(number) and abs(number) <= LARGEST for number in numbers)
    if not small or any(isinstance(n, int) and not -(2**63) <= n < 2**63 for n in numbers):
        with pytest.raises(VectorError):
            vector_to_x(names, vector, "none")
        return
    assert list(vector_to_x(names, vector, "none").items()) == list(zip(names, vector, strict=True))
    there = [(name, value) for name, value in zip(names, vector, strict=True) if value is not None]
    assert list(vector_to_x(names, vector, "omit").items()) == there


class Overflowing(linear_model.LinearRegression):
    def predict_one(self, x: Any) -> float:
        return math.inf


def test_score_that_is_not_finite_is_counted_and_learning_goes_on() -> None:
    learner = Learner("m", Overflowing(), Task.REGRESSION, ["a"], "f")
    outcome = learner.on_sample(sample(0, [1.0], 2.0), 0)
    assert (outcome.what, outcome.score, learner.version) == ("learned", None, 1)
    assert learner.monitor.progressive.unscored == 1


def test_outcome_names_the_version_after_the_sample() -> None:
    learner = Learner("m", classifier(), Task.BINARY, ["a"], "f")
    first = sample(0, [1.0], True)
    assert [learner.on_sample(one, 0).version for one in (first, first)] == [1, 1]
    other = msgspec.structs.replace(sample(1, [1.0], True), fingerprint="other")
    assert learner.on_sample(other, 1).version == 1
