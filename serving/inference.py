"""`/v2`: the Open Inference Protocol, version 2, over JSON.

A model is asked in one of two ways: one tensor `event` of BYTES with the JSON of request events, which reads
features as `/v1` does and is logged; or one tensor for each slot of the vector, which is scored as it is.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from models.errors import ModelError, NonFiniteScore
from models.predictor import Prediction
from models.spec import Model
from models.task import Task

from .api import Api, json
from .asking import Asking
from .body import read_body
from .health import not_ready
from .openapi import body_of
from .problems import Problem
from .tensors import DATATYPES, InferenceRequest, InputTensor, columns_to_rows, tensor

EVENT = "event"
_VERSION = "0.1"


_decoder = msgspec.json.Decoder(InferenceRequest)


def routes(api: Api) -> APIRouter:
    """Returns the routes."""
    router = APIRouter(prefix="/v2", tags=["open inference protocol"])

    @router.get("", summary="Server metadata")
    async def server() -> Response:
        return json({"name": f"headrace/{api.project.name}", "version": _VERSION, "extensions": []})

    @router.get("/health/live", summary="Server live")
    async def live() -> Response:
        return json({"live": True})

    @router.get("/health/ready", summary="Server ready")
    async def ready() -> Response:
        missing = await not_ready(api)
        return json({"ready": not missing}, 503 if missing else 200)

    @router.get("/models/{model}", summary="Model metadata")
    async def metadata(model: str) -> Response:
        return json(_metadata(api, api.asking(model).model))

    @router.get("/models/{model}/ready", summary="Model ready")
    async def model_ready(model: str) -> Response:
        is_ready = api.feed.ready(api.asking(model).model.name)
        return json({"name": model, "ready": is_ready}, 200 if is_ready else 503)

    @router.post("/models/{model}/infer", summary="Inference", openapi_extra=body_of("An inference request"))
    async def infer(model: str, request: Request) -> Response:
        asking = api.asking(model)
        if "inference-header-content-length" in request.headers:
            raise _bad("the binary tensor extension is not supported; send the tensors as JSON")
        body = await read_body(request.scope, request.receive, api.settings.max_body_bytes)
        wanted = _request(asking.model, body)
        if [one.name for one in wanted.inputs] == [EVENT]:
            predictions = await _events(asking, wanted.inputs[0], api.settings.max_batch)
        else:
            predictions = _vectors(api, asking.model, wanted.inputs)
        version = predictions[0].version if predictions else api.feed.predictor(model).version
        names = {one.name for one in wanted.outputs}
        outputs = [one for one in _outputs(asking.model, predictions) if not names or one["name"] in names]
        answer = {"model_name": model, "model_version": str(version), "outputs": outputs}
        return json(answer if wanted.id is None else {"id": wanted.id, **answer})

    return router


def _request(model: Model, body: bytes) -> InferenceRequest:
    try:
        wanted = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _bad(str(error)) from error
    known = [one["name"] for one in _outputs(model, [])]
    for one in wanted.outputs:
        if one.name not in known:
            raise _bad(f"there is no output {one.name!r}; there is {', '.join(known)}")
    return wanted


async def _events(asking: Asking, given: InputTensor, most: int) -> list[Prediction]:
    if given.datatype != "BYTES":
        raise _bad(f"{EVENT} is {given.datatype}; it must be BYTES")
    texts = tensor(given.name, given.datatype, given.shape, given.data)
    if len(texts) > most:
        raise _bad(f"a request may have {most} events, this one has {len(texts)}")
    incoming = [asking.intake.one(text.encode(), f"event[{k}]") for k, text in enumerate(texts)]
    made = await asking.ask(incoming)
    asking.log(made, asking.records(made))
    return [one.prediction for one in made]


def _vectors(api: Api, model: Model, inputs: list[InputTensor]) -> list[Prediction]:
    slots = model.vector.slots
    rows = columns_to_rows(
        {slot.name: (DATATYPES[slot.type], slot.nullable) for slot in slots},
        [(one.name, one.datatype, one.shape, one.data) for one in inputs],
    )
    if len(rows) > api.settings.max_batch:
        raise _bad(f"a request may have {api.settings.max_batch} vectors, this one has {len(rows)}")
    predictor = api.feed.predictor(model.name)
    predictions = []
    for row in rows:
        try:
            predictions.append(predictor.predict(row))
        except NonFiniteScore:
            raise
        except ModelError as error:
            raise _bad(error.what) from error
    return predictions


def _metadata(api: Api, model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "versions": [str(api.feed.predictor(model.name).version)],
        "platform": "headrace",
        "inputs": [
            {"name": EVENT, "datatype": "BYTES", "shape": [-1]},
            *(
                {"name": slot.name, "datatype": DATATYPES[slot.type], "shape": [-1]}
                for slot in model.vector.slots
            ),
        ],
        "outputs": [
            {"name": one["name"], "datatype": one["datatype"], "shape": [-1]} for one in _outputs(model, [])
        ],
    }


def _outputs(model: Model, predictions: list[Prediction]) -> list[dict[str, Any]]:
    classes = model.task is Task.MULTICLASS
    scores = [msgspec.json.encode(p.score).decode() if classes else p.score for p in predictions]
    outputs = [_output("score", "BYTES" if classes else "FP64", scores)]
    if classes or model.spec.threshold is not None:
        outputs.append(_output("decision", "BYTES" if classes else "BOOL", [p.decision for p in predictions]))
    return outputs


def _output(name: str, datatype: str, data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": data}


def _bad(what: str) -> Problem:
    return Problem(400, "bad-input", "Bad input", what)
