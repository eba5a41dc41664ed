"""What changes the fingerprint of a function, and what does not."""

from __future__ import annotations

import linecache
import textwrap
import types
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from features import DefinitionError
from features.fingerprint import function_fingerprint

_numbers: Iterator[int] = count()

BASE = """
LIMIT = 10.0

def inner(x):
    return x + 1

def helper(x):
    return inner(x) * 2

def f(event):
    return helper(event.amount) > LIMIT
"""


def module_of(source: str) -> dict[str, Any]:
    """A module of its own, whose source can be read back as that of a file can."""
    name = f"<project {next(_numbers)}>"
    text = textwrap.dedent(source)
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    module = types.ModuleType("project")
    exec(compile(text, name, "exec"), module.__dict__)
    return module.__dict__


def of(source: str, name: str = "f") -> str:
    return function_fingerprint(module_of(source)[name])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 10.0", "LIMIT = 10.5"),
        ("LIMIT = 10.0", "LIMIT = 10"),
        ("return x + 1", "return x + 2"),
        ("inner(x) * 2", "inner(x) * 3"),
        ("> LIMIT", ">= LIMIT"),
        ("event.amount", "event.fee"),
        ("def f(event):", "def f(event, k=1):"),
    ],
)
def test_it_changes_with_a_constant_a_helper_and_a_helper_of_the_helper(old: str, new: str) -> None:
    assert BASE.count(old) == 1
    assert of(BASE.replace(old, new)) != of(BASE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def f(event):\n", 'def f(event):\n    """Tells whether."""\n'),
        ("def helper(x):\n", 'def helper(x):\n    """Doubles."""\n'),
        ("def f(event):\n", "def f(event):\n    # why\n"),
        ("def f(event):", "def f(event: object) -> bool:"),
        ("LIMIT = 10.0", "\n\nUNUSED = 3\nLIMIT = 10.0\n\n"),
        ("LIMIT = 10.0", "LIMIT: float = 10.0"),
        ("inner(x) * 2", "(inner(x)\n        * 2)"),
    ],
)
def test_it_does_not_change_with_docstring_comment_annotation_or_position(old: str, new: str) -> None:
    assert BASE.count(old) == 1
    assert of(BASE.replace(old, new)) == of(BASE)


def test_annotations_within_a_body_and_in_nested_functions_have_no_part() -> None:
    plain = "def f(e):\n    x = e.a\n    def g(y):\n        return y\n    return g(x)\n"
    noted = (
        "def f(e):\n    x: float = e.a\n    z: int\n    def g(y: float) -> float:\n"
        '        """Same."""\n        return y\n    return g(x)\n'
    )
    assert of(noted) == of(plain)


def test_a_nested_function_has_a_part() -> None:
    one = "def f(e):\n    def g(y):\n        return y\n    return g(e.a)\n"
    assert of(one) != of(one.replace("return y", "return -y"))


def test_a_function_that_calls_itself_has_one() -> None:
    one = "def f(n):\n    return n if n < 2 else g(n - 1)\ndef g(n):\n    return f(n - 1)\n"
    assert of(one) == of(one)
    assert of(one) != of(one.replace("f(n - 1)", "f(n - 2)"))


def test_two_lambdas_on_one_line_are_told_apart() -> None:
    module = module_of("a, b = (lambda e: e.x > 1), (lambda e: e.x > 2)\nc = lambda e: e.y > 1\n")
    assert len({function_fingerprint(module[name]) for name in "abc"}) == 3


def test_a_wrapper_is_not_what_it_wraps() -> None:
    source = """
        import functools

        def scaled(function):
            @functools.wraps(function)
            def wrapper(e):
                return function(e) * 2
            return wrapper

        @scaled
        def f(e):
            return e.x
    """
    assert of(source) != of(source.replace("* 2", "* 3"))
    assert of(source) != of(source.replace("e.x", "e.y"))


def test_an_enumeration_has_a_part_with_its_values() -> None:
    source = (
        "import enum\nclass Limit(enum.IntEnum):\n    HIGH = 10\ndef f(e):\n    return e.x > Limit.HIGH\n"
    )
    assert of(source) != of(source.replace("10", "20"))


def test_values_of_closures_have_a_part() -> None:
    source = "def make(k):\n    def f(e):\n        return e.x > k\n    return f\nf = make(3)\n"
    assert of(source) != of(source.replace("make(3)", "make(4)"))


def test_the_standard_library_and_builtins_are_named() -> None:
    source = "import math\nfrom datetime import date\ndef f(e):\n    return math.floor(e.x) + date.max.day + min(e.y)\n"
    assert of(source) == of(source)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("TABLE = {'a': 1}\ndef f(e):\n    return TABLE[e.x]\n", "TABLE"),
        ("SEEN = []\ndef f(e):\n    return e.x in SEEN\n", "SEEN"),
        ("SEEN = set()\ndef f(e):\n    return any(x in SEEN for x in e.xs)\n", "SEEN"),
        ("look = {'a': 1}.get\ndef f(e):\n    return look(e.x)\n", "look"),
        ("T = ([1],)\ndef f(e):\n    return T\n", "T"),
        ("class Box:\n    k = 1\ndef f(e):\n    return Box.k\n", "Box"),
        ("def f(e, seen=[]):\n    return seen\n", "default"),
        ("def f(e):\n    return missing(e)\n", "missing"),
        ("def f(e):\n    import numpy\n    return numpy.sqrt(e.x)\n", "numpy"),
        ("import msgspec\ndef f(e):\n    return msgspec.json.encode(e)\n", "msgspec"),
        ("TABLE = {}\ndef g(x):\n    return TABLE[x]\ndef f(e):\n    return g(e.x)\n", "TABLE"),
    ],
)
def test_what_is_mutable_or_cannot_be_resolved_is_refused_by_name(source: str, named: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        of(source)
    assert named in str(refused.value)
    assert refused.value.fix or "not defined" in str(refused.value)
