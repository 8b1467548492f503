"""`GET /v1/models`, `/health`, `/ready`, `/metrics` and `/v1/moe/stats`."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from coterie.hosting.errors import ApiError, draining, engine_dead
from coterie.hosting.host import Host, HostedModel
from coterie.hosting.metrics import labelled
from coterie.hosting.service import Service
from coterie.machine.system import page_faults
from coterie.nn.load import load_statistics
from coterie.protocol.received import queried
from coterie.protocol.wire import JsonAnswer


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
        _entry(place, name)
        for place in host.places
        for name in (*place.card.names, *(f"{place.card.name}:{one}" for one in place.adapters))
    ]


def _entry(place: HostedModel, name: str) -> dict[str, Any]:
    card = place.card
    return {
        "id": name,
        "object": "model",
        "created": card.created,
        "owned_by": "coterie",
        "root": card.name,
        "parent": None if name == card.name else card.name,
        "max_model_len": card.max_length,
        "loaded": place.service is not None,
        "capabilities": {
            "chat": card.chat,
            "tools": card.tools,
            "reasoning": card.reasoning,
            "embeddings": True,
            "vision": False,
            "moe": card.moe,
        },
    }


async def health(request: Request) -> Response:
    """200 while the process lives, with what weights are held in and steps run on. Never touches the engine.

    It needs no key, so it names no model: `weights`, `dtypes` and `kernels` have one entry for each that is
    loaded, in their order.
    """
    host: Host = request.app.state.host
    weights = [service.held for service in host.services]
    kernels = [service.kernels for service in host.services]
    dtypes = [service.dtype for service in host.services]
    return JsonAnswer({"status": "ok", "weights": weights, "dtypes": dtypes, "kernels": kernels})


async def ready(request: Request) -> Response:
    """200 while new requests are accepted. Errors: `ApiError` 503."""
    host: Host = request.app.state.host
    if host.draining:
        raise draining()
    if not all(service.thread.alive for service in host.services):
        raise engine_dead()
    return JsonAnswer({"status": "ready"})


async def metrics(request: Request) -> Response:
    """The counters and gauges in the Prometheus text form; with several models each gauge names its model."""
    host: Host = request.app.state.host
    host.metrics.set_total("coterie_cancelled_total", host.num_cancelled)
    gauges: dict[str, float] = {}
    for service in host.services:
        model = {"model": service.name} if len(host.places) > 1 else {}
        gauges |= {labelled(name, model): value for name, value in _gauges(service).items()}
        for layer, counts_E in (service.engine.expert_counts or {}).items():
            load = load_statistics(counts_E.tolist())
            labels = {"layer": str(layer), **model}
            gauges[labelled("coterie_expert_load_imbalance", labels)] = load.overload
            gauges[labelled("coterie_expert_load_entropy", labels)] = load.entropy
    return PlainTextResponse(host.metrics.text(gauges))


def _gauges(service: Service) -> dict[str, float]:
    engine, thread = service.engine, service.thread
    return {
        "coterie_queue_depth": float(thread.num_waiting),
        "coterie_running": float(engine.num_running),
        "coterie_slots": float(engine.max_batch),
        "coterie_kv_bytes": float(engine.cache_bytes),
        "coterie_prefix_cache_bytes": float(engine.prefixes.num_bytes),
        "coterie_step_seconds": thread.step_seconds,
        "coterie_drafted_tokens": float(engine.speculation.num_drafted),
        "coterie_accepted_draft_tokens": float(engine.speculation.num_accepted),
    }


async def moe_stats(request: Request) -> Response:
    """`GET /v1/moe/stats`: how often each expert was chosen since the start, prompts included.

    `on_disk`: for experts that are read from files, what that took.
    """
    service = await queried(request)
    counts = service.engine.expert_counts or {}
    layers = []
    for layer, counts_E in sorted(counts.items()):
        numbers = [int(n) for n in counts_E.tolist()]
        load = load_statistics(numbers)
        layers.append(
            {"layer": layer, "counts": numbers, "imbalance": load.overload, "entropy": load.entropy}
        )
    top_k = [router.config.top_k for _, router in service.model.model.routers()]
    answer: dict[str, Any] = {"object": "moe.stats", "model": service.name, "top_k": top_k, "layers": layers}
    store = service.model.model.store
    if store is not None:
        answer["on_disk"] = store.facts() | {"page_faults": page_faults()}
    return JsonAnswer(answer)
