from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable
from random import Random
from typing import Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Raw
from river import metrics

from models.monitor import Board, Monitor, Ranks
from models.records import Sample, Scalar, Score
from models.task import Task

River: Any = metrics


def sample(
    label: Scalar,
    score: Score,
    kind: Literal["label", "absent", "correction"] = "label",
    origin: Literal["api", "stream"] = "api",
) -> Sample:
    return Sample(
        id="e",
        t=0,
        label=label,
        label_t=0,
        known=0,
        kind=kind,
        vector=[],
        score=score,
        version=0,
        fingerprint="f",
        origin=origin,
        event=Raw(b"{}"),
        source="log/0",
        offset=0,
        index=0,
    )


# -- ranks


def pairs_won(labels: list[bool], scores: list[float]) -> float:
    """The area under the ROC curve by its meaning, over every pair."""
    trues = [s for label, s in zip(labels, scores, strict=True) if label]
    falses = [s for label, s in zip(labels, scores, strict=True) if not label]
    won = sum((t > f) + 0.5 * (t == f) for t in trues for f in falses)
    return won / (len(trues) * len(falses)) if trues and falses else 0.5


def precision_at_each_true(labels: list[bool], scores: list[float]) -> float:
    parts = []
    for label, score in zip(labels, scores, strict=True):
        if label:
            above = [other for other, s in zip(labels, scores, strict=True) if s >= score]
            parts.append(sum(above) / len(above))
    return math.fsum(parts) / len(parts) if parts else 0.0


# Scores further apart than a bin, from the edges of the floats to far outside of [0, 1].
APART = [
    -1e9,
    -2.0,
    -1.0,
    -1e-300,
    0.0,
    5e-324,
    1e-9,
    0.001,
    0.002,
    0.4,
    0.5,
    0.6,
    0.99,
    0.999999,
    1.0,
    2.0,
    1e300,
]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(APART)), max_size=40))
@settings(max_examples=300, deadline=None)
def test_ranks_equal_their_definition_where_scores_are_apart(drawn: list[tuple[bool, float]]) -> None:
    labels, scores = [label for label, _ in drawn], [score for _, score in drawn]
    ranks = Ranks()
    for label, score in drawn:
        ranks.update(label, score)
    assert ranks.roc_auc() == pytest.approx(pairs_won(labels, scores), abs=1e-12)
    assert ranks.average_precision() == pytest.approx(precision_at_each_true(labels, scores), abs=1e-12)


@given(st.permutations([(n % 3 == 0, (n % 7) / 7) for n in range(30)]))
@settings(max_examples=50, deadline=None)
def test_ranks_do_not_depend_on_the_order_of_samples(drawn: list[tuple[bool, float]]) -> None:
    one, other = Ranks(), Ranks()
    for label, score in drawn:
        one.update(label, score)
    for label, score in sorted(drawn):
        other.update(label, score)
    assert (one.roc_auc(), one.average_precision()) == (other.roc_auc(), other.average_precision())


def order(low: float, high: float) -> int:
    """How the ranks see two scores: 1 in order, 0 as one, -1 the wrong way round."""
    ranks = Ranks()
    ranks.update(False, low)
    ranks.update(True, high)
    return round(2 * ranks.roc_auc() - 1)


# Edges of bins: 64 of them from a power of two to the next, by the distance to the nearer of 0 and 1.
EDGES = [math.ldexp(1 + k / 64, exponent) for exponent in (-60, -10, -3, -2) for k in range(64)]


@pytest.mark.parametrize("side", [lambda edge: edge, lambda edge: 1.0 - edge], ids=["to 0", "to 1"])
def test_scores_are_told_apart_at_each_edge_and_nowhere_else(side: Callable[[float], float]) -> None:
    for edge in EDGES:
        if side(edge) == 1.0:
            continue  # nearer to 1 than a float can be
        width = math.ldexp(1 / 64, math.frexp(edge)[1] - 1)
        below, inside, last = (side(edge + width * part) for part in (-0.02, 0.02, 0.98))
        assert abs(order(below, inside)) == 1, edge
        assert order(inside, last) == 0, edge


