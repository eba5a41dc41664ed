"""`python -m tests.simulation [--seeds N] [--first K]`: lives many seeds; a failure is made short and told."""

from __future__ import annotations

import argparse
import logging
import sys
import time

from rich.console import Console
from rich.progress import track

from tests.simulation.run import Case, fails, shrunk


def main() -> int:
    """Lives them."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many; 1,000 by default")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    given = parser.parse_args()
    logging.disable()
    console, began, failed = Console(soft_wrap=True), time.monotonic(), 0
    for seed in track(range(given.first, given.first + given.seeds), "lives", console=Console(stderr=True)):
        if fails(Case(seed)) is not None:
            failed += 1
            short = shrunk(Case(seed))
            error = fails(short)
            console.print(
                f"seed {seed} fails; shortest: {short}\n{type(error).__name__}: {error}", markup=False
            )
            console.print("\n".join(getattr(error, "__notes__", [])), markup=False)
    console.print(f"{given.seeds} seeds in {time.monotonic() - began:.0f} s, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
