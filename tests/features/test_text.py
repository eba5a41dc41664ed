"""What may be given to a decoder, compared with a walk over what Python's own decoder makes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.text import DEEPEST, check_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab[]{}\\" \n☂'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='[{"\\'), inner, max_size=3),
    max_leaves=20,
)


def levels(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(levels, value.values()), default=0)
    return 1 + max(map(levels, value), default=0) if isinstance(value, list) else 0


@given(JSON, st.integers(0, 6), st.sampled_from((None, 1)))
def test_levels_are_counted_as_they_are_nested(value: Any, deepest: int, indent: int | None) -> None:
    data = json.dumps(value, indent=indent).encode()

    if levels(value) <= deepest:
        check_json(data, deepest)
    else:
        with pytest.raises(ValueError, match="nested deeper"):
            check_json(data, deepest)


def test_brackets_in_texts_are_no_levels() -> None:
    check_json(b'{"a":"' + b"[" * 1_000 + b'\\"' + b"{" * 1_000 + b'"}')


def test_what_ends_too_early_is_left_to_the_decoder() -> None:
    check_json(b'{"a":"' + b"[" * 1_000)
    check_json(b"]" * 1_000 + b"[" * DEEPEST)


@pytest.mark.parametrize(
    "data", [b'{"a":"\xff"}', b'"\xed\xa0\x80"', b'"\xc0\xaf"', b'"\xf5\x80\x80\x80"', b"\xfe"]
)
def test_what_is_no_text_is_refused(data: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        check_json(data)
