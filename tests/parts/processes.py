"""Watching processes that are not our children."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[2]


def start_parent(script: str) -> tuple[subprocess.Popen[str], list[int]]:
    """Run a script that starts servers, prints their process numbers on one line and then reads its input.

    Returns:
        The script's process, alive, and the numbers.
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=_REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    return parent, [int(number) for number in parent.stdout.readline().split()]


def watch(pid: int) -> int:
    """A handle for `has_ended`, which stays with this process when its number is given to another."""
    return os.pidfd_open(pid)


def has_ended(handle: int, seconds: float = 60.0) -> bool:
    """Whether a watched process ends before the time is over; closes the handle."""
    readable, _, _ = select.select([handle], [], [], seconds)
    os.close(handle)
    return bool(readable)
