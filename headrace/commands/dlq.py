"""`headrace dlq`: the dead letters of a project, listed, shown, mended and sent again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ..errors import Code, UsageRefused
from ..output import emit, note, pairs, table, text
from ..settings import settings
from .options import NOWHERE, File, Json, Kafka, secured

if TYPE_CHECKING:
    from models.project import Project

    from ..deadletters import Resent, Wanted

Topics = Annotated[
    list[str] | None,
    typer.Option("--topic", metavar="SOURCE", help="Only letters of this source or topic; may be repeated."),
]
Reasons = Annotated[
    list[str] | None,
    typer.Option("--reason", metavar="REASON", help="Only letters with this reason; may be repeated."),
]
Origins = Annotated[
    list[str] | None,
    typer.Option(
        "--origin", metavar="PLACE", help="Only this one, as topic/partition/offset; may be repeated."
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(help="The dead letters of a project.", no_args_is_help=True)
    for command, example in (
        (list_letters, "headrace dlq list payments.py"),
        (show, "headrace dlq show payments.py payments.transactions.v1/3/81274"),
        (export, "headrace dlq export payments.py --reason undecodable --to bad.ndjson"),
        (replay, "headrace dlq replay payments.py --reason misplaced --dry-run"),
    ):
        name = "list" if command is list_letters else command.__name__
        group.command(name, epilog=f"Example: {example}")(secured(command))
    app.add_typer(group, name="dlq")


def list_letters(
    file: File,
    topic: Topics = None,
    reason: Reasons = None,
    kafka: Kafka = NOWHERE,
    json: Json = False,
) -> None:
    """Count the dead letters by topic and reason.

    A letter that a killed worker sent twice counts once, by its place of origin.
    """
    from streams.log import LogReader

    from ..deadletters import Letters, counted
    from ..opening import open_project

    project = open_project(file, check_learners=False).project
    with LogReader(settings(kafka=kafka).brokers) as reader:
        counts = counted(Letters(reader, project, _wanted(project, topic, reason, None)))
    if json:
        emit({"project": project.name, "counts": msgspec.to_builtins(counts)})
        return
    table(
        f"Dead letters of {project.name}",
        ("topic", "reason", "letters", "sent again", "repeats", "newest", "the last one"),
        [(c.topic, c.reason, c.letters, c.replayed, c.repeats, _time(c.newest), c.example) for c in counts],
    )
    if not counts:
        note("there are none")


def show(
    file: File,
    place: Annotated[
        str,
        typer.Argument(
            metavar="PLACE", help="Where the record was, or where the letter is: topic/partition/offset."
        ),
    ],
    kafka: Kafka = NOWHERE,
    json: Json = False,
) -> None:
    """Show one dead letter: why it is one, its headers, and its bytes with what is not printable escaped."""
    from streams.log import LogReader

    from ..deadletters import Letters, described, once, sent_again
    from ..opening import open_project

    project = open_project(file, check_learners=False).project
    with LogReader(settings(kafka=kafka).brokers) as reader:
        letters = Letters(reader, project, _wanted(project, None, None, [place]))
        letter = next(once(letters), None)
        again = letter is not None and letter.origin in sent_again(letters)
    if letter is None:
        raise UsageRefused(
            f"there is no dead letter of {place}", where="PLACE", fix="see `headrace dlq list`, or its topic"
        )
    told = described(letter, again)
    if json:
        emit(told)
        return
    headers = told.pop("headers")
    pairs(f"Dead letter {place}", told)
    table("Headers", ("name", "value"), headers)


def export(
    file: File,
    to: Annotated[Path, typer.Option("--to", metavar="PATH", help="The file to write, NDJSON.")],
    topic: Topics = None,
    reason: Reasons = None,
    origin: Origins = None,
    kafka: Kafka = NOWHERE,
    json: Json = False,
) -> None:
    """Write dead letters to a file, one a line, to be mended and sent by `headrace dlq replay --from`.

    Those that were sent again are left out.
    """
    from streams.log import LogReader

    from ..deadletters import Letters, exported, once, sent_again
    from ..opening import open_project

    project = open_project(file, check_learners=False).project
    with LogReader(settings(kafka=kafka).brokers) as reader:
        letters = Letters(reader, project, _wanted(project, topic, reason, origin))
        noted, count = sent_again(letters), 0
        with to.open("wb") as out:
            for letter in once(letters):
                if letter.origin not in noted:
                    out.write(exported(letter))
                    count += 1
    if json:
        emit({"path": str(to), "letters": count})
    else:
        note(f"{count} dead letters written to {to}")


def replay(
    file: File,
    topic: Topics = None,
    reason: Reasons = None,
    origin: Origins = None,
    mended: Annotated[
        Path | None,
        typer.Option("--from", metavar="PATH", help="What `dlq export` wrote, mended; only these are sent."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also those that were sent again before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
    kafka: Kafka = NOWHERE,
    json: Json = False,
) -> None:
    """Send dead letters to their topics again, each once, keyed, timed and placed as their source declares.

    What would be refused again is not sent, and told by its reason. Exits 1 where that is so.
    """
    from streams.log import LogReader

    from ..deadletters import Letters, Replay, repaired
    from ..deadletters import replay as send
    from ..opening import open_project

    if not (topic or reason or origin or mended or every):
        raise UsageRefused(
            "nothing says which dead letters",
            fix="name them by --reason, --topic, --origin or --from, or say --all",
        )
    if mended is not None and not mended.is_file():
        raise UsageRefused(f"there is no file {mended}", where="--from", fix="correct the path")
    project = open_project(file, check_learners=False).project
    values = {} if mended is None else repaired(mended)
    brokers = settings(kafka=kafka).brokers
    with LogReader(brokers) as reader:
        done = asyncio.run(
            send(
                Letters(reader, project, _wanted(project, topic, reason, origin)),
                Replay(project, reader, values),
                None if dry_run else brokers,
                only=None if mended is None else values,
                force=force,
            )
        )
    if json:
        emit({"dry_run": dry_run, **msgspec.to_builtins(done)})
    else:
        _tell(done, dry_run)
    if done.refused or done.gone:
        raise typer.Exit(Code.FAILED)


def _tell(done: Resent, dry_run: bool) -> None:
    rows: list[tuple[object, ...]] = [
        ("would be sent" if dry_run else "sent", reason, count) for reason, count in done.by_reason.items()
    ]
    rows += [("refused again", reason, count) for reason, count in done.refused.items()]
    others = {
        "sent again before; --force sends them once more": done.already,
        "of topics that only Headrace writes": done.foreign,
        "cut, and the log no longer holds the whole": done.gone,
    }
    rows += [("left out", why, count) for why, count in others.items() if count]
    table("Dead letters", ("", "reason", "records"), rows)
    if done.first_refusal:
        note(f"the first that would be refused again is {done.first_refusal}")
    if not rows:
        note("there are none")


def _wanted(
    project: Project, topic: list[str] | None, reason: list[str] | None, origin: list[str] | None
) -> Wanted:
    from models.deployment import topics_of
    from streams.letters import Origin

    from ..deadletters import Wanted

    known = topics_of(project)
    topics = [name if name in known else project.source(name).topic for name in topic or ()]
    places = []
    for place in origin or ():
        try:
            places.append(Origin.parse(place))
        except ValueError:
            raise UsageRefused(
                f"{place!r} is no place in a log", fix="write topic/partition/offset, as `dlq list` shows it"
            ) from None
    return Wanted(frozenset(topics), frozenset(reason or ()), frozenset(places))


def _time(ms: int) -> str:
    from features.clock import from_ms

    return from_ms(ms).isoformat(timespec="seconds").replace("+00:00", "Z") if ms > 0 else text(None)
