"""What the demo says: every address, a question that works, what to try next, and one line that is renewed."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from ..output import stderr
from .house import House


class Sent(Protocol):
    """Who knows how many events were sent."""

    @property
    def newest(self) -> int:
        """Event time of the newest."""
        ...


def welcome(home: House, project: Path, t: int) -> None:
    """Says what there is; `t` is a time at which a payment can be tried for a while."""
    from .feeding import payment

    event = payment("try-1", "c0007", "t0042", 480.0, t).decode()
    where = f"--kafka {home.bootstrap} --redis {home.redis}"
    file = shlex.quote(str(project))
    sys.stdout.write(
        f"""\
Card payments, scored as they come; the model learns as chargebacks arrive. Six hours pass in a second.

  live page     {home.url}/
  API           {home.url}/docs
  metrics       {home.url}/metrics (API), {home.metrics_url} (worker)
  Kafka, Redis  {home.bootstrap}, {home.redis}
  log on disk   {home.spool}
  project file  {project}

Score a payment:
  curl -s {home.url}/v1/models/fraud/predict -H 'content-type: application/json' \\
    -d '{event}'

Try next:
  headrace check {file} --rate 100
  headrace models list {file} {where}
  headrace features get {file} CardActivity c0007 --at {t} {where}
  headrace verify {file} --log {home.spool}

Ctrl-C ends it and removes everything.
"""
    )
    sys.stdout.flush()


def status_line(status: Mapping[str, Any] | None, sent: Sent, model: str) -> str:
    """Returns the worker's status in one line."""
    from features.clock import from_ms

    if status is None:
        return "the worker is starting"
    told = status["models"].get(model, {})
    figures = told.get("figures", {})
    progressive, baseline = figures.get("progressive", {}), figures.get("progressive_baseline", {})
    counts = status["counts"]
    parts = [
        f"{from_ms(sent.newest):%Y-%m-%d %H:%M}",
        f"events {sum(n for name, n in counts.items() if name.startswith('events:'))}",
        f"lag {sum(facts['lag'] for facts in status['groups'].values())}",
        f"learned {told.get('version', 0)}",
    ]
    if progressive:
        parts.append(f"ROC AUC {progressive['ROCAUC']:.3f} (baseline {baseline.get('ROCAUC', 0.5):.3f})")
        parts.append(f"log loss {progressive['LogLoss']:.3f} (baseline {baseline.get('LogLoss', 0):.3f})")
    return "   ".join(parts)


class Board:
    """One line on a terminal, renewed in place; nowhere where there is none."""

    def __init__(self, told: bool) -> None:
        self._status = stderr().status("starting") if told and sys.stderr.isatty() else None

    def show(self, line: str) -> None:
        """Renews the line."""
        if self._status is not None:
            self._status.update(line)

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()