def test_bins_meet_in_the_middle() -> None:
    around = [
        0.5 - 1 / 300,
        math.nextafter(0.5, 0),
        0.5,
        math.nextafter(0.5, 1),
        0.5 + 1 / 300,
        0.5 + 1 / 200,
    ]

    # 0.5 itself, as near to 0 as to 1, has a bin of its own
    assert [order(one, other) for one, other in itertools.pairwise(around)] == [0, 1, 1, 0, 1]


@given(st.lists(st.floats(-2.0, 2.0), min_size=2, max_size=2))
@settings(max_examples=500, deadline=None)
@example([math.nextafter(1.0, 0.0), 1.0])
@example([1.0 - 2**-40, 1.0])
@example([math.nextafter(0.5, 0.0), math.nextafter(0.5, 1.0)])
def test_no_two_scores_are_seen_the_wrong_way_round(scores: list[float]) -> None:
    assert order(min(scores), max(scores)) >= 0


def test_the_largest_score_below_1_is_below_1() -> None:
    assert order(math.nextafter(1.0, 0.0), 1.0) == 1


def test_bins_of_dense_scores_stay_close_to_the_exact_area() -> None:
    r = Random(1)
    labels = [r.random() < 0.1 for _ in range(1_500)]
    scores = [r.random() * (0.004 if label else 0.002) for label in labels]
    ranks = Ranks()
    for label, score in zip(labels, scores, strict=True):
        ranks.update(label, score)
    assert ranks.roc_auc() == pytest.approx(pairs_won(labels, scores), abs=0.005)
    assert ranks.average_precision() == pytest.approx(precision_at_each_true(labels, scores), abs=0.01)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2))
def test_higher_score_never_ranks_lower(scores: list[float]) -> None:
    low, high = sorted(scores)
    ranks = Ranks()
    ranks.update(False, low)
    ranks.update(True, high)
    assert ranks.roc_auc() >= 0.5


# -- boards


def test_binary_board_has_river_s_log_loss_beside_that_of_the_running_share() -> None:
    r = Random(2)
    data = [(r.random() < 0.2, r.random()) for _ in range(200)]
    board, loss, prior = Board(Task.BINARY, [River.F1()]), River.LogLoss(), River.LogLoss()
    trues, f1 = 0, River.F1()
    for n, (label, score) in enumerate(data):
        board.update(label, score)
        loss.update(label, score)
        f1.update(label, score > 0.5)
        prior.update(label, (trues + 1) / (n + 2))
        trues += label
    figures, baseline = board.figures(), board.baseline()
    assert (figures["LogLoss"], figures["F1"], baseline["LogLoss"]) == (loss.get(), f1.get(), prior.get())
    assert (baseline["ROCAUC"], baseline["AveragePrecision"]) == (0.5, trues / 200)
    assert board.gain() == 1 - loss.get() / prior.get()


def test_learning_shows_as_a_gain_over_the_baseline() -> None:
    knows, guesses = Board(Task.BINARY), Board(Task.BINARY)
    for n in range(400):
        label = n % 4 == 0
        knows.update(label, 0.9 if label else 0.1)
        guesses.update(label, 0.5)
    assert (knows.gain() or 0) > 0.7
    assert (guesses.gain() or 0) < 0


def test_multiclass_board_beats_the_majority_or_not() -> None:
    board, cross_entropy = Board(Task.MULTICLASS), River.CrossEntropy()
    labels: list[Scalar] = [1, 2, 1, 1, 3, 1]
    for label in labels:
        shares = {"1": 0.5, "2": 0.3, "3": 0.2}
        board.update(label, dict(shares))
        cross_entropy.update(str(label), shares)
    figures = board.figures()
    assert figures["Accuracy"] == 4 / 6
    assert figures["CrossEntropy"] == cross_entropy.get()
    # The majority before: none, 1, 1 (of 1 and 2), 1, 1, 1; the first is not asked.
    assert board.baseline()["Accuracy"] == 3 / 5


