"""`headrace serve`: the API and its live page."""

from __future__ import annotations

from typing import Annotated

import typer

from ..output import note
from ..settings import settings
from .options import NOWHERE, File, Kafka, Redis, Secret, secured


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: headrace serve payments.py --port 8000")(secured(serve))


def serve(
    file: File,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on. [env: HEADRACE_HOST]")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="Port; 0 takes a free one. [env: HEADRACE_PORT]")
    ] = None,
    max_body: Annotated[
        int | None, typer.Option("--max-body", help="Bytes of a request's body. [env: HEADRACE_MAX_BODY]")
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option("--max-batch", help="Items of one array. [env: HEADRACE_MAX_BATCH]")
    ] = None,
    max_concurrency: Annotated[
        int | None,
        typer.Option("--max-concurrency", help="Requests in hand at a time. [env: HEADRACE_MAX_CONCURRENCY]"),
    ] = None,
    fallback: Annotated[
        bool | None,
        typer.Option(
            "--fallback/--no-fallback",
            help="Score from the request alone while Redis is away, or answer 503. [env: HEADRACE_FALLBACK]",
        ),
    ] = None,
    kafka: Kafka = NOWHERE,
    redis: Redis = None,
    secret: Secret = None,
) -> None:
    """Serve features and predictions over HTTP, with a live page. SIGTERM and Ctrl-C end it in good order."""
    config = settings(
        host=host,
        port=port,
        max_body=max_body,
        max_batch=max_batch,
        max_concurrency=max_concurrency,
        fallback=fallback,
        kafka=kafka,
        redis=redis,
        secret=secret,
    )
    from serving.run import run
    from serving.settings import Settings as Limits

    from ..compose import serve as program
    from ..opening import open_project

    def started(url: str) -> None:
        note(f"live page    {url}/")
        note(f"API          {url}/docs")
        note(f"predictions  POST {url}/v1/models/<model>/predict")
        note(f"metrics      {url}/metrics")

    run(
        program(
            open_project(file),
            bootstrap=config.brokers,
            redis=config.redis,
            secret=config.secret_text,
            host=config.host,
            port=config.port,
            limits=Limits(
                max_body_bytes=config.max_body,
                max_batch=config.max_batch,
                max_concurrency=config.max_concurrency,
                fallback=config.fallback,
            ),
            started=started,
        )
    )
