"""`POST /v1/models/{model}/predict`: the hot path. A plain ASGI application, documented by `openapi`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import parse_qsl

import orjson
from starlette.types import Receive, Scope, Send

from .asking import Asking, Made, answer
from .body import read_body
from .gate import must
from .intake import is_array
from .latency import LastMinute
from .problems import bad_field, not_found, problem_of, respond
from .produce import Produce

_JSON = (b"content-type", b"application/json")
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


class Options(NamedTuple):
    """The query of a prediction."""

    ingest: bool = False
    sequential: bool = False
    explain: bool = False


_PLAIN = Options()


class Predict:
    """Answers predictions of all models.

    Args:
        models: by name.
        produce: where an event goes that is to be ingested.
        max_body: bytes of a body.
        recent: latencies of the last minute.
        retry_after: seconds that a refused caller is asked to wait.
    """

    path = "/v1/models/{model}/predict"

    def __init__(
        self,
        models: Mapping[str, Asking],
        produce: Produce,
        max_body: int,
        recent: LastMinute,
        retry_after: int,
    ) -> None:
        self._models = models
        self._produce = produce
        self._max_body = max_body
        self._recent = recent
        self._retry_after = retry_after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, its failures included."""
        began = time.perf_counter()
        try:
            asking, made, records, out = await self._make(scope, receive)
        except Exception as error:  # noqa: BLE001 - `problem_of` logs those that are ours
            problem = problem_of(error, self._retry_after)
            await respond(scope["path"], problem)(scope, receive, send)
            return
        head = [_JSON, (b"content-length", b"%d" % len(out))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": out})
        now = time.perf_counter()
        self._recent.add(now, now - began)
        asking.log(made, records)

    async def _make(
        self, scope: Scope, receive: Receive
    ) -> tuple[Asking, Sequence[Made], Sequence[bytes], bytes]:
        name = scope["path_params"]["model"]
        asking = self._models.get(name)
        if asking is None:
            raise not_found("model", name, list(self._models))
        query = scope["query_string"]
        options = parse_options(query) if query else _PLAIN
        if options.ingest:
            must(scope, self._produce.scope(asking.intake.source))
        body = await read_body(scope, receive, self._max_body)
        batch = is_array(body)
        intake = asking.intake
        incoming = intake.many(body) if batch else [intake.one(body)]
        if options.ingest:
            self._produce.check(intake, incoming, batch)
        made = await asking.ask(incoming, sequential=options.sequential)
        records = asking.records(made)  # before anything is written or answered: it can refuse
        if options.ingest:
            await self._produce.send(intake.source, incoming)
        names = asking.model.vector.names if options.explain else None
        answers = [answer(name, one, names) for one in made]
        return asking, made, records, orjson.dumps(answers if batch else answers[0])


def parse_options(query: bytes) -> Options:
    """Returns the options of a query.

    Raises:
        Problem: an option has a value that it cannot have.
    """
    given = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    explain = given.get("explain")
    if explain not in (None, "vector"):
        raise bad_field("explain", f"{explain!r} is not known; it can be vector")
    return Options(_truth(given, "ingest"), _truth(given, "sequential"), explain is not None)


def _truth(given: Mapping[str, str], name: str) -> bool:
    text = given.get(name, "false")
    if text not in _TRUTH:
        raise bad_field(name, f"{text!r} is neither true nor false")
    return _TRUTH[text]
