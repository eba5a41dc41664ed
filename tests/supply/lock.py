"""The run-time part of the lock: what the project asks for and what that asks for, without tools of development."""

from __future__ import annotations

import re

_ENTRY = re.compile(r"(?m)^(?P<name>[a-z0-9][a-z0-9._-]*)==.*\n(?:[ ].*\n)+")
_VIA = re.compile(r"(?m)^ +#(?: via)? +(?!via$)(?P<parent>\S.*)$")
_PROJECT = "headrace (pyproject.toml)"


def runtime(lock: str) -> str:
    """Returns the entries of a lock that the project needs to run, hashes included, as they stand there.

    Args:
        lock: what `uv pip compile` wrote, which tells beneath each entry who asked for it.
    """
    # a name may have several entries, each for other machines
    entries = [(found["name"], found[0]) for found in _ENTRY.finditer(lock)]
    asked = [(name, {via["parent"] for via in _VIA.finditer(entry)}) for name, entry in entries]
    needed = {_PROJECT}
    while more := {name for name, parents in asked if name not in needed and parents & needed}:
        needed |= more
    return "".join(entry for name, entry in entries if name in needed)
