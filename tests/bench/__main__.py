"""`python -m tests.bench [worker|api] [--rounds R] [--json FILE]`: every figure a ratio, measured side by side."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from tests.bench import api, worker
from tests.bench.goal import Goal, goals_table

_WIDTH = 140


def main() -> None:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("worker", "api", "all"), default="all")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each side; 5 by default")
    parser.add_argument("--events", type=int, default=worker.EVENTS, help="events of the worker's benchmark")
    parser.add_argument("--seconds", type=float, default=api.SECONDS, help="seconds of each load on the API")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the goals there as well")
    given = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)  # a file has no width, and a table cut to 80 columns no figures
    goals: list[Goal] = []
    if given.what in ("worker", "all"):
        goals += worker.run(console, given.events, given.rounds)
    if given.what in ("api", "all"):
        goals += api.run(console, given.seconds, given.rounds)
    console.print(goals_table(goals))
    if given.json:
        given.json.write_text(json.dumps([each.plain() for each in goals], indent=2) + "\n")


if __name__ == "__main__":
    main()
