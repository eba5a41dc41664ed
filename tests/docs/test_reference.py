"""The reference says what the code says, and leaves nothing out."""

from __future__ import annotations

import ast
import inspect
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

import features
import features.keys
import features.state
import models
from features.fold import Folded
from features.store import Position, Status

from .generate import PARTS, REFERENCE, aggregation_classes, generated, parts_in
from .pages import PAGES, REPOSITORY, name

ROOMS = ("features", "models", "streams", "serving", "headrace")


def page(named: str) -> str:
    return (REFERENCE / named).read_text()


def sources(*rooms: str) -> Iterator[tuple[Path, ast.Module]]:
    for room in rooms:
        for file in sorted((REPOSITORY / room).rglob("*.py")):
            yield file, ast.parse(file.read_text())


def constants(call: str, place: int, *rooms: str) -> set[str]:
    """Returns the texts that are given to a function at one place, wherever it is called."""
    found = set()
    for _, tree in sources(*rooms):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and len(node.args) > place:
                called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                value = node.args[place]
                if called == call and isinstance(value, ast.Constant) and isinstance(value.value, str):
                    found.add(value.value)
    return found


@pytest.mark.parametrize("path", [p for p in PAGES if parts_in(p)], ids=name)
def test_a_generated_part_is_what_the_code_gives(path: Path) -> None:
    assert generated(path) == path.read_text(), "run: python -m tests.docs.generate"


def test_every_kind_of_generated_part_is_on_a_page() -> None:
    used = {part.split()[0] for path in PAGES for part in parts_in(path)}
    assert used == set(PARTS)


@pytest.mark.parametrize("word", sorted({*features.__all__, *models.__all__}))
def test_every_word_of_the_vocabulary_is_explained(word: str) -> None:
    assert re.search(rf"(?m)\b{word}\b", page("project-file.md"))


def test_every_aggregation_has_a_row() -> None:
    for kind in aggregation_classes():
        assert f"| `{kind.__name__}(" in page("project-file.md")


def test_every_variable_that_is_read_is_documented() -> None:
    told = page("settings.md")
    read = {
        found
        for room in ROOMS
        for file in (REPOSITORY / room).rglob("*.py")
        for found in re.findall(r"\bHEADRACE_[A-Z_]+[A-Z]\b", file.read_text())
    }
    assert {variable for variable in read if f"`{variable}`" not in told} == set()


def test_every_reason_of_a_dead_letter_is_documented() -> None:
    reasons = constants("EventRefused", 0, *ROOMS)
    assert {reason for reason in reasons if f"`{reason}`" not in page("topics.md")} == set()


def test_every_problem_of_http_is_documented() -> None:
    kinds = constants("Problem", 1, "serving") | constants("_later", 0, "serving")
    for file, tree in sources("serving"):
        for node in ast.walk(tree):
            if file.name == "problems.py" and isinstance(node, ast.FunctionDef) and node.name == "_ours":
                returned = [each.value for each in ast.walk(node) if isinstance(each, ast.Return)]
                kinds |= {each.elts[0].value for each in returned if isinstance(each, ast.Tuple)}  # type: ignore[attr-defined]  # of texts
    assert len(kinds) > 8
    assert {kind for kind in kinds if f"| `{kind}` |" not in page("http-api.md")} == set()


def test_every_flag_and_option_of_a_prediction_is_documented() -> None:
    from models.records import FALLBACK
    from serving.asking import SEQUENTIAL
    from serving.predict import Options

    told = page("http-api.md")
    for flag in ("unknown:", "late:", "approximate:", FALLBACK, SEQUENTIAL):
        assert f"| `{flag}" in told
    for option in Options._fields:
        assert f"| `{option}=" in told


def test_every_value_of_a_label_of_a_metric_is_documented() -> None:
    told = page("metrics.md")
    values = {outcome.name.lower() for outcome in Folded} - {"folded"} | {
        status.name.lower() for status in Status
    }
    values |= {
        node.slice.value
        for file, tree in sources("models")
        for node in ast.walk(tree)
        if file.name == "join.py"
        and isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "counters"
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
    }
    values |= constants("Outcome", 0, "models")
    assert len(values) > 20
    assert {value for value in values if f"`{value}`" not in told} == set()


def test_every_key_in_redis_is_documented() -> None:
    told = page("redis.md")
    found = [inspect.unwrap(each) for each in vars(features.keys).values() if callable(each)]
    made = [each for each in found if getattr(each, "__module__", "") == features.keys.__name__]
    assert {function.__name__ for function in made} == {
        *(
            "tag",
            "slot",
            "spread",
            "position",
            "mark",
            "state_prefix",
            "layouts",
            "join",
            "model",
            "kept",
            "code",
        ),
    }, "describe the new key in docs/reference/redis.md, and name it here"
    tag = features.keys.tag(features.keys.spread(7))
    shown = [features.keys.position(tag), features.keys.state_prefix(tag, features.keys.code(0))]
    shown += [features.keys.mark(tag), features.keys.join(tag)]
    shown += [features.keys.model(tag), features.keys.kept(tag)]
    shown += [
        value
        for key, value in vars(features.keys).items()
        if key.isupper() and not key.startswith("_") and isinstance(value, str)
    ]
    assert {key for key in shown if f"`{key}" not in told} == set()
    for reader in ("score", "join", "learn"):
        assert f"`{features.keys.position(tag, reader)}`" in told


def test_the_sizes_of_the_state_and_the_position_are_those_on_the_page() -> None:
    told = page("state-layout.md")
    assert f"{features.state.HEAD.size} bytes." in told
    rows = re.findall(r"(?m)^\| (\d+) \| ([ui]\d+) \|", told)
    at = 0
    for offset, kind in rows:
        assert int(offset) == at
        at += int(kind[1:]) // 8
    assert at == features.state.HEAD.size
    assert struct.calcsize("<qBBHI") == 16
    assert f"{len(Position.start(bytes(16)).pack())} bytes" in page("redis.md")
