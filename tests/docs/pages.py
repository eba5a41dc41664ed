"""The pages of the documentation, and the code blocks in them.

A block is a fence with a language. What a test must know beyond that stands in HTML comments on the lines right above
the fence, which no reader sees:

- `file: shop.py`: the block is a whole file; it is written into the folder in which the page's later blocks run.
- `setup: payments`: the block is a fragment that goes on from `docs/examples/payments.py`; `setup: shop.py` goes on
  from a file of the same page. All names of `features` are imported for it.
- `needs: kafka`: the commands need a broker, so only their names and options are checked.
- `terminal: worker`: the command stays running, in a terminal of its own, until the page has been read.
- `eventually`: the command is repeated until it shows what the page shows.
- `exit: 1`: what the last command of the block answers to the shell; 0 otherwise.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "CHANGELOG.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
LANGUAGES = {"python", "console", "json", "ini", "text", "promql"}

_FENCE = re.compile(r"(?ms)^```(?P<language>\S*)\n(?P<text>.*?)^```$")
_NOTE = re.compile(r"<!-- (?P<name>file|setup|needs|terminal|eventually|exit)(?:: (?P<value>[^>]*?))? -->")


class Block(NamedTuple):
    """One code block of a page."""

    page: Path
    line: int
    language: str
    text: str
    notes: dict[str, str]

    @property
    def place(self) -> str:
        """Where it stands, for a failure to name."""
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


class Command(NamedTuple):
    """One command of a console block, and what the page shows that it says."""

    line: str
    shown: str


def blocks(page: Path) -> list[Block]:
    """Returns the code blocks of a page, in order."""
    text = page.read_text()
    found = []
    for fence in _FENCE.finditer(text):
        notes: dict[str, str] = {}
        for line in reversed(text[: fence.start()].splitlines()):
            note = _NOTE.fullmatch(line)
            if note is None:
                break
            notes[note["name"]] = note["value"] or ""
        number = text.count("\n", 0, fence.start()) + 1
        found.append(Block(page, number, fence["language"], fence["text"], notes))
    return found


def commands(block: Block) -> list[Command]:
    """Returns the commands of a console block; a backslash at its end carries a line on."""
    found: list[Command] = []
    lines = iter(block.text.splitlines())
    for line in lines:
        if line.startswith("$ "):
            whole = line[2:]
            while whole.endswith("\\"):
                whole = f"{whole[:-1]} {next(lines).strip()}"
            found.append(Command(whole, ""))
        else:
            assert found, f"{block.place}: a console block begins with `$ `"
            found[-1] = Command(found[-1].line, f"{found[-1].shown}{line}\n")
    return found


def name(page: Path) -> str:
    """Returns the name of a page, from the top of the repository."""
    return str(page.relative_to(REPOSITORY))
