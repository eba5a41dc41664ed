"""A third of the records is bad, and the worker is killed in the middle."""

from __future__ import annotations

from pathlib import Path

from tests.badinput.run import lived
from tests.parts.broker import Broker


async def test_every_good_record_counts_and_every_bad_one_is_one_dead_letter_whatever_is_killed(
    kafka: Broker, redis_url: str, tmp_path: Path, topic_prefix: str
) -> None:
    came = await lived(kafka, redis_url, tmp_path, topic_prefix, records=6_000, share=1 / 3, kills=2, seed=4)

    assert came.bad == 2_000
    assert came.good == 2_000
    assert set(came.reasons) == {
        *("undecodable", "too_large", "time_out_of_range", "number_out_of_range"),
        *("no_key", "no_value", "misplaced"),
    }
