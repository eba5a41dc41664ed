from __future__ import annotations

import random

import pytest

from serving.latency import LastMinute


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 1.0])
def test_a_percentile_is_known_to_five_in_a_hundred(share: float) -> None:
    draw = random.Random(1)
    latencies = sorted(draw.lognormvariate(-6, 1) for _ in range(5_000))
    recent = LastMinute()
    for k, latency in enumerate(latencies):
        recent.add(1_000.0 + k % 60, latency)
    found = recent.percentile(1_059.5, share)
    assert found == pytest.approx(latencies[min(4_999, int(share * 5_000))], rel=0.05)


def test_what_is_older_than_a_minute_is_forgotten() -> None:
    recent = LastMinute()
    recent.add(1_000.0, 0.001)
    assert recent.count(1_059.9) == 1
    assert recent.count(1_060.0) == 0
    assert recent.percentile(1_060.0, 0.5) is None
    recent.add(1_060.0, 0.002)
    assert recent.count(1_060.0) == 1


def test_the_shortest_and_the_longest_are_counted() -> None:
    recent = LastMinute()
    for latency in (0.0, 1e-9, 1e6):
        recent.add(5.0, latency)
    assert recent.count(5.0) == 3
