"""Every code block of the documentation does what its page says; `pages` tells how a block is marked."""

from __future__ import annotations

import ast
import json
import linecache
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from headrace.cli import app
from models import Project

from .pages import LANGUAGES, PAGES, REPOSITORY, Block, blocks, commands, name
from .terminal import Terminals, like

PAYMENTS = REPOSITORY / "docs" / "examples" / "payments.py"
ALL = [block for page in PAGES for block in blocks(page)]
CONSOLES = [block for block in ALL if block.language == "console"]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name)
def test_the_blocks_of_a_page_run_in_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(REPOSITORY / "docs")
    before = set(sys.modules)
    try:
        with Terminals(tmp_path) as terminals:
            for number, block in enumerate(blocks(page)):
                if "file" in block.notes:
                    (tmp_path / block.notes["file"]).write_text(block.text)
                if block.language == "python":
                    _run(block, tmp_path, number)
                elif block.language == "console" and "needs" not in block.notes:
                    terminals.run(block)
    finally:
        for module in set(sys.modules) - before:
            if module.startswith("snippet_"):
                del sys.modules[module]


def _run(block: Block, folder: Path, number: int) -> None:
    """Runs a Python block, after what it goes on from, as a file of its own; a project in it must be usable."""
    setup = block.notes.get("setup")
    source = ""
    if setup is not None:
        source = (PAYMENTS if setup == "payments" else folder / setup).read_text() + "\n\n"
        source += "from features import *\n\n"
    file = folder / f"snippet_{number}.py"
    file.write_text(source + block.text)
    linecache.checkcache(str(file))
    try:
        found = runpy.run_path(str(file), run_name=f"snippet_{number}")
    except Exception as error:
        raise AssertionError(f"{block.place}: {type(error).__name__}: {error}") from error
    for value in found.values():
        if isinstance(value, Project):
            value.check_learners()


@pytest.mark.parametrize("block", ALL, ids=lambda block: block.place)
def test_a_block_is_of_a_known_language_and_well_formed(block: Block) -> None:
    assert block.language in LANGUAGES
    if block.language == "python":
        ast.parse(block.text)
    elif block.language == "json":
        for document in block.text.split("\n\n") if "\n\n" in block.text else _documents(block.text):
            json.loads(document)


def _documents(text: str) -> list[str]:
    """A block holds one document, or one a line."""
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return text.splitlines()
    return [text]


def _words() -> Iterator[tuple[str, list[str]]]:
    for block in CONSOLES:
        for command in commands(block):
            words = shlex.split(command.line)
            if words[0] in ("headrace", "make"):
                yield block.place, words


@pytest.mark.parametrize(
    ("place", "words"), list(_words()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_command_is_one_that_there_is_with_options_that_it_has(place: str, words: list[str]) -> None:
    if words[0] == "make":
        assert re.search(rf"(?m)^{words[1]}:", (REPOSITORY / "Makefile").read_text())
        return
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    command.make_context(words[1], rest)


def test_the_readme_shows_the_example_as_it_is() -> None:
    (shown,) = [b for b in blocks(REPOSITORY / "README.md") if b.notes.get("file") == "payments.py"]
    assert shown.text == PAYMENTS.read_text()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_within_the_documentation_leads_somewhere(page: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name(page)}: {target}"
        if anchor:
            assert anchor in _anchors(file), f"{name(page)}: {target}"


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"(?m)^#+ (.*)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [REPOSITORY / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text())
        links = [t.partition("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in t]
        waiting += [(page.parent / link).resolve() for link in links if link]
    assert set(PAGES) - reached == set()


@pytest.mark.parametrize(
    ("shown", "said", "alike"),
    [
        ("a b", " a\n b\n", True),
        ("a ... d", "a b c d", True),
        ('{"score":0.5...}', '{"score":0.501}', True),
        ("a b", "a c", False),
        ("a", "a b", False),
        ("", "anything", False),
    ],
)
def test_what_a_page_shows_is_compared_with_what_is_said(shown: str, said: str, alike: bool) -> None:
    assert like(shown, said) is alike
