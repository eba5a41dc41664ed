"""Arguments and options that several commands share."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageRefused

if TYPE_CHECKING:
    from models import Model, Project

File = Annotated[Path, typer.Argument(metavar="FILE", help="The project file, such as payments.py.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
Kafka = Mapping[str, str | None]
"""What was given of the options of Kafka, by the names of their settings; see `secured`."""
NOWHERE: Kafka = MappingProxyType({})
Redis = Annotated[
    str | None, typer.Option("--redis", metavar="URL", help="URL of Redis. [env: HEADRACE_REDIS]")
]
Secret = Annotated[
    str | None,
    typer.Option(
        "--secret", metavar="TEXT", help="Secret that seals model snapshots. [env: HEADRACE_SECRET]"
    ),
]
ModelName = Annotated[
    str | None, typer.Option("--model", metavar="NAME", help="Which model, where the project has several.")
]
Log = Annotated[
    Path | None,
    typer.Option(
        "--log", metavar="DIR", help="A folder that the log was spooled to; without it Kafka is read."
    ),
]


# No option for the password: whoever may list processes would read it.
_KAFKA = {
    "kafka": ("HOST:PORT", "Brokers."),
    "kafka_security_protocol": ("NAME", "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."),
    "kafka_sasl_mechanism": ("NAME", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."),
    "kafka_sasl_username": ("NAME", "The user; the password is a variable only."),
    "kafka_ssl_ca_location": ("FILE", "Authorities that certify the brokers, PEM."),
    "kafka_ssl_certificate_location": ("FILE", "This client's certificate, PEM."),
    "kafka_ssl_key_location": ("FILE", "Its private key, PEM."),
}


def secured(command: Callable[..., None]) -> Callable[..., None]:
    """Returns a command whose parameter `kafka` is the options of Kafka, which are many and the same for all."""

    @functools.wraps(command)
    def run(**given: Any) -> None:
        kafka = {name: given.pop(name) for name in _KAFKA}
        command(kafka=kafka, **given)

    signature = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        options = _kafka_options() if parameter.name == "kafka" else [parameter]
        parameters.extend(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in options)
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # where typer looks
    return run


def _kafka_options() -> Iterator[inspect.Parameter]:
    for name, (metavar, told) in _KAFKA.items():
        option = typer.Option(
            f"--{name.replace('_', '-')}", metavar=metavar, help=f"{told} [env: HEADRACE_{name.upper()}]"
        )
        yield inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
        )


def named_paths(given: list[str], option: str) -> dict[str, Path]:
    """Returns the files of options like `transactions=tx.parquet`.

    Raises:
        UsageRefused: one is not of that form, or its file is missing.
    """
    found: dict[str, Path] = {}
    for item in given:
        name, sign, path = item.partition("=")
        if not sign or not name or not path:
            raise UsageRefused(
                f"{option} {item!r} names no file of a source",
                fix=f"write {option} SOURCE=PATH, such as {option} transactions=tx.parquet",
            )
        if not Path(path).is_file():
            raise UsageRefused(f"there is no file {path}", where=f"{option} {item}", fix="correct the path")
        found[name] = Path(path)
    return found


def one_model(project: Project, name: str | None) -> Model:
    """Returns the model of a name, or the only one.

    Raises:
        UsageRefused: the project has several, or none.
    """
    if name is not None:
        return project.model(name)
    if len(project.models) != 1:
        names = ", ".join(model.name for model in project.models)
        raise UsageRefused(
            f"project {project.name!r} has {len(project.models)} models",
            fix=f"name one: --model {project.models[0].name}" if names else "give the project a model",
            why=f"they are {names}" if names else "",
        )
    return project.models[0]


def moment(text: str) -> int:
    """Returns a moment, ISO 8601 with a zone or integer milliseconds, in milliseconds.

    Raises:
        UsageRefused: the text is neither.
    """
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise UsageRefused(
            f"{text!r} is no moment",
            why="it is neither ISO 8601 with a time zone nor milliseconds since the epoch",
            fix=f"write it like {datetime.now(UTC).isoformat(timespec='seconds').replace('+00:00', 'Z')}",
        )
    return round(found.timestamp() * 1000)
