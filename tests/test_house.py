"""The shape of the house: what lies where, and which module may import which library."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[1]
ROOMS = ("features", "models", "streams", "serving", "headrace")

# A library on the left is imported only by the modules on the right: a package stands for all that is in it.
OWNERS = {
    "redis": {"features.redis", "features.cluster", "features.wire"},
    "fastapi": {"serving"},
    "starlette": {"serving"},
    "uvicorn": {"serving"},
    "river": {"models"},
    "confluent_kafka": {"streams"},
    "aiokafka": {"streams"},
    "faust": {"streams.worker", "streams.transport"},
    "mode": {"streams.worker", "streams.transport"},
}

TOP_LEVEL = {
    *(
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Makefile",
        "requirements.lock",
    ),
    *("streams", "features", "models", "serving", "headrace", "tests", "infra", "docs"),
    *(".ci", ".github", ".gitignore"),
}


def committed() -> list[Path]:
    """What git has or would take, from the top of the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
        text=True,
    )
    return [Path(name) for name in listed.stdout.split("\0") if name and (REPOSITORY / name).is_file()]


def modules() -> list[Path]:
    """The Python files of the rooms, from the top of the repository."""
    return [path for path in committed() if path.suffix == ".py" and path.parts[0] in ROOMS]


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imported(source: str) -> Iterator[str]:
    """The top names of all absolute imports, wherever in the file they stand."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def trespasses(name: str, source: str) -> list[str]:
    """The libraries that a module imports although they belong to others."""
    return [
        library
        for library in imported(source)
        if library in OWNERS
        and not any(name == owner or name.startswith(f"{owner}.") for owner in OWNERS[library])
    ]


def test_the_top_level_holds_what_a_reader_expects_and_nothing_else() -> None:
    assert {path.parts[0] for path in committed()} <= TOP_LEVEL


@pytest.mark.parametrize("path", modules(), ids=str)
def test_a_module_imports_only_libraries_that_are_its_own(path: Path) -> None:
    assert trespasses(module_name(path), (REPOSITORY / path).read_text()) == []


@pytest.mark.parametrize(
    ("name", "source", "found"),
    [
        ("features.store", "import redis.asyncio", ["redis"]),
        ("features.store", "def late():\n    from redis import Redis", ["redis"]),
        ("features.redis", "import redis", []),
        ("features.redis.scripts", "import redis", []),
        ("features.redistribute", "import redis", ["redis"]),
        ("streams.embedded", "from faust import App", ["faust"]),
        ("streams.worker", "from faust import App", []),
        ("serving.app", "from . import redis", []),
        ("serving.app", "from confluent_kafka.admin import AdminClient", ["confluent_kafka"]),
    ],
)
def test_a_trespass_is_found_wherever_it_stands(name: str, source: str, found: list[str]) -> None:
    assert trespasses(name, source) == found


def test_all_that_we_ask_for_is_locked_with_hashes_and_without_an_address() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    lock = (REPOSITORY / "requirements.lock").read_text()
    pins: dict[str, list[str]] = {}
    for name, version, hashes in re.findall(
        r"(?m)^([\w.-]+)==(\S+)(?:[^\n\\]*)\\\n((?: +--hash=\S+.*\n)+)", lock
    ):
        assert "--hash=sha256:" in hashes
        pins.setdefault(name, []).append(version)

    asked = [
        Requirement(text) for text in project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    ]
    loose = [
        str(requirement)
        for requirement in asked
        if not any(requirement.specifier.contains(version) for version in pins.get(requirement.name, []))
    ]

    assert loose == [], "run make lock"
    assert len(re.findall(r"(?m)^[\w.-]+==", lock)) == sum(map(len, pins.values()))
    assert "://" not in lock
