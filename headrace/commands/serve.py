"""`headrace serve`: the API and its live page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageRefused
from ..output import note
from ..settings import Settings, settings
from .options import NOWHERE, File, Kafka, Redis, Secret, secured

if TYPE_CHECKING:
    from serving.tokens import Tokens


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
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="FILE", help="API keys; see headrace keys. [env: HEADRACE_KEYS]"),
    ] = None,
    jwks: Annotated[
        str | None,
        typer.Option(
            "--jwks", metavar="URL|FILE", help="Public keys of the issuer of tokens. [env: HEADRACE_JWKS]"
        ),
    ] = None,
    jwt_issuer: Annotated[
        str | None,
        typer.Option("--jwt-issuer", metavar="TEXT", help="Its name, `iss`. [env: HEADRACE_JWT_ISSUER]"),
    ] = None,
    jwt_audience: Annotated[
        str | None,
        typer.Option(
            "--jwt-audience", metavar="TEXT", help="Ours in its tokens, `aud`. [env: HEADRACE_JWT_AUDIENCE]"
        ),
    ] = None,
    jwt_rate: Annotated[
        str | None,
        typer.Option(
            "--jwt-rate",
            metavar="RATE",
            help="Requests of each subject: 200/second. [env: HEADRACE_JWT_RATE]",
        ),
    ] = None,
    insecure: Annotated[
        bool | None,
        typer.Option("--insecure", help="Listen to other machines without either. [env: HEADRACE_INSECURE]"),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option("--tls-cert", metavar="FILE", help="Certificate, PEM. [env: HEADRACE_TLS_CERT]"),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option("--tls-key", metavar="FILE", help="Its private key, PEM. [env: HEADRACE_TLS_KEY]"),
    ] = None,
    kafka: Kafka = NOWHERE,
    redis: Redis = None,
    secret: Secret = None,
) -> None:
    """Serve features and predictions over HTTP, with a live page. SIGTERM and Ctrl-C end it in good order.

    It listens to other machines only with --keys or --jwks, or with --insecure.
    """
    config = settings(
        host=host,
        port=port,
        max_body=max_body,
        max_batch=max_batch,
        max_concurrency=max_concurrency,
        fallback=fallback,
        keys=keys,
        jwks=jwks,
        jwt_issuer=jwt_issuer,
        jwt_audience=jwt_audience,
        jwt_rate=jwt_rate,
        insecure=insecure,
        tls_cert=tls_cert,
        tls_key=tls_key,
        kafka=kafka,
        redis=redis,
        secret=secret,
    )
    from serving.run import Tls, only_here, run
    from serving.settings import Settings as Limits

    from ..compose import serve as program
    from ..opening import open_project

    if not only_here(config.host) and config.keys is None and config.jwks is None and not config.insecure:
        raise UsageRefused(
            f"the API will not listen on {config.host} without keys or tokens",
            where="--host, HEADRACE_HOST or .env",
            why="whoever reaches it could read every feature, and write events and labels",
            fix="give it --keys FILE (headrace keys new makes one) or --jwks, or --insecure where no stranger is",
        )
    if config.tls_key is not None and config.tls_cert is None:
        raise UsageRefused(
            "a private key without its certificate",
            where="--tls-key, HEADRACE_TLS_KEY or .env",
            fix="give the certificate as well: --tls-cert FILE",
        )

    tokens = _tokens(config)

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
            keys=config.keys,
            tokens=tokens,
            tls=None if config.tls_cert is None else Tls(config.tls_cert, config.tls_key),
            started=started,
        )
    )


def _tokens(config: Settings) -> Tokens | None:
    """Returns what knows callers by tokens; None where none are taken."""
    from serving.jwks import Jwks
    from serving.keyfile import rate_of
    from serving.tokens import Tokens

    needed = {"jwks": config.jwks, "jwt_issuer": config.jwt_issuer, "jwt_audience": config.jwt_audience}
    if not any((*needed.values(), config.jwt_rate)):
        return None
    for name, value in needed.items():
        if not value:
            flag = f"--{name.replace('_', '-')}"
            raise UsageRefused(
                f"tokens cannot be checked without {flag}",
                where=f"{flag}, HEADRACE_{name.upper()} or .env",
                why="a token must be signed by the issuer that is meant, and be meant for this API",
                fix="give all of --jwks, --jwt-issuer and --jwt-audience, or none",
            )
    try:
        rate = None if config.jwt_rate is None else rate_of(config.jwt_rate)
    except ValueError as error:
        raise UsageRefused(
            f"--jwt-rate cannot be {config.jwt_rate!r}",
            where="--jwt-rate, HEADRACE_JWT_RATE or .env",
            why=str(error),
        ) from None
    where, issuer, audience = str(config.jwks), str(config.jwt_issuer), str(config.jwt_audience)
    return Tokens(Jwks(where), issuer, audience, rate)
