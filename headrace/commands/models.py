"""`headrace models list`: the models of a project and their newest versions."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import typer

from ..output import emit, table
from ..settings import settings
from .options import NOWHERE, File, Json, Kafka, Redis, Secret, secured

if TYPE_CHECKING:
    from streams.security import Brokers


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(help="Models and their versions.", no_args_is_help=True)
    group.command("list", epilog="Example: headrace models list payments.py")(secured(list_models))
    app.add_typer(group, name="models")


def list_models(
    file: File, kafka: Kafka = NOWHERE, redis: Redis = None, secret: Secret = None, json: Json = False
) -> None:
    """Show every model: its task, its newest version with digest, and how well it does beside a baseline."""
    from ..opening import open_project

    loaded = open_project(file, check_learners=False)
    config = settings(kafka=kafka, redis=redis, secret=secret)
    told = asyncio.run(_list(loaded, config.brokers, config.redis, config.secret_text))
    if json:
        emit({"project": loaded.project.name, "models": told})
        return
    table(
        f"Models of {loaded.project.name}",
        ("model", "task", "slots", "version", "digest", "made", "progressive", "baseline"),
        [
            (
                m["name"],
                m["task"],
                m["slots"],
                m["version"],
                m["digest"][:12] if m["digest"] else None,
                m["created"],
                [f"{name} {value:.4f}" for name, value in m["progressive"].items()],
                [f"{name} {value:.4f}" for name, value in m["baseline"].items()],
            )
            for m in told
        ],
    )


async def _list(loaded: Any, kafka: Brokers, redis: str, secret: str | None) -> list[dict[str, Any]]:
    from ..compose import deployed, partitions_now, snapshot_key

    topics = await asyncio.to_thread(partitions_now, loaded, kafka)
    key = snapshot_key(loaded, secret)
    async with deployed(loaded, redis, topics) as (store, deployment):
        return [await _told(model, store, deployment, key) for model in deployment.project.models]


async def _told(model: Any, store: Any, deployment: Any, key: Any) -> dict[str, Any]:
    from features import keys
    from features.clock import from_ms
    from models.snapshot import open_sealed, peek

    tag = deployment.groups[model.samples_topic][0].tag
    sealed = await store.get(keys.model(tag))
    told: dict[str, Any] = {
        "name": model.name,
        "task": model.task.value,
        "request": model.spec.request.topic,
        "slots": len(model.vector.slots),
        "vector": model.fingerprint,
        "version": 0,
        "digest": None,
        "created": None,
        "progressive": {},
        "baseline": {},
    }
    if sealed is None:
        return told
    while True:
        header = peek(sealed, [key])
        cells = dict(await store.fields(keys.kept(tag)))
        monitor = open_sealed(cells[b"monitor"], [key], ("models.monitor", "models.task"))
        if monitor.position == header.position:
            break
        sealed = await store.get(keys.model(tag))  # a worker has published between the two reads
    board = monitor.learner.progressive
    return told | {
        "version": header.version,
        "digest": header.digest,
        "created": from_ms(header.created_ms).isoformat(),
        "progressive": board.figures(),
        "baseline": board.baseline(),
    }
