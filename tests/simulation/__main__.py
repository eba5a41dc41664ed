"""`python -m tests.simulation [--seeds N] [--first K] [--summary FILE]`: lives many seeds; a failure is made short.

With a summary a run can be ended at any time and goes on where it was when it is called again with the same file.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from tests.simulation.drawn import Case
from tests.simulation.run import fails, live, shrunk

BLOCK = 50  # seeds between two writings of the summary, and two collections of garbage


def main() -> int:
    """Lives them."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many; 1,000 by default")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument(
        "--summary", type=Path, help="a JSON file that adds up what was lived, and is gone on with"
    )
    parser.add_argument(
        "--stop", action="store_true", help="end at the first that fails, and do not make it short"
    )
    parser.add_argument("--revision", default="", help="what is lived, for the summary")
    given = parser.parse_args()
    logging.disable()
    gc.disable()  # lives leave much behind, all at once
    console = Console(soft_wrap=True)
    sums = _begun(given)
    for seed in track(range(sums["next"], given.first + given.seeds), "lives", console=Console(stderr=True)):
        began = time.process_time()
        try:
            world = live(Case(seed))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
            if given.stop:
                console.print(f"seed {seed}: {type(error).__name__}: {error}", markup=False)
                return 1
            sums["failed"].append(seed)
            _tell(console, seed, error)
        else:
            sums["happened"].update(world.happened)
            sums["happened"]["decisions"] += world.decisions
        sums["next"], sums["lived"] = seed + 1, sums["lived"] + 1
        sums["cpu_seconds"] += time.process_time() - began
        if sums["next"] % BLOCK == 0 or sums["next"] == given.first + given.seeds:
            gc.collect()
            _write(given.summary, sums)
    failed = len(sums["failed"])
    console.print(f"{sums['lived']} seeds in {sums['cpu_seconds']:.0f} CPU seconds, {failed} failed")
    return 1 if failed else 0


def _begun(given: argparse.Namespace) -> dict[str, Any]:
    begun: dict[str, Any] = {
        "revision": given.revision,
        "first": given.first,
        "next": given.first,
        "lived": 0,
        "failed": [],
        "cpu_seconds": 0.0,
        "happened": {},
    }
    if given.summary is not None and given.summary.exists():
        begun = json.loads(given.summary.read_text())
        if (begun["first"], begun["revision"]) != (given.first, given.revision):
            sys.exit(
                f"{given.summary} is of {begun['revision']!r} from seed {begun['first']}: name another file"
            )
    begun["happened"] = Counter(begun["happened"])
    return begun


def _write(summary: Path | None, sums: dict[str, Any]) -> None:
    if summary is None:
        return
    told = {
        **sums,
        "cpu_seconds": round(sums["cpu_seconds"], 1),
        "happened": dict(sorted(sums["happened"].items())),
    }
    part = summary.with_suffix(".part")
    part.write_text(json.dumps(told, indent=1) + "\n")
    part.replace(summary)


def _tell(console: Console, seed: int, error: BaseException) -> None:
    short = shrunk(Case(seed))
    error = fails(short) or error
    console.print(f"seed {seed} fails; shortest: {short}\n{type(error).__name__}: {error}", markup=False)
    console.print("\n".join(getattr(error, "__notes__", [])), markup=False)


if __name__ == "__main__":
    sys.exit(main())
