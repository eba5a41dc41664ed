"""A learner is a function of its samples, or it is refused with the name of what is not."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from river import (
    anomaly,
    compose,
    ensemble,
    feature_extraction,
    forest,
    linear_model,
    naive_bayes,
    neighbors,
    preprocessing,
    stats,
    tree,
)

from models.canonical import digest
from models.determinism import Input, Missing, refuse_if_undetermined
from models.errors import LearnerRefused, NotCanonical, UnseededLearner
from models.task import task_of

ROOT = Path(__file__).parents[2]
NUMBERS = (Input("a", float), Input("b", float), Input("c", int), Input("flag", bool))
WITH_TEXT = (*NUMBERS, Input("word", str))
WITH_GAPS = (*NUMBERS, Input("gap", float, may_be_missing=True))


def check(
    learner: Any, inputs: tuple[Input, ...] = NUMBERS, label: type | None = bool, missing: Missing = "absent"
) -> None:
    refuse_if_undetermined(learner, inputs, task_of(learner, label), label, missing=missing)


def logistic() -> linear_model.LogisticRegression:
    return linear_model.LogisticRegression()


# -- seeds ---------------------------------------------------------------------------------------------------


def drawing(seed: int | None) -> dict[str, tuple[Any, type | None]]:
    """Learners that draw, with the label that they learn."""
    return {
        "ARFClassifier": (forest.ARFClassifier(n_models=2, seed=seed), bool),
        "ARFRegressor": (forest.ARFRegressor(n_models=2, seed=seed), float),
        "AMFClassifier": (forest.AMFClassifier(n_estimators=2, seed=seed), bool),
        "AMFRegressor": (forest.AMFRegressor(n_estimators=2, seed=seed), float),
        "LeveragingBaggingClassifier": (
            ensemble.LeveragingBaggingClassifier(logistic(), n_models=2, seed=seed),
            bool,
        ),
        "HalfSpaceTrees": (anomaly.HalfSpaceTrees(n_trees=2, height=3, seed=seed), None),
        "HoeffdingAdaptiveTreeClassifier": (tree.HoeffdingAdaptiveTreeClassifier(seed=seed), bool),
        "SWINN": (
            neighbors.KNNClassifier(engine=neighbors.SWINN(graph_k=5, maxlen=60, warm_up=30, seed=seed)),
            bool,
        ),
    }


@pytest.mark.parametrize("name", drawing(None))
def test_a_learner_without_a_seed_is_refused_by_name(name: str) -> None:
    learner, label = drawing(None)[name]

    with pytest.raises(UnseededLearner) as refusal:
        check(learner, label=label)

    assert refusal.value.where.endswith(".seed")
    assert f"{name}(seed=1)" in refusal.value.fix


@pytest.mark.parametrize("name", drawing(1))
def test_with_a_seed_it_passes(name: str) -> None:
    learner, label = drawing(1)[name]

    check(learner, label=label)


def test_the_way_to_the_seed_is_named_inside_a_pipeline() -> None:
    learner = preprocessing.StandardScaler() | forest.AMFClassifier(n_estimators=2)

    with pytest.raises(UnseededLearner) as refusal:
        check(learner)

    assert refusal.value.where == "Pipeline.steps['AMFClassifier'].seed"


def test_an_unseeded_member_of_a_list_is_found_although_clones_copy_its_generator() -> None:
    learner = ensemble.VotingClassifier([logistic(), forest.AMFClassifier(n_estimators=2)])

    with pytest.raises(UnseededLearner, match="AMFClassifier"):
        check(learner)


def test_a_seed_that_is_never_drawn_from_is_no_fault() -> None:
    check(tree.HoeffdingTreeClassifier())  # each Gaussian inside has a generator of its own, and no seed
    check(naive_bayes.GaussianNB())


class Noisy:
    """A learner of the project's own that draws."""

    def __init__(self, rng: Any) -> None:
        self.rng = rng
        self.weight = 0.0

    def learn_one(self, x: dict[str, Any], y: float) -> None:
        self.weight += y * self.rng.random()

    def predict_one(self, x: dict[str, Any]) -> float:
        return self.weight


class Seeded(Noisy):
    def __init__(self, seed: int | None, rng: Any) -> None:
        super().__init__(rng)
        self.seed = seed


