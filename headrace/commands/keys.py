"""`headrace keys`: who may use the API."""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from features.clock import duration_ms

from ..errors import UsageRefused
from ..output import emit, note, table
from .options import Json

KeyFile = Annotated[Path, typer.Argument(metavar="FILE", help="The file of API keys.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(help="Keys of the API.", no_args_is_help=True)
    group.command("new", epilog="Example: headrace keys new keys.txt --id till-7 --scope predict")(new)
    group.command("list", epilog="Example: headrace keys list keys.txt")(list_keys)
    group.command("revoke", epilog="Example: headrace keys revoke keys.txt till-7")(revoke)
    app.add_typer(group, name="keys")


def new(
    file: KeyFile,
    name: Annotated[str, typer.Option("--id", metavar="NAME", help="What logs and lists call the key.")],
    scope: Annotated[
        list[str],
        typer.Option(
            "--scope", metavar="NAME", help="predict, read, ingest, label or admin; may be repeated."
        ),
    ],
    rate: Annotated[
        str | None,
        typer.Option(
            "--rate", metavar="N/UNIT", help="Requests in a second, minute, hour or day: 200/second."
        ),
    ] = None,
    expires_in: Annotated[
        str | None, typer.Option("--expires-in", metavar="TIME", help="How long it is good, such as 90d.")
    ] = None,
) -> None:
    """Add a key to the file, which is made if missing, and print its secret, once: the file has only its SHA-256.

    A running API takes the file over within a second. To rotate, add a key under another id, let the callers change,
    and revoke the old one: both are good meanwhile.
    """
    from serving import keyfile

    text = file.read_text() if file.exists() else keyfile.HEAD
    if any(key.id == name for key in keyfile.by_digest(text, str(file)).values()):
        raise UsageRefused(
            f"there is a key {name!r} already",
            where=str(file),
            fix=f"give the new one another id, such as {name}-2",
        )
    secret, digest = keyfile.drawn()
    try:
        key = keyfile.Key(
            keyfile.check_id(name),
            digest,
            keyfile.scopes_of(scope),
            None if rate is None else keyfile.rate_of(rate),
            None if expires_in is None else _in(expires_in),
        )
    except ValueError as error:
        raise UsageRefused("a key cannot be so", why=str(error)) from None
    _write(file, f"{text.rstrip()}\n{key.line()}\n")
    sys.stdout.write(secret + "\n")
    note(f"this is the only time that the secret of {name} is shown")


def list_keys(file: KeyFile, json: Json = False) -> None:
    """Show the keys of the file; secrets are not in it."""
    from serving.keyfile import rate_text, read, time_text

    told: list[dict[str, Any]] = [
        {
            "id": key.id,
            "scopes": list(key.scopes),
            "rate": None if key.rate is None else rate_text(key.rate),
            "expires": None if key.expires is None else time_text(key.expires),
        }
        for key in read(file).values()
    ]
    if json:
        emit({"keys": told})
        return
    table("API keys", ("id", "scopes", "rate", "expires"), [tuple(one.values()) for one in told])


def revoke(
    file: KeyFile,
    name: Annotated[str, typer.Argument(metavar="ID", help="Which key.")],
    after: Annotated[
        str | None,
        typer.Option(
            "--in", metavar="TIME", help="Let it be good for so long yet, such as 7d; not at all without."
        ),
    ] = None,
) -> None:
    """Take a key out of the file, or let it expire; a running API refuses it within a second."""
    from dataclasses import replace

    from serving.keyfile import read

    held = {key.id: key for key in read(file).values()}
    if name not in held:
        raise UsageRefused(
            f"there is no key {name!r}", where=str(file), why=f"there is {', '.join(held) or 'none'}"
        )
    lines = []
    for line in file.read_text().splitlines():
        if line.split()[:1] != [name]:
            lines.append(line)
        elif after is not None:
            until = min(_in(after), held[name].expires or math.inf)
            lines.append(replace(held[name], expires=until).line())
    _write(file, "\n".join([*lines, ""]))


def _in(text: str) -> float:
    return float(int(time.time()) + duration_ms(text) // 1000)


def _write(file: Path, text: str) -> None:
    """Replaces the file as a whole, so that nobody reads half of it; a new one can be read by its owner alone."""
    there = file.resolve()
    descriptor, beside = tempfile.mkstemp(dir=there.parent, prefix=f".{there.name}.")
    try:
        with open(descriptor, "w") as written:
            if there.exists():
                os.fchmod(descriptor, there.stat().st_mode & 0o777)
            written.write(text)
        os.replace(beside, there)
    except BaseException:
        os.unlink(beside)
        raise
