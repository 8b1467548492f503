"""Models, health, readiness, metrics."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from coterie.serve.core.errors import ApiError, draining, engine_dead
from coterie.serve.core.service import Service
from coterie.serve.endpoints.moe import load
from coterie.serve.http.wire import JsonAnswer


async def models(request: Request) -> Response:
    """`GET /v1/models`."""
    service: Service = request.app.state.service
    return JsonAnswer({"object": "list", "data": service.listing()})


async def model(request: Request) -> Response:
    """`GET /v1/models/{name}`; names may hold slashes."""
    service: Service = request.app.state.service
    name = request.path_params["name"]
    for entry in service.listing():
        if entry["id"] == name:
            return JsonAnswer(entry)
    raise ApiError(404, "this model does not exist here; GET /v1/models lists them", "model_not_found")


async def health(request: Request) -> Response:
    """The process lives. Never touches the engine."""
    return JsonAnswer({"status": "ok"})


async def ready(request: Request) -> Response:
    """Whether new requests are served."""
    service: Service = request.app.state.service
    if service.draining:
        raise draining()
    if not service.thread.alive:
        raise engine_dead()
    return JsonAnswer({"status": "ready"})


async def metrics(request: Request) -> Response:
    """Prometheus text."""
    service: Service = request.app.state.service
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
        balance = load(counts_E.tolist())
        gauges[f'coterie_expert_load_imbalance{{layer="{layer}"}}'] = balance["imbalance"]
        gauges[f'coterie_expert_load_entropy{{layer="{layer}"}}'] = balance["entropy"]
    return PlainTextResponse(service.metrics.text(gauges))
