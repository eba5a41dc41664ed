"""The short form of `python -m tests.chaos`: every kind of fault, and the same judgement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.chaos.run import Options, Run
from tests.chaos.schedule import KINDS, REWINDS


@pytest.mark.parametrize(
    ("kinds", "kills"),
    [(KINDS, 14), ([kind for kind in KINDS if kind not in REWINDS], 8)],
    ids=["everything", "without-rewinds"],
)
async def test_whatever_breaks_nothing_is_lost_doubled_or_other_than_the_log_gives(
    java: None, tmp_path: Path, kinds: Sequence[str], kills: int
) -> None:
    report = await Run(Options(kills, events=3_000, seed=3, kinds=kinds), tmp_path, lambda _: None).live()

    assert report.judgement.findings == []
    assert report.good
    assert set(report.faults) == set(kinds)
    assert report.kills == kills
    assert report.cuts > 0
    assert report.lates > 0
    assert report.answers["answered"] > 0
    if set(kinds) == set(KINDS):
        assert report.rewound > 0
    assert report.judgement.compared["the clean run"] == 1
