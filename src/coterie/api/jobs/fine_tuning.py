"""`/v1/fine_tuning/jobs`: tune a served model on an uploaded file; the result is served next to it."""

from __future__ import annotations

import re
import secrets
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from coterie.api.jobs.paging import Labels, cancelled, jobs_of, page, read_json
from coterie.hosting.errors import ApiError, invalid
from coterie.hosting.job_board import JobBoard
from coterie.hosting.job_records import JobRecord, new_id, now
from coterie.hosting.keys import owner
from coterie.hosting.service import Service
from coterie.protocol.body import Body, Name, Whole
from coterie.protocol.wire import JsonAnswer
from coterie.train.objectives import default_lr

Auto = Literal["auto"]
_OBJECTIVES = {"supervised": "sft", "dpo": "dpo"}


class Hyperparameters(Body):
    """`hyperparameters`."""

    place = "hyperparameters"
    n_epochs: Auto | Annotated[Whole, Field(ge=1, le=1000)] = "auto"
    batch_size: Auto | Annotated[Whole, Field(ge=1, le=4096)] = "auto"
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0, le=1000)] = "auto"


class PreferenceHyperparameters(Hyperparameters):
    """Those of `dpo`."""

    beta: Auto | Annotated[float, Field(gt=0, le=100)] = "auto"


class SupervisedMethod(Body):
    """`method.supervised`."""

    hyperparameters: Hyperparameters | None = None


class PreferenceMethod(Body):
    """`method.dpo`."""

    hyperparameters: PreferenceHyperparameters | None = None


class MethodChoice(Body):
    """`method`."""

    place = "method"
    type: Literal["supervised", "dpo"]
    supervised: SupervisedMethod | None = None
    dpo: PreferenceMethod | None = None


class TuningRequest(Body):
    """`POST /v1/fine_tuning/jobs`."""

    place = "/v1/fine_tuning/jobs"
    model: Name
    training_file: Name
    validation_file: Name | None = None
    hyperparameters: Hyperparameters | None = None
    method: MethodChoice | None = None
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    metadata: Annotated[Labels, Field(max_length=16)] | None = None


async def create(request: Request) -> Response:
    """`POST /v1/fine_tuning/jobs`. Errors: `ApiError` 400, 403, 404."""
    board = _board(request)
    body, headers = await read_json(request, TuningRequest)
    kind, chosen = _method(body)
    for name in ("training_file", "validation_file"):
        id = getattr(body, name)
        if id is not None and (await board.files.get(owner(), id)).data["purpose"] != "fine-tune":
            raise invalid(f"/{name}: upload the file with the purpose 'fine-tune'", f"/{name}")
    service, variant = await board.host.find(body.model, request.scope)
    seed = secrets.randbelow(2**31) if body.seed is None else body.seed
    id = new_id("ftjob-")
    shown = chosen.model_dump()
    data: dict[str, Any] = {
        "id": id,
        "object": "fine_tuning.job",
        "created_at": now(),
        "model": body.model,
        "organization_id": "",
        "status": "queued",
        "training_file": body.training_file,
        "validation_file": body.validation_file,
        "hyperparameters": {name: shown[name] for name in Hyperparameters.model_fields},
        "method": {"type": kind, kind: {"hyperparameters": shown}},
        "seed": seed,
        "fine_tuned_model": None,
        "finished_at": None,
        "estimated_finish": None,
        "trained_tokens": None,
        "result_files": [],
        "error": None,
        "integrations": [],
        "metadata": body.metadata,
    }
    suffix = re.sub(r"[^\w.-]+", "-", body.suffix or "tuned", flags=re.ASCII)
    own = {
        "models": [service.name],
        "base": _base(service, variant),
        "adapter": f"ft-{suffix}-{id[-8:]}",
        "settings": _settings(service, kind, chosen, seed),
    }
    record = JobRecord(id, owner(), "tuning", data, own)
    await board.records.do(lambda file: file.add(record))
    board.tunings.wake()
    return JsonAnswer(data, headers=headers)


async def listing(request: Request) -> Response:
    """`GET /v1/fine_tuning/jobs`, the newest first. Errors: `ApiError` 400, 403."""
    whose = owner()
    records = await _board(request).records.do(lambda file: file.all("tuning", whose))
    return JsonAnswer(page([one.data for one in records[::-1]], request, 20, 100))


