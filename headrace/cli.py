"""`headrace`: the command line.

Exit codes: 0 all went well; 1 a failure, or differences were found; 2 called wrongly; 3 a check had nothing to
look at. Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from .commands import (
    access,
    base,
    check,
    demo,
    dlq,
    doctor,
    features,
    forget,
    keys,
    models,
    produce,
    replay,
    serve,
    topics,
    verify,
    worker,
)
from .errors import FAILURES, Code, Told, code_of, told
from .output import failure, stderr

app = typer.Typer(
    help="Real-time machine learning on plain Kafka and Redis: exact features, reproducible predictions.",
    epilog=(
        "Exit codes: 0 ok, 1 failure or differences, 2 usage, 3 nothing could be checked. "
        "Every option is read from HEADRACE_<NAME> and from .env as well; a flag wins."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # "rich" would swallow the [env: ...] of the options
)
for each in (
    demo,
    check,
    topics,
    worker,
    serve,
    keys,
    produce,
    features,
    forget,
    models,
    replay,
    verify,
    base,
    dlq,
    doctor,
    access,
):
    each.register(app)


@app.callback(invoke_without_command=True)
def _root(
    _debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of a failure; may stand anywhere.")
    ] = False,
    show_version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
) -> None:
    if show_version:
        sys.stdout.write(f"headrace {version('headrace')}\n")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process with its exit code."""
    if arguments is None and os.environ.get("PYTHONHASHSEED") != "0":
        # some of River's transformers walk through sets of names: with hashes drawn anew in each process, two of them
        # would add the same numbers in another order
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-P", "-m", "headrace.cli", *sys.argv[1:]])  # noqa: S606  # ourselves
    asked = os.environ.get("HEADRACE_LOG", "").upper()
    logging.basicConfig(level=asked or "WARNING", format="%(levelname)s: %(message)s", stream=sys.stderr)
    if not asked:  # it says twenty times what our errors say once
        logging.getLogger("headrace.librdkafka").setLevel(logging.CRITICAL)
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code; a failure is told in four parts."""
    words = [word for word in arguments if word != "--debug"]
    debug = len(words) < len(arguments) or bool(os.environ.get("HEADRACE_DEBUG"))
    try:
        typer.main.get_command(app).main(words, prog_name="headrace")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else Code.OK
    except FAILURES as error:
        if debug:
            stderr().print_exception()
        failure(told(error))
        return code_of(error)
    except Exception as error:  # noqa: BLE001 - the last place that can tell a user what to do
        if debug:
            stderr().print_exception()
        failure(_ours(error))
        return Code.FAILED
    return Code.OK


def _ours(error: Exception) -> Told:
    return Told(
        f"{type(error).__name__}: {error}",
        "headrace itself",
        "this is a failure that nobody foresaw",
        "run the command again with --debug, and report what it shows",
    )


if __name__ == "__main__":
    main()
