"""`GET /v1/models`, `/health`, `/ready` and `/metrics`."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from coterie.api.common.wire import JsonAnswer
from coterie.hosting.errors import ApiError, draining, engine_dead
from coterie.hosting.host import Host
from coterie.hosting.service import Service
from coterie.nn.load import load_statistics
from coterie.text.template_facts import facts_of


async def models(request: Request) -> Response:
    """`GET /v1/models`."""
    return JsonAnswer({"object": "list", "data": _listing(request.app.state.host)})


async def model(request: Request) -> Response:
    """`GET /v1/models/{name}`; a name may contain slashes. Errors: `ApiError` 404."""
    name = request.path_params["name"]
    for entry in _listing(request.app.state.host):
        if entry["id"] == name:
            return JsonAnswer(entry)
    raise ApiError(404, "this model does not exist here; GET /v1/models lists them", "model_not_found")


def _listing(host: Host) -> list[dict[str, Any]]:
    """One entry for each name that a request may use: of each model its own, its aliases and adapters."""
    return [
        _entry(service, name)
        for service in host.services
        for name in (service.name, *service.aliases, *(f"{service.name}:{one}" for one in service.adapters))
    ]


def _entry(service: Service, name: str) -> dict[str, Any]:
    tokenizer = service.model.tokenizer
    template = None if tokenizer is None else tokenizer.templates.for_calls
    facts = None if template is None or tokenizer is None else facts_of(tokenizer, tools=True)
    return {
        "id": name,
        "object": "model",
        "created": service.started,
        "owned_by": "coterie",
        "root": service.name,
        "parent": None if name == service.name else service.name,
        "max_model_len": service.max_length,
        "capabilities": {
            "chat": template is not None,
            "tools": facts is not None and facts.tools,
            # Some templates let a model think and never show it again.
            "reasoning": facts is not None and (facts.reasoning or "<think>" in str(template)),
            "embeddings": True,
            "vision": False,
            "moe": bool(service.model.model.routers()),
        },
    }


async def health(request: Request) -> Response:
    """200 while the process lives. Never touches the engine."""
    return JsonAnswer({"status": "ok"})


async def ready(request: Request) -> Response:
    """200 while new requests are accepted. Errors: `ApiError` 503."""
    host: Host = request.app.state.host
    if host.draining:
        raise draining()
    if not all(service.thread.alive for service in host.services):
        raise engine_dead()
    return JsonAnswer({"status": "ready"})


async def metrics(request: Request) -> Response:
    """The counters and gauges in the Prometheus text form."""
    service: Service = request.app.state.host.default
    engine, thread = service.engine, service.thread
    service.metrics.set_total("coterie_cancelled_total", thread.num_cancelled)
    gauges = {
        "coterie_queue_depth": float(thread.num_waiting),
        "coterie_running": float(engine.num_running),
        "coterie_slots": float(engine.max_batch),
        "coterie_kv_bytes": float(engine.cache_bytes),
        "coterie_prefix_cache_bytes": float(engine.prefixes.num_bytes),
        "coterie_step_seconds": thread.step_seconds,
    }
    for layer, counts_E in (engine.expert_counts or {}).items():
        load = load_statistics(counts_E.tolist())
        gauges[f'coterie_expert_load_imbalance{{layer="{layer}"}}'] = load.overload
        gauges[f'coterie_expert_load_entropy{{layer="{layer}"}}'] = load.entropy
    return PlainTextResponse(service.metrics.text(gauges))
