"""`headrace check`: what a project file declares."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..output import emit, pairs, size, table
from .options import File, Json


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: headrace check payments.py --rate 100")(check)


def check(
    file: File,
    rate: Annotated[
        float | None,
        typer.Option("--rate", min=0.0, help="Requests a second, to say what waiting predictions take."),
    ] = None,
    partitions: Annotated[
        int | None, typer.Option("--partitions", min=1, help="Partitions of each source.")
    ] = None,
    json: Json = False,
) -> None:
    """Check a project file and show what it declares: views, states, models, topics."""
    from ..describe import describe
    from ..opening import open_project

    told = describe(open_project(file).project, rate, partitions)
    if json:
        emit(told)
    else:
        _show(told)


def _show(told: dict[str, Any]) -> None:
    table(
        f"Project {told['project']}: sources",
        ("topic", "event", "id", "time", "key", "lateness", "for"),
        [[s[k] for k in ("topic", "event", "id", "time", "key", "lateness", "for")] for s in told["sources"]],
    )
    table(
        "Views",
        ("feature", "aggregation", "window", "entity", "source", "state"),
        [
            (
                f"{v['name']}.{f['name']}",
                f["aggregation"],
                f["window"],
                v["entity"],
                v["source"],
                v["state"][:12],
            )
            for v in told["views"]
            for f in v["features"]
        ],
    )
    table(
        "States: bytes an entity in Redis after 1, 60 and 512 events",
        ("state", "entity", "source", "keeps", "reaches back", "partials", "1", "60", "512"),
        [
            (
                s["fingerprint"][:12],
                s["entity"],
                s["source"],
                s["columns"],
                s["reach"],
                s["partial"],
                *map(size, s["bytes"].values()),
            )
            for s in told["states"]
        ],
    )
    for model in told["models"]:
        label = model["label"] or {}
        facts = {
            "task": model["task"],
            "learner": model["learner"],
            "request": model["request"],
            "label": f"{label['value']} of {label['source']} within {label['within']}" if label else None,
            "absent": label.get("absent"),
            "vector": model["vector"][:12],
            "slots": len(model["slots"]),
        }
        if model.get("pending"):
            p = model["pending"]
            facts["waiting predictions"] = (
                f"{p['per_second']:g}/s x {p['horizon']} x {p['bytes_each']} B = {size(p['bytes_total'])} in Redis, "
                f"x {p['memory_each']} B = {size(p['memory_total'])} in the workers; vectors in {p['vectors']}"
            )
            facts["max_pending"] = f"{p['max_pending']:,} a partition of the log, for {p['waiting']:,}"
        pairs(f"Model {model['name']}", facts)
        table(
            f"Inputs of {model['name']}",
            ("slot", "name", "type", "may be missing"),
            [(k, s["name"], s["type"], s["may_be_missing"]) for k, s in enumerate(model["slots"])],
        )
    table(
        "Topics",
        ("name", "partitions", "settings"),
        [
            (t["name"], t["partitions"], [f"{k}={v}" for k, v in sorted(t["config"].items())])
            for t in told["topics"]
        ],
    )