@pytest.mark.parametrize(
    "rng",
    [random.Random(), np.random.RandomState(), np.random.default_rng()],
    ids=lambda rng: type(rng).__name__,
)
def test_a_generator_of_ones_own_needs_a_seed(rng: Any) -> None:
    with pytest.raises(UnseededLearner) as unowned:
        check(Noisy(rng), label=float)
    with pytest.raises(UnseededLearner) as unseeded:
        check(Seeded(None, rng), label=float)

    assert unowned.value.where == "Noisy.rng"
    assert unseeded.value.where == "Seeded.seed"
    check(Seeded(3, random.Random(3)), label=float)


class Careless(Noisy):
    def learn_one(self, x: dict[str, Any], y: float) -> None:
        self.weight += y * random.random()


def test_the_global_generator_is_found() -> None:
    with pytest.raises(UnseededLearner, match="global"):
        check(Careless(None), label=float)


def test_the_learner_itself_is_left_as_it_was_although_clones_share_statistics() -> None:
    learner = preprocessing.StatImputer(("gap", stats.Mean())) | logistic()
    before = digest(learner)

    check(learner, WITH_GAPS, missing="none")

    assert digest(learner) == before


HASH_ORDER = """
from river import compose, linear_model
from models.determinism import Input, refuse_if_undetermined
from models.task import Task
names = [f"input {number}" for number in range(20)]
learner = compose.Select(*names) | linear_model.LogisticRegression()
refuse_if_undetermined(learner, [Input(name, float) for name in names], Task.BINARY, bool)
"""


@pytest.mark.parametrize(("hash_seed", "refused"), [("random", True), ("0", False)])
def test_the_order_of_a_set_counts_unless_python_keeps_its_hash_seed(hash_seed: str, refused: bool) -> None:
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}

    run = subprocess.run([sys.executable, "-c", HASH_ORDER], env=environment, capture_output=True, text=True)

    assert (run.returncode != 0) == refused
    assert ("Pipeline.steps['Select'].keys" in run.stderr and "PYTHONHASHSEED=0" in run.stderr) == refused


# -- inputs --------------------------------------------------------------------------------------------------


def test_text_for_a_learner_of_numbers_names_the_input_and_the_encoder() -> None:
    with pytest.raises(LearnerRefused, match=r"'word' \(str\)") as refusal:
        check(preprocessing.StandardScaler() | logistic(), WITH_TEXT)

    assert "OneHotEncoder" in refusal.value.fix
    assert "TypeError" in refusal.value.why


def test_encoded_text_passes() -> None:
    words = compose.SelectType(str) | preprocessing.OneHotEncoder()

    check((words + compose.SelectType(float, int)) | logistic(), WITH_TEXT)
    check(
        feature_extraction.BagOfWords(on="word") | naive_bayes.MultinomialNB(),
        WITH_TEXT,
    )


def test_none_for_a_learner_of_numbers_names_the_input_and_the_imputer() -> None:
    with pytest.raises(LearnerRefused, match=r"'gap' \(missing\)") as refusal:
        check(preprocessing.StandardScaler() | logistic(), WITH_GAPS, missing="none")

    assert "StatImputer(('gap', stats.Mean()))" in refusal.value.fix


def test_missing_values_pass_when_left_out_or_imputed() -> None:
    imputer = preprocessing.StatImputer(("gap", stats.Mean()))

    check(preprocessing.StandardScaler() | logistic(), WITH_GAPS, missing="absent")
    check(imputer | preprocessing.StandardScaler() | logistic(), WITH_GAPS, missing="none")


class Broken:
    def learn_one(self, x: dict[str, Any], y: Any) -> None:
        raise KeyError("weights")

    def predict_one(self, x: dict[str, Any]) -> float:
        return 0.0


def test_a_learner_that_fails_on_plain_numbers_is_told_so() -> None:
    with pytest.raises(LearnerRefused, match="4 numbers and float labels") as refusal:
        check(Broken(), label=float)

    assert "KeyError: 'weights'" in refusal.value.why


def test_a_learner_that_runs_away_on_made_up_numbers_is_not_refused_for_it() -> None:
    class_of_its_own = Seeded(1, Runaway())

    check(class_of_its_own, label=float)


class Runaway:
    def random(self) -> float:
        return 1e308


def test_a_lambda_is_refused_before_any_trial() -> None:
    with pytest.raises(NotCanonical, match="lambda"):
        check(compose.FuncTransformer(lambda x: x) | logistic())