async def retrieve(request: Request) -> Response:
    """`GET /v1/fine_tuning/jobs/ID`. Errors: `ApiError` 403, 404."""
    return JsonAnswer((await _found(request)).data)


async def cancel(request: Request) -> Response:
    """`POST /v1/fine_tuning/jobs/ID/cancel`. Errors: `ApiError` 403, 404; 409 for a job that has ended."""
    board = _board(request)
    values = {"status": "cancelled", "finished_at": now(), "estimated_finish": None}
    changed = await cancelled(request, "tuning", board.tunings.unfinished, values)
    board.tunings.wake()
    return JsonAnswer(changed.data)


async def events(request: Request) -> Response:
    """`GET /v1/fine_tuning/jobs/ID/events`, the newest first. Errors: `ApiError` 400, 403, 404."""
    found = await _found(request)
    most = 10**6
    lines = await _board(request).records.do(lambda file: file.lines(found.id, ["event"], most=most))
    return JsonAnswer(page([data for _, data in lines[::-1]], request, 20, 100))


async def checkpoints(request: Request) -> Response:
    """`GET /v1/fine_tuning/jobs/ID/checkpoints`: none, only the result is served."""
    await _found(request)
    return JsonAnswer(page([], request, 10, 100))


async def delete_model(request: Request) -> Response:
    """`DELETE /v1/models/NAME`: the result of a job of this key. Errors: `ApiError` 403, 404."""
    board, whose, name = _board(request), owner(), request.path_params["name"]
    for record in await board.records.do(lambda file: file.all("tuning", whose)):
        if record.data["fine_tuned_model"] == name and not record.own.get("deleted"):
            await board.tunings.remove(record)
            return JsonAnswer({"id": name, "object": "model", "deleted": True})
    raise ApiError(404, "no job of this key made a model of this name", "model_not_found")


def _board(request: Request) -> JobBoard:
    board = jobs_of(request)
    if not board.host.settings.allow_tuning:
        raise ApiError(403, "this server tunes no models; start it with --allow-tuning", "tuning_not_allowed")
    return board


async def _found(request: Request) -> JobRecord:
    whose, id = owner(), request.path_params["id"]
    return await _board(request).records.do(lambda file: file.get(whose, "tuning", id))


def _method(body: TuningRequest) -> tuple[str, Hyperparameters]:
    """The method's name, and its numbers. Errors: `ApiError` 400."""
    kind = "supervised" if body.method is None else body.method.type
    if body.method is not None:
        other = "dpo" if kind == "supervised" else "supervised"
        if getattr(body.method, other) is not None:
            raise invalid(f"/method/{other}: the type is '{kind}'", f"/method/{other}")
    of_method = None if body.method is None else getattr(body.method, kind)
    numbers = None if of_method is None else of_method.hyperparameters
    if numbers is not None and body.hyperparameters is not None:
        raise invalid("/hyperparameters: give them here or in 'method'", "/hyperparameters")
    default = PreferenceHyperparameters if kind == "dpo" else Hyperparameters
    return kind, numbers or body.hyperparameters or default()


def _base(service: Service, variant: str) -> str:
    """What is tuned: the directory of the model, or of the adapter that a name selects."""
    if variant:
        return str(service.adapter_paths[variant])
    checkpoint = service.model.checkpoint
    if checkpoint is None:
        raise invalid("/model: it was not loaded from a directory and cannot be tuned", "/model")
    return str(checkpoint.path)


def _settings(service: Service, kind: str, chosen: Hyperparameters, seed: int) -> list[str]:
    """Settings of `coterie tune`."""
    found: dict[str, Any] = {"objective": _OBJECTIVES[kind], "seed": seed}
    if chosen.n_epochs != "auto":
        found["epochs"] = chosen.n_epochs
    if chosen.batch_size != "auto":
        found |= {"packing": "false", "batch_rows": chosen.batch_size}  # a row is then one example
    if chosen.learning_rate_multiplier != "auto":
        usual = default_lr("lora", _OBJECTIVES[kind], service.model.num_parameters)
        found["lr"] = usual * chosen.learning_rate_multiplier
    if isinstance(chosen, PreferenceHyperparameters) and chosen.beta != "auto":
        found["beta"] = chosen.beta
    return [f"{name}={value}" for name, value in found.items()]
