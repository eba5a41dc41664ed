"""The control of the API's benchmark: the least that a FastAPI handler can do with one value from Redis.

Run as `python -m tests.bench.bare_handler PORT REDIS`. It parses the body with orjson, reads one value with
`redis.asyncio` and answers with orjson, without models, validation, metrics or log, on the same uvicorn with the
same settings and a frozen collector.
"""

from __future__ import annotations

import sys

import orjson
import redis.asyncio as aio
from fastapi import FastAPI, Request, Response

from serving.run import run, serve
from tests.bench.filling import control_key


def app(url: str) -> FastAPI:
    """The handler's application."""
    made = FastAPI()
    client = aio.Redis.from_url(url)

    @made.post("/v1/models/fraud/predict")
    async def predict(request: Request) -> Response:
        event = orjson.loads(await request.body())
        value = await client.get(control_key(event["card"]))
        assert isinstance(value, bytes)
        answer = {"prediction_id": event["id"], "model": "fraud", "score": 0.5, "bytes": len(value)}
        return Response(orjson.dumps(answer), media_type="application/json")

    return made


if __name__ == "__main__":
    run(serve(app(sys.argv[2]), port=int(sys.argv[1])))