def test_regression_board_has_the_running_mean_beside_it() -> None:
    board, mae, rmse = Board(Task.REGRESSION), River.MAE(), River.RMSE()
    total = 0.0
    for n, label in enumerate([2.0, 4.0, 9.0]):
        board.update(label, label + 1)
        mean = total / n if n else 0.0
        mae.update(label, mean)
        rmse.update(label, mean)
        total += label
    assert board.figures()["MAE"] == 1.0
    assert board.baseline() == pytest.approx({"MAE": mae.get(), "RMSE": rmse.get()})


def test_anomaly_scores_of_any_scale_are_ranked() -> None:
    board = Board(Task.ANOMALY)
    for label, score in [(False, -3.0), (False, 7.0), (True, 1_000.0), (False, 8.0), (True, 7.5)]:
        board.update(label, score)
    assert board.figures()["ROCAUC"] == 5 / 6
    assert board.baseline()["AveragePrecision"] == 2 / 5
    assert board.gain() is None


@pytest.mark.parametrize(
    ("task", "score"),
    [(Task.BINARY, None), (Task.BINARY, {"a": 1.0}), (Task.MULTICLASS, {}), (Task.MULTICLASS, 0.5)],
)
def test_prediction_without_a_score_of_the_task_is_counted_and_not_scored(task: Task, score: Score) -> None:
    board = Board(task)
    board.update(True, score)
    assert (board.samples, board.unscored) == (0, 1)


def test_metrics_of_the_same_name_are_refused() -> None:
    with pytest.raises(ValueError, match="LogLoss"):
        Board(Task.BINARY, [River.LogLoss()])


def test_own_metric_is_cloned_for_every_board() -> None:
    mine = River.F1()
    monitor = Monitor(Task.BINARY, [mine])
    monitor.on_served(sample(label=True, score=0.9))
    assert mine.get() == 0.0
    assert monitor.served["api"].figures()["F1"] == 1.0
    assert monitor.progressive.figures()["F1"] == 0.0


# -- the monitor


def test_served_figures_are_kept_by_origin_and_absents_count_as_labels() -> None:
    monitor = Monitor(Task.BINARY)
    monitor.on_served(sample(label=True, score=0.5))
    monitor.on_served(sample(label=False, score=0.5, kind="absent"))
    monitor.on_served(sample(label=False, score=0.5, kind="absent", origin="stream"))
    assert (monitor.served["api"].samples, monitor.served["stream"].samples) == (2, 1)


KINDS: list[Literal["label", "absent", "correction"]] = ["label", "absent", "absent", "absent", "correction"]


def test_coverage_is_the_share_of_samples_with_a_label_of_their_own() -> None:
    monitor = Monitor(Task.BINARY)
    assert monitor.coverage is None
    for kind in KINDS:
        monitor.on_served(sample(label=False, score=0.5, kind=kind))
    assert monitor.coverage == 0.25


def label_by(r: Random, task: Task) -> Scalar:
    if task is Task.REGRESSION:
        return r.random()
    return r.choice("abc") if task is Task.MULTICLASS else r.random() < 0.3


@pytest.mark.parametrize("task", list(Task))
def test_pickled_monitor_goes_on_exactly_where_it_stopped(task: Task) -> None:
    r = Random(3)
    whole, monitor = Monitor(task), Monitor(task)
    for n in range(300):
        label = label_by(r, task)
        shares: Score = {"a": r.random(), "b": r.random()} if task is Task.MULTICLASS else r.random()
        if n % 50 == 49:
            monitor = pickle.loads(pickle.dumps(monitor))
        for each in (whole, monitor):
            each.on_served(sample(label, shares))
            each.on_progressive(sample(label, shares), shares)
    for board, expected in (
        (monitor.progressive, whole.progressive),
        (monitor.served["api"], whole.served["api"]),
    ):
        assert board.figures() == expected.figures()
        assert board.baseline() == expected.baseline()
    assert pickle.dumps(pickle.loads(pickle.dumps(monitor))) == pickle.dumps(monitor)
