"""Breaks everything, again and again, and judges; or measures how long it takes until all is well again.

python -m tests.chaos [--kills N] [--events M] [--seed S] [--faults a,b] [--wide] [--json FILE]
python -m tests.chaos --recovery worker,broker,redis,api --times 20
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.recovery import PARTS, recovered
from tests.chaos.run import Options, Report, Run
from tests.chaos.schedule import KILLS, KINDS


def main() -> int:
    """Runs what was asked for; the exit code is 1 where anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs; 20 by default")
    parser.add_argument("--events", type=int, default=20_000, help="payments; 20,000 by default")
    parser.add_argument("--seed", type=int, default=1, help="decides events, faults and their order")
    parser.add_argument("--faults", default=",".join(KINDS), help=f"kinds, of {', '.join(KINDS)}")
    parser.add_argument("--brokers", type=int, default=3, help="Kafka nodes; 3 by default")
    parser.add_argument("--workers", type=int, default=2, help="workers beside the learner; 2 by default")
    parser.add_argument(
        "--wide", action="store_true", help="outcomes are read, and the model's log has 2 partitions"
    )
    parser.add_argument("--folder", type=Path, help="where everything is kept; by default it is removed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there as well")
    parser.add_argument(
        "--recovery", metavar="PARTS", help=f"measure recovery from kills of: {', '.join(PARTS)}"
    )
    parser.add_argument("--times", type=int, default=20, help="kills of each part; 20 by default")
    given = parser.parse_args()
    logging.disable()
    if given.recovery:
        return recovery(given.recovery.split(","), given.times, given.brokers, given.json)
    options = Options(
        given.kills,
        given.events,
        given.seed,
        given.faults.split(","),
        given.brokers,
        given.workers,
        wide=given.wide,
    )
    console = Console(width=None if sys.stdout.isatty() else 120)
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        report = lived(options, folder)
    console.print(table(report))
    for finding in report.judgement.findings:
        console.print(finding, markup=False)
    if given.json:
        given.json.write_text(json.dumps(plain(report), indent=2) + "\n")
    return 0 if report.good else 1


def recovery(parts: list[str], times: int, brokers: int, file: Path | None) -> int:
    """Measures and shows recovery times."""
    errors = Console(stderr=True)
    with tempfile.TemporaryDirectory() as name:
        found = asyncio.run(recovered(Path(name), parts, times, brokers, errors.print))
    made = Table("killed", "times", "median, s", "p99, s", "longest, s")
    for part, seconds in found.items():
        p99 = seconds[min(len(seconds) - 1, round(0.99 * len(seconds)))]
        figures = (statistics.median(seconds), p99, seconds[-1])
        made.add_row(part, str(len(seconds)), *(f"{figure:.1f}" for figure in figures))
    Console(width=None if sys.stdout.isatty() else 120).print(made)
    if file:
        file.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def lived(options: Options, folder: Path) -> Report:
    """Lives a run and shows how it goes."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("starting") as status:
            return asyncio.run(Run(options, folder, status.update).live())
    told = [""]

    def tell(line: str) -> None:
        faults = line.partition(", ")[2]
        if faults != told[0]:
            told[0] = faults
            console.print(line)

    return asyncio.run(Run(options, folder, tell).live())


def table(report: Report) -> Table:
    """Returns the report as a table."""
    options = report.options
    made = Table(
        "what", "count", title=f"{report.kills} kills, {options.events:,} payments, seed {options.seed}"
    )
    for name, value in _lines(report):
        made.add_row(name, value)
    return made


def _lines(report: Report) -> list[tuple[str, str]]:
    killed = {kind: n for kind, n in sorted(report.faults.items()) if kind in KILLS}
    others = {kind: n for kind, n in sorted(report.faults.items()) if kind not in KILLS}
    total = sum(report.answers.values())
    return [
        *((f"SIGKILL: {kind}", str(n)) for kind, n in killed.items()),
        *((f"fault: {kind}", str(n)) for kind, n in others.items()),
        *((f"ended by itself, {why}", str(n)) for why, n in report.ended.most_common()),
        ("connections cut", str(report.cuts)),
        ("commits delivered after their sender was gone", str(report.lates)),
        ("positions that went back", str(report.rewound)),
        ("workers that slept while others took over", str(report.asleep)),
        ("stale commits accepted", str(report.stale)),
        *((f"compared: {what}", f"{n:,}") for what, n in report.judgement.compared.items()),
        ("found", str(len(report.judgement.findings))),
        *((f"requests {what}", f"{n:,} of {total:,}") for what, n in sorted(report.answers.items())),
        ("seconds", f"{report.seconds:.0f}"),
    ]


def plain(report: Report) -> dict[str, Any]:
    """Returns the report as plain data."""
    return {
        "options": report.options._asdict() | {"kinds": list(report.options.kinds)},
        "good": report.good,
        "kills": report.kills,
        "lines": dict(_lines(report)),
        "findings": report.judgement.findings,
    }


if __name__ == "__main__":
    sys.exit(main())
