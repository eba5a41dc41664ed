"""`headrace replay`: files through the worker's handlers, without broker or store."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import Code, UsageRefused
from ..output import emit, note, progress, table
from ..settings import settings
from .options import NOWHERE, File, Json, Kafka, Log, ModelName, Redis, named_paths, one_model, secured

if TYPE_CHECKING:
    from streams.security import Brokers


def register(app: typer.Typer) -> None:
    """Adds the command."""
    example = (
        "Example: headrace replay payments.py --events transactions=tx.parquet "
        "--events chargebacks=labels.csv --out vectors.parquet"
    )
    app.command(epilog=example)(secured(replay))


def replay(
    file: File,
    events: Annotated[
        list[str] | None,
        typer.Option(
            "--events", metavar="SOURCE=PATH", help="NDJSON, CSV or Parquet of a source; repeatable."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PATH", help="Where rows go, .parquet or .ndjson.")
    ] = None,
    model: ModelName = None,
    learn: Annotated[
        bool, typer.Option("--learn/--no-learn", help="Whether models learn on the way.")
    ] = True,
    bar: Annotated[
        bool | None, typer.Option("--progress/--no-progress", help="Show a bar; by default on a terminal.")
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of", metavar="logged", help="Recompute the logged predictions at their positions."
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="PATH", help="Logged rows, as --as-of logged --out writes them."),
    ] = None,
    log: Log = None,
    kafka: Kafka = NOWHERE,
    redis: Redis = None,
    json: Json = False,
) -> None:
    """Run files of events through the project as a worker without lag would, and write what each request got.

    Given logged predictions by --log, --kafka or --against, say how many rows and features differ from them.
    With --as-of logged, write the vectors of the logged predictions instead, each at its positions.
    """
    if as_of not in (None, "logged"):
        raise UsageRefused(f"--as-of cannot be {as_of!r}", fix="write --as-of logged, or leave it out")
    if (as_of is None) is not bool(events):
        raise UsageRefused(
            "there is nothing to replay" if as_of is None else "--as-of logged reads the log, not files",
            fix="give --events SOURCE=PATH for each source, or --as-of logged",
        )
    places = {"--against": against, "--log": log, "--kafka": kafka["kafka"]}
    given = [name for name, place in places.items() if place is not None]
    if as_of is None and len(given) > 1:
        raise UsageRefused(
            f"the logged predictions are given twice, by {' and '.join(given)}", fix="leave one of them out"
        )
    if as_of is not None and against is not None:
        raise UsageRefused("--as-of logged compares nothing", where="--against", fix="leave --against out")
    from ..comparing import Comparison, vectors_in
    from ..opening import open_project

    loaded = open_project(file, check_learners=learn and as_of is None)
    asked = one_model(loaded.project, model)
    if as_of is None:
        files = named_paths(events or [], "--events")
        project, beside = loaded.project, None
        if against is not None:
            beside = Comparison(asked, vectors_in(against, asked))
        elif given:
            project, beside = asyncio.run(_beside(loaded, model, log, settings(kafka=kafka, redis=redis)))
        _files(project, one_model(project, model), files, out, learn, bar, json, beside)
    else:
        config = settings(kafka=kafka, redis=redis)
        asyncio.run(_logged(loaded, asked, log, config.brokers, config.redis, out, bar, json))


def _files(
    project: Any,
    model: Any,
    files: dict[str, Path],
    out: Path | None,
    learn: bool,
    shown: bool | None,
    json: bool,
    against: Any,
) -> None:
    from ..reading import count_of
    from ..replaying import replay as run
    from ..replaying import streams_of

    streams = streams_of(project, files)
    with _rows(out, model) as rows, progress(shown) as bar:
        total = None if bar.disable else sum(count_of(path) for _, path in streams)
        task = bar.add_task("replaying", total=total, rate="")
        summary = run(
            project, model, streams, rows, learn=learn, tick=lambda n: bar.advance(task, n), against=against
        )
    if json:
        emit(summary.as_dict() | {"logged": None if against is None else against.as_dict()})
    else:
        _show(summary, model, out)
        if against is not None:
            _show_differences(against)
    if against is not None and not against.rows:
        note("no logged prediction could be compared")
        raise typer.Exit(Code.UNCHECKED)


async def _beside(loaded: Any, name: str | None, log: Path | None, config: Any) -> tuple[Any, Any]:
    """Returns the project as it is deployed where the log was written, and what was logged there."""
    from ..comparing import Comparison, vectors_of
    from ..logs import logged, opened

    async with opened(loaded, log, config.brokers, config.redis) as places:
        project = places.deployment.project
        model = one_model(project, name)
        return project, Comparison(model, vectors_of(model, logged(places.log, model)))


def _show(summary: Any, model: Any, out: Path | None) -> None:
    table(
        f"Progressive metrics of {model.name}, version {summary.version}",
        ("metric", "value", "baseline"),
        [(name, value, summary.baseline.get(name)) for name, value in sorted(summary.progressive.items())],
    )
    table("What happened", ("what", "count"), sorted(summary.counts.items()))
    if out is not None:
        note(f"{summary.rows} rows written to {out}")


def _show_differences(against: Any) -> None:
    table(
        "Beside the logged vectors",
        ("rows compared", "rows that differ", "features that differ", "only replayed", "only logged"),
        [
            (
                against.rows,
                against.different,
                len(against.features),
                against.replayed_only,
                against.logged_only,
            )
        ],
    )
    table(
        "Features that differ",
        ("feature", "rows", "such as", "logged", "replayed"),
        # repr: the shortest text that tells two floats apart
        [
            (name, rows, example.id, repr(example.logged), repr(example.replayed))
            for name, rows in against.features.most_common()
            for example in [against.examples[name]]
        ],
    )
    table(
        "Not comparable",
        ("logged vectors", "because"),
        [(n, why) for why, n in against.unchecked.most_common()],
    )


async def _logged(
    loaded: Any,
    model: Any,
    log: Path | None,
    kafka: Brokers,
    redis: str,
    out: Path | None,
    shown: bool | None,
    json: bool,
) -> None:
    from ..logs import opened
    from ..replaying import replay_logged

    async with opened(loaded, log, kafka, redis) as places:
        model = places.deployment.project.model(model.name)  # of the states that are deployed
        with _rows(out, model) as rows, progress(shown) as bar:
            task = bar.add_task("recomputing", total=None, rate="")
            done = replay_logged(places, model, rows, lambda n: bar.advance(task, n))
    if json:
        emit({"model": done.model, "rows": done.rows, "not_checkable": dict(done.unchecked)})
    else:
        table(
            "Recomputed",
            ("model", "rows", "not checkable"),
            [(done.model, done.rows, done.unchecked.total())],
        )
        table(
            "Not checkable", ("predictions", "because"), [(n, why) for why, n in done.unchecked.most_common()]
        )
    if not done.rows:
        raise typer.Exit(Code.UNCHECKED)


def _rows(out: Path | None, model: Any) -> Any:
    if out is None:
        return nullcontext()
    from ..rows import Columns, rows_to

    return rows_to(out, Columns(model))
