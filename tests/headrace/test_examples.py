"""Every example of the documentation is a project that can be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.headrace.conftest import REPOSITORY, Cli

EXAMPLES = sorted((REPOSITORY / "docs" / "examples").glob("*.py"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_an_example_is_a_valid_project(cli: Cli, file: Path) -> None:
    answer = cli("check", file, "--json")

    assert answer.code == 0, answer.err
    assert answer.json["models"]
