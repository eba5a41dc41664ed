"""The short form: what is kept, and what comes of it by a few mutations; without libFuzzer."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.corpus import CORPUS, kept
from tests.fuzz.targets import TARGETS


@cache
def seeds(name: str) -> list[bytes]:
    return list(TARGETS[name].seeds())


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_written_is_taken(name: str) -> None:
    for data in seeds(name):
        assert TARGETS[name].run(data), data


@pytest.mark.parametrize("name", TARGETS)
def test_what_once_went_a_way_of_its_own_does_nothing_that_it_must_not(name: str) -> None:
    for data in kept(name):
        TARGETS[name].run(data)


def test_what_is_kept_is_kept_for_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= TARGETS.keys()


@st.composite
def mutated(draw: st.DrawFn, name: str) -> bytes:
    """Bytes of the corpus with some changed, cut out, put in, or followed by those of another."""
    whole = [*seeds(name), *kept(name)]
    data = bytearray(draw(st.sampled_from(whole)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 4)):
            case 0 if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case 1:
                data[at : at + 8] = draw(st.sampled_from((b"\0" * 8, b"\xff" * 8, b"\x7f", b"9" * 20, b"-1")))
            case 2:
                del data[at : at + draw(st.integers(1, 40))]
            case 3:
                data[at:at] = draw(st.binary(min_size=1, max_size=8))
            case _:
                other = draw(st.sampled_from(whole))
                data[at:] = other[draw(st.integers(0, len(other))) :]
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_bytes_that_nobody_wrote_raise_only_what_is_documented(name: str) -> None:
    @settings(
        max_examples=EXAMPLES.get(name, 200),
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        database=None,
    )
    @given(data=mutated(name))
    def run(data: bytes) -> None:
        TARGETS[name].run(data)

    run()


EXAMPLES = {"state": 150, "spool": 100}
