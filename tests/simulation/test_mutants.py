"""The faults that are seeded into our own code are faults of today's code, and found."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.simulation.mutants import ROOT, Mutant, mutants, mutated
from tests.simulation.mutants.__main__ import Copy

EVERY = mutants()
SHORT = (  # killed within a few lives
    "commit-over-a-rewound-store",
    "late-event-kept",
    "cache-kept",
    "label-clock-leads",
    "sample-learned-again",
    "committed-before-its-outputs",
)


@pytest.mark.parametrize("mutant", EVERY, ids=lambda mutant: mutant.name)
def test_every_mutant_is_in_todays_code_once_and_changes_it(mutant: Mutant) -> None:
    before = ast.dump(ast.parse((ROOT / mutant.file).read_text()))
    assert ast.dump(ast.parse(mutated(mutant))) != before
    assert mutant.tests
    assert all((ROOT / test).exists() for test in mutant.tests)


def test_there_are_enough_and_each_has_its_name() -> None:
    assert len({mutant.name for mutant in EVERY}) == len(EVERY) >= 50


def test_simulated_lives_find_mutants(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    verdicts = [copy.tried(mutant, 40, lives=True) for mutant in EVERY if mutant.name in SHORT]
    assert [verdict.killed for verdict in verdicts] == ["simulator"] * len(SHORT), verdicts
