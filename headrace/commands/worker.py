"""`headrace worker`: folds, scores, joins and learns."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Annotated, Any

import typer

from ..errors import UsageRefused
from ..output import note, stderr
from ..settings import Settings, settings, shown
from .options import NOWHERE, File, Kafka, Redis, Secret, secured

_ROLES = ("features", "join", "learn")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: headrace worker payments.py --role features --metrics-port 9100")(
        secured(worker)
    )


def worker(
    file: File,
    role: Annotated[
        list[str] | None, typer.Option("--role", help="features, join or learn; repeatable, all by default.")
    ] = None,
    kafka: Kafka = NOWHERE,
    redis: Redis = None,
    secret: Secret = None,
    instance: Annotated[
        str | None,
        typer.Option(
            "--instance", metavar="NAME", help="A name kept over restarts. [env: HEADRACE_INSTANCE]"
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port", help="Loopback port of Prometheus metrics. [env: HEADRACE_METRICS_PORT]"
        ),
    ] = None,
    hold: Annotated[
        float | None,
        typer.Option("--hold", help="Seconds a request may wait for sources behind. [env: HEADRACE_HOLD]"),
    ] = None,
    session_timeout: Annotated[
        float | None,
        typer.Option(
            "--session-timeout",
            help="Seconds until a dead worker is replaced. [env: HEADRACE_SESSION_TIMEOUT]",
        ),
    ] = None,
    stall_timeout: Annotated[
        float | None,
        typer.Option(
            "--stall-timeout",
            help="Seconds until a partition that stands still is claimed again. [env: HEADRACE_STALL_TIMEOUT]",
        ),
    ] = None,
) -> None:
    """Run a worker: fold events, score requests, join labels, learn. SIGTERM and Ctrl-C end it well."""
    unknown = [name for name in role or [] if name not in _ROLES]
    if unknown:
        raise UsageRefused(f"there is no role {unknown[0]!r}", fix=f"use one of {', '.join(_ROLES)}")
    config = settings(
        kafka=kafka,
        redis=redis,
        secret=secret,
        instance=instance,
        metrics_port=metrics_port,
        hold=hold,
        session_timeout=session_timeout,
        stall_timeout=stall_timeout,
    )
    import uvloop

    from ..opening import open_project

    uvloop.run(_run(open_project(file), config, tuple(role or _ROLES)))


async def _run(loaded: Any, config: Settings, roles: tuple[str, ...]) -> None:
    from streams.metrics import Metrics

    from ..compose import work
    from ..exporting import exported

    metrics = Metrics()
    with exported(metrics.registry, config.metrics_port):
        note(
            f"worker of {loaded.project.name} ({', '.join(roles)}) on {config.kafka} and {shown(config.redis)}"
        )
        watching = asyncio.create_task(_status(metrics)) if sys.stderr.isatty() else None
        try:
            await work(
                loaded,
                bootstrap=config.brokers,
                redis=config.redis,
                roles=roles,
                secret=config.secret_text,
                hold=config.hold,
                instance=config.instance,
                session_timeout=config.session_timeout,
                stall_timeout=config.stall_timeout,
                metrics=metrics,
            )
        finally:
            if watching is not None:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
    note("worker stopped in good order")


async def _status(metrics: Any) -> None:
    """Shows one line, renewed once a second."""
    with stderr().status("starting") as shown:
        before, then = 0.0, time.monotonic()
        while True:
            await asyncio.sleep(1.0)
            events, now = _total(metrics, "headrace_events_total", outcome="read"), time.monotonic()
            rate, before, then = (events - before) / (now - then), events, now
            shown.update(
                f"{rate:8.0f} events/s   lag {_total(metrics, 'headrace_lag_records'):.0f}"
                f"   predictions {_total(metrics, 'headrace_stream_predictions_total'):.0f}"
                f"   learned {_total(metrics, 'headrace_model_version'):.0f}"
                f"   dead letters {_total(metrics, 'headrace_dead_letters_total'):.0f}"
            )


def _total(metrics: Any, name: str, **labels: str) -> float:
    return sum(
        float(sample.value)
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
