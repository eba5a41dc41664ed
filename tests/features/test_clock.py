"""Times and durations."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.clock import duration_ms, duration_text, from_ms, to_ms

zones = st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)))


@given(moment=st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=zones))
def test_a_moment_is_floored_to_its_millisecond(moment: datetime) -> None:
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    exact = Fraction(since.days * 86_400_000 + since.seconds * 1000) + Fraction(since.microseconds, 1000)

    assert to_ms(moment) == exact.numerator // exact.denominator


@given(ms=st.integers(-(10**13), 2 * 10**14))
def test_a_time_comes_back_from_its_moment(ms: int) -> None:
    assert to_ms(from_ms(ms)) == ms


def test_a_moment_without_zone_is_no_time() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        to_ms(datetime(2026, 1, 1))  # the mistake under test


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1ms", 1), ("10m", 600_000), ("1h30m", 5_400_000), (" 36 h ", 129_600_000), ("2w", 1_209_600_000),
        ("1y", 31_536_000_000), (timedelta(seconds=1.5), 1500), ("0s", 0),
    ],
)  # fmt: skip
def test_a_duration_is_read(text: str | timedelta, ms: int) -> None:
    assert duration_ms(text) == ms


@given(ms=st.integers(1, 10**12))
def test_a_duration_comes_back_from_its_text(ms: int) -> None:
    assert duration_ms(duration_text(ms)) == ms
