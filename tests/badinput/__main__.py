"""`python -m tests.badinput [--records N]`: many bad records among good ones, a worker killed on the way."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from features.embedded import EmbeddedRedis
from tests.badinput.run import lived
from tests.parts.kafka import KafkaServer


def main() -> int:
    """Runs it on a Kafka and a Redis of its own, and tells what it came to."""
    parser = argparse.ArgumentParser(prog="python -m tests.badinput", description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000, help="how many; a million by default")
    parser.add_argument("--share", type=float, default=0.1, help="of them bad; a tenth by default")
    parser.add_argument("--kills", type=int, default=5, help="of the worker; 5 by default")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    began = time.process_time()
    with (
        tempfile.TemporaryDirectory() as folder,
        KafkaServer.start(Path(folder) / "kafka") as kafka,
        EmbeddedRedis.start() as redis,
    ):
        came = asyncio.run(
            lived(
                kafka,
                redis.url,
                Path(folder),
                f"bad{given.seed}",
                records=given.records,
                share=given.share,
                kills=given.kills,
                seed=given.seed,
            )
        )
    sys.stdout.write(
        f"{came.good} good payments, {came.versions} labels, {came.bad} bad records: every good one scored, joined and "
        f"learned once, every bad one a dead letter ({came.repeats} repeats after {given.kills} kills). "
        f"{time.process_time() - began:.0f} CPU seconds here, those of the worker and the servers aside.\n"
    )
    for reason, count in came.reasons.most_common():
        sys.stdout.write(f"  {reason:20} {count}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
