"""What the reference pages take from the code: `python -m tests.docs.generate` writes it, the tests compare it.

A part stands between `<!-- generated: NAME ... -->` and `<!-- end -->`; what is around it is written by hand.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import typer
from fastapi.routing import APIRoute
from prometheus_client.metrics import MetricWrapperBase

import features
import features.state
from features.aggregation import Aggregation, Events
from headrace.cli import app
from headrace.errors import Code
from headrace.settings import Settings
from models.deployment import deploy, topics_of
from models.feed import ModelFeed
from models.snapshot import development_key
from serving.settings import Settings as Limits
from streams.metrics import Metrics as WorkerMetrics

from .pages import REPOSITORY

REFERENCE = REPOSITORY / "docs" / "reference"
_PART = re.compile(r"(?ms)^<!-- generated: (?P<what>[^>]+?) -->\n(?P<text>.*?)^<!-- end -->$")


# -- the vocabulary ------------------------------------------------------------------------------------------


class _Sample(msgspec.Struct, frozen=True):
    number: float
    text: str


_COLUMNS = ("number", "text")
_PARAMETERS: dict[str, Any] = {
    "half_life": "1h",
    "k": 3,
    "q": 0.5,
    "dividend": features.Count(),
    "divisor": features.Count(),
}


def aggregation_classes() -> list[type[Aggregation[Any]]]:
    """Returns every aggregation that a project can import."""
    found = [getattr(features, name) for name in features.__all__]
    return [
        one
        for one in found
        if isinstance(one, type) and issubclass(one, Aggregation) and one is not Aggregation
    ]


def _made(kind: type[Aggregation[Any]]) -> Aggregation[Any]:
    arguments = []
    for name in _names(kind):
        if name == "column":
            column = "number" if float in kind.takes else "text"
            arguments.append(getattr(_Sample, column))
        else:
            arguments.append(_PARAMETERS[name])
    return kind(*arguments)


def _names(kind: type[Aggregation[Any]]) -> list[str]:
    names = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
    return [name for name in names if name != "column" or kind.keeps is not None]


def aggregations() -> str:
    """Returns a table: how each is written, which columns it takes, what it gives, and what an empty window gives."""
    rows = []
    for kind in aggregation_classes():
        one = _made(kind)
        takes = ", ".join(t.__name__ for t in kind.takes) if "column" in _names(kind) else "-"
        if kind.__name__ == "Ratio":
            empty: Any = None
        else:
            empty = one.value(Events(0, 1))
        shown = (
            "missing" if empty is None else "nothing (no slot has a value)" if empty == () else f"`{empty!r}`"
        )
        slots = {"LastK": "k", "TopK": "2 k"}.get(kind.__name__, str(one.width))
        rows.append((f"`{kind.__name__}({', '.join(_names(kind))})`", takes, _promise(kind), shown, slots))
    return _table(("written", "columns of type", "value", "empty window", "slots"), rows)


def parameters(name: str) -> str:
    """Returns a table of the parameters of a class: its docstring says what each means, its signature the default."""
    owner = _vocabulary(name)
    text = inspect.getdoc(owner) or ""
    told = dict(_arguments(text))
    signature = inspect.signature(owner.__init_subclass__ if name == "FeatureView" else owner.__init__)
    rows = []
    for argument, meaning in told.items():
        parameter = signature.parameters.get(argument)
        empty = parameter is None or parameter.default is inspect.Parameter.empty
        required = empty or (name == "FeatureView" and argument in ("of", "source"))
        default = "required" if required else f"`{parameter.default!r}`"  # type: ignore[union-attr]  # not empty
        rows.append((f"`{argument}`", "`UNSET`" if default == "`UNSET`" else default, meaning))
    return _table(("parameter", "default", "meaning"), rows)


def _vocabulary(name: str) -> Any:
    return getattr(import_module("models"), name, None) or getattr(features, name)


def _arguments(docstring: str) -> Iterator[tuple[str, str]]:
    inside, argument, meaning = False, "", ""
    for line in docstring.splitlines():
        if line.rstrip() in ("Args:", "Class arguments:"):
            inside = True
        elif inside and line and not line.startswith(" "):
            break
        elif inside and (found := re.fullmatch(r"    (\w+): (.*)", line)):
            if argument:
                yield argument, meaning
            argument, meaning = found[1], found[2]
        elif inside and line.strip():
            meaning += " " + line.strip()
    if argument:
        yield argument, meaning


def inputs() -> str:
    """Returns a table of the ready-made inputs."""
    rows = []
    for name in ("hour", "weekday", "weekend", "night", "distance", "haversine_km"):
        function = getattr(features, name)
        names = []
        for parameter in inspect.signature(function).parameters.values():
            default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
            names.append(f"{parameter.name}{default}")
        rows.append((f"`{name}({', '.join(names)})`", _promise(function).removeprefix("Returns ")))
    return _table(("written", "gives"), rows)


# -- operation -----------------------------------------------------------------------------------------------


def metrics(process: str) -> str:
    """Returns a table of the metrics of the worker or the API."""
    rows = []
    if process == "worker":
        made: list[Any] = [m for m in vars(WorkerMetrics()).values() if isinstance(m, MetricWrapperBase)]
    else:
        from serving.metrics import Metrics

        api = Metrics()
        made = [m for m in vars(api).values() if isinstance(m, MetricWrapperBase)]
        before = {family.name for family in api.registry.collect()}
        api.watch(lambda: 0, {}, {}, dict)
        rows = [
            (
                _full(family.name, family.type),
                family.type,
                _labels(getattr(family, "_labelnames", ())),
                family.documentation,
            )
            for family in api.registry.collect()
            if family.name not in before
        ]
    rows += [(_full(m._name, m._type), m._type, _labels(m._labelnames), m._documentation) for m in made]
    return _table(("metric", "type", "labels", "meaning"), sorted(rows))


def _full(name: str, kind: str) -> str:
    return f"`{name}_total`" if kind == "counter" else f"`{name}`"


def _labels(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names) or "-"


def settings() -> str:
    """Returns a table of the settings of the command line; a secret may be a variable only."""
    known = set(_switches(typer.main.get_command(app)))
    rows = []
    for name, field in Settings.model_fields.items():
        default = "-" if field.default is None else f"`{field.default}`"
        option = f"--{name.replace('_', '-')}"
        rows.append(
            (
                f"`{option}`" if option in known else "-",
                f"`HEADRACE_{name.upper()}`",
                default,
                str(field.description),
            )
        )
    return _table(("option", "variable", "default", "meaning"), rows)


def _switches(command: Any) -> Iterator[str]:
    for parameter in command.params:
        yield from parameter.opts
    for inner in getattr(command, "commands", {}).values():
        yield from _switches(inner)


def limits() -> str:
    """Returns a table of the limits of an API process: the text below each field says what it means."""
    source = inspect.getsource(Limits)
    rows = []
    for name, field in Limits.__dataclass_fields__.items():
        meaning = re.search(rf"(?s)\n    {name}: [^\n]*\n    \"\"\"(.*?)\"\"\"", source)
        assert meaning is not None, name
        rows.append((f"`{name}`", f"`{field.default}`", " ".join(meaning[1].split())))
    return _table(("limit", "value", "meaning"), rows)


def exit_codes() -> str:
    """Returns a table of the exit codes: the comment beside each says what it means."""
    source = inspect.getsource(Code)
    rows = []
    for code in Code:
        said = re.search(rf"(?m)^    {code.name} = .*?#\s*(.*)$", source)
        rows.append((f"`{int(code)}`", said[1] if said else "all went well"))
    return _table(("code", "meaning"), rows)


def errors(room: str) -> str:
    """Returns the tree of errors of a room, as its module draws it."""
    text = inspect.getdoc(import_module(f"{room}.errors")) or ""
    lines = text.splitlines()
    first = next(k for k, line in enumerate(lines) if re.match(r"[├|]", line)) - 1
    last = max(k for k, line in enumerate(lines) if re.match(r"[│├└|` ]", line))
    return "```text\n" + "\n".join(line.rstrip() for line in lines[first : last + 1]) + "\n```\n"


def layout() -> str:
    """Returns the layout of a state, as its module draws it."""
    lines = (features.state.__doc__ or "").splitlines()
    drawn = [line[4:] for line in lines if line.startswith("    ")]
    return "```text\n" + "\n".join(drawn) + "\n```\n"


def commands() -> str:
    """Returns a section for each command: what it does, its arguments and its options."""
    root: Any = typer.main.get_command(app)
    return "\n".join(_command("headrace", name, root.commands[name]) for name in sorted(root.commands))


def _command(path: str, name: str, command: Any) -> str:
    whole = f"{path} {name}"
    if hasattr(command, "commands"):
        return "\n".join(
            _command(whole, inner, command.commands[inner]) for inner in sorted(command.commands)
        )
    rows = []
    usage = [whole]
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            shown = (parameter.metavar or parameter.name.upper()).strip("[]")
            usage.append(shown if parameter.required else f"[{shown}]")
            rows.append((f"`{shown}`", "required" if parameter.required else "-", _plain(parameter.help)))
        elif parameter.name != "help":
            switches = "`, `".join([*parameter.opts, *parameter.secondary_opts])
            value = "" if parameter.is_flag or parameter.secondary_opts else f" {_metavar(parameter)}"
            rows.append((f"`{switches}{value}`", _default(parameter), _plain(parameter.help)))
    told = " ".join((command.help or "").split())
    example = (command.epilog or "").removeprefix("Example: ")
    table = _table(("", "default", "meaning"), rows)
    text = f"### `{whole}`\n\n{told}\n\n```text\n{' '.join(usage)} [OPTIONS]\n```\n\n{table}"
    return text + (f"\nExample: `{example}`\n" if example else "")


def _metavar(parameter: Any) -> str:
    kind = parameter.type_descriptor.annotation
    return str(parameter.metavar or ("TEXT" if parameter.multiple else kind.__name__.upper()))


def _default(parameter: Any) -> str:
    value = parameter.default
    if callable(value) or value in (None, False, ()) or "UNSET" in repr(value):
        return "-"
    return f"`{value}`"


def _plain(text: str | None) -> str:
    return re.sub(r"\s*\\?\[env: [^\]]*\]", "", text or "").strip()


def routes() -> str:
    """Returns a table of the routes of the API."""
    import asyncio

    from features.memory import MemoryStore
    from headrace.loading import load
    from serving.app import create_app

    project = load(REPOSITORY / "docs" / "examples" / "payments.py", check_learners=False).project
    store = MemoryStore()
    deployment = asyncio.run(deploy(project, store, topics_of(project)))
    feed = ModelFeed(store, deployment, [development_key(project.name)])
    made = create_app(deployment, store, feed, _NoOutbox())
    rows = []
    for path, operations in made.openapi()["paths"].items():
        for method, operation in operations.items():
            scope = operation.get("x-headrace-scope", "-")
            rows.append((f"`{method.upper()} {path}`", operation["summary"], scope))
    hidden = [r for r in made.routes if isinstance(r, APIRoute) and not r.include_in_schema and r.path == "/"]
    rows += [("`GET /`", "The live page", "-")] if hidden else []
    return _table(
        ("route", "what it answers", "scope of keys"), sorted(rows, key=lambda row: row[0].split()[1])
    )


class _NoOutbox:
    lost = 0

    def offer(self, *_: Any, **__: Any) -> bool:
        return False

    async def send(self, *_: Any, **__: Any) -> None:
        raise AssertionError("nobody writes here")


# -- pages ---------------------------------------------------------------------------------------------------


def _promise(what: Any) -> str:
    """Returns the first line of a docstring, without its full stop."""
    return (inspect.getdoc(what) or "").splitlines()[0].rstrip(".")


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


PARTS: dict[str, Callable[..., str]] = {
    "aggregations": aggregations,
    "commands": commands,
    "errors": errors,
    "exit_codes": exit_codes,
    "inputs": inputs,
    "layout": layout,
    "limits": limits,
    "metrics": metrics,
    "parameters": parameters,
    "routes": routes,
    "settings": settings,
}


def generated(page: Path) -> str:
    """Returns a page with every generated part as the code has it now."""

    def part(found: re.Match[str]) -> str:
        name, *arguments = found["what"].split()
        return f"<!-- generated: {found['what']} -->\n{PARTS[name](*arguments)}<!-- end -->"

    return _PART.sub(part, page.read_text())


def parts_in(page: Path) -> list[str]:
    """Returns the names of the generated parts of a page."""
    return [found["what"] for found in _PART.finditer(page.read_text())]


def main() -> None:
    """Writes every page anew."""
    for page in sorted(REFERENCE.glob("*.md")):
        text = generated(page)
        if text != page.read_text():
            page.write_text(text)
            sys.stdout.write(f"written: {page.relative_to(REPOSITORY)}\n")


if __name__ == "__main__":
    main()
