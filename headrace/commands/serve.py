"""`headrace serve`: the API and its live page."""

from __future__ import annotations

from typing import Annotated

import typer

from ..output import note
from ..settings import settings
from .options import File, Kafka, Redis, Secret


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: headrace serve payments.py --port 8000")(serve)


def serve(
    file: File,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on. [env: HEADRACE_HOST]")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="Port; 0 takes a free one. [env: HEADRACE_PORT]")
    ] = None,
    kafka: Kafka = None,
    redis: Redis = None,
    secret: Secret = None,
) -> None:
    """Serve features and predictions over HTTP, with a live page. SIGTERM and Ctrl-C end it in good order."""
    config = settings(host=host, port=port, kafka=kafka, redis=redis, secret=secret)
    from serving.run import run

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
            bootstrap=config.kafka,
            redis=config.redis,
            secret=config.secret_text,
            host=config.host,
            port=config.port,
            started=started,
        )
    )
