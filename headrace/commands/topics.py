"""`headrace topics apply`: the topics of a project on a broker."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import Code
from ..output import emit, note, table
from ..settings import settings
from .options import NOWHERE, File, Json, Kafka, secured


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(help="The topics of a project.", no_args_is_help=True)
    group.command("apply", epilog="Example: headrace topics apply payments.py --partitions 8 --dry-run")(
        secured(apply)
    )
    app.add_typer(group, name="topics")


def apply(
    file: File,
    partitions: Annotated[
        int | None, typer.Option("--partitions", min=1, help="Partitions of each source.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    kafka: Kafka = NOWHERE,
    json: Json = False,
) -> None:
    """Create the topics that a project needs, and tell how those that exist differ.

    Exits 1 where one cannot be used.
    """
    from ..opening import open_project
    from ..topics import apply as make

    project = open_project(file, check_learners=False).project
    done = make(project, settings(kafka=kafka).brokers, partitions=partitions, dry_run=dry_run)
    verb = "to be created" if dry_run else "created"
    if json:
        emit(
            {
                "dry_run": dry_run,
                "created": [
                    {"name": t.name, "partitions": t.partitions, "config": t.config} for t in done.created
                ],
                "kept": done.kept,
                "differences": [d._asdict() for d in done.differences],
                "left_out": done.left_out,
            }
        )
    else:
        rows: list[tuple[object, ...]] = [
            (t.name, t.partitions, verb, [f"{k}={v}" for k, v in sorted(t.config.items())])
            for t in done.created
        ]
        rows += [(name, "", "exists", "") for name in done.kept]
        table("Topics", ("name", "partitions", "state", "settings"), rows)
        table(
            "Differences",
            ("topic", "setting", "wanted", "found", "what to do"),
            [(d.topic, d.setting, d.wanted, d.found, d.fix) for d in done.differences],
        )
    for setting in done.left_out:
        note(f"not set, the broker does not know it: {setting}")
    if any(d.setting == "partitions" and (partitions is not None or d.fatal) for d in done.differences):
        raise typer.Exit(Code.FAILED)
